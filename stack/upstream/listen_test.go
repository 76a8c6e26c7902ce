package upstream

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

var loopbacks = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0"), netip.MustParseAddrPort("[::1]:0")}

func bind(t *testing.T, addr netip.AddrPort) *Listener {
	t.Helper()
	l, err := new(Host).Bind(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func wantRefused(t *testing.T, at netip.AddrPort) {
	t.Helper()
	if c, err := net.Dial("tcp", at.String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial %v = %v, want ECONNREFUSED", at, err)
		if err == nil {
			c.Close()
		}
	}
}

// wantTaken tries to take the port away, with SO_REUSEADDR, as servers do.
func wantTaken(t *testing.T, at netip.AddrPort) {
	t.Helper()
	family, sa := sockaddr(at)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := reuseAddr(fd, true); err != nil {
		t.Fatal(err)
	}
	if err = unix.Bind(fd, sa); err == nil {
		err = unix.Listen(fd, 1)
	}
	if err != unix.EADDRINUSE {
		t.Errorf("another socket takes %v: %v, want EADDRINUSE", at, err)
	}
}

func TestListenerMirrors(t *testing.T) {
	for _, addr := range loopbacks {
		l := bind(t, addr)
		accepted := make(chan *Conn)
		go func() {
			defer close(accepted)
			for {
				c, err := l.Accept()
				if err != nil {
					if err != net.ErrClosed {
						t.Error(err)
					}
					return
				}
				accepted <- c
			}
		}()
		var live []io.Closer
		for range 3 { // each time with the connections of the times before
			wantRefused(t, l.Addr())
			wantTaken(t, l.Addr())
			if err := errors.Join(l.Open(), l.Open()); err != nil {
				t.Fatal(err)
			}
			wantTaken(t, l.Addr())
			far, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			near := <-accepted
			if near.RemoteAddr() != far.LocalAddr().(*net.TCPAddr).AddrPort() || near.LocalAddr() != l.Addr() {
				t.Errorf("accepted %v from %v", near.LocalAddr(), near.RemoteAddr())
			}
			if err := errors.Join(l.Shut(), l.Shut()); err != nil {
				t.Fatal(err)
			}
			if _, err := far.Write([]byte("x")); err != nil {
				t.Error("a connection that was accepted:", err)
			}
			if n, err := near.Read(make([]byte, 1)); n != 1 || err != nil {
				t.Error("a connection that was accepted:", n, err)
			}
			live = append(live, far, near)
		}
		wantRefused(t, l.Addr())
		l.Close()
		l.Close()
		for range accepted {
			t.Error("accepted after Close")
		}
		again, err := new(Host).Bind(l.Addr())
		if err != nil {
			t.Error("taking the port again:", err)
		} else {
			again.Close()
		}
		for _, c := range live {
			c.Close()
		}
		if n := l.host.Stats().Conns; n != 0 {
			t.Errorf("%d connections are counted as open", n)
		}
	}
}

// TestShutResetsWhoWaits: the kernel has completed handshakes that nobody has
// accepted.
func TestShutResetsWhoWaits(t *testing.T) {
	l := bind(t, loopbacks[0])
	if err := l.Open(); err != nil {
		t.Fatal(err)
	}
	far, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	if err := l.Shut(); err != nil {
		t.Fatal(err)
	}
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read = %v, want ECONNRESET", err)
	}
}

func TestBindErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	held := bind(t, loopbacks[0])
	shared, err := (&net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = reuseAddr(int(fd), true) })
	}}).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer shared.Close()
	for _, row := range []struct {
		what string
		bind func() error
		want error
	}{
		{"somebody listens", tcpBind(taken.Addr().(*net.TCPAddr).AddrPort()), unix.EADDRINUSE},
		{"it is held", tcpBind(held.Addr()), unix.EADDRINUSE},
		{"no address of the host", tcpBind(netip.MustParseAddrPort("192.0.2.1:0")), unix.EADDRNOTAVAIL},
		{"UDP, shared by others", udpBind(shared.LocalAddr().(*net.UDPAddr).AddrPort()), unix.EADDRINUSE},
		{"UDP, no address of the host", udpBind(netip.MustParseAddrPort("192.0.2.1:0")), unix.EADDRNOTAVAIL},
	} {
		if err := row.bind(); !errors.Is(err, row.want) {
			t.Errorf("%s: %v, want %v", row.what, err, row.want)
		}
	}
}

func tcpBind(at netip.AddrPort) func() error {
	return func() error {
		l, err := new(Host).Bind(at)
		if err == nil {
			l.Close()
		}
		return err
	}
}

func udpBind(at netip.AddrPort) func() error {
	return func() error {
		p, err := new(Host).BindPackets(at)
		if err == nil {
			p.Close()
		}
		return err
	}
}

func TestPacketPort(t *testing.T) {
	for _, row := range []struct{ bind, client string }{
		{"127.0.0.1:0", "127.0.0.1"}, {"[::1]:0", "::1"}, {"0.0.0.0:0", "127.0.0.9"}, {"[::]:0", "::1"},
	} {
		p, err := new(Host).BindPackets(netip.MustParseAddrPort(row.bind))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		to := netip.AddrPortFrom(netip.MustParseAddr(row.client), p.Addr().Port())
		far, err := net.Dial("udp", to.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { far.Close() })
		for range 2 {
			if !p.Addr().Addr().IsUnspecified() {
				if _, err := far.Write([]byte("early")); err != nil {
					t.Error(err)
				}
				if _, err := far.Read(make([]byte, 9)); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("%s: shut, read = %v, want ECONNREFUSED", row.bind, err)
				}
			}
			if err := errors.Join(p.Open(), p.Open()); err != nil {
				t.Fatal(err)
			}
			if _, err := far.Write([]byte("hello")); err != nil {
				t.Error(err)
			}
			buf := make([]byte, 100)
			n, from, at, err := p.Receive(buf)
			if err != nil || string(buf[:n]) != "hello" || at != to.Addr() || from != far.LocalAddr().(*net.UDPAddr).AddrPort() {
				t.Errorf("%s: received %q from %v at %v, %v", row.bind, buf[:n], from, at, err)
			}
			if err := p.Send([]byte("back"), from, at); err != nil {
				t.Error(err)
			}
			if n, err := far.Read(buf); err != nil || string(buf[:n]) != "back" {
				t.Errorf("%s: the client got %q, %v", row.bind, buf[:n], err)
			}
			if err := errors.Join(p.Shut(), p.Shut()); err != nil {
				t.Fatal(err)
			}
		}
		go p.Close()
		for {
			if _, _, _, err := p.Receive(make([]byte, 1)); errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
}
