package netstack

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"

	"tcpbox/stack/tcpstate"
	"tcpbox/tun"
	"tcpbox/tun/tuntest"
)

var (
	guestAddr   = netip.MustParseAddr("198.18.0.2")
	gatewayAddr = netip.MustParseAddr("198.18.0.1")
	serverAddr  = netip.MustParseAddrPort("203.0.113.5:80")
)

// A transitionLog keeps the transitions of one stack by connection.
type transitionLog struct {
	mu      sync.Mutex
	conns   map[tcpstate.Conn][]tcpstate.Transition
	last    tcpstate.Conn // of the last transition
	changed chan struct{} // closed by the next one; nil while nobody waits
}

func newTransitionLog() *transitionLog {
	return &transitionLog{conns: make(map[tcpstate.Conn][]tcpstate.Transition)}
}

func (l *transitionLog) sink(t tcpstate.Transition) {
	l.mu.Lock()
	l.conns[t.Conn] = append(l.conns[t.Conn], t)
	l.last = t.Conn
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
	l.mu.Unlock()
}

// newest returns the connection of which the last transition tells.
func (l *transitionLog) newest() tcpstate.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// of returns the states that conn went through, in order.
func (l *transitionLog) of(conn tcpstate.Conn) []tcpstate.Transition {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.conns[conn])
}

// wait waits until ok holds for the path of conn.
func (l *transitionLog) wait(t testing.TB, conn tcpstate.Conn, what string, ok func(path []tcpstate.Transition) bool) []tcpstate.Transition {
	t.Helper()
	deadline := time.After(testTimeout)
	for {
		l.mu.Lock()
		path := slices.Clone(l.conns[conn])
		if l.changed == nil {
			l.changed = make(chan struct{})
		}
		changed := l.changed
		l.mu.Unlock()
		if ok(path) {
			return path
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("connection %d never was %s; it went %q", conn, what, describePath(path))
		}
	}
}

// waitFor waits until conn is in state.
func (l *transitionLog) waitFor(t testing.TB, conn tcpstate.Conn, state tcpstate.State) []tcpstate.Transition {
	t.Helper()
	return l.wait(t, conn, "in "+state.String(), func(path []tcpstate.Transition) bool {
		return len(path) > 0 && path[len(path)-1].To == state
	})
}

// waitPast waits until conn has been in state.
func (l *transitionLog) waitPast(t testing.TB, conn tcpstate.Conn, state tcpstate.State) {
	t.Helper()
	l.wait(t, conn, "past "+state.String(), func(path []tcpstate.Transition) bool {
		return slices.ContainsFunc(path, func(tr tcpstate.Transition) bool { return tr.To == state })
	})
}

func describePath(path []tcpstate.Transition) (s []string) {
	for _, t := range path {
		s = append(s, t.From.String()+">"+t.To.String()+" ("+t.Cause.String()+")")
	}
	return s
}

// A pair is two stacks on one wire: one plays the guest, the other is the
// gateway under test.
type pair struct {
	guest, gateway       *Stack
	guestLog, gatewayLog *transitionLog
	requests             chan *Request
}

type pairOption func(guest, gateway *Config)

func withClock(c tcpip.Clock) pairOption {
	return func(a, b *Config) { a.Clock, b.Clock = c, c }
}

func newPair(t testing.TB, opts ...pairOption) *pair {
	t.Helper()
	a, b := tuntest.Pair(1500)
	return newPairOn(t, a, b, opts...)
}

func newPairOn(t testing.TB, a, b tun.Device, opts ...pairOption) *pair {
	t.Helper()
	p := &pair{guestLog: newTransitionLog(), gatewayLog: newTransitionLog(), requests: make(chan *Request, 1<<14)}
	queue := func(r *Request) {
		p.requests <- r
		<-r.Context().Done()
	}
	guestCfg := Config{Device: a, Addrs: []netip.Addr{guestAddr}, OnSYN: queue, Sink: p.guestLog.sink}
	gatewayCfg := Config{
		Device: b, Addrs: []netip.Addr{gatewayAddr}, OnSYN: queue, Sink: p.gatewayLog.sink,
		Guest: []netip.Prefix{netip.PrefixFrom(guestAddr, 32)},
	}
	for _, o := range opts {
		o(&guestCfg, &gatewayCfg)
	}
	p.guest, p.gateway = mustNew(t, guestCfg), mustNew(t, gatewayCfg)
	return p
}

func mustNew(t testing.TB, cfg Config) *Stack {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- s.Run() }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error("close:", err)
		}
		if err := <-ran; err != nil && !errors.Is(err, tun.ErrGone) {
			t.Error("run:", err)
		}
		if st := s.Stats(); st.UnknownEndpoints != 0 || st.SweptTransitions != 0 {
			t.Errorf("the tracker missed something: %d unknown endpoints, %d swept transitions", st.UnknownEndpoints, st.SweptTransitions)
		}
	})
	return s
}

// connect opens a connection from the guest and accepts it at the gateway.
func (p *pair) connect(t testing.TB) (client, server *Conn) {
	t.Helper()
	type dialed struct {
		c   *Conn
		err error
	}
	ch := make(chan dialed, 1)
	go func() {
		c, err := p.guest.Dial(context.Background(), 0, netip.AddrPortFrom(guestAddr, 0), serverAddr)
		ch <- dialed{c, err}
	}()
	r := <-p.requests
	server, err := r.Accept()
	if err != nil {
		t.Fatal("accept:", err)
	}
	d := <-ch
	if d.err != nil {
		t.Fatal("dial:", d.err)
	}
	return d.c, server
}

func wantPath(t testing.TB, who string, got []tcpstate.Transition, want ...string) {
	t.Helper()
	d := describePath(got)
	if len(d) != len(want) {
		t.Fatalf("%s went\n %q, want\n %q", who, d, want)
	}
	for i := range d {
		if d[i] != want[i] {
			t.Errorf("%s, step %d: %s, want %s", who, i, d[i], want[i])
		}
	}
	for i := 1; i < len(got); i++ {
		if got[i].From != got[i-1].To {
			t.Errorf("%s: gap between %v and %v", who, got[i-1], got[i])
		}
		if !tcpstate.Legal(got[i].From, got[i].To) {
			t.Errorf("%s: %v may not follow %v", who, got[i].To, got[i].From)
		}
	}
}

func TestGuestClosesFirst(t *testing.T) {
	p := newPair(t)
	client, server := p.connect(t)
	if _, err := client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(server)
	if err != nil || string(got) != "hello" {
		t.Fatalf("the gateway read %q, %v", got, err)
	}
	if _, err := server.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	server.Close()
	got, err = io.ReadAll(client)
	if err != nil || string(got) != "answer" {
		t.Fatalf("the guest read %q, %v", got, err)
	}
	client.Close()
	wantPath(t, "gateway", p.gatewayLog.waitFor(t, server.ID(), tcpstate.Closed),
		"CLOSED>SYN-RECEIVED (segment SYN)", "SYN-RECEIVED>ESTABLISHED (segment ACK)",
		"ESTABLISHED>CLOSE-WAIT (segment FIN)", "CLOSE-WAIT>LAST-ACK (call close)", "LAST-ACK>CLOSED (segment ACK)")
	wantPath(t, "guest", p.guestLog.waitFor(t, client.ID(), tcpstate.TimeWait),
		"CLOSED>SYN-SENT (call connect)", "SYN-SENT>ESTABLISHED (segment SYN-ACK)",
		"ESTABLISHED>FIN-WAIT-1 (call shutdown)", "FIN-WAIT-1>FIN-WAIT-2 (segment ACK)", "FIN-WAIT-2>TIME-WAIT (segment FIN)")
}

func TestResets(t *testing.T) {
	p := newPair(t)
	client, server := p.connect(t)
	client.Reset()
	if _, err := server.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("after the guest's RST the gateway read %v", err)
	}
	wantPath(t, "gateway", p.gatewayLog.waitFor(t, server.ID(), tcpstate.Closed),
		"CLOSED>SYN-RECEIVED (segment SYN)", "SYN-RECEIVED>ESTABLISHED (segment ACK)", "ESTABLISHED>CLOSED (segment RST)")
	server.Close()

	client, server = p.connect(t)
	server.Reset()
	if _, err := client.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("after the gateway's RST the guest read %v", err)
	}
	wantPath(t, "gateway", p.gatewayLog.waitFor(t, server.ID(), tcpstate.Closed),
		"CLOSED>SYN-RECEIVED (segment SYN)", "SYN-RECEIVED>ESTABLISHED (segment ACK)", "ESTABLISHED>CLOSED (call abort)")
	client.Close()
}
