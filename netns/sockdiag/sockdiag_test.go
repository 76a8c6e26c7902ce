package sockdiag

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"tcpbox/netns"
	"tcpbox/stack/tcpstate"
)

// here is the namespace that the test runs in.
type here struct{ netns.NS }

func (here) Socket(domain, typ, proto int) (*os.File, error) {
	return netns.Socket(domain, typ, proto)
}

// find returns the socket of a dump that has the local address.
func find(t *testing.T, q Query, local netip.AddrPort) (s Socket, ok bool) {
	t.Helper()
	sockets, err := Dump(here{}, q)
	if err != nil && !errors.Is(err, ErrChanged) {
		t.Fatal(err)
	}
	for _, s := range sockets {
		if s.Local == local {
			return s, true
		}
	}
	return Socket{}, false
}

func TestDumpFindsSockets(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		u, err := net.ListenPacket("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		at := l.Addr().(*net.TCPAddr).AddrPort()
		family := Inet6
		if at.Addr().Is4() {
			family = Inet4
		}
		q := Query{Proto: TCP, Family: family, States: Of(tcpstate.Listen)}
		s, ok := find(t, q, at)
		if !ok || s.State != tcpstate.Listen || s.Inode == 0 || int(s.UID) != os.Getuid() || s.SendQueue == 0 || s.Cookie == 0 {
			t.Errorf("%v: %+v, %v", at, s, ok)
		}
		if _, ok := find(t, Query{Proto: TCP, Family: family, States: Of(tcpstate.Established)}, at); ok {
			t.Errorf("%v: a listener among the connections", at)
		}
		c, err := net.Dial("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		near := c.LocalAddr().(*net.TCPAddr).AddrPort()
		if s, ok := find(t, Query{Proto: TCP, Family: family}, near); !ok || s.State != tcpstate.Established || s.Remote != at {
			t.Errorf("%v: %+v, %v", near, s, ok)
		}
		if s, _ := find(t, q, at); s.RecvQueue != 1 {
			t.Errorf("%v: %d connections wait, want 1", at, s.RecvQueue)
		}
		bound := u.LocalAddr().(*net.UDPAddr).AddrPort()
		if s, ok := find(t, Query{Proto: UDP, Family: family, States: Of(tcpstate.Closed)}, bound); !ok || s.State != tcpstate.Closed {
			t.Errorf("%v: %+v, %v", bound, s, ok)
		}
	}
}

func TestDumpLeavesNoDescriptor(t *testing.T) {
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := count()
	for range 50 {
		if _, err := Dump(here{}, Query{Proto: TCP, Family: Inet4, States: Of(tcpstate.Listen)}); err != nil && !errors.Is(err, ErrChanged) {
			t.Fatal(err)
		}
	}
	if after := count(); after > before {
		t.Errorf("%d descriptors, and %d before", after, before)
	}
}

func TestDestroy(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("a namespace needs root")
		}
		t.Skip("a namespace needs root")
	}
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	file, err := ns.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	fd := int(file.Fd())
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: 80}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 7); err != nil {
		t.Fatal(err)
	}
	q := Query{Proto: TCP, Family: Inet4, States: Of(tcpstate.Listen)}
	sockets, err := Dump(ns, q)
	if err != nil || len(sockets) != 1 || sockets[0].SendQueue != 7 {
		t.Fatalf("Dump() = %+v, %v", sockets, err)
	}
	if err := Destroy(ns, sockets[0]); err != nil {
		t.Fatal(err)
	}
	if left, err := Dump(ns, q); err != nil || len(left) != 0 {
		t.Errorf("after Destroy, Dump() = %+v, %v", left, err)
	}
	if err := Destroy(ns, sockets[0]); !errors.Is(err, unix.ENOENT) {
		t.Errorf("the second Destroy() = %v, want ENOENT", err)
	}
}

func TestAccepts(t *testing.T) {
	listener := func(addr string, v6only bool) Socket {
		at := netip.MustParseAddrPort(addr)
		s := Socket{Proto: TCP, Family: Inet6, State: tcpstate.Listen, Local: at, V6Only: v6only}
		if at.Addr().Is4() {
			s.Family = Inet4
		}
		return s
	}
	closed := listener("0.0.0.0:80", false)
	closed.State = tcpstate.Established
	for _, row := range []struct {
		what string
		s    Socket
		to   string
		want bool
	}{
		{"its own address", listener("198.18.0.2:80", false), "198.18.0.2:80", true},
		{"every address", listener("0.0.0.0:80", false), "198.18.0.2:80", true},
		{"another port", listener("0.0.0.0:81", false), "198.18.0.2:80", false},
		{"the guest's loopback alone", listener("127.0.0.1:80", false), "198.18.0.2:80", false},
		{"both families", listener("[::]:80", false), "198.18.0.2:80", true},
		{"IPv6 alone", listener("[::]:80", true), "198.18.0.2:80", false},
		{"IPv6", listener("[::]:80", true), "[fd00::2]:80", true},
		{"IPv4 does not serve IPv6", listener("0.0.0.0:80", false), "[fd00::2]:80", false},
		{"IPv4 by a socket of IPv6", listener("[::ffff:198.18.0.2]:80", false), "198.18.0.2:80", true},
		{"a connection", closed, "198.18.0.2:80", false},
	} {
		if got := row.s.Accepts(netip.MustParseAddrPort(row.to)); got != row.want {
			t.Errorf("%s: Accepts(%s) = %v, want %v", row.what, row.to, got, row.want)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(dumpRequest(Query{Proto: TCP, Family: Inet4}), false)
	f.Add(destroyRequest(Socket{Proto: UDP, Family: Inet6, Local: netip.MustParseAddrPort("[::1]:53")}), true)
	f.Fuzz(func(t *testing.T, data []byte, raw bool) {
		if raw {
			_, _ = parseSocket(data, TCP)
			return
		}
		_, _, _ = walk(data, func(p []byte) error {
			_, err := parseSocket(p, TCP)
			return err
		})
	})
}
