package integration

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox/integration/testnet"
	"tcpbox/stack/tcpstate"
)

// fixture is a sandbox and a server in the world for one family of addresses.
type fixture struct {
	net    *testnet.Net
	box    *box
	server netip.Addr
	six    bool
	listen *net.TCPListener
}

// pair is a connection through the sandbox: the guest's socket and the
// server's, with their addresses. via is the upstream socket's address.
type pair struct {
	guest, server      *net.TCPConn
	local, remote, via netip.AddrPort
	net                *testnet.Net
	box                *box
}

func (f *fixture) connect(t *testing.T) *pair {
	t.Helper()
	remote := addrOf(f.listen.Addr())
	c, err := f.box.DialTCP(t.Context(), netip.AddrPort{}, remote)
	if err != nil {
		t.Fatalf("dial %v: %v", remote, err)
	}
	t.Cleanup(func() { c.Close() })
	s, err := f.listen.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	for _, c := range []*net.TCPConn{c, s} {
		must(t, c.SetDeadline(time.Now().Add(testnet.Patience)))
	}
	return &pair{
		guest: c, server: s, net: f.net, box: f.box,
		local: addrOf(c.LocalAddr()), remote: remote, via: addrOf(s.RemoteAddr()),
	}
}

func addrOf(a net.Addr) netip.AddrPort {
	p := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

// say writes text to c and fails the test if it cannot.
func say(t *testing.T, c *net.TCPConn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatalf("write %q: %v", text, err)
	}
}

// hear reads text from c.
func hear(t *testing.T, c *net.TCPConn, text string) {
	t.Helper()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("read %q, %v, want %q", got, err, text)
	}
}

// hearEnd reads to the end of the stream, which must be a FIN and have no more
// than text before it.
func hearEnd(t *testing.T, c *net.TCPConn, text string) {
	t.Helper()
	got, err := io.ReadAll(c)
	if err != nil || string(got) != text {
		t.Fatalf("read %q, %v, want %q and FIN", got, err, text)
	}
}

// hearReset reads until an error, which must be that of a RST.
func hearReset(t *testing.T, c *net.TCPConn) {
	t.Helper()
	if got, err := io.ReadAll(c); !errors.Is(err, unix.ECONNRESET) {
		t.Fatalf("read %q, %v, want %v", got, err, unix.ECONNRESET)
	}
}

// must fails the test if err is not nil.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// reset closes c with a RST.
func reset(t *testing.T, c *net.TCPConn) {
	t.Helper()
	must(t, c.SetLinger(0))
	must(t, c.Close())
}

// holds waits until the kernel sockets of the connection are in the states
// wanted: the guest's, the upstream one, the server's.
func (p *pair) holds(t *testing.T, guest, upstream, server tcpstate.State) {
	t.Helper()
	testnet.Eventually(t, func() error {
		g := p.box.State(t, p.local, p.remote)
		u := p.net.Uplink.State(t, p.via, p.remote)
		s := p.net.Remote.State(t, p.remote, p.via)
		if g != guest || u != upstream || s != server {
			return fmt.Errorf("guest %v, upstream %v, server %v; want %v, %v, %v", g, u, s, guest, upstream, server)
		}
		return nil
	})
}

// passes waits until the stack's endpoint of the connection has logged exactly
// these states after ESTABLISHED.
func (p *pair) passes(t *testing.T, want ...tcpstate.State) {
	t.Helper()
	want = append([]tcpstate.State{tcpstate.SynReceived, tcpstate.Established}, want...)
	testnet.Eventually(t, func() error {
		if got := p.box.path(t, p.local); !slices.Equal(got, want) {
			return fmt.Errorf("the stack went through %v, want %v", got, want)
		}
		return nil
	})
}

// Shorter names for the table.
const (
	closed    = tcpstate.Closed
	timeWait  = tcpstate.TimeWait
	closeWait = tcpstate.CloseWait
	finWait1  = tcpstate.FinWait1
	finWait2  = tcpstate.FinWait2
	lastAck   = tcpstate.LastAck
	synSent   = tcpstate.SynSent
)

// fidelity is the table: what happens on one end is what the other end sees.
var fidelity = []struct {
	name string
	test func(*testing.T, *fixture)
}{
	{"half-close by the client, then a reply", func(t *testing.T, f *fixture) {
		p := f.connect(t)
		say(t, p.guest, "question")
		must(t, p.guest.CloseWrite())
		hearEnd(t, p.server, "question")
		p.holds(t, finWait2, finWait2, closeWait)
		say(t, p.server, "answer")
		hear(t, p.guest, "answer")
		must(t, p.server.Close())
		hearEnd(t, p.guest, "")
	}},
	{"half-close by the server, then a reply", func(t *testing.T, f *fixture) {
		p := f.connect(t)
		say(t, p.server, "greeting")
		must(t, p.server.CloseWrite())
		hearEnd(t, p.guest, "greeting")
		p.holds(t, closeWait, closeWait, finWait2)
		say(t, p.guest, "answer")
		hear(t, p.server, "answer")
		must(t, p.guest.Close())
		hearEnd(t, p.server, "")
	}},
	{"client RST is RST at the server", func(t *testing.T, f *fixture) {
		p := f.connect(t)
		reset(t, p.guest)
		hearReset(t, p.server)
		p.holds(t, closed, closed, closed)
		p.passes(t, closed)
	}},
	{"server RST is RST at the client", func(t *testing.T, f *fixture) {
		p := f.connect(t)
		reset(t, p.server)
		hearReset(t, p.guest)
		p.holds(t, closed, closed, closed)
		p.passes(t, closed)
	}},
	{"client closes with unread data: RST at the server", func(t *testing.T, f *fixture) {
		p := f.connect(t)
		say(t, p.server, "unread")
		testnet.Eventually(t, func() error { return unread(p.guest, len("unread")) })
		must(t, p.guest.Close())
		hearReset(t, p.server)
	}},
	{"server closes with unread data: RST at the client", func(t *testing.T, f *fixture) {
		p := f.connect(t)
		say(t, p.guest, "unread")
		testnet.Eventually(t, func() error { return unread(p.server, len("unread")) })
		must(t, p.server.Close())
		hearReset(t, p.guest)
	}},
	{"data, then RST by the client after a half-close", func(t *testing.T, f *fixture) {
		p := f.connect(t)
		must(t, p.server.CloseWrite())
		hearEnd(t, p.guest, "")
		reset(t, p.guest)
		hearReset(t, p.server)
	}},
	{"server closes first: it holds TIME-WAIT, and so does the stack", func(t *testing.T, f *fixture) {
		p := f.connect(t)
		must(t, p.server.Close())
		hearEnd(t, p.guest, "")
		p.passes(t, finWait1, finWait2)
		must(t, p.guest.Close())
		p.holds(t, closed, closed, timeWait)
		p.passes(t, finWait1, finWait2, timeWait)
	}},
	{"client closes first: it holds TIME-WAIT, and so does the upstream socket", func(t *testing.T, f *fixture) {
		p := f.connect(t)
		must(t, p.guest.Close())
		hearEnd(t, p.server, "")
		must(t, p.server.Close())
		p.holds(t, timeWait, timeWait, closed)
		p.passes(t, closeWait, lastAck, closed)
	}},
	{"a closed port refuses", refusal(unix.ECONNREFUSED, unix.ECONNREFUSED, testnet.Public4, testnet.Public6)},
	{"host unreachable", refusal(unix.EHOSTUNREACH, unix.EHOSTUNREACH, testnet.Unreachable4, testnet.Unreachable6)},
	{"prohibited", refusal(unix.EHOSTUNREACH, unix.EACCES, testnet.Prohibited4, testnet.Prohibited6)},
	{"network unreachable", refusal(unix.ENETUNREACH, unix.ENETUNREACH, testnet.NoRoute4, testnet.NoRoute6)},
	{"silence: the guest stays in SYN-SENT", func(t *testing.T, f *fixture) {
		dst := netip.AddrPortFrom(testnet.Silent(f.six, 0), 80)
		d, err := f.box.StartDial(netip.AddrPort{}, dst)
		must(t, err)
		defer d.Close()
		local, err := d.Local()
		must(t, err)
		testnet.Eventually(t, func() error {
			if f.net.Uplink.Count(t, synSent) == 0 {
				return errors.New("no upstream socket is in SYN-SENT")
			}
			return nil
		})
		f.connect(t) // and another connection is served meanwhile
		if got := f.box.State(t, local, dst); got != synSent {
			t.Errorf("the guest's socket is %v, want SYN-SENT", got)
		}
	}},
	{"one byte at a time", func(t *testing.T, f *fixture) {
		p := f.connect(t)
		must(t, p.guest.SetNoDelay(true))
		text := bytes.Repeat([]byte("0123456789"), 200)
		for i := range text {
			if _, err := p.guest.Write(text[i : i+1]); err != nil {
				t.Fatal(err)
			}
		}
		must(t, p.guest.CloseWrite())
		hearEnd(t, p.server, string(text))
	}},
	{"a window that closes and opens again", func(t *testing.T, f *fixture) {
		p := f.connect(t)
		const counter = "TCPToZeroWindowAdv"
		before := f.net.Remote.Counter(t, "TcpExt", counter)
		sum := make(chan [sha256.Size]byte, 1)
		sent := make(chan error, 1)
		const size = 32 << 20 // more than all buffers on the way hold
		go func() { sent <- sendNoise(p.guest, size, 7, sum) }()
		testnet.Eventually(t, func() error {
			if f.net.Remote.Counter(t, "TcpExt", counter) == before {
				return errors.New("the server's window has not closed")
			}
			return nil
		})
		select {
		case err := <-sent:
			t.Errorf("the guest sent all while nobody read: %v", err)
		default:
		}
		if err := checkNoise(p.server, size, sum); err != nil {
			t.Error(err)
		}
		must(t, <-sent)
	}},
	{"64 MiB both ways at once", func(t *testing.T, f *fixture) {
		p := f.connect(t)
		size := int64(64 << 20)
		if testing.Short() {
			size = 4 << 20
		}
		results := make(chan error, 4)
		for i, c := range []*net.TCPConn{p.guest, p.server} {
			other := []*net.TCPConn{p.server, p.guest}[i]
			sum := make(chan [sha256.Size]byte, 1)
			go func() { results <- sendNoise(c, size, uint64(i), sum) }()
			go func() { results <- checkNoise(other, size, sum) }()
		}
		for range 4 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
	}},
}

func TestFidelity(t *testing.T) {
	n := testnet.New(t)
	b := start(t, n, root)
	for _, f := range []*fixture{{server: testnet.Public4}, {server: testnet.Public6, six: true}} {
		f.net, f.box = n, b
		f.listen = n.Remote.Listen(t, "tcp", netip.AddrPortFrom(f.server, 80))
		family := "IPv4"
		if f.six {
			family = "IPv6"
		}
		t.Run(family, func(t *testing.T) {
			for _, row := range fidelity {
				t.Run(row.name, func(t *testing.T) { row.test(t, f) })
			}
		})
	}
}

// refusal is a row in which connect fails with an error, over IPv4 and IPv6.
func refusal(err4, err6 error, dst4, dst6 netip.Addr) func(*testing.T, *fixture) {
	return func(t *testing.T, f *fixture) {
		dst, want := dst4, err4
		if f.six {
			dst, want = dst6, err6
		}
		c, err := f.box.DialTCP(t.Context(), netip.AddrPort{}, netip.AddrPortFrom(dst, 81))
		if err == nil {
			c.Close()
		}
		if !errors.Is(err, want) {
			t.Errorf("dial %v = %v, want %v", dst, err, want)
		}
	}
}

// unread reports an error unless n bytes wait to be read from c.
func unread(c *net.TCPConn, n int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var got int
	var callErr error
	err = raw.Control(func(fd uintptr) { got, callErr = unix.IoctlGetInt(int(fd), unix.SIOCINQ) })
	if err := errors.Join(err, callErr); err != nil {
		return err
	}
	if got != n {
		return fmt.Errorf("%d bytes wait to be read, want %d", got, n)
	}
	return nil
}

// sendNoise writes size random bytes and FIN, and then their sum to sum.
func sendNoise(c *net.TCPConn, size int64, seed uint64, sum chan<- [sha256.Size]byte) error {
	h := sha256.New()
	noise := rand.NewChaCha8([32]byte{byte(seed)})
	_, err := io.Copy(struct{ io.Writer }{c}, io.TeeReader(io.LimitReader(noise, size), h))
	sum <- [sha256.Size]byte(h.Sum(nil))
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return c.CloseWrite()
}

// checkNoise reads to the end and compares with the sum that was sent.
func checkNoise(c *net.TCPConn, size int64, sum <-chan [sha256.Size]byte) error {
	h := sha256.New()
	n, err := io.Copy(h, c)
	want := <-sum
	switch same := [sha256.Size]byte(h.Sum(nil)) == want; {
	case err != nil:
		return fmt.Errorf("receive: %w", err)
	case n != size || !same:
		return fmt.Errorf("received %d bytes of %d, sums equal: %v", n, size, same)
	}
	return nil
}
