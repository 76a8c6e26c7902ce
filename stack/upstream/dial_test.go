package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// dial dials as the gateway would, with the guest's end made up.
func dial(ctx context.Context, h *Host, dst string) (*Conn, error) {
	c, err := h.DialTCP(ctx, 1, netip.MustParseAddrPort("198.18.0.2:40000"), netip.MustParseAddrPort(dst))
	if err != nil {
		return nil, err
	}
	return c.(*Conn), nil
}

// veth is a link with nobody behind it.
const veth = `
	link add up0 type veth peer name up1
	link set up1 up
	link set up0 up
	address add 192.0.2.1/24 dev up0
	address add 2001:db8::1/64 dev up0 nodad
`

func TestDialErrors(t *testing.T) {
	s := newSpace(t, veth+`
		route add unreachable 203.0.113.0/26
		route add prohibit    203.0.113.64/26
		route add blackhole   203.0.113.128/26
		route add throw       203.0.113.192/26
		-6 route add unreachable 2001:db8:1::/48
		-6 route add prohibit    2001:db8:2::/48
		-6 route add blackhole   2001:db8:3::/48
	`)
	// A neighbour that does not answer is unreachable soon, not after 3 s.
	for _, name := range []string{"ipv4", "ipv6"} {
		s.sysctl("net."+name+".neigh.up0.retrans_time_ms", "10")
	}
	h := &Host{Socket: s.socket}
	for _, row := range []struct {
		name, dst string
		want      error
		count     func(Stats) uint64
	}{
		{"nobody listens", "127.0.0.1:9", syscall.ECONNREFUSED, refused},
		{"nobody listens, IPv6", "[::1]:9", syscall.ECONNREFUSED, refused},
		{"nobody listens, IPv4 in IPv6's clothes", "[::ffff:127.0.0.1]:9", syscall.ECONNREFUSED, refused},
		{"no such host on the link", "192.0.2.77:80", syscall.EHOSTUNREACH, unreachable},
		{"no such host on the link, IPv6", "[2001:db8::77]:80", syscall.EHOSTUNREACH, unreachable},
		{"a route says unreachable", "203.0.113.1:80", syscall.EHOSTUNREACH, unreachable},
		{"a route says unreachable, IPv6", "[2001:db8:1::1]:80", syscall.EHOSTUNREACH, unreachable},
		{"no route", "198.51.100.1:80", syscall.ENETUNREACH, unreachable},
		{"no route, IPv6", "[2001:db8:4::1]:80", syscall.ENETUNREACH, unreachable},
		{"no route, by throw", "203.0.113.200:80", syscall.ENETUNREACH, unreachable},
		{"prohibited", "203.0.113.65:80", syscall.EACCES, prohibited},
		{"prohibited, IPv6", "[2001:db8:2::1]:80", syscall.EACCES, prohibited},
		{"a blackhole", "203.0.113.130:80", syscall.EINVAL, other},
		{"a blackhole, IPv6", "[2001:db8:3::1]:80", syscall.EINVAL, other},
		{"broadcast", "192.0.2.255:80", syscall.ENETUNREACH, unreachable},
	} {
		t.Run(row.name, func(t *testing.T) {
			before := row.count(h.Stats())
			c, err := dial(t.Context(), h, row.dst)
			if !errors.Is(err, row.want) {
				t.Errorf("DialTCP(%s) = %v, %v; want %v", row.dst, c, err, row.want)
			}
			var short *ShortageError
			if errors.As(err, &short) {
				t.Errorf("%v is called a shortage", err)
			}
			if n := row.count(h.Stats()); n != before+1 {
				t.Errorf("counted %d, want %d", n, before+1)
			}
		})
	}
	if s := h.Stats(); s.Conns != 0 || s.Dialing != 0 {
		t.Errorf("after all dials: %+v, want none in progress and none open", s)
	}
}

func refused(s Stats) uint64     { return s.Refused }
func unreachable(s Stats) uint64 { return s.Unreachable }
func prohibited(s Stats) uint64  { return s.Prohibited }
func other(s Stats) uint64       { return s.Other }

func TestDialConnects(t *testing.T) {
	s := newSpace(t, "")
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(address, func(t *testing.T) {
			l := s.listen(address)
			h := &Host{Socket: s.socket}
			c, err := dial(t.Context(), h, l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			peer, err := l.AcceptTCP()
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			if c.RemoteAddr() != addrPortOf(peer.LocalAddr()) || c.LocalAddr() != addrPortOf(peer.RemoteAddr()) {
				t.Errorf("Conn is %v to %v, its peer says %v to %v", c.LocalAddr(), c.RemoteAddr(), peer.RemoteAddr(), peer.LocalAddr())
			}
			if n, _ := optionOf(c, unix.IPPROTO_TCP, unix.TCP_NODELAY); n != 1 {
				t.Error("TCP_NODELAY is off")
			}
			if st := h.Stats(); st.Connected != 1 || st.Conns != 1 || st.Dialing != 0 {
				t.Errorf("while open: %+v", st)
			}
			c.Close()
			c.Reset()
			if st := h.Stats(); st.Conns != 0 {
				t.Errorf("after Close: %+v", st)
			}
		})
	}
}

func addrPortOf(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

func optionOf(c *Conn, level, option int) (n int, err error) {
	err = c.control("getsockopt", func(fd int) (err error) { n, err = unix.GetsockoptInt(fd, level, option); return err })
	return n, err
}

// silent is a link whose far end takes every packet and answers none: its
// neighbours are known to have an address that nobody has.
const silent = veth + `
	neighbour add 192.0.2.66 lladdr 02:00:00:00:00:66 dev up0
	neighbour add 2001:db8::66 lladdr 02:00:00:00:00:66 dev up0
`

// synSent counts the sockets in SYN-SENT.
func (s *space) synSent() int {
	return strings.Count(s.procNet("tcp")+s.procNet("tcp6"), " 02 ")
}

func TestDialGivenUp(t *testing.T) {
	s := newSpace(t, silent)
	h := &Host{Socket: s.socket}
	for _, dst := range []string{"192.0.2.66:80", "[2001:db8::66]:80"} {
		t.Run(dst, func(t *testing.T) {
			why := errors.New("the guest asks no more")
			ctx, cancel := context.WithCancelCause(t.Context())
			result := make(chan error)
			go func() {
				_, err := dial(ctx, h, dst)
				result <- err
			}()
			eventually(t, "the dial is in SYN-SENT", func() bool { return s.synSent() == 1 })
			cancel(why)
			if err := <-result; !errors.Is(err, why) {
				t.Errorf("DialTCP = %v, want %v", err, why)
			}
			if n := s.synSent(); n != 0 {
				t.Errorf("%d sockets left in SYN-SENT", n)
			}
		})
	}
	if _, err := dial(cancelled(t), h, "192.0.2.66:80"); !errors.Is(err, context.Canceled) {
		t.Errorf("DialTCP with an ended context = %v", err)
	}
	if st := h.Stats(); st.Cancelled != 3 || st.Conns != 0 || st.Dialing != 0 {
		t.Errorf("afterwards: %+v, want 3 cancelled and nothing open", st)
	}
}

func cancelled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// A dial that ends at the moment when it is given up is either whole or gone.
func TestDialRacesWithItsEnd(t *testing.T) {
	s := newSpace(t, "")
	l := s.listen("127.0.0.1:0")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	h := &Host{Socket: s.socket}
	var wg sync.WaitGroup
	for range 300 {
		ctx, cancel := context.WithCancel(t.Context())
		wg.Add(2)
		go func() { defer wg.Done(); cancel() }()
		go func() {
			defer wg.Done()
			c, err := dial(ctx, h, l.Addr().String())
			switch {
			case err == nil:
				c.Close()
			case !errors.Is(err, context.Canceled):
				t.Errorf("DialTCP = %v", err)
			}
		}()
	}
	wg.Wait()
	if st := h.Stats(); st.Connected+st.Cancelled != 300 || st.Conns != 0 || st.Dialing != 0 {
		t.Errorf("afterwards: %+v", st)
	}
}

// A peer that accepts, says something and resets at once has been reached,
// however fast it was.
func TestDialMeetsRST(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.(*net.TCPListener).AcceptTCP()
			if err != nil {
				return
			}
			io.WriteString(c, "go away")
			reset(c)
		}
	}()
	h := &Host{}
	for range 1000 {
		c, err := dial(t.Context(), h, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if c.RemoteAddr() != addrPortOf(l.Addr()) {
			t.Fatalf("connected to %v", c.RemoteAddr())
		}
		wantRead(t, c, "go away", syscall.ECONNRESET)
		c.Close()
	}
	l.Close()
	<-done
	if st := h.Stats(); st.Connected != 1000 || st.Conns != 0 {
		t.Errorf("afterwards: %+v", st)
	}
}

func TestDialLimits(t *testing.T) {
	s := newSpace(t, silent)
	l := s.listen("127.0.0.1:0")
	h := &Host{Socket: s.socket, MaxDials: 2, MaxConns: 3}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { dial(ctx, h, "192.0.2.66:80") })
	}
	eventually(t, "two dials hang", func() bool { return h.Stats().Dialing == 2 && s.synSent() == 2 })
	if _, err := dial(ctx, h, l.Addr().String()); !errors.Is(err, ErrTooManyDials) {
		t.Errorf("third dial = %v, want ErrTooManyDials", err)
	}
	cancel()
	wg.Wait()

	var open []*Conn
	for range 3 {
		c, err := dial(t.Context(), h, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	_, err := dial(t.Context(), h, l.Addr().String())
	if !errors.Is(err, ErrTooManyConns) || !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("fourth connection = %v, want ErrTooManyConns", err)
	}
	var short interface{ Shortage() string }
	if !errors.As(err, &short) || short.Shortage() != "connections" {
		t.Errorf("%v does not tell what is short", err)
	}
	open[0].Reset()
	c, err := dial(t.Context(), h, l.Addr().String())
	if err != nil {
		t.Errorf("after one was closed: %v", err)
	}
	for _, c := range append(open, c) {
		c.Close()
	}
	if st := h.Stats(); st.TooManyDials != 1 || st.TooManyConns != 1 || st.Conns != 0 {
		t.Errorf("afterwards: %+v", st)
	}
}

func TestNoPortLeft(t *testing.T) {
	s := newSpace(t, "")
	s.sysctl("net.ipv4.ip_local_port_range", "40000 40003")
	l := s.listen("127.0.0.1:80")
	h := &Host{Socket: s.socket}
	for i := range 4 {
		c, err := dial(t.Context(), h, "127.0.0.1:80")
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		defer c.Close()
	}
	_, err := dial(t.Context(), h, "127.0.0.1:80")
	var short *ShortageError
	if !errors.As(err, &short) || short.Of != Ports || !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("fifth connection = %v, want a shortage of ports", err)
	}
	// Ports are short for one destination, not for all of them.
	c, err := dial(t.Context(), h, "127.0.0.2:80")
	if err == nil {
		c.Close()
	} else if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("another destination = %v", err)
	}
	if st := h.Stats(); st.NoPort != 1 {
		t.Errorf("afterwards: %+v, want one NoPort", st)
	}
	l.Close()
}

// EADDRNOTAVAIL is also what a host without any IPv6 address says.
func TestNoSourceAddress(t *testing.T) {
	s := newSpace(t, "")
	s.sysctl("net.ipv6.conf.lo.disable_ipv6", "1")
	h := &Host{Socket: s.socket}
	_, err := dial(t.Context(), h, "[::1]:80")
	if !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("DialTCP = %v, want ENETUNREACH", err)
	}
	if st := h.Stats(); st.NoPort != 0 || st.Unreachable != 1 {
		t.Errorf("afterwards: %+v", st)
	}
}

func TestDialLeadsElsewhere(t *testing.T) {
	s := newSpace(t, "")
	l := s.listen("127.0.0.1:80")
	s.sysctl("net.ipv4.ip_local_port_range", "40000 40000")
	h := &Host{Socket: s.socket}
	t.Run("to itself", func(t *testing.T) {
		// The only port to dial from is the one that is dialled.
		c, err := dial(t.Context(), h, "127.0.0.1:40000")
		if !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), "itself") {
			t.Errorf("DialTCP = %v, %v; want a refusal", c, err)
		}
	})
	t.Run("to the loopback", func(t *testing.T) {
		c, err := dial(t.Context(), h, "0.0.0.0:80")
		if !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), "127.0.0.1:80") {
			t.Errorf("DialTCP = %v, %v; want a refusal", c, err)
		}
		acceptedThenReset(t, l)
	})
	t.Run("not confirmed", func(t *testing.T) {
		no := fmt.Errorf("not any more: %w", syscall.ECONNREFUSED)
		h := &Host{Socket: s.socket, Confirm: func(_ string, local, remote netip.AddrPort) error {
			if remote.String() != "127.0.0.1:80" || local.String() != "127.0.0.1:40000" {
				t.Errorf("Confirm(%v, %v)", local, remote)
			}
			return no
		}}
		if _, err := dial(t.Context(), h, "127.0.0.1:80"); !errors.Is(err, no) {
			t.Errorf("DialTCP = %v, want %v", err, no)
		}
		acceptedThenReset(t, l)
		if st := h.Stats(); st.Conns != 0 || st.Refused != 1 {
			t.Errorf("afterwards: %+v", st)
		}
	})
}

// acceptedThenReset fails the test unless l accepts a connection that is reset.
func acceptedThenReset(t *testing.T, l *net.TCPListener) {
	t.Helper()
	peer, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if _, err := peer.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("peer read %v, want ECONNRESET", err)
	}
}

// The limit on descriptors belongs to the process, so a child meets it.
func TestNoDescriptorLeft(t *testing.T) {
	if os.Getenv("UPSTREAM_TEST_CHILD") == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestNoDescriptorLeft$", "-test.v")
		cmd.Env = append(os.Environ(), "UPSTREAM_TEST_CHILD=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("child: %v\n%s", err, out)
		}
		return
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 64, Max: 64}); err != nil {
		t.Fatal(err)
	}
	var taken []*os.File
	for {
		f, err := os.Open("/dev/null")
		if err != nil {
			break
		}
		taken = append(taken, f)
	}
	h := &Host{}
	_, err = dial(t.Context(), h, l.Addr().String())
	var short *ShortageError
	if !errors.As(err, &short) || short.Of != Descriptors || !errors.Is(err, syscall.EMFILE) {
		t.Errorf("DialTCP = %v, want a shortage of descriptors", err)
	}
	for _, f := range taken {
		f.Close()
	}
	c, err := dial(t.Context(), h, l.Addr().String())
	if err != nil {
		t.Fatalf("with descriptors again: %v", err)
	}
	c.Close()
	if st := h.Stats(); st.NoDescriptor != 1 || st.Connected != 1 {
		t.Errorf("afterwards: %+v", st)
	}
}
