package netstack

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"tcpbox/stack/tcpstate"
	"tcpbox/tun"
	"tcpbox/tun/packet"
	"tcpbox/tun/tuntest"
)

// toTimeWait opens a connection and brings the gateway's end to TIME-WAIT.
func (c *rawConn) toTimeWait() *Conn {
	c.g.t.Helper()
	s := c.establish()
	s.Close()
	c.expect(finAck)
	c.send(finAck, "")
	c.expect(ackFl)
	c.g.log.waitFor(c.g.t, s.ID(), tcpstate.TimeWait)
	return s
}

// TestSYNInTimeWait: which SYN opens a new connection is decided as Linux does.
func TestSYNInTimeWait(t *testing.T) {
	const none = 0
	for _, c := range []struct {
		name   string
		before uint32 // timestamp while the first connection lasted
		seq    int32  // of the SYN, from the next one expected
		ts     uint32
		opens  bool
	}{
		{"newer sequence number", none, 1, none, true},
		{"much newer sequence number", none, 1 << 30, none, true},
		{"the next sequence number", none, 0, none, false},
		{"older sequence number", none, -1000, none, false},
		{"newer timestamp, older sequence number", 1000, -1000, 1001, true},
		{"newer timestamp and sequence number", 1000, 1000, 1001, true},
		{"newer timestamp behind the turn", 1<<32 - 1, -1000, 5, true},
		{"older timestamp, newer sequence number (PAWS)", 1000, 1000, 999, false},
		{"same timestamp, newer sequence number", 1000, 1000, 1000, true},
		{"same timestamp, older sequence number", 1000, -1000, 1000, false},
		{"no timestamp, newer sequence number", 1000, 1000, none, true},
		{"no timestamp, older sequence number", 1000, -1000, none, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := newRawGuest(t)
			conn := g.conn(1000)
			conn.ts = c.before
			s := conn.toTimeWait()
			next := conn.seq
			conn.seq += uint32(c.seq)
			conn.ts = c.ts
			conn.syn()
			if !c.opens {
				if p := conn.expect(ackFl); p.TCP.Ack != next {
					t.Errorf("the ACK acknowledges %d, want %d", p.TCP.Ack, next)
				}
				if st := g.gateway.Stats(); st.TimeWaitOldSYN != 1 || st.Tracked != 1 || len(g.requests) != 0 {
					t.Errorf("TimeWaitOldSYN = %d, Tracked = %d, %d requests", st.TimeWaitOldSYN, st.Tracked, len(g.requests))
				}
				return
			}
			accept(g.request())
			if p := conn.expect(synAck); p.TCP.Ack != conn.seq {
				t.Errorf("the SYN-ACK acknowledges %d, want %d", p.TCP.Ack, conn.seq)
			}
			path := g.log.waitFor(t, s.ID(), tcpstate.Closed)
			if got := path[len(path)-1].Cause.String(); got != "policy time-wait reopened" {
				t.Errorf("TIME-WAIT ended by %q", got)
			}
			for _, f := range g.Frames() {
				if f.Packet.TCP.Flags.Has(packet.RST) {
					t.Errorf("an RST came back: %v", &f)
				}
			}
			if n := g.gateway.Stats().TimeWaitReopened; n != 1 {
				t.Errorf("TimeWaitReopened = %d", n)
			}
		})
	}
}

// TestSYNInTimeWaitUnread: a newer SYN waits until what the guest sent before
// has been read; nothing is lost.
func TestSYNInTimeWaitUnread(t *testing.T) {
	g := newRawGuest(t)
	c := g.conn(1000)
	s := c.establish()
	s.CloseWrite()
	c.expect(finAck)
	c.send(finAck, "the last words")
	c.expect(ackFl)
	g.log.waitFor(t, s.ID(), tcpstate.TimeWait)
	c.seq += 1000
	c.syn()
	g.ping(t)
	if len(g.requests) != 0 {
		t.Fatal("the next connection began before the first was read")
	}
	if got, err := io.ReadAll(s); err != nil || string(got) != "the last words" {
		t.Fatalf("read %q, %v", got, err)
	}
	s.Close()
	accept(g.request())
	c.expect(synAck)
	g.log.waitFor(t, s.ID(), tcpstate.Closed)
}

// TestSYNInTimeWaitNeverRead: it does not wait for ever.
func TestSYNInTimeWaitNeverRead(t *testing.T) {
	clock := newStandingClock()
	g := newRawGuest(t, onClock(clock))
	c := g.conn(1000)
	s := c.establish()
	s.CloseWrite()
	c.expect(finAck)
	c.send(finAck, "nobody reads this")
	c.expect(ackFl)
	g.log.waitFor(t, s.ID(), tcpstate.TimeWait)
	c.seq += 1000
	c.syn()
	g.ping(t)
	clock.Advance(time.Second)
	c.seq--
	c.syn()
	accept(g.request())
	c.expect(synAck)
	wantReset(t, s)
	s.Close()
}

// TestTimeWaitNeverStalls: three thousand connections in a row, from only forty
// ports, to a server that closes first and so holds every TIME-WAIT. No SYN has
// to be sent twice.
func TestTimeWaitNeverStalls(t *testing.T) {
	const connections, ports = 3000, 40
	var syns atomic.Int64
	link := tuntest.NewLink(1500, func(dir tuntest.Direction, f *tuntest.Frame) tuntest.Action {
		if p, err := f.Parse(); err == nil && dir == tuntest.AToB && p.TCP.Flags == packet.SYN {
			syns.Add(1)
		}
		return tuntest.Pass
	})
	p := newPairOn(t, link.A, link.B, func(_, gateway *Config) {
		gateway.OnSYN = func(r *Request) {
			c, err := r.Accept()
			if err != nil {
				t.Error("accept:", err)
				return
			}
			c.Write([]byte("hello"))
			c.CloseWrite()
			io.Copy(io.Discard, c)
			c.Close()
		}
	})
	if err := p.guest.SetPortRange(20000, 20000+ports-1); err != nil {
		t.Fatal(err)
	}
	// On a slow machine the guest sends its FIN twice, and an RST in answer to
	// the second answer.
	p.gateway.SetRFC1337(true)
	for i := range connections {
		c, err := p.guest.Dial(testContext(t), 0, ap(guestAddr, 0), serverAddr)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
			t.Fatalf("connection %d read %q, %v", i, got, err)
		}
		c.Close()
		p.guestLog.waitFor(t, c.ID(), tcpstate.Closed)
	}
	if n := syns.Load(); n != connections {
		t.Errorf("%d SYNs for %d connections", n, connections)
	}
	st := p.gateway.Stats()
	if st.TimeWaitReopened < connections-ports || st.TimeWaitOldSYN != 0 || st.Tracked > ports {
		t.Errorf("TimeWaitReopened = %d, TimeWaitOldSYN = %d, Tracked = %d", st.TimeWaitReopened, st.TimeWaitOldSYN, st.Tracked)
	}
}

// TestTimeWaitExhaustion: a stack that opens connections and closes them first
// runs out of ports; what helps, and what does not.
func TestTimeWaitExhaustion(t *testing.T) {
	const ports = 10
	for _, c := range []struct {
		name  string
		tune  func(s *Stack) error
		tries [3]int // at the beginning, at once after that, after 2s
		want  [3]int // how many succeed
	}{
		{"reuse loopback", func(s *Stack) error { return nil }, [3]int{12, 12, 12}, [3]int{10, 0, 0}},
		{"reuse off", func(s *Stack) error { s.SetTimeWaitReuse(ReuseOff); return nil }, [3]int{12, 12, 12}, [3]int{10, 0, 0}},
		{"reuse on", func(s *Stack) error { s.SetTimeWaitReuse(ReuseOn); return nil }, [3]int{12, 12, 12}, [3]int{10, 0, 10}},
		{"timeout 0", func(s *Stack) error { return s.SetTimeWaitTimeout(0) }, [3]int{40, 0, 0}, [3]int{40, 0, 0}},
		{"fin-timeout 1s does not help", func(s *Stack) error { return s.SetFINTimeout(1) }, [3]int{12, 12, 12}, [3]int{10, 0, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			clock := newStandingClock()
			a, b := tuntest.Pair(1500)
			p := newPairOn(t, a, b, withClock(clock), func(guest, _ *Config) {
				guest.OnSYN = func(r *Request) {
					if c, err := r.Accept(); err == nil {
						io.Copy(io.Discard, c)
						c.Close()
					}
				}
			})
			if err := c.tune(p.gateway); err != nil {
				t.Fatal(err)
			}
			if err := p.gateway.SetPortRange(20000, 20000+ports-1); err != nil {
				t.Fatal(err)
			}
			for round, tries := range c.tries {
				ok := 0
				for range tries {
					if dialAndClose(t, p, 8080, c.name == "timeout 0", func() { clock.Advance(0) }) {
						ok++
					}
				}
				if ok != c.want[round] {
					t.Errorf("round %d: %d of %d succeeded, want %d", round, ok, tries, c.want[round])
				}
				if round == 1 {
					clock.Advance(2e9)
				}
			}
			// Another destination has ports of its own.
			if c.name != "timeout 0" && !dialAndClose(t, p, 8081, false, nil) {
				t.Error("a second destination has no port either")
			}
		})
	}
}

// dialAndClose opens a connection from the gateway to a port of the guest,
// closes it first, and waits until it is in TIME-WAIT, or has ended.
func dialAndClose(t *testing.T, p *pair, port uint16, ends bool, step func()) bool {
	t.Helper()
	c, err := p.gateway.Dial(context.Background(), 0, ap(gatewayAddr, 0), ap(guestAddr, port))
	if err != nil {
		if fmt.Sprint(err) != "cannot assign requested address" {
			t.Fatalf("Dial = %v, want EADDRNOTAVAIL", err)
		}
		return false
	}
	c.Close()
	if ends {
		eventually(t, "TIME-WAIT ended", func() bool {
			step()
			path := p.gatewayLog.of(c.ID())
			return path[len(path)-1].To == tcpstate.Closed
		})
		return true
	}
	p.gatewayLog.waitFor(t, c.ID(), tcpstate.TimeWait)
	// Else the guest sends its FIN again when the clock moves.
	eventually(t, "the guest's end had closed", func() bool { return p.guest.Stats().Tracked == 0 })
	return true
}

// TestReuseCause: who takes a TIME-WAIT over is logged.
func TestReuseCause(t *testing.T) {
	clock := newStandingClock()
	var a, b tun.Device = tuntest.Pair(1500)
	p := newPairOn(t, a, b, withClock(clock), func(guest, _ *Config) {
		guest.OnSYN = func(r *Request) {
			if c, err := r.Accept(); err == nil {
				io.Copy(io.Discard, c)
				c.Close()
			}
		}
	})
	p.gateway.SetTimeWaitReuse(ReuseOn)
	p.gateway.SetPortRange(20000, 20000)
	for range 3 {
		if !dialAndClose(t, p, 8080, false, nil) {
			t.Fatal("no port")
		}
		clock.Advance(1e9)
	}
	for conn := range tcpstate.Conn(2) {
		path := p.gatewayLog.waitFor(t, conn+1, tcpstate.Closed)
		if got := path[len(path)-1].Cause.String(); got != "policy time-wait.reuse" {
			t.Errorf("TIME-WAIT of connection %d ended by %q", conn+1, got)
		}
	}
}
