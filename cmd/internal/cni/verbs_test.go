package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"

	"tcpbox/cmd/internal/control"
	"tcpbox/integration/testnet"
)

// TestVersions: in every version of the specification ADD answers in its form, CHECK
// agrees, and DEL removes everything, also twice, and without anything to go by.
func TestVersions(t *testing.T) {
	p := newPlant(t)
	versions := version.All.SupportedVersions()
	if testing.Short() { // the race detector makes each call slow
		versions = []string{"0.4.0", "1.1.0"}
	}
	for _, v := range versions {
		conf := p.conf(v, map[string]any{"dns": map[string]any{"nameservers": []string{"10.88.0.1"}}})
		_, c := p.container("c-"+v, conf)
		out := p.add(c)
		result, err := create.CreateFromBytes(out)
		if err != nil || result.Version() != v {
			t.Errorf("%s: the answer %s: %v", v, out, err)
			continue
		}
		r, err := types100.NewResultFromResult(result)
		p.must(err)
		if len(r.DNS.Nameservers) != 1 || len(r.IPs) == 0 || r.IPs[0].Address.String() != "10.88.0.2/32" {
			t.Errorf("%s: %s", v, out)
		}
		if has, _ := version.GreaterThanOrEqualTo(v, "0.3.0"); has {
			p.wantShape(v, r, c)
		}
		has, err := version.GreaterThanOrEqualTo(v, "0.4.0")
		p.must(err)
		check := c
		check.verb, check.conf = "CHECK", p.withPrev(conf, out)
		_, err = p.run(check)
		switch {
		case has && err != nil:
			t.Errorf("%s: CHECK: %v", v, err)
		case !has:
			p.failed(err, 1, "does not allow CHECK")
		}
		p.del(check)
		if err := p.nothing(); err != nil {
			t.Errorf("%s: after DEL %v", v, err)
		}
		p.del(check)
		c.netns = ""
		p.del(c)
	}
}

// wantShape looks at what version 0.3.0 and later say of the interfaces.
func (p *plant) wantShape(v string, r *types100.Result, c call) {
	p.t.Helper()
	st := p.state()
	want := []types100.Interface{{Name: st.HostDevice}, {Name: "eth0", Sandbox: c.netns}}
	if has, _ := version.GreaterThanOrEqualTo(v, "1.0.0"); has {
		want[0].Mtu, want[1].Mtu = 1500, 1500
	}
	if len(r.Interfaces) != 2 || *r.Interfaces[0] != want[0] || *r.Interfaces[1] != want[1] {
		p.t.Errorf("%s: interfaces %v, want %+v", v, r.Interfaces, want)
	}
	var routes []string
	for _, route := range r.Routes {
		routes = append(routes, route.Dst.String())
	}
	if got := strings.Join(routes, " "); got != "0.0.0.0/0 ::/0" {
		p.t.Errorf("%s: routes %s", v, got)
	}
	for _, ip := range r.IPs {
		if ip.Interface == nil || *ip.Interface != 1 {
			p.t.Errorf("%s: the address %v is not the container's", v, ip)
		}
	}
}

// TestReaches: host and container see each other's own addresses, whoever begins,
// and a port that is closed is closed.
func TestReaches(t *testing.T) {
	p := newPlant(t)
	one, c1 := p.container("one", p.conf("1.1.0", nil))
	two, c2 := p.container("two", p.conf("1.1.0", nil))
	c2.args = "IgnoreUnknown=1;K8S_POD_NAME=two;K8S_POD_NAMESPACE=shop;K8S_POD_UID=7"
	a1, a2 := p.addressesOf(p.add(c1)), p.addressesOf(p.add(c2))
	for i := range a1 {
		host := testnet.Uplink4
		if a1[i].Is6() {
			host = testnet.Uplink6
		}
		for _, w := range []struct {
			from, to *testnet.Namespace
			dst, src netip.Addr
		}{{one, two, a2[i], a1[i]}, {p.Uplink, one, a1[i], host}, {one, p.Uplink, host, a1[i]}} {
			l := w.to.Listen(t, "tcp", netip.AddrPortFrom(w.dst, 80))
			near, err := w.from.DialTCP(t.Context(), netip.AddrPort{}, netip.AddrPortFrom(w.dst, 80))
			p.must(err)
			far, err := l.AcceptTCP()
			p.must(err)
			if got := far.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(); got != w.src {
				t.Errorf("%v sees %v, want %v", w.dst, got, w.src)
			}
			near.Close()
			far.Close()
			l.Close()
			if _, err := w.from.DialTCP(t.Context(), netip.AddrPort{}, netip.AddrPortFrom(w.dst, 80)); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("a closed port of %v: %v", w.dst, err)
			}
		}
	}
	for _, st := range p.states() {
		if got, err := control.Find(st.ContainerID); got != st.Sandbox || err != nil {
			t.Errorf("the sandbox of %s is found as %q, %v", st.ContainerID, got, err)
		}
		if want := map[string]string{"one": "", "two": "shop/two"}[p.nameOf(st.ContainerID)]; st.Pod != want {
			t.Errorf("the pod of %s is %q, want %q", st.ContainerID, st.Pod, want)
		}
	}
	p.del(c1)
	p.del(c2)
}

// TestTwoNetworks: a container may be in two networks.
func TestTwoNetworks(t *testing.T) {
	long(t)
	p := newPlant(t)
	_, c := p.container("both", p.conf("1.1.0", map[string]any{"ipam": p.pool(map[string]any{"routes": nil})}))
	second := c
	second.ifname, second.conf = "net1", p.conf("1.1.0", map[string]any{"name": "other", "ipam": p.pool(map[string]any{"six": false})})
	p.add(c)
	_, err := p.run(call{"ADD", second.id, second.netns, "eth0", "", second.conf})
	p.failed(err, codeInterface, `has an interface "eth0" already`)
	_, err = p.run(call{"ADD", c.id, c.netns, "eth0", "", c.conf})
	p.failed(err, codeExists, "delete it first")
	p.del(c)
	p.add(second)
	p.del(second)
}

// pool is the "ipam" of conf, changed.
func (p *plant) pool(change map[string]any) map[string]any {
	m := map[string]any{"type": "pool", "dir": filepath.Join(p.dir, "pool-data"), "size": 60, "six": true}
	for key, value := range change {
		m[key] = value
	}
	return m
}

// TestPoolFails: whatever IPAM says is said, its DEL is called, and nothing is left.
func TestPoolFails(t *testing.T) {
	long(t)
	p := newPlant(t)
	_, c := p.container("c", nil)
	for _, row := range []struct {
		ipam  map[string]any
		code  uint
		words string
	}{
		{map[string]any{"broken": "ADD"}, 999, "the pool is broken"},
		{map[string]any{"size": 0}, 11, "no address is left in the pool"},
	} {
		p.must(os.RemoveAll(filepath.Join(p.dir, "pool-data")), os.Mkdir(filepath.Join(p.dir, "pool-data"), 0o755))
		c.verb, c.conf = "ADD", p.conf("1.1.0", map[string]any{"ipam": p.pool(row.ipam)})
		_, err := p.run(c)
		p.failed(err, row.code, row.words)
		if got := p.calls(); got != "ADD c eth0, DEL c eth0" {
			t.Errorf("the pool was called: %s", got)
		}
		p.must(p.nothing())
	}
	c.conf = p.conf("1.1.0", map[string]any{"ipam": map[string]any{"type": "no-such-plugin"}})
	_, err := p.run(c)
	if err == nil || !strings.Contains(err.Error(), "no-such-plugin") {
		t.Errorf("an IPAM plugin that there is not: %v", err)
	}
	p.must(p.nothing())
}

// TestBadInput: what is wrong is told with its code, and nothing is made.
func TestBadInput(t *testing.T) {
	long(t)
	p := newPlant(t)
	_, good := p.container("c", nil)
	policies := filepath.Join(p.dir, "policies")
	p.must(os.Mkdir(policies, 0o755),
		os.WriteFile(filepath.Join(policies, "wrong.yaml"), []byte("version: 1\nnett: all\n"), 0o644),
		os.WriteFile(filepath.Join(policies, "web.yaml"), []byte("version: 1\nnet: all\n"), 0o644),
		os.WriteFile(filepath.Join(p.dir, "outside.yaml"), []byte("version: 1\nnet: all\n"), 0o644))
	policy := func(value any) map[string]any { return map[string]any{"policy": value, "policyDir": policies} }
	chosen := func(name string) map[string]any {
		return map[string]any{
			"policyDir": policies, "selectable": []string{"web"},
			"runtimeConfig": map[string]any{"io.kubernetes.cri.pod-annotations": map[string]string{PolicyAnnotation: name}},
		}
	}
	for _, row := range []struct {
		what   string
		change map[string]any
		code   uint
		words  string
	}{
		{"an unknown key in the policy", policy(map[string]any{"version": 1, "nett": "all"}), 7, "did you mean net?"},
		{"a policy without a version", policy(map[string]any{"net": "all"}), 7, "the version is missing"},
		{"a wrong rule", policy(map[string]any{"version": 1, "net": "none", "rules": []string{"allow nobody"}}), 7, "nobody"},
		{"a policy that does not say what of the rest", policy(map[string]any{"version": 1, "rules": []string{"allow @public"}}), 7, "say what becomes of the rest"},
		{"a policy with names", policy(map[string]any{"version": 1, "dns": map[string]any{"servers": "none"}}), 7, "leave it out"},
		{"a policy that is a list", policy([]int{1}), 7, "the policy is wrong"},
		{"a policy that there is not", policy("nowhere"), 7, `there is no policy "nowhere"`},
		{"a policy with a fault", policy("wrong"), 7, "wrong.yaml:2:1"},
		{"a policy outside", policy("../outside"), 7, "is not the name of a policy"},
		{"a policy that may not be chosen", chosen("wrong"), 7, `is not in "selectable"`},
		{"a trick with a chosen policy", chosen("../outside"), 7, `is not in "selectable"`},
		{"no IPAM", map[string]any{"ipam": nil}, 7, `there is no "ipam"`},
		{"another uplink", map[string]any{"uplink": "sockets"}, 2, `"uplink": "sockets"`},
		{"ports here", map[string]any{"capabilities": map[string]bool{"portMappings": true}}, 2, "chain the plugin portmap"},
		{"a hardware address", map[string]any{"capabilities": map[string]bool{"mac": true}}, 2, `"capabilities": "mac"`},
		{"too little bandwidth", map[string]any{"runtimeConfig": map[string]any{"bandwidth": map[string]int{"ingressRate": 10}}}, 7, "bandwidth of 10 bits"},
		{"a small MTU", map[string]any{"mtu": 68}, 7, "mtu 68"},
		{"an MTU that is none", map[string]any{"mtu": "large"}, 6, "cannot be read"},
		{"a state directory somewhere", map[string]any{"stateDir": "run"}, 7, "not an absolute path"},
		{"a version that there is not", map[string]any{"cniVersion": "9.0.0"}, 1, "incompatible CNI versions"},
		{"a name with a slash", map[string]any{"name": "../net"}, 7, "network"},
		{"an interface before it", map[string]any{"prevResult": map[string]any{"cniVersion": "1.1.0", "interfaces": []any{}}}, 7, "stands first in its chain"},
	} {
		c := good
		c.verb, c.conf = "ADD", p.conf("1.1.0", row.change)
		_, err := p.run(c)
		t.Run(row.what, func(t *testing.T) {
			sub := *p
			sub.t = t
			sub.failed(err, row.code, row.words)
		})
		p.must(p.nothing())
	}
	for _, row := range []struct {
		what  string
		call  call
		code  uint
		words string
	}{
		{"bad JSON", call{"ADD", good.id, good.netns, "eth0", "", []byte("{")}, 6, "unmarshall"},
		{"a container that is a path", call{"ADD", "../c", good.netns, "eth0", "", p.conf("1.1.0", nil)}, 4, "containerID"},
		{"an interface that is a path", call{"ADD", good.id, good.netns, "../eth0", "", p.conf("1.1.0", nil)}, 4, "interface name"},
		{"no namespace", call{"ADD", good.id, "", "eth0", "", p.conf("1.1.0", nil)}, 4, "CNI_NETNS"},
		{"a namespace that there is not", call{"ADD", good.id, "/run/netns/nowhere", "eth0", "", p.conf("1.1.0", nil)}, 8, "nowhere"},
		{"a file as namespace", call{"ADD", good.id, "/etc/hostname", "eth0", "", p.conf("1.1.0", nil)}, 8, "hostname"},
		{"the host's namespace", call{"ADD", good.id, "/proc/self/ns/net", "eth0", "", p.conf("1.1.0", nil)}, 8, "it is the host's"},
		{"CHECK without prevResult", call{"CHECK", good.id, good.netns, "eth0", "", p.conf("1.1.0", nil)}, 7, "there is no prevResult"},
	} {
		_, err := p.run(row.call)
		t.Run(row.what, func(t *testing.T) {
			sub := *p
			sub.t = t
			sub.failed(err, row.code, row.words)
		})
		p.must(p.nothing())
	}
	out, err := p.run(call{verb: "VERSION"})
	var v struct{ SupportedVersions []string }
	if err != nil || json.Unmarshal(out, &v) != nil || !slices.Equal(v.SupportedVersions, version.All.SupportedVersions()) {
		t.Errorf("VERSION: %s, %v", out, err)
	}
}

// TestExample: the list of plugins that users begin with is right.
func TestExample(t *testing.T) {
	text, err := os.ReadFile("../../../examples/cni/10-tcpbox.conflist")
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Plugins []map[string]any
	}
	if err := json.Unmarshal(text, &list); err != nil || len(list.Plugins) == 0 {
		t.Fatal(err)
	}
	list.Plugins[0]["name"], list.Plugins[0]["cniVersion"] = "tcpbox", "1.0.0"
	one, err := json.Marshal(list.Plugins[0])
	if err != nil {
		t.Fatal(err)
	}
	c, err := parse(one)
	if err == nil {
		err = c.settle()
	}
	if err != nil || c.Type != "tcpbox-cni" || c.text == "" {
		t.Errorf("its first plugin is %+v, %v", c, err)
	}
}

// TestUnknownKeys at the top are others'; those of a runtime are spelled as it likes.
func TestUnknownKeys(t *testing.T) {
	p := newPlant(t)
	_, c := p.container("c", p.conf("1.0.0", map[string]any{
		"someone/else's": 1, "reportMAC": true, "policy": map[string]any{"version": 1, "tcp": map[string]string{"time-wait.timeout": "1s"}, "faults": []string{"loss 1%"}},
		"runtimeConfig": map[string]any{"bandwidth": map[string]int{"IngressRate": 8000000, "IngressBurst": 4294967295, "EgressRate": 16000000}, "dns": map[string]any{"Servers": []string{"10.96.0.10"}, "Searches": []string{"svc"}, "Options": []string{"ndots:5"}}},
	}))
	var r types100.Result
	p.must(json.Unmarshal(p.add(c), &r))
	if got := fmt.Sprint(r.DNS.Nameservers, r.DNS.Search, r.DNS.Options); got != "[10.96.0.10] [svc] [ndots:5]" {
		t.Errorf("dns: %s", got)
	}
	if mac, err := net.ParseMAC(r.Interfaces[1].Mac); err != nil || mac[0] != 2 || r.Interfaces[0].Mac != "" {
		t.Errorf("the hardware addresses are %q and %q", r.Interfaces[0].Mac, r.Interfaces[1].Mac)
	}
	in, err := ask(p.state().attachment())
	p.must(err)
	if len(in.Knobs) != 3 || !in.Knobs[0].Applied || !in.Knobs[1].Applied || in.Policy[0] != "net all" {
		t.Errorf("the policy has come to %v, %+v", in.Policy, in.Knobs)
	}
	if got := strings.Join(in.Faults, "; "); got != "loss 1%; rate 8mbit in; rate 16mbit out" {
		t.Errorf("the faults are %s", got)
	}
	p.del(c)
}

// TestStackKilled: without its process the container has no network, CHECK says so,
// and DEL cleans.
func TestStackKilled(t *testing.T) {
	p := newPlant(t)
	ns, c := p.container("c", p.conf("1.1.0", nil))
	out := p.add(c)
	check := c
	check.verb, check.conf = "CHECK", p.withPrev(c.conf, out)
	_, err := p.run(check)
	p.must(err)
	p.must(unix.Kill(p.state().PID, unix.SIGKILL))
	testnet.Eventually(t, func() error {
		devices, err := ns.Devices()
		if err == nil && len(devices) != 1 {
			err = fmt.Errorf("the container has %v", devices)
		}
		return err
	})
	_, err = p.run(check)
	p.failed(err, codeUnhealthy, "the stack process does not answer")
	if got := p.addresses(); got != "10.88.0.2" {
		t.Errorf("the pool has given out %q before DEL", got)
	}
	p.del(check)
	p.must(p.nothing())
}

// TestChecked: CHECK sees what has changed.
func TestChecked(t *testing.T) {
	p := newPlant(t)
	ns, c := p.container("c", p.conf("1.1.0", nil))
	out := p.add(c)
	c.verb, c.conf = "CHECK", p.withPrev(c.conf, out)
	link, err := ns.Netlink().LinkByName("eth0")
	p.must(err)
	p.must(ns.Netlink().LinkSetDown(link)) // which takes the routes away as well
	_, err = p.run(c)
	p.failed(err, codeUnhealthy, "is down")
	p.must(ns.Netlink().LinkSetUp(link))
	_, err = p.run(c)
	p.failed(err, codeUnhealthy, "any more") // an address of IPv6, or a route
	p.del(c)
}

// TestNamespaceGone: a namespace that ends without DEL takes process and devices
// with it, and GC frees the address.
func TestNamespaceGone(t *testing.T) {
	p := newPlant(t)
	ns, c := p.container("c", p.conf("1.1.0", map[string]any{
		"policy": map[string]any{"version": 1, "net": "all", "tcp": map[string]string{"time-wait.timeout": "1s"}},
	}))
	p.add(c)
	ns.Close()
	testnet.Eventually(t, func() error {
		pids, err := p.processes()
		if err == nil && len(pids) > 0 {
			err = fmt.Errorf("the processes %v live", pids)
		}
		return err
	})
	if got := p.addresses(); got != "10.88.0.2" {
		t.Errorf("the pool has given out %q", got)
	}
	_, err := p.run(call{verb: "GC", conf: p.conf("1.1.0", map[string]any{"cni.dev/valid-attachments": []any{}})})
	p.must(err)
	p.must(p.nothing())
}

// TestGC: what is not valid goes, of this network alone.
func TestGC(t *testing.T) {
	long(t)
	p := newPlant(t)
	conf := p.conf("1.1.0", nil)
	var calls []call
	for _, id := range []string{"a", "b", "c"} {
		_, c := p.container(id, conf)
		p.add(c)
		calls = append(calls, c)
	}
	_, other := p.container("d", p.conf("1.1.0", map[string]any{"name": "other"}))
	p.add(other)
	ids := func() (all []string) {
		for _, st := range p.states() {
			all = append(all, p.nameOf(st.ContainerID))
		}
		slices.Sort(all)
		return all
	}
	for _, row := range []struct {
		change map[string]any
		left   string
	}{
		{map[string]any{"cni.dev/valid-attachments": []any{
			map[string]string{"containerID": p.id("a"), "ifname": "eth0"}, map[string]string{"containerID": p.id("c"), "ifname": "eth0"},
		}}, "[a c d]"},
		{map[string]any{"cni.dev/valid-attachments": []any{map[string]string{"containerID": p.id("a"), "ifname": "eth1"}, map[string]string{"containerID": p.id("c"), "ifname": "eth0"}}}, "[c d]"},
		{nil, "[d]"},
	} {
		_, err := p.run(call{verb: "GC", conf: p.conf("1.1.0", row.change)})
		p.must(err)
		if got := fmt.Sprint(ids()); got != row.left {
			t.Errorf("after GC with %v there are %s, want %s", row.change, got, row.left)
		}
	}
	for _, c := range calls {
		p.del(c)
	}
	p.del(other)
}

// TestStatus: whether ADD would work is said before it is tried.
func TestStatus(t *testing.T) {
	long(t)
	p := newPlant(t)
	status := func(change map[string]any) error {
		_, err := p.run(call{verb: "STATUS", conf: p.conf("1.1.0", change)})
		return err
	}
	p.must(status(nil))
	p.failed(status(map[string]any{"ipam": p.pool(map[string]any{"broken": "STATUS"})}), 50, "the pool is broken")
	p.failed(status(map[string]any{"policy": "nowhere"}), 50, `there is no policy "nowhere"`)
	p.must(os.RemoveAll(p.stateDir()), os.WriteFile(p.stateDir(), nil, 0o600))
	p.failed(status(nil), 50, "the state directory")
	p.must(os.Remove(p.stateDir()))
}

// TestStateLost: DEL finds the process by the container alone.
func TestStateLost(t *testing.T) {
	p := newPlant(t)
	_, c := p.container("c", p.conf("1.1.0", nil))
	p.add(c)
	p.must(os.RemoveAll(p.stateDir()))
	p.del(c)
	p.must(p.nothing())
	p.add(c)
	p.must(os.WriteFile(filepath.Join(p.stateDir(), "net", c.id+"@eth0", "state.json"), []byte("{"), 0o600))
	p.del(c)
	p.must(p.nothing())
}

// TestProcNamespace: a runtime may name the namespace by a process.
func TestProcNamespace(t *testing.T) {
	p := newPlant(t)
	ns, c := p.container("c", p.conf("1.1.0", nil))
	cmd := ns.Command(t.Context(), "sleep", "600")
	p.must(cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	inside, err := ns.Inode()
	p.must(err)
	c.netns = fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)
	testnet.Eventually(t, func() error {
		link, err := os.Readlink(c.netns)
		if err == nil && link != fmt.Sprintf("net:[%d]", inside) {
			err = fmt.Errorf("it is %s", link)
		}
		return err
	})
	out := p.add(c)
	check := c
	check.verb, check.conf = "CHECK", p.withPrev(c.conf, out)
	_, err = p.run(check)
	p.must(err)
	c.netns = ""
	p.del(c)
	p.must(p.nothing())
}

// TestParallel: many containers at once get an address each.
func TestParallel(t *testing.T) {
	p := newPlant(t)
	many := 20
	if testing.Short() {
		many = 5
	}
	conf := p.conf("1.1.0", nil)
	var calls []call
	for i := range many {
		_, c := p.container(fmt.Sprintf("c%d", i), conf)
		calls = append(calls, c)
	}
	each := func(verb string) {
		var group sync.WaitGroup
		errs := make([]error, many)
		for i, c := range calls {
			c.verb = verb
			group.Go(func() { _, errs[i] = p.run(c) })
		}
		group.Wait()
		p.must(errs...)
	}
	each("ADD")
	seen := map[netip.Addr]bool{}
	for _, st := range p.states() {
		seen[st.Addresses[0]] = true
	}
	pids, err := p.processes()
	p.must(err)
	if len(seen) != many || len(pids) != many {
		t.Errorf("%d addresses and %d processes for %d containers", len(seen), len(pids), many)
	}
	each("DEL")
	p.must(p.nothing())
}

// TestNoTUN: without the driver nothing is made, and it is said what to do.
func TestNoTUN(t *testing.T) {
	p := newPlant(t)
	_, c := p.container("c", p.conf("1.1.0", nil))
	// In a mount namespace of its own /dev/net is empty.
	cmd := p.Uplink.Command(t.Context(), "unshare", "--mount", "sh", "-c", `mount -t tmpfs none /dev/net && exec "$0"`, filepath.Join(p.path, "tcpbox-cni"))
	cmd.Env = append(cmd.Env, "CNI_COMMAND=ADD", "CNI_CONTAINERID="+c.id, "CNI_NETNS="+c.netns, "CNI_IFNAME=eth0", "CNI_PATH="+p.path)
	cmd.Stdin = strings.NewReader(string(c.conf))
	out, err := cmd.Output()
	if err == nil || !strings.Contains(string(out), `"code": 101`) || !strings.Contains(string(out), "the tun driver is not loaded") {
		t.Errorf("ADD: %v, %s", err, out)
	}
	p.must(p.nothing())
}
