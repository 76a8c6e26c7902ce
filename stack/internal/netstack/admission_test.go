package netstack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

// TestSYNBacklog: of N+1 handshakes N are half-open, exactly, at any time.
func TestSYNBacklog(t *testing.T) {
	g := newRawGuest(t, func(cfg *Config) { cfg.SYNBacklog = 4 })
	port := uint16(1000)
	open := func() (*rawConn, <-chan error) {
		t.Helper()
		c := g.conn(port)
		port++
		c.syn()
		done := accept(g.request())
		c.expect(synAck)
		return c, done
	}
	dropped := func() {
		t.Helper()
		before := g.gateway.Stats().DropBacklog
		c := g.conn(port)
		port++
		c.syn()
		g.ping(t)
		if n := g.gateway.Stats().DropBacklog - before; n != 1 || len(g.requests) != 0 {
			t.Fatalf("DropBacklog grew by %d, and %d requests were made, want 1 and none", n, len(g.requests))
		}
	}
	half := func(n int) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d handshakes were half-open", n), func() bool { return g.gateway.Stats().HalfOpen == n })
	}

	var conns []*rawConn
	for range 4 {
		c, _ := open()
		conns = append(conns, c)
	}
	half(4)
	dropped()
	conns[0].send(rst, "")
	half(3)
	c, done := open()
	dropped()
	c.send(ackFl, "") // completes
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	half(3)
	open()
	dropped()

	g.gateway.SetSYNBacklog(6) // live
	open()
	open()
	dropped()
	g.gateway.SetSYNBacklog(2)
	dropped()
	for _, c := range conns[1:] {
		c.send(rst, "")
	}
	half(3)
	dropped()
	if p := g.gateway.Stats().PeakHalfOpen; p != 6 {
		t.Errorf("PeakHalfOpen = %d, want 6", p)
	}
}

// TestBacklogAtAccept: a dial that ends when the backlog is full waits for room
// in it, for as long as the guest wants it.
func TestBacklogAtAccept(t *testing.T) {
	g := newRawGuest(t, func(cfg *Config) { cfg.SYNBacklog = 1 })
	conns := []*rawConn{g.conn(1000), g.conn(1001), g.conn(1002), g.conn(1003)}
	var requests []*Request
	for _, c := range conns {
		c.syn() // admitted: nothing is half-open
		requests = append(requests, g.request())
	}
	accept(requests[0])
	conns[0].expect(synAck)

	queued := func(n int) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d wait for room", n), func() bool {
			a := g.gateway.admission
			a.mu.Lock()
			defer a.mu.Unlock()
			return len(a.queue) == n
		})
	}
	abandoned := accept(requests[1])
	queued(1)
	second := accept(requests[2])
	queued(2)
	if n := g.gateway.Stats().HalfOpen; n != 1 {
		t.Errorf("%d are half-open, want 1", n)
	}
	conns[1].send(rst, "")
	if err := <-abandoned; err != ErrBacklogFull {
		t.Errorf("Accept for a guest that has left = %v, want %v", err, ErrBacklogFull)
	}
	conns[0].send(ackFl, "") // completes
	conns[2].expect(synAck)
	conns[2].send(ackFl, "")
	if err := <-second; err != nil {
		t.Errorf("Accept after there was room = %v", err)
	}
	accept(requests[3])
	conns[3].expect(synAck)
	if p := g.gateway.Stats().PeakHalfOpen; p != 1 {
		t.Errorf("PeakHalfOpen = %d, want 1", p)
	}
}

// TestPendingLimits: dials in progress are limited in all and per destination.
func TestPendingLimits(t *testing.T) {
	g := newRawGuest(t, func(cfg *Config) { cfg.MaxPending = 8 })
	port := uint16(1000)
	ask := func(host byte) {
		c := g.conn(port)
		port++
		c.dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, host}), 80)
		c.syn()
	}
	for range 5 {
		ask(1)
	}
	g.ping(t)
	if st := g.gateway.Stats(); st.Pending != 4 || st.DropPerDst != 1 {
		t.Fatalf("Pending = %d and DropPerDst = %d, want 4 and 1", st.Pending, st.DropPerDst)
	}
	for host := range byte(5) {
		ask(2 + host)
	}
	g.ping(t)
	if st := g.gateway.Stats(); st.Pending != 8 || st.DropPending != 1 {
		t.Fatalf("Pending = %d and DropPending = %d, want 8 and 1", st.Pending, st.DropPending)
	}
	g.request().Drop()
	ask(7)
	g.ping(t)
	if st := g.gateway.Stats(); st.Pending != 8 || st.DropPending != 1 {
		t.Errorf("after one has ended, Pending = %d and DropPending = %d, want 8 and 1", st.Pending, st.DropPending)
	}
}

// TestPendingBlocksNobody: connects to silent destinations do not keep another
// one waiting, also when there are more of them than the SYN backlog holds.
func TestPendingBlocksNobody(t *testing.T) {
	g := newRawGuest(t, func(cfg *Config) { cfg.SYNBacklog = 4 })
	for port := range uint16(40) {
		g.conn(1000 + port).syn()
	}
	for range 40 {
		g.request() // whose dial never ends
	}
	c := g.conn(2000)
	s := c.establish()
	c.send(ackFl, "hello")
	buf := make([]byte, 5)
	if n, err := s.Read(buf); n != 5 || err != nil {
		t.Fatalf("Read = %d, %v", n, err)
	}
	if st := g.gateway.Stats(); st.Pending != 40 || st.HalfOpen != 0 {
		t.Errorf("Pending = %d and HalfOpen = %d, want 40 and 0", st.Pending, st.HalfOpen)
	}
	s.Close()
}

// TestGivesUpSilentDials: a dial ends when its guest has not asked again for
// twice the time in which it should have.
func TestGivesUpSilentDials(t *testing.T) {
	clock := newStandingClock()
	g := newRawGuest(t, func(cfg *Config) { cfg.Clock = clock })
	waited := func(d time.Duration) {
		clock.Advance(d)
		g.gateway.sweepOnce()
	}
	c := g.conn(1000)
	c.syn()
	req := g.request()
	for _, gap := range []time.Duration{1, 1, 1, 2, 4, 8} { // as a Linux guest with tcp_syn_linear_timeouts
		waited(gap * time.Second)
		c.seq--
		c.syn()
		g.ping(t)
	}
	if err := req.Context().Err(); err != nil || g.gateway.Stats().GivenUp != 0 {
		t.Fatalf("given up while the guest was asking: %v", err)
	}
	waited(32 * time.Second)
	if err := req.Context().Err(); err != nil {
		t.Fatalf("given up after twice the next wait: %v", err)
	}
	waited(time.Second)
	select {
	case <-req.Context().Done():
	default:
		t.Fatal("not given up")
	}
	waited(time.Second)
	if n := g.gateway.Stats().GivenUp; n != 1 {
		t.Errorf("GivenUp = %d, want 1", n)
	}

	// One that never asks again has its first wait, twice.
	g.conn(1001).syn()
	req = g.request()
	waited(2 * time.Second)
	if req.Context().Err() != nil {
		t.Error("given up after 2s")
	}
	waited(time.Second)
	if req.Context().Err() == nil {
		t.Error("not given up after 3s")
	}
}

// TestResetWhilePending: an RST ends the dial, and so does a SYN with another
// sequence number, which is a connection of its own.
func TestResetWhilePending(t *testing.T) {
	g := newRawGuest(t)
	c := g.conn(1000)
	c.syn()
	req := g.request()
	c.send(rst, "")
	<-req.Context().Done()

	c = g.conn(1001)
	c.syn()
	first := g.request()
	c.seq += 5000
	c.syn()
	second := g.request() // follows when the first has ended
	if first.Context().Err() == nil {
		t.Error("the first dial goes on")
	}
	if first.ID() == second.ID() || first.Src() != second.Src() {
		t.Errorf("connection %d from %v, then %d from %v", first.ID(), first.Src(), second.ID(), second.Src())
	}
	done := accept(second)
	if p := c.expect(synAck); p.TCP.Ack != c.seq {
		t.Errorf("the SYN-ACK acknowledges %d, want %d", p.TCP.Ack, c.seq)
	}
	c.send(ackFl, "")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestBothConnect: the stack connects to the guest on the 4-tuple of a request
// that is pending. The endpoint that is there keeps it, and its log.
func TestBothConnect(t *testing.T) {
	g := newRawGuest(t)
	c := g.conn(1000)
	c.syn()
	req := g.request()
	dialed := make(chan error, 1)
	go func() {
		s, err := g.gateway.Dial(g.ctx, 0, serverAddr, c.src)
		if err == nil {
			s.Close()
		}
		dialed <- err
	}()
	c.expect(packet.SYN)
	if _, err := req.Accept(); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("Accept = %v, want EADDRINUSE", err)
	}
	c.seq--
	c.syn() // asks again, and so opens simultaneously
	c.expect(synAck)
	c.send(ackFl, "")
	if err := <-dialed; err != nil {
		t.Error("dial:", err)
	}
	wantPath(t, "the gateway", g.log.waitFor(t, g.log.newest(), tcpstate.FinWait1), active[0],
		"SYN-SENT>SYN-RECEIVED (segment SYN)", "SYN-RECEIVED>ESTABLISHED (segment ACK)", "ESTABLISHED>FIN-WAIT-1 (call close)")
}

// acceptor accepts every connection, and hands out those that complete.
func acceptor(conns chan<- *Conn) func(*Config) {
	return func(cfg *Config) {
		cfg.OnSYN = func(r *Request) {
			if c, err := r.Accept(); err == nil {
				conns <- c
			}
		}
	}
}

// TestResetStorm: SYN, SYN-ACK, RST a thousand times, from a thousand ports and
// from one, leave nothing behind, and then a connection is as any other.
func TestResetStorm(t *testing.T) {
	for _, c := range []struct {
		name string
		port func(i int) uint16
	}{
		{"from a thousand ports", func(i int) uint16 { return uint16(2000 + i) }},
		{"from one port", func(int) uint16 { return 2000 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			conns := make(chan *Conn, 16)
			g := newRawGuest(t, acceptor(conns))
			for i := range 1000 {
				c := g.conn(c.port(i))
				c.seq = uint32(i) * 100000
				c.syn()
				c.expect(synAck)
				c.send(rst, "")
			}
			normal(t, g, g.conn(2000), conns)
			for _, f := range g.Frames() {
				if f.Packet.TCP.Flags.Has(packet.RST) {
					t.Fatalf("an RST came back: %v", &f)
				}
			}
			eventually(t, "nothing was left", func() bool {
				st := g.gateway.Stats()
				return st.HalfOpen == 0 && st.Pending == 0 && st.Tracked == 0
			})
			if st := g.gateway.Stats(); st.DropBacklog+st.DropPending+st.DropPerDst != 0 {
				t.Errorf("SYNs were dropped: %+v", st)
			}
		})
	}
}

// normal opens a connection, moves bytes both ways and closes it.
func normal(t *testing.T, g *rawGuest, c *rawConn, conns <-chan *Conn) {
	t.Helper()
	c.seq = 4e9
	c.syn()
	c.expect(synAck)
	c.send(ackFl, "")
	s := <-conns
	c.send(ackFl, "hello")
	buf := make([]byte, 5)
	if n, err := s.Read(buf); n != 5 || err != nil {
		t.Fatalf("Read = %d, %v", n, err)
	}
	c.expect(ackFl)
	c.send(finAck, "")
	c.expect(ackFl)
	wantEOF(t, s)
	s.Close()
	c.expect(finAck)
	c.send(ackFl, "")
	g.log.waitFor(t, s.ID(), tcpstate.Closed)
}

// TestSYNRightAfterRST: a SYN that follows an RST on the same 4-tuple opens the
// next connection, in whatever state the RST finds the first.
func TestSYNRightAfterRST(t *testing.T) {
	for _, c := range []struct {
		name  string
		bring func(c *rawConn, s *Conn)
	}{
		{"ESTABLISHED", func(*rawConn, *Conn) {}},
		{"CLOSE-WAIT", func(c *rawConn, _ *Conn) {
			c.send(finAck, "")
			c.expect(ackFl)
		}},
		{"FIN-WAIT-1", func(c *rawConn, s *Conn) {
			s.CloseWrite()
			c.expect(finAck)
		}},
		{"LAST-ACK", func(c *rawConn, s *Conn) {
			c.send(finAck, "")
			c.expect(ackFl)
			s.CloseWrite()
			c.expect(finAck)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			conns := make(chan *Conn, 16)
			g := newRawGuest(t, acceptor(conns))
			for i := range 50 {
				r := g.conn(1000)
				r.seq = uint32(i) * 100000
				r.syn()
				r.expect(synAck)
				r.send(ackFl, "")
				s := <-conns
				c.bring(r, s)
				r.send(rst, "") // the next SYN follows at once
				t.Cleanup(func() { s.Close() })
			}
			for _, f := range g.Frames() {
				if f.Packet.TCP.Flags.Has(packet.RST) {
					t.Fatalf("an RST came back: %v", &f)
				}
			}
		})
	}
}

// TestSYNAfterIgnoredRST: an RST that the endpoint does not obey holds up the
// SYN behind it for one of the guest's retransmissions, not for ever.
func TestSYNAfterIgnoredRST(t *testing.T) {
	clock := newStandingClock()
	g := newRawGuest(t, func(cfg *Config) { cfg.Clock = clock })
	c := g.conn(1000)
	s := c.establish()
	seq := c.seq
	c.seq += 5000 // in the window, but not what is expected
	c.send(rst, "")
	c.expect(ackFl)
	c.syn()
	g.ping(t)
	clock.Advance(time.Second)
	c.seq--
	c.syn()
	if p := c.expect(ackFl); p.TCP.Ack != seq {
		t.Errorf("the challenge ACK acknowledges %d, want %d", p.TCP.Ack, seq)
	}
	// The guest's kernel has no such connection, so it answers with an RST.
	c.seq = seq
	c.send(rst, "")
	wantPath(t, "the gateway", g.log.waitFor(t, s.ID(), tcpstate.Closed), append(append([]string(nil), passive...), "ESTABLISHED>CLOSED (segment RST)")...)
	clock.Advance(2 * time.Second)
	c.seq += 5000
	c.syn()
	accept(g.request())
	c.expect(synAck)
	s.Close()
}

// TestCloseEndsEverything: requests, handshakes, dials and connections.
func TestCloseEndsEverything(t *testing.T) {
	g := newRawGuest(t)
	pending := g.conn(1000)
	pending.syn()
	req := g.request()
	half := g.conn(1001)
	half.syn()
	accepted := accept(g.request())
	half.expect(synAck)
	s := g.conn(1002).establish()
	_, dialed, _ := g.dial(context.Background(), 8080)
	read := make(chan error, 1)
	go func() {
		_, err := s.Read(make([]byte, 1))
		read <- err
	}()
	closed := make(chan error, 2)
	for range 2 { // whoever calls it, it returns when all has ended
		go func() {
			err := g.gateway.Close()
			if n := g.gateway.Stats().Tracked; n != 0 {
				err = errors.Join(err, fmt.Errorf("%d endpoints are still tracked", n))
			}
			closed <- err
		}()
	}
	for range 2 {
		if err := <-closed; err != nil {
			t.Error(err)
		}
	}
	<-req.Context().Done()
	for what, ch := range map[string]<-chan error{"Accept": accepted, "Dial": dialed, "Read": read} {
		if err := <-ch; err == nil {
			t.Errorf("%s = nil", what)
		}
	}
	if _, err := g.gateway.Dial(context.Background(), 0, ap(gatewayAddr, 0), ap(guestAddr, 1)); err == nil {
		t.Error("Dial after Close = nil")
	}
	if _, err := s.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("Write after Close = %v", err)
	}
}
