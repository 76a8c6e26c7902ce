package tcpbox_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tcpbox"
	"tcpbox/integration/testnet"
	"tcpbox/policy"
	"tcpbox/policy/knob"
	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun"
)

// The addresses of the container of a test, and of its node in testnet.
var (
	pod4 = netip.MustParseAddr("10.88.0.5")
	pod6 = netip.MustParseAddr("fd00:88::5")
)

// A node is a host with a container that is served:
//
//	pod ── eth0 ── Serve ── tbx0 ── Uplink ══ Remote
type node struct {
	*testnet.Net
	pod *testnet.Namespace
	box *tcpbox.Sandbox
}

func serveNode(t *testing.T, change func(*tcpbox.ServeConfig)) *node {
	t.Helper()
	n := &node{Net: testnet.New(t)}
	n.pod = n.Another(t, "pod")
	for _, name := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		must(t, n.Uplink.SetSysctl(name, "1"))
	}
	for _, dst := range []netip.Addr{pod4, pod6} { // the way back, in the world
		via := testnet.Uplink4
		if dst.Is6() {
			via = testnet.Uplink6
		}
		n.Remote.AddRoute(t, netip.PrefixFrom(dst, dst.BitLen()), via)
	}
	must(t, n.pod.SetSysctl("net/ipv6/conf/default/accept_dad", "0"))
	cfg := tcpbox.ServeConfig{
		Container: n.device(t, "eth0", n.pod), Host: n.device(t, "tbx0", n.Uplink),
		Addresses: []netip.Addr{pod4, pod6}, NetNS: n.pod.Path(),
		Config: tcpbox.Config{Policy: policy.Policy{Net: policy.NetAll}},
	}
	n.configure(t)
	if change != nil {
		change(&cfg)
	}
	var err error
	if n.box, err = tcpbox.Serve(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.box.Close() })
	return n
}

// device makes a TUN in Uplink and moves it to where it is to be.
func (n *node) device(t *testing.T, name string, to *testnet.Namespace) tun.Device {
	t.Helper()
	var fd int
	must(t, n.Uplink.Do(func() (err error) {
		fd, _, err = tun.Open(tun.Options{Name: name})
		return err
	}))
	dev, err := tun.New(fd, name, 1500)
	must(t, err)
	t.Cleanup(func() { dev.Close() })
	if to == n.Uplink {
		return dev
	}
	link, err := n.Uplink.Netlink().LinkByName(name)
	must(t, err)
	must(t, to.Do(func() error {
		f, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(f)
		return n.Uplink.Netlink().LinkSetNsFd(link, f)
	}))
	return dev
}

// configure gives the devices their addresses and routes.
func (n *node) configure(t *testing.T) {
	t.Helper()
	for _, d := range []struct {
		ns   *testnet.Namespace
		name string
	}{{n.pod, "lo"}, {n.pod, "eth0"}, {n.Uplink, "tbx0"}} {
		nl := d.ns.Netlink()
		link, err := nl.LinkByName(d.name)
		must(t, err)
		must(t, nl.LinkSetUp(link))
		if d.name == "lo" {
			continue
		}
		for _, a := range []netip.Addr{pod4, pod6} {
			one := &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
			route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: one, Scope: netlink.SCOPE_LINK, Src: hostOf(a).AsSlice()}
			if d.name == "eth0" {
				must(t, nl.AddrAdd(link, &netlink.Addr{IPNet: one}))
				all := &net.IPNet{IP: make(net.IP, a.BitLen()/8), Mask: net.CIDRMask(0, a.BitLen())}
				route = &netlink.Route{LinkIndex: link.Attrs().Index, Dst: all, Scope: netlink.SCOPE_LINK}
			}
			must(t, nl.RouteAdd(route))
		}
	}
}

// hostOf is the node's own address of the family of a.
func hostOf(a netip.Addr) netip.Addr {
	if a.Is4() {
		return testnet.Uplink4
	}
	return testnet.Uplink6
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// way is one of the ways through a served container.
type way struct {
	name     string
	from, to *testnet.Namespace
	dst      netip.Addr
	src      netip.Addr // whom dst sees
}

func (n *node) ways() (all []way) {
	for _, a := range []struct{ pod, host, public netip.Addr }{
		{pod4, testnet.Uplink4, testnet.Public4}, {pod6, testnet.Uplink6, testnet.Public6},
	} {
		family := "IPv4"
		if a.pod.Is6() {
			family = "IPv6"
		}
		remote := testnet.Remote4
		if a.pod.Is6() {
			remote = testnet.Remote6
		}
		all = append(all,
			way{"host to container, " + family, n.Uplink, n.pod, a.pod, a.host},
			way{"world to container, " + family, n.Remote, n.pod, a.pod, remote},
			way{"container to host, " + family, n.pod, n.Uplink, a.host, a.pod},
			way{"container to world, " + family, n.pod, n.Remote, a.public, a.pod},
		)
	}
	return all
}

// TestServe: on every way a closed port is refused at once, the source address is
// seen as it is, each end closes for itself, and RST is RST.
func TestServe(t *testing.T) {
	requireSandbox(t)
	n := serveNode(t, nil)
	for _, p := range n.ways() {
		if _, err := p.from.DialTCP(t.Context(), netip.AddrPort{}, netip.AddrPortFrom(p.dst, 81)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: a closed port: %v", p.name, err)
		}
		l := p.to.Listen(t, "tcp", netip.AddrPortFrom(p.dst, 80))
		near, far := p.connect(t, l)
		if got := far.RemoteAddr().(*net.TCPAddr).AddrPort(); got.Addr().Unmap() != p.src || got.Port() != near.LocalAddr().(*net.TCPAddr).AddrPort().Port() {
			t.Errorf("%s: the far end sees %v, which is %v", p.name, got, near.LocalAddr())
		}
		must(t, send(near, "question"))
		if got, err := io.ReadAll(far); string(got) != "question" || err != nil {
			t.Errorf("%s: read %q, %v", p.name, got, err)
		}
		must(t, send(far, "answer"))
		if got, err := io.ReadAll(near); string(got) != "answer" || err != nil {
			t.Errorf("%s: read back %q, %v", p.name, got, err)
		}
		near, far = p.connect(t, l)
		must(t, far.SetLinger(0))
		far.Close()
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: after RST: %v", p.name, err)
		}
		l.Close()
		datagram(t, p)
	}
	n.pings(t)
	st := n.box.Inspect()
	if st.Kind != tcpbox.KindServed || st.Outer == nil || st.Stats.Established == 0 || st.Outer.Established == 0 {
		t.Errorf("Inspect() = %+v", st)
	}
}

func send(c *net.TCPConn, text string) error {
	_, err := c.Write([]byte(text))
	return errors.Join(err, c.CloseWrite())
}

func (p way) connect(t *testing.T, l *net.TCPListener) (near, far *net.TCPConn) {
	t.Helper()
	near, err := p.from.DialTCP(t.Context(), netip.AddrPort{}, l.Addr().(*net.TCPAddr).AddrPort())
	if err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	t.Cleanup(func() { near.Close() })
	far, err = l.AcceptTCP()
	must(t, err)
	t.Cleanup(func() { far.Close() })
	deadline := time.Now().Add(testnet.Patience)
	must(t, errors.Join(near.SetDeadline(deadline), far.SetDeadline(deadline)))
	return near, far
}

// datagram asks and answers by UDP, also with what is larger than the MTU.
func datagram(t *testing.T, p way) {
	t.Helper()
	at := netip.AddrPortFrom(p.dst, 53)
	server := p.to.ListenUDP(t, at)
	defer server.Close()
	var client net.Conn
	must(t, p.from.Do(func() (err error) {
		client, err = net.Dial("udp", at.String())
		return err
	}))
	defer client.Close()
	deadline := time.Now().Add(testnet.Patience)
	must(t, errors.Join(client.SetDeadline(deadline), server.SetDeadline(deadline)))
	buf := make([]byte, 9000)
	for _, text := range []string{"small", strings.Repeat("large", 1000)} {
		_, err := client.Write([]byte(text))
		must(t, err)
		k, from, err := server.ReadFromUDPAddrPort(buf)
		if err != nil || string(buf[:k]) != text || from.Addr().Unmap() != p.src {
			t.Errorf("%s: got %d bytes from %v, %v; want %d from %v", p.name, k, from, err, len(text), p.src)
			return
		}
		_, err = server.WriteToUDPAddrPort(buf[:k], from)
		must(t, err)
		if k, err = client.Read(buf); err != nil || string(buf[:k]) != text {
			t.Errorf("%s: %d bytes came back, %v", p.name, k, err)
		}
	}
	server.Close()
	for end := time.Now().Add(testnet.Patience); ; { // nobody listens any more
		_, werr := client.Write([]byte("x"))
		must(t, client.SetReadDeadline(time.Now().Add(time.Second)))
		_, rerr := client.Read(buf)
		if errors.Is(werr, syscall.ECONNREFUSED) || errors.Is(rerr, syscall.ECONNREFUSED) {
			return
		}
		if time.Now().After(end) {
			t.Errorf("%s: a closed UDP port: %v, %v", p.name, werr, rerr)
			return
		}
	}
}

// pings sends one each way.
func (n *node) pings(t *testing.T) {
	t.Helper()
	testnet.Programs(t, "ping")
	for _, p := range n.ways() {
		if out, err := p.from.Command(t.Context(), "ping", "-n", "-c", "1", "-W", "20", "-s", "3000", p.dst.String()).CombinedOutput(); err != nil {
			t.Errorf("%s: ping: %v\n%s", p.name, err, out)
		}
	}
}

// TestServeDecides: the policy is asked before anything leaves, and what a
// container sends under another's address goes nowhere.
func TestServeDecides(t *testing.T) {
	requireSandbox(t)
	rule, err := policy.ParseRule(policy.Deny, "8.8.4.4:80")
	must(t, err)
	n := serveNode(t, func(c *tcpbox.ServeConfig) { c.Policy.Rules = []policy.Rule{rule} })
	l := n.Remote.Listen(t, "tcp", netip.AddrPortFrom(testnet.Public4, 80))
	if _, err := n.pod.DialTCP(t.Context(), netip.AddrPort{}, netip.AddrPortFrom(testnet.Public4, 80)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("what the policy denies: %v", err)
	}
	must(t, l.SetDeadline(time.Now().Add(50*time.Millisecond)))
	if c, err := l.Accept(); err == nil {
		t.Errorf("a connection from %v arrived", c.RemoteAddr())
	}
	n.pod.SendSYNs(t, "eth0", netip.MustParseAddrPort("10.88.0.6:1000"), netip.AddrPortFrom(testnet.Public4, 81), 3)
	testnet.Eventually(t, func() error { // the kernel itself sends a few from its link-local address
		if got := n.box.Inspect().Stats.ForeignSource; got < 3 {
			return fmt.Errorf("ForeignSource = %d, want 3 or more", got)
		}
		return nil
	})
	if st := n.box.Inspect().Stats; st.Established+st.Refused+st.Unreachable+st.Silent != 1 {
		t.Errorf("something was made of the forged SYNs: %+v", st)
	}
}

// TestServeLegs: the log has the outer connection as the upstream leg, and knobs
// of the stack leg act on both stacks.
func TestServeLegs(t *testing.T) {
	requireSandbox(t)
	settings, err := knob.ParseSetting("stack.time-wait.timeout=50ms")
	must(t, err)
	n := serveNode(t, func(c *tcpbox.ServeConfig) { c.Knobs = []knob.Setting{settings} })
	for _, p := range n.ways() {
		l := p.to.Listen(t, "tcp", netip.AddrPortFrom(p.dst, 80))
		near, far := p.connect(t, l)
		near.Close()
		_, _ = io.ReadAll(far)
		far.Close()
		l.Close()
		local := netip.AddrPortFrom(p.src, uint16(near.LocalAddr().(*net.TCPAddr).Port))
		n.ended(t, p, local)
	}
}

// ended waits until the connection that was begun from local has ended on the two
// legs of the stacks, and looks at what is known of it.
func (n *node) ended(t *testing.T, p way, local netip.AddrPort) {
	t.Helper()
	inbound := p.dst == pod4 || p.dst == pod6
	testnet.Eventually(t, func() error {
		var said []string
		for _, r := range n.records(t) {
			if r.Facts != nil && (r.Facts.Guest == local || r.Facts.Peer == local) {
				said = nil
				if d := r.Facts.Direction; d != 0 && (d == tcpstate.Inbound) != inbound {
					return fmt.Errorf("%s: it is %v", p.name, d)
				}
			}
			if r.Facts == nil && (r.Remote == local || r.Local == local) && (r.To == tcpstate.TimeWait || r.From == tcpstate.TimeWait) {
				said = append(said, fmt.Sprintf("%v %v>%v", r.Leg, r.From, r.To))
			}
		}
		// Who began has closed first: its peer, a stack, saw that, and the other
		// stack went first towards the far end.
		leg := "upstream"
		if inbound {
			leg = "stack"
		}
		if want := leg + " TIME-WAIT>CLOSED"; !slices.Contains(said, want) {
			return fmt.Errorf("%s: the log has %v, not %s", p.name, said, want)
		}
		return nil
	})
}

func (n *node) records(t *testing.T) []statelog.Record {
	t.Helper()
	f, err := n.box.Follow(tcpbox.FollowOptions{Last: tcpbox.MaxLast, Past: true})
	must(t, err)
	defer f.Close()
	var all []statelog.Record
	for {
		r, err := f.Next(context.Background())
		if err != nil {
			return all
		}
		all = append(all, r)
	}
}

// TestServeEnds: the sandbox ends by itself with the container's namespace, which
// it does not keep alive, also while its sockets are looked at and TIME-WAIT is
// shortened.
func TestServeEnds(t *testing.T) {
	requireSandbox(t)
	settings, err := knob.ParseSetting("time-wait.timeout=1s")
	must(t, err)
	n := serveNode(t, func(c *tcpbox.ServeConfig) { c.Knobs = []knob.Setting{settings} })
	l := n.Remote.Listen(t, "tcp", netip.AddrPortFrom(testnet.Public4, 80))
	p := way{"container to world", n.pod, n.Remote, testnet.Public4, pod4}
	near, far := p.connect(t, l)
	near.Close()
	far.Close()
	waited := make(chan error, 1)
	go func() {
		_, err := n.box.Wait()
		waited <- err
	}()
	n.pod.Close()
	select {
	case err := <-waited:
		if err != nil {
			t.Errorf("Wait: %v", err)
		}
	case <-time.After(testnet.Patience):
		t.Error("it goes on without its namespace")
	}
}

// TestServeHostGone: without the device of the host there is no network, and the
// sandbox says why it has ended.
func TestServeHostGone(t *testing.T) {
	requireSandbox(t)
	n := serveNode(t, nil)
	link, err := n.Uplink.Netlink().LinkByName("tbx0")
	must(t, err)
	must(t, n.Uplink.Netlink().LinkDel(link))
	if _, err := n.box.Wait(); !errors.Is(err, tun.ErrGone) || !strings.Contains(err.Error(), "the host's interface was deleted") {
		t.Errorf("Wait: %v", err)
	}
}

func TestServeConfigured(t *testing.T) {
	for _, row := range []struct {
		what string
		cfg  tcpbox.ServeConfig
		want string
	}{
		{"nothing", tcpbox.ServeConfig{}, "there is no device to serve"},
		{"no address", tcpbox.ServeConfig{}, "the container has no address"},
		{"loopback", tcpbox.ServeConfig{Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}, "cannot have the address 127.0.0.1"},
		{"a guest", tcpbox.ServeConfig{Config: tcpbox.Config{Args: []string{"true"}}}, "processes, devices and names of its own"},
		{"a resolver", tcpbox.ServeConfig{Config: tcpbox.Config{DNS: tcpbox.DNS{Servers: []netip.AddrPort{netip.MustParseAddrPort("9.9.9.9:53")}}}}, "of its own"},
	} {
		var bad *tcpbox.ConfigError
		if _, err := tcpbox.Serve(t.Context(), row.cfg); !errors.As(err, &bad) || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q", row.what, err, row.want)
		}
	}
}

// TestServeBacklog: a backlog of 16 is 16 on the outer side, where the world's
// handshakes are half-open, and what comes beside goes on.
func TestServeBacklog(t *testing.T) {
	requireSandbox(t)
	setting, err := knob.ParseSetting("stack.syn-backlog=16")
	must(t, err)
	n := serveNode(t, func(c *tcpbox.ServeConfig) { c.Knobs = []knob.Setting{setting} })
	l := n.pod.Listen(t, "tcp", netip.AddrPortFrom(pod4, 80))
	go func() { // what the stack has completed with the container
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	n.Uplink.FloodSYNs(t, "tbx0", 64, func(i int) (src, dst netip.AddrPort) {
		return netip.AddrPortFrom(testnet.Silent(false, i), 1000), netip.AddrPortFrom(pod4, 80)
	})
	testnet.Eventually(t, func() error {
		if st := n.box.Inspect().Outer; st.HalfOpen != 16 {
			return fmt.Errorf("%d handshakes are half-open, want 16", st.HalfOpen)
		}
		return nil
	})
	st := n.box.Inspect()
	if st.Outer.PeakHalfOpen != 16 || st.Outer.Pending < 16 {
		t.Errorf("half-open: at most %d, pending %d", st.Outer.PeakHalfOpen, st.Outer.Pending)
	}
	other := n.Remote.Listen(t, "tcp", netip.AddrPortFrom(testnet.Public4, 80))
	way{"container to world", n.pod, n.Remote, testnet.Public4, pod4}.connect(t, other)
}
