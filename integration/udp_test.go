package integration

import (
	"bytes"
	"context"
	endian "encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox/integration/testnet"
)

// families are the server's two addresses, and the name of each family.
var families = []struct {
	name string
	addr netip.Addr
}{{"IPv4", testnet.Public4}, {"IPv6", testnet.Public6}}

// dialUDP makes a connected UDP socket in a namespace, until t ends.
func dialUDP(t *testing.T, ns *testnet.Namespace, dst netip.AddrPort) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	must(t, ns.Do(func() (err error) {
		c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(dst))
		return err
	}))
	t.Cleanup(func() { c.Close() })
	must(t, c.SetDeadline(time.Now().Add(testnet.Patience)))
	return c
}

// reflect answers each datagram with itself, until the socket is closed, and
// tells who sent it.
func reflect(c *net.UDPConn, told func(from netip.AddrPort)) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			told(from)
			_, _ = c.WriteToUDPAddrPort(buf[:n], from) // the client may have gone
		}
	}
}

// serveUDP runs reflect in Remote until t ends.
func serveUDP(t *testing.T, n *testnet.Net, at netip.AddrPort, told func(from netip.AddrPort)) {
	t.Helper()
	c := n.Remote.ListenUDP(t, at)
	done := make(chan struct{})
	go func() {
		defer close(done)
		reflect(c, told)
	}()
	t.Cleanup(func() {
		c.Close()
		<-done
	})
}

// exchange sends a datagram and wants the same back.
func exchange(t *testing.T, c *net.UDPConn, data []byte) {
	t.Helper()
	if _, err := c.Write(data); err != nil {
		t.Fatalf("send %d bytes: %v", len(data), err)
	}
	buf := make([]byte, 1<<16)
	if n, err := c.Read(buf); err != nil || !bytes.Equal(buf[:n], data) {
		t.Fatalf("sent %d bytes, got %d back, %v", len(data), n, err)
	}
}

// TestUDPSizes: datagrams of every size go there and back whole, also when the
// guest's kernel sends them in fragments.
func TestUDPSizes(t *testing.T) {
	n := testnet.New(t)
	for _, f := range families {
		serveUDP(t, n, netip.AddrPortFrom(f.addr, 7), func(netip.AddrPort) {})
	}
	for _, c := range callers {
		for _, mtu := range []string{"65520", "1500"} {
			t.Run(c.name+" mtu "+mtu, func(t *testing.T) {
				b := start(t, n, c, "--mtu", mtu)
				for _, f := range families {
					conn := dialUDP(t, b.Namespace, netip.AddrPortFrom(f.addr, 7))
					for _, size := range []int{0, 1, 1472, 1473, 9000, 65487, 65507} {
						exchange(t, conn, bytes.Repeat([]byte{byte(size), 'x'}, size)[:size])
					}
					if f.addr.Is6() {
						exchange(t, conn, make([]byte, 65527))
					}
				}
			})
		}
	}
}

// TestUDPSegments: what a guest hands to its kernel as one large piece, to be
// cut into datagrams (UDP_SEGMENT), arrives as these.
func TestUDPSegments(t *testing.T) {
	n := testnet.New(t)
	b := start(t, n, ordinary)
	for _, f := range families {
		server := n.Remote.ListenUDP(t, netip.AddrPortFrom(f.addr, 7))
		must(t, server.SetReadDeadline(time.Now().Add(testnet.Patience)))
		c := dialUDP(t, b.Namespace, netip.AddrPortFrom(f.addr, 7))
		raw, err := c.SyscallConn()
		must(t, err)
		must(t, raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, 1000)
		}))
		must(t, err)
		if _, err := c.Write(make([]byte, 9500)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 1<<16)
		for i := range 10 {
			want := 1000
			if i == 9 {
				want = 500
			}
			if k, err := server.Read(buf); err != nil || k != want {
				t.Errorf("%s: datagram %d has %d bytes, %v, want %d", f.name, i, k, err, want)
			}
		}
	}
}

// TestUDPErrors: what the destination or a router says becomes the error that a
// program on the host would see.
func TestUDPErrors(t *testing.T) {
	n := testnet.New(t)
	b := start(t, n, ordinary)
	for _, row := range []struct {
		name   string
		v4, v6 netip.Addr
		want4  error
		want6  error
	}{
		{"a closed port", testnet.Public4, testnet.Public6, unix.ECONNREFUSED, unix.ECONNREFUSED},
		{"a host that is not there", testnet.Unreachable4, testnet.Unreachable6, unix.EHOSTUNREACH, unix.EHOSTUNREACH},
		{"a network that is not there", testnet.NoRoute4, testnet.NoRoute6, unix.ENETUNREACH, unix.ENETUNREACH},
		{"a filter", testnet.Prohibited4, testnet.Prohibited6, unix.EHOSTUNREACH, unix.EACCES},
	} {
		for addr, want := range map[netip.Addr]error{row.v4: row.want4, row.v6: row.want6} {
			fd := errorSocket(t, b.Namespace, netip.AddrPortFrom(addr, 99))
			if e := nextError(t, fd, "x"); !errors.Is(e.errno, want) {
				t.Errorf("%s: %v answered %v (type %d code %d from %v), want %v", row.name, addr, e.errno, e.typ, e.code, e.from, want)
			}
		}
	}
}

// errorSocket is a connected UDP socket that keeps errors, until t ends.
func errorSocket(t *testing.T, ns *testnet.Namespace, dst netip.AddrPort) int {
	t.Helper()
	family, level, option := unix.AF_INET, unix.IPPROTO_IP, unix.IP_RECVERR
	var sa unix.Sockaddr = &unix.SockaddrInet4{Addr: [4]byte(dst.Addr().AsSlice()[:4]), Port: int(dst.Port())}
	if dst.Addr().Is6() {
		family, level, option = unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_RECVERR
		sa = &unix.SockaddrInet6{Addr: dst.Addr().As16(), Port: int(dst.Port())}
	}
	var fd int
	must(t, ns.Do(func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	}))
	t.Cleanup(func() { unix.Close(fd) })
	must(t, unix.SetsockoptInt(fd, level, option, 1))
	must(t, unix.Connect(fd, sa))
	return fd
}

// pathError is an error of a socket's queue.
type pathError struct {
	errno     unix.Errno
	typ, code byte
	info      uint32
	from      netip.Addr
}

// nextError sends probe, and waits for an error in the socket's queue. It sends
// again when none comes, for a router limits its errors.
func nextError(t *testing.T, fd int, probe string) (e pathError) {
	t.Helper()
	oob := make([]byte, 512)
	var n int
	testnet.Eventually(t, func() error {
		if probe != "" {
			if _, err := unix.Write(fd, []byte(probe)); err != nil {
				return err
			}
		}
		fds := []unix.PollFd{{Fd: int32(fd)}}
		if _, err := unix.Poll(fds, 200); err != nil {
			return err
		}
		var err error
		_, n, _, _, err = unix.Recvmsg(fd, make([]byte, 2048), oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		return err
	})
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) == 0 || len(msgs[0].Data) < 24 {
		t.Fatalf("control messages %v, %v", msgs, err)
	}
	d := msgs[0].Data
	e.errno, e.typ, e.code, e.info = unix.Errno(endian.NativeEndian.Uint32(d)), d[5], d[6], endian.NativeEndian.Uint32(d[8:])
	if d = d[16:]; endian.NativeEndian.Uint16(d) == unix.AF_INET {
		e.from = netip.AddrFrom4([4]byte(d[4:8]))
	} else if len(d) >= 24 {
		e.from = netip.AddrFrom16([16]byte(d[8:24]))
	}
	return e
}

// behind makes a network behind Remote, which is then a router on the way
// there: the link to it takes 1,400 bytes.
func behind(t *testing.T, n *testnet.Net) (v4, v6 netip.Addr) {
	t.Helper()
	ip := func(args string) { testnet.Output(t, n.Remote.Command(t.Context(), "ip", strings.Fields(args)...)) }
	ip("link add far0 mtu 1400 type veth peer name far1 mtu 1400")
	t.Cleanup(func() {
		if err := n.Remote.Command(context.Background(), "ip", "link", "del", "far0").Run(); err != nil {
			t.Error(err)
		}
	})
	ip("link set far0 up")
	ip("link set far1 up")
	ip("route add 8.8.9.0/24 dev far0")
	ip("route add 2001:4860:9::/64 dev far0")
	return netip.MustParseAddr("8.8.9.9"), netip.MustParseAddr("2001:4860:9::9")
}

// TestUDPPath: routers on the way are seen by a low TTL, as traceroute does it,
// and their word that a datagram is too large is passed on.
func TestUDPPath(t *testing.T) {
	n := testnet.New(t)
	v4, v6 := behind(t, n)
	b := start(t, n, ordinary)
	for _, row := range []struct {
		addr, router    netip.Addr
		level, option   int
		expired, tooBig byte
	}{
		{v4, testnet.Remote4, unix.IPPROTO_IP, unix.IP_TTL, 11, 3},
		{v6, testnet.Remote6, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 3, 2},
	} {
		fd := errorSocket(t, b.Namespace, netip.AddrPortFrom(row.addr, 33434))
		must(t, unix.SetsockoptInt(fd, row.level, row.option, 1))
		if e := nextError(t, fd, "probe"); e.typ != row.expired || e.from != row.router {
			t.Errorf("%v with TTL 1: %+v, want type %d from %v", row.addr, e, row.expired, row.router)
		}
		fd = errorSocket(t, b.Namespace, netip.AddrPortFrom(row.addr, 33435))
		if e := nextError(t, fd, strings.Repeat("x", 1440)); e.typ != row.tooBig || e.info != 1400 || e.errno != unix.EMSGSIZE || e.from != row.router {
			t.Errorf("%v with 1,440 bytes: %+v, want type %d with 1400 from %v", row.addr, e, row.tooBig, row.router)
		}
	}
}

// TestUDPProbe: who demands that its datagrams are not fragmented learns what
// the host's link takes; who does not, does not.
func TestUDPProbe(t *testing.T) {
	n := testnet.New(t)
	got := make(chan netip.AddrPort, 10)
	serveUDP(t, n, netip.AddrPortFrom(testnet.Public4, 7), func(from netip.AddrPort) { got <- from })
	b := start(t, n, ordinary)
	probe := func(mode int) int {
		var fd int
		must(t, b.Do(func() (err error) {
			fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			return err
		}))
		t.Cleanup(func() { unix.Close(fd) })
		must(t, unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1))
		must(t, unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, mode))
		must(t, unix.Sendto(fd, make([]byte, 4000), 0, &unix.SockaddrInet4{Addr: testnet.Public4.As4(), Port: 7}))
		return fd
	}
	if e := nextError(t, probe(unix.IP_PMTUDISC_PROBE), ""); e.typ != 3 || e.code != 4 || e.info != 1500 {
		t.Errorf("a probe of 4,000 bytes: %+v, want type 3 code 4 with 1500", e)
	}
	fd := probe(unix.IP_PMTUDISC_WANT)
	<-got
	buf := make([]byte, 8192)
	must(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(testnet.Patience.Seconds())}))
	if k, _, err := unix.Recvfrom(fd, buf, 0); err != nil || k != 4000 {
		t.Errorf("a large datagram of a plain socket: %d bytes came back, %v", k, err)
	}
}

// TestUDPFlows: ten thousand flows, of which the sandbox keeps the last 4,096;
// a flow that was given up begins again when it is used.
func TestUDPFlows(t *testing.T) {
	if testing.Short() {
		t.Skip("ten thousand flows take no part in a short run")
	}
	n := testnet.New(t)
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			seen := make(chan netip.AddrPort, 1)
			serveUDP(t, n, netip.AddrPortFrom(f.addr, 7), func(from netip.AddrPort) { seen <- from })
			b := start(t, n, ordinary)
			first := dialUDP(t, b.Namespace, netip.AddrPortFrom(f.addr, 7))
			exchangeSeen := func(c *net.UDPConn) netip.AddrPort {
				if _, err := c.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				from := <-seen
				if k, err := c.Read(make([]byte, 10)); err != nil || k != 1 {
					t.Fatalf("read %d bytes, %v", k, err)
				}
				return from
			}
			before := exchangeSeen(first)
			for i := range 10000 {
				c := dialUDP(t, b.Namespace, netip.AddrPortFrom(f.addr, 7))
				exchangeSeen(c)
				c.Close()
				if i%1000 == 999 {
					if k := udpSockets(t, n.Uplink); k > 4096+64 {
						t.Fatalf("%d sockets after %d flows", k, i+1)
					}
				}
			}
			if k := udpSockets(t, n.Uplink); k < 4000 {
				t.Errorf("%d sockets, want the 4,096 that were used last", k)
			}
			if after := exchangeSeen(first); after == before {
				t.Errorf("the first flow still comes from %v", after)
			}
		})
	}
}

// udpSockets counts the UDP sockets of a namespace.
func udpSockets(t *testing.T, ns *testnet.Namespace) int {
	t.Helper()
	count := 0
	must(t, ns.Do(func() error {
		for _, name := range []string{"udp", "udp6"} {
			text, err := os.ReadFile("/proc/thread-self/net/" + name)
			if err != nil {
				return err
			}
			count += bytes.Count(text, []byte("\n")) - 1
		}
		return nil
	}))
	return count
}

// TestUDPEnds: a flow ends when it is idle, and at once when the guest has
// closed its socket and something still comes, which is then refused.
func TestUDPEnds(t *testing.T) {
	n := testnet.New(t)
	server := n.Remote.ListenUDP(t, netip.AddrPortFrom(testnet.Public4, 7))
	ask := func(b *box) (*net.UDPConn, netip.AddrPort) {
		c := dialUDP(t, b.Namespace, netip.AddrPortFrom(testnet.Public4, 7))
		if _, err := c.Write([]byte("question")); err != nil {
			t.Fatal(err)
		}
		_, from, err := server.ReadFromUDPAddrPort(make([]byte, 100))
		must(t, err)
		return c, from
	}
	b := start(t, n, ordinary)
	c, from := ask(b)
	c.Close()
	testnet.Eventually(t, func() error {
		if _, err := server.WriteToUDPAddrPort([]byte("late"), from); err != nil {
			return err
		}
		if k := udpSockets(t, n.Uplink); k != 0 {
			return fmt.Errorf("%d sockets are left", k)
		}
		return nil
	})
	b = start(t, n, ordinary, "--udp-timeout", "100ms")
	ask(b)
	testnet.Eventually(t, func() error {
		if k := udpSockets(t, n.Uplink); k != 0 {
			return fmt.Errorf("%d sockets are left", k)
		}
		return nil
	})
}
