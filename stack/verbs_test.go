package stack

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tcpbox/stack/internal/netstack"
	"tcpbox/stack/relay"
	"tcpbox/stack/relay/relaytest"
	"tcpbox/stack/tcpstate"
)

// factsLog keeps what a gateway tells of its connections.
type factsLog struct {
	mu  sync.Mutex
	all []*tcpstate.Facts
}

func (l *factsLog) add(f *tcpstate.Facts) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, f)
}

// changes are the words "frozen", "thawed" and who closed, in their order.
func (l *factsLog) changes() (words []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.all {
		switch {
		case f.Frozen != nil && *f.Frozen:
			words = append(words, "frozen")
		case f.Frozen != nil:
			words = append(words, "thawed")
		}
		if f.Closed != nil {
			words = append(words, f.Closed.String())
		}
	}
	return words
}

// endOf reads to the end, and says what it was.
func endOf(c io.Reader) string {
	got, err := io.ReadAll(c)
	end := "FIN"
	switch {
	case errors.Is(err, syscall.ECONNRESET):
		end = "RST"
	case err != nil:
		end = err.Error()
	}
	return strings.TrimSpace(string(got) + " " + end)
}

// verbCase is one connection that a verb is tried on: the guest's end, and the far
// one.
type verbCase struct {
	t     *testing.T
	g     *Gateway
	id    tcpstate.Conn
	guest *netstack.Conn
	far   relay.Conn
	log   *transitions
	facts *factsLog
}

func (c *verbCase) do(verb ConnVerb, want error) {
	c.t.Helper()
	if err := c.g.ConnDo(c.id, verb); !errors.Is(err, want) || (want == nil) != (err == nil) {
		c.t.Errorf("%v: %v, want %v", verb, err, want)
	}
}

// ended waits until nothing is relayed, and wants the log to have had these words.
func (c *verbCase) ended(words ...string) {
	c.t.Helper()
	eventually(c.t, "the flow had ended", func() bool { return c.g.Stats().Open == 0 })
	if got := c.facts.changes(); !slices.Equal(got, words) {
		c.t.Errorf("the facts say %q, want %q", got, words)
	}
	for _, verb := range ConnVerbs() {
		c.do(verb, ErrNoConn)
	}
}

// stackLeg wants the leg of the stack to have gone this way.
func (c *verbCase) stackLeg(step string) {
	c.t.Helper()
	local, _ := netip.ParseAddrPort(c.guest.RemoteAddr().String())
	remote, _ := netip.ParseAddrPort(c.guest.LocalAddr().String())
	eventually(c.t, "the stack's leg went "+step, func() bool { return slices.Contains(c.log.of(local, remote), step) })
}

// verbCases runs play on a connection that the guest has opened, and on one through
// a published port.
func verbCases(t *testing.T, play func(c *verbCase)) {
	t.Run("outbound", func(t *testing.T) {
		c := &verbCase{t: t, log: &transitions{}, facts: &factsLog{}}
		u, far := pipes(0)
		g, guest := withGuest(t, u, func(cfg *Config) { cfg.Sink, cfg.Facts = c.log.add, c.facts.add })
		c.g, c.guest = g, mustDial(t, guest, server)
		c.far = <-far
		c.begin()
		play(c)
	})
	t.Run("inbound", func(t *testing.T) {
		c := &verbCase{t: t, log: &transitions{}, facts: &factsLog{}}
		g, requests := withServer(t, func(cfg *Config) { cfg.Sink, cfg.Facts = c.log.add, c.facts.add })
		far, done := deliver(t, g, to(client))
		accepted, err := get(t, requests).Accept()
		if err != nil {
			t.Fatal(err)
		}
		c.g, c.guest, c.far = g, accepted, far
		c.begin()
		play(c)
		accepted.Reset()
		get(t, done)
	})
}

// begin waits for the relay: a byte goes each way.
func (c *verbCase) begin() {
	c.t.Helper()
	pass := func(from io.Writer, to io.Reader) {
		var one [1]byte
		if _, err := from.Write([]byte(".")); err != nil {
			c.t.Fatal(err)
		}
		if _, err := io.ReadFull(to, one[:]); err != nil {
			c.t.Fatal(err)
		}
	}
	pass(c.guest, c.far)
	pass(c.far, c.guest)
	for _, f := range c.g.Carried() {
		c.id = f.Conn
	}
}

func TestConnRST(t *testing.T) {
	verbCases(t, func(c *verbCase) {
		c.do(ConnRST, nil)
		if guest, far := endOf(c.guest), endOf(c.far); guest != "RST" || far != "RST" {
			t.Errorf("the guest reads %q and the far end %q, want RST", guest, far)
		}
		c.stackLeg("ESTABLISHED>CLOSED policy conn rst")
		c.ended("stack RST")
	})
}

func TestConnClose(t *testing.T) {
	verbCases(t, func(c *verbCase) {
		c.guest.Write([]byte("question"))
		c.far.Write([]byte("answer"))
		c.do(ConnClose, nil)
		c.do(ConnClose, nil)
		c.do(ConnFreeze, ErrConnClosing)
		// What had not come to the relay is thrown away.
		if guest, far := endOf(c.guest), endOf(c.far); guest != "answer FIN" || !strings.HasSuffix("question FIN", far) {
			t.Errorf("the guest reads %q and the far end %q, want all, and FIN", guest, far)
		}
		c.stackLeg("ESTABLISHED>FIN-WAIT-1 policy conn close")
		c.guest.Close()
		c.far.Close()
		c.ended("stack FIN", "stack FIN")
	})
}

func TestConnFreeze(t *testing.T) {
	verbCases(t, func(c *verbCase) {
		c.do(ConnThaw, nil)
		c.do(ConnFreeze, nil)
		c.do(ConnFreeze, nil)
		c.far.Write([]byte("answer"))
		c.guest.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		sent, err := c.guest.Write(make([]byte, 64<<20)) // more than the buffers hold
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the guest wrote %d bytes, %v", sent, err)
		}
		if n, err := c.far.(*relaytest.Conn).Buffered(); n != 0 || err != nil {
			t.Errorf("%d bytes came, %v", n, err)
		}
		c.do(ConnThaw, nil)
		buf := make([]byte, 10)
		if n, err := c.guest.Read(buf); string(buf[:n]) != "answer" || err != nil {
			t.Errorf("the guest read %q, %v", buf[:n], err)
		}
		if n, err := io.Copy(io.Discard, io.LimitReader(c.far, int64(sent))); n != int64(sent) || err != nil {
			t.Errorf("the far end read %d bytes of %d, %v", n, sent, err)
		}
		c.do(ConnFreeze, nil)
		c.guest.Reset()
		if end := endOf(c.far); end != "RST" {
			t.Errorf("the far end reads %q, want RST", end)
		}
		c.ended("frozen", "thawed", "frozen", "thawed", "guest RST")
	})
}

// TestConnVerbsOfHosts: a host inside the stack is one end alone.
func TestConnVerbsOfHosts(t *testing.T) {
	at := netip.AddrPortFrom(peerAddr, 80)
	log, facts := &transitions{}, &factsLog{}
	g, guest := withGuest(t, failing(nil), func(c *Config) { c.Sink, c.Facts = log.add, facts.add })
	l, err := g.Listen(at)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accept := func() (tcpstate.Conn, *netstack.Conn, net.Conn) {
		c := mustDial(t, guest, at)
		host, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return host.(*hostConn).ID(), c, host
	}
	do := func(id tcpstate.Conn, verb ConnVerb, want error) {
		t.Helper()
		if err := g.ConnDo(id, verb); !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Errorf("%v: %v, want %v", verb, err, want)
		}
	}

	id, c, host := accept()
	do(id, ConnFreeze, ErrNoFreeze)
	do(id, ConnThaw, ErrNoFreeze)
	do(id, ConnRST, nil)
	if end := endOf(c); end != "RST" {
		t.Errorf("the guest reads %q, want RST", end)
	}
	if _, err := host.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the host reads %v, want ErrClosed", err)
	}
	do(id, ConnRST, ErrNoConn)
	if got := log.of(at, c.Local()); !slices.Contains(got, "ESTABLISHED>CLOSED policy conn rst") {
		t.Errorf("the log has %q", got)
	}

	id, c, host = accept()
	host.Write([]byte("bytes"))
	do(id, ConnClose, nil)
	do(id, ConnClose, nil)
	if end := endOf(c); end != "bytes FIN" {
		t.Errorf("the guest reads %q, want bytes and FIN", end)
	}
	if _, err := host.Write([]byte("more")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("the host writes %v, want EPIPE", err)
	}
	c.Write([]byte("still read"))
	c.Close()
	if got := endOf(host); got != "still read FIN" {
		t.Errorf("the host reads %q", got)
	}
	host.Close()
	do(id, ConnClose, ErrNoConn)
	if got := log.of(at, c.Local()); !slices.Contains(got, "ESTABLISHED>FIN-WAIT-1 policy conn close") {
		t.Errorf("the log has %q", got)
	}
	do(1<<40, ConnRST, ErrNoConn)
}

func TestConnVerbNames(t *testing.T) {
	want := []string{"rst", "close", "freeze", "thaw"}
	for i, v := range ConnVerbs() {
		if v.String() != want[i] {
			t.Errorf("%d is called %q, want %q", v, v, want[i])
		}
	}
	if s := ConnVerb(200).String(); s != "ConnVerb(200)" {
		t.Errorf("String() = %q", s)
	}
}
