package netstack

import (
	"context"
	"errors"
	"io"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/faketime"

	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
	"tcpbox/tun/tuntest"
)

// stepUntil advances the clock a second at a time until conn has entered state,
// and returns its path.
func stepUntil(t *testing.T, clock *faketime.ManualClock, log *transitionLog, conn tcpstate.Conn, state tcpstate.State, most time.Duration) []tcpstate.Transition {
	t.Helper()
	for waited := time.Duration(0); ; waited += time.Second {
		if path := log.of(conn); len(path) > 0 && path[len(path)-1].To == state {
			return path
		}
		if waited > most {
			t.Fatalf("connection %d did not reach %v within %v; it went %v", conn, state, most, describePath(log.of(conn)))
		}
		clock.Advance(time.Second)
	}
}

// wantAge checks how long the state before the last lasted: exactly as long as
// a timer said, for the clock does not move by itself.
func wantAge(t testing.TB, path []tcpstate.Transition, cause string, age time.Duration) {
	t.Helper()
	last := path[len(path)-1]
	if last.Cause.String() != cause || last.Age != age {
		t.Errorf("%v ended by %q after %v, want by %q after %v", last.From, last.Cause, last.Age, cause, age)
	}
}

func onClock(clock *faketime.ManualClock) func(*Config) {
	return func(cfg *Config) { cfg.Clock = clock }
}

func TestTimeWaitLength(t *testing.T) {
	for _, d := range []time.Duration{DefaultTimeWait, 0, 5 * time.Second, 240 * time.Second} {
		t.Run(d.String(), func(t *testing.T) {
			t.Parallel()
			clock := newStandingClock()
			g := newRawGuest(t, onClock(clock))
			if d != DefaultTimeWait {
				if err := g.gateway.SetTimeWaitTimeout(d); err != nil {
					t.Fatal(err)
				}
			}
			c := g.conn(1000)
			s := c.establish()
			s.Close()
			c.expect(finAck)
			c.send(finAck, "")
			c.expect(ackFl)
			g.log.waitPast(t, s.ID(), tcpstate.TimeWait)
			s.settle()
			// What is set now is for those that enter TIME-WAIT from now on.
			if err := g.gateway.SetTimeWaitTimeout(7 * time.Second); err != nil {
				t.Fatal(err)
			}
			wantAge(t, stepUntil(t, clock, g.log, s.ID(), tcpstate.Closed, d), "timer time-wait", d)
		})
	}
}

// settle returns when what goes on with the endpoint's lock held is done: it
// sets a state first, and the timer of that state later.
func (c *Conn) settle() {
	c.ep.LockUser()
	c.ep.UnlockUser()
}

func TestFINTimeout(t *testing.T) {
	for _, c := range []struct {
		name   string
		set    time.Duration
		closes bool
		ends   time.Duration // 0: never
	}{
		{"default, closed", DefaultFINTimeout, true, 60 * time.Second},
		{"5s, closed", 5 * time.Second, true, 5 * time.Second},
		{"600s, closed", 600 * time.Second, true, 600 * time.Second},
		{"5s, half-closed", 5 * time.Second, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			clock := newStandingClock()
			g := newRawGuest(t, onClock(clock))
			if err := g.gateway.SetFINTimeout(c.set); err != nil {
				t.Fatal(err)
			}
			conn := g.conn(1000)
			s := conn.establish()
			if c.closes {
				s.Close()
			} else {
				s.CloseWrite()
			}
			conn.expect(finAck)
			conn.send(ackFl, "")
			g.log.waitFor(t, s.ID(), tcpstate.FinWait2)
			s.settle()
			if c.ends != 0 {
				wantAge(t, stepUntil(t, clock, g.log, s.ID(), tcpstate.Closed, c.ends), "timer fin-wait-2", c.ends)
				return
			}
			for range 7200 {
				clock.Advance(time.Second)
			}
			conn.send(ackFl, "still there")
			buf := make([]byte, 20)
			if n, err := s.Read(buf); err != nil || string(buf[:n]) != "still there" {
				t.Errorf("after two hours Read = %q, %v", buf[:n], err)
			}
			s.Close()
		})
	}
}

// TestFINTimeoutSparesTimeWait: once the guest's FIN is there, fin-timeout has
// no say.
func TestFINTimeoutSparesTimeWait(t *testing.T) {
	clock := newStandingClock()
	g := newRawGuest(t, onClock(clock))
	g.gateway.SetFINTimeout(5 * time.Second)
	c := g.conn(1000)
	s := c.establish()
	s.Close()
	c.expect(finAck)
	c.send(ackFl, "")
	g.log.waitFor(t, s.ID(), tcpstate.FinWait2)
	s.settle()
	clock.Advance(4 * time.Second)
	c.send(finAck, "")
	c.expect(ackFl)
	g.log.waitFor(t, s.ID(), tcpstate.TimeWait)
	s.settle()
	wantAge(t, stepUntil(t, clock, g.log, s.ID(), tcpstate.Closed, time.Minute), "timer time-wait", time.Minute)
}

// TestGiveUps: what is sent in vain is sent for as long as Linux would, or what
// gVisor has in its place.
func TestGiveUps(t *testing.T) {
	t.Run("SYN", func(t *testing.T) {
		t.Parallel()
		clock := newStandingClock()
		g := newRawGuest(t, onClock(clock))
		_, errs, _ := g.dial(context.Background(), 8080)
		g.gateway.Settle() // the timer is set behind what it repeats
		wantAge(t, stepUntil(t, clock, g.log, g.log.newest(), tcpstate.Closed, 300*time.Second), "timer retransmission", 127*time.Second)
		if err := <-errs; !errors.Is(err, syscall.ETIMEDOUT) {
			t.Errorf("Dial = %v, want ETIMEDOUT", err)
		}
		eventually(t, "there were seven SYNs", func() bool { return countFlags(g, packet.SYN) == 7 })
	})
	t.Run("SYN-ACK", func(t *testing.T) {
		t.Parallel()
		clock := newStandingClock()
		g := newRawGuest(t, onClock(clock))
		c := g.conn(1000)
		c.syn()
		req := g.request()
		done := accept(req)
		c.expect(synAck)
		g.gateway.Settle() // the timer is set behind what it repeats
		wantAge(t, stepSettled(t, clock, g, req.ID(), tcpstate.Closed, 300*time.Second), "timer retransmission", 63*time.Second)
		if err := <-done; !errors.Is(err, syscall.ETIMEDOUT) {
			t.Errorf("Accept = %v, want ETIMEDOUT", err)
		}
		eventually(t, "the handshake was no longer half-open", func() bool { return g.gateway.Stats().HalfOpen == 0 })
	})
	t.Run("an RST that is not obeyed, then nothing", func(t *testing.T) {
		t.Parallel()
		clock := newStandingClock()
		g := newRawGuest(t, onClock(clock))
		c := g.conn(1000)
		s := c.establish()
		c.seq += 1000
		c.send(rstAck, "")
		c.expect(ackFl)
		failed := make(chan error, 1)
		s.AfterReset(func(err error) { failed <- err })
		s.Write([]byte("nobody acknowledges this"))
		path := stepUntil(t, clock, g.log, s.ID(), tcpstate.Closed, 1300*time.Second)
		if got := path[len(path)-1].Cause.String(); got != "timer retransmission" {
			t.Errorf("ESTABLISHED ended by %q", got)
		}
		if err := <-failed; !errors.Is(err, syscall.ETIMEDOUT) {
			t.Errorf("AfterReset tells %v, want ETIMEDOUT", err)
		}
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, syscall.ETIMEDOUT) {
			t.Errorf("Read = %v, want ETIMEDOUT", err)
		}
	})
}

func countFlags(g *rawGuest, flags packet.Flags) (n int) {
	for _, f := range g.Frames() {
		if f.Packet.TCP.Flags == flags {
			n++
		}
	}
	return n
}

// TestSweeperEndsClosing: the ACK of our FIN overtakes the guest's FIN, which
// leaves gVisor in CLOSING without a timer.
func TestSweeperEndsClosing(t *testing.T) {
	clock := newStandingClock()
	g := newRawGuest(t, onClock(clock))
	c := g.conn(1000)
	s := c.establish()
	s.CloseWrite()
	before := c.ack
	c.expect(finAck)
	c.seq++ // the ACK that stands behind a FIN which has not arrived
	c.send(ackFl, "")
	c.seq--
	c.ack = before
	c.send(finAck, "")
	c.expect(ackFl)
	g.log.waitFor(t, s.ID(), tcpstate.Closing)
	path := stepSlowly(t, clock, g.log, s.ID(), tcpstate.Closed, 200*time.Second)
	if last := path[len(path)-1]; last.Cause.String() != "policy orphan" || last.Age <= time.Minute {
		t.Errorf("CLOSING ended by %q after %v", last.Cause, last.Age)
	}
	if n := g.gateway.Stats().OrphansEnded; n != 1 {
		t.Errorf("OrphansEnded = %d", n)
	}
}

// stepSlowly is stepUntil for what the sweeper does, in its own goroutine.
func stepSlowly(t *testing.T, clock *faketime.ManualClock, log *transitionLog, conn tcpstate.Conn, state tcpstate.State, most time.Duration) []tcpstate.Transition {
	t.Helper()
	steps := 0
	eventually(t, state.String(), func() bool {
		if time.Duration(steps)*time.Second > 100*most {
			t.Fatalf("%v did not come", state)
		}
		clock.Advance(time.Second)
		steps++
		path := log.of(conn)
		return path[len(path)-1].To == state
	})
	return log.of(conn)
}

// stepSettled is stepUntil for what the stack ends in a goroutine of its own: the
// clock stands until that is done.
func stepSettled(t *testing.T, clock *faketime.ManualClock, g *rawGuest, conn tcpstate.Conn, state tcpstate.State, most time.Duration) []tcpstate.Transition {
	t.Helper()
	for waited := time.Duration(0); ; waited += time.Second {
		g.gateway.Settle()
		if path := g.log.of(conn); len(path) > 0 && path[len(path)-1].To == state {
			return path
		}
		if waited > most {
			t.Fatalf("connection %d did not reach %v within %v; it went %v", conn, state, most, describePath(g.log.of(conn)))
		}
		clock.Advance(time.Second)
	}
}

// TestVirtualPair: the same over two stacks, with the guest closing first.
func TestVirtualPair(t *testing.T) {
	clock := newStandingClock()
	a, b := tuntest.Pair(1500)
	p := newPairOn(t, a, b, withClock(clock))
	client, server := p.connect(t)
	client.Close()
	if _, err := server.Read(make([]byte, 1)); err != io.EOF {
		t.Fatal(err)
	}
	server.Close()
	p.gatewayLog.waitFor(t, server.ID(), tcpstate.Closed)
	p.guestLog.waitFor(t, client.ID(), tcpstate.TimeWait)
	client.settle()
	wantAge(t, stepUntil(t, clock, p.guestLog, client.ID(), tcpstate.Closed, 2*time.Minute), "timer time-wait", time.Minute)
}
