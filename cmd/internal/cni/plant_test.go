package cni

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"tcpbox/integration/testnet"
)

// A plant is a host on which containers are made, in a namespace of the test, with
// a pool of addresses and a state directory of its own.
type plant struct {
	*testnet.Net
	t    *testing.T
	dir  string
	path string // CNI_PATH
	own  string // what its identifiers end with
}

// id is the identifier of a container.
func (p *plant) id(name string) string { return name + "-" + p.own }

// long skips a test that is only calls, one after the other, where each is slow: under
// the race detector.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("many calls, one after the other, take no part in a short run")
	}
}

// nameOf is what id was given.
func (p *plant) nameOf(id string) string { return strings.TrimSuffix(id, "-"+p.own) }

func newPlant(t *testing.T) *plant {
	t.Helper()
	p := &plant{Net: testnet.New(t), t: t, dir: testnet.Dir(t), own: rand.Text()[:12]}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		testnet.Unavailable(t, err.Error())
	}
	p.path = filepath.Join(p.dir, "bin")
	p.must(os.MkdirAll(p.path, 0o755), os.MkdirAll(filepath.Join(p.dir, "pool-data"), 0o755))
	self, err := os.Executable()
	p.must(err)
	for _, name := range []string{"tcpbox-cni", "pool"} {
		p.must(os.Symlink(self, filepath.Join(p.path, name)))
	}
	for _, name := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		p.must(p.Uplink.SetSysctl(name, "1"))
	}
	t.Cleanup(p.leftNothing)
	return p
}

func (p *plant) must(errs ...error) {
	p.t.Helper()
	if err := errors.Join(errs...); err != nil {
		p.t.Fatal(err)
	}
}

func (p *plant) stateDir() string { return filepath.Join(p.dir, "state") }

// conf is a network configuration, with keys replaced. A nil value leaves the key
// out.
func (p *plant) conf(version string, change map[string]any) []byte {
	p.t.Helper()
	c := map[string]any{
		"cniVersion": version, "name": "net", "type": "tcpbox-cni", "stateDir": p.stateDir(),
		"ipam": map[string]any{"type": "pool", "dir": filepath.Join(p.dir, "pool-data"), "size": 60, "six": strings.Compare(version, "0.3.0") >= 0},
	}
	maps.Copy(c, change)
	for key, value := range c {
		if value == nil {
			delete(c, key)
		}
	}
	text, err := json.Marshal(c)
	p.must(err)
	return text
}

// call is one call of the plugin, by the protocol of the specification.
type call struct {
	verb, id, netns, ifname, args string
	conf                          []byte
}

// run makes the call on the plant's host. The error is a *types.Error if the plugin
// has answered with one.
func (p *plant) run(c call) ([]byte, error) {
	p.t.Helper()
	cmd := p.Uplink.Command(p.t.Context(), filepath.Join(p.path, "tcpbox-cni"))
	cmd.Env = append(cmd.Env, "CNI_COMMAND="+c.verb, "CNI_CONTAINERID="+c.id, "CNI_NETNS="+c.netns, "CNI_IFNAME="+c.ifname,
		"CNI_ARGS="+c.args, "CNI_PATH="+p.path)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(c.conf), &out, &errs
	if err := cmd.Run(); err != nil {
		e := new(types.Error)
		if json.Unmarshal(out.Bytes(), e) == nil && e.Code != 0 {
			return nil, e
		}
		return nil, fmt.Errorf("%w\n%s%s", err, &out, &errs)
	}
	return out.Bytes(), nil
}

// add makes a container's network and returns the answer.
func (p *plant) add(c call) []byte {
	p.t.Helper()
	c.verb = "ADD"
	out, err := p.run(c)
	if err != nil {
		p.t.Fatalf("ADD: %v", err)
	}
	return out
}

// del removes it, which always has to succeed.
func (p *plant) del(c call) {
	p.t.Helper()
	c.verb = "DEL"
	if _, err := p.run(c); err != nil {
		p.t.Fatalf("DEL: %v", err)
	}
}

// withPrev is a configuration with what ADD has answered.
func (p *plant) withPrev(conf, result []byte) []byte {
	p.t.Helper()
	m := map[string]any{}
	p.must(json.Unmarshal(conf, &m))
	m["prevResult"] = json.RawMessage(result)
	text, err := json.Marshal(m)
	p.must(err)
	return text
}

// failed wants an error of the plugin with that code and those words.
func (p *plant) failed(err error, code uint, words string) {
	p.t.Helper()
	var e *types.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Error(), words) {
		p.t.Errorf("got %v (%+v), want code %d with %q", err, e, code, words)
	}
}

// addressesOf are the container's of an answer of version 1.0.0 or later.
func (p *plant) addressesOf(result []byte) (all []netip.Addr) {
	p.t.Helper()
	var r types100.Result
	p.must(json.Unmarshal(result, &r))
	for _, ip := range r.IPs {
		a, _ := netip.AddrFromSlice(ip.Address.IP)
		all = append(all, a.Unmap())
	}
	return all
}

// states are the attachments that are remembered.
func (p *plant) states() (all []*State) {
	p.t.Helper()
	dirs, err := filepath.Glob(filepath.Join(p.stateDir(), "*", "*@*", "state.json"))
	p.must(err)
	for _, d := range dirs {
		st, err := loadState(filepath.Dir(d))
		p.must(err)
		all = append(all, st)
	}
	return all
}

func (p *plant) state() *State {
	p.t.Helper()
	all := p.states()
	if len(all) != 1 {
		p.t.Fatalf("%d attachments are remembered, want 1", len(all))
	}
	return all[0]
}

// processes are the stack processes of the plant's host.
func (p *plant) processes() ([]int, error) {
	ours, err := p.Uplink.Inode()
	if err != nil {
		return nil, err
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, dir := range dirs {
		line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || !bytes.HasPrefix(line, []byte(processName+"\x00")) {
			continue
		}
		ns, err := os.Readlink(filepath.Join(dir, "ns/net"))
		if err != nil || ns != fmt.Sprintf("net:[%d]", ours) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// nothing reports what there is of containers: addresses, devices, processes,
// state.
func (p *plant) nothing() error {
	pids, err := p.processes()
	if err != nil {
		return err
	}
	devices, err := p.Uplink.Devices()
	if err != nil {
		return err
	}
	var left []string
	for _, d := range devices {
		if strings.HasPrefix(d, "tb") {
			left = append(left, d)
		}
	}
	files, err := filepath.Glob(filepath.Join(p.stateDir(), "*", "*"))
	if err != nil {
		return err
	}
	if a := p.addresses(); a != "" || len(pids) > 0 || len(left) > 0 || len(files) > 0 {
		return fmt.Errorf("there are the addresses [%s], the processes %v, the devices %v, the files %v", a, pids, left, files)
	}
	return nil
}

func (p *plant) leftNothing() {
	testnet.Eventually(p.t, p.nothing)
}

// container is a namespace and a call about it. The container's identifier begins
// with id; the rest is this plant's own, for all hosts share one directory of control
// sockets here.
func (p *plant) container(id string, conf []byte) (*testnet.Namespace, call) {
	p.t.Helper()
	ns := p.Another(p.t, id)
	id = p.id(id)
	return ns, call{id: id, netns: ns.Path(), ifname: "eth0", conf: conf}
}
