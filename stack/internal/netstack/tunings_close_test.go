package netstack

import (
	"testing"
	"time"

	"tcpbox/stack/tcpstate"
)

// finWait2 brings the stack's end of a connection to FIN-WAIT-2, closed.
func (k *knobGuest) finWait2(c *rawConn, s *Conn) *Conn {
	k.t.Helper()
	s.Close()
	c.expect(finAck)
	c.send(ackFl, "")
	k.log.waitFor(k.t, s.ID(), tcpstate.FinWait2)
	s.settle()
	return s
}

// closeRows are those of the way to an end.
var closeRows = map[string][]knobRow{
	"fin-timeout": {
		{"set before", func(t *testing.T, k *knobGuest) {
			k.set("fin-timeout=5s")
			c := k.next()
			s := k.finWait2(c, c.establish())
			wantAge(t, stepUntil(t, k.clock, k.log, s.ID(), tcpstate.Closed, time.Minute), "timer fin-wait-2", 5*time.Second)
		}},
		{"live: what is there keeps its time, open or closed", func(t *testing.T, k *knobGuest) {
			a, b := k.next(), k.next()
			closed, open := k.finWait2(a, a.establish()), b.establish()
			k.set("fin-timeout=5s")
			k.finWait2(b, open)
			c := k.next()
			k.finWait2(c, c.establish())
			for i := range 60 {
				if i == 5 {
					k.ping(t)
					if n := k.gateway.Stats().Tracked; n != 2 {
						t.Errorf("after 5s there are %d endpoints, want 2", n)
					}
				}
				k.clock.Advance(time.Second)
			}
			wantAge(t, k.log.waitFor(t, closed.ID(), tcpstate.Closed), "timer fin-wait-2", time.Minute)
			wantAge(t, k.log.waitFor(t, open.ID(), tcpstate.Closed), "timer fin-wait-2", time.Minute)
		}},
	},
	"orphan.timeout": {
		{"FIN-WAIT-1, set before", func(t *testing.T, k *knobGuest) {
			k.set("orphan.timeout=30s")
			c := k.next()
			s := k.finWait1(c)
			k.orphanEnds(s, c, 31*time.Second, "policy orphan")
		}},
		{"live, for one that is there; open ones stay", func(t *testing.T, k *knobGuest) {
			c := k.next()
			s := k.finWait1(c)
			open := k.next().establish()
			k.set("orphan.timeout=30s")
			k.orphanEnds(s, c, 31*time.Second, "policy orphan")
			k.stays(tcpstate.Established, open)
		}},
		{"LAST-ACK", func(t *testing.T, k *knobGuest) {
			k.set("orphan.timeout=30s")
			c := k.next()
			s := k.lastAck(c)
			k.orphanEnds(s, c, 31*time.Second, "policy orphan")
		}},
	},
	"orphan.retries": {
		{"set before: the third timeout, after 7s, is one too many", func(t *testing.T, k *knobGuest) {
			k.set("orphan.retries=2")
			c := k.next()
			s := k.finWait1(c)
			k.orphanEnds(s, c, 7*time.Second, "policy orphan.retries")
			k.sent(finAck, 4)
			if n := k.gateway.Stats().OrphansEnded; n != 1 {
				t.Errorf("OrphansEnded = %d, want 1", n)
			}
		}},
		{"default: the ninth, after 367s", func(t *testing.T, k *knobGuest) {
			c := k.next()
			k.orphanEnds(k.finWait1(c), c, 367*time.Second, "policy orphan.retries")
		}},
		{"LAST-ACK", func(t *testing.T, k *knobGuest) {
			k.set("orphan.retries=3")
			c := k.next()
			s := k.lastAck(c)
			k.orphanEnds(s, c, 15*time.Second, "policy orphan.retries")
		}},
		{"live, for one that is there; what its owner holds stays", func(t *testing.T, k *knobGuest) {
			a, b := k.next(), k.next()
			held, s := b.establish(), k.finWait1(a)
			held.Write([]byte("x"))
			b.expect(ackFl)
			for range 5 {
				k.clock.Advance(time.Second)
				k.gateway.sweepOnce()
			}
			k.stays(tcpstate.FinWait1, s)
			k.set("orphan.retries=2") // two were sent again until now
			k.orphanEnds(s, a, 2*time.Second, "policy orphan.retries")
			k.stays(tcpstate.Established, held)
		}},
		{"it counts anew when the guest is heard of", func(t *testing.T, k *knobGuest) {
			k.set("orphan.retries=2")
			c := k.next()
			s := k.finWait1(c)
			k.clock.Advance(time.Second) // a timeout
			k.gateway.sweepOnce()
			c.ack-- // not of the FIN
			c.send(ackFl, "")
			eventually(t, "it was heard of", func() bool { return s.rec.answered.Load() == 1 })
			k.orphanEnds(s, c, 14*time.Second, "policy orphan.retries") // of the third from then on
		}},
	},
	"orphan.max": {
		{"set before: what is closed last is reset, and there is room when one has ended", func(t *testing.T, k *knobGuest) {
			k.set("orphan.max=2")
			a, b, c, d := k.next(), k.next(), k.next(), k.next()
			first, second, third, open := k.finWait1(a), k.lastAck(b), c.establish(), d.establish()
			third.Close()
			k.ends(third, "policy orphan.max")
			c.expect(rstAck)
			k.stays(tcpstate.FinWait1, first)
			k.stays(tcpstate.LastAck, second)
			k.orphans(2, 1)
			b.send(ackFl, "")
			k.ends(second, "segment ACK")
			k.orphans(1, 1)
			k.finWait2(d, open)
			k.orphans(2, 1)
			a.send(finAck, "") // TIME-WAIT is none
			k.log.waitFor(t, first.ID(), tcpstate.TimeWait)
			k.orphans(1, 1)
		}},
		{"none", func(t *testing.T, k *knobGuest) {
			k.set("orphan.max=0")
			c := k.next()
			s := c.establish()
			s.Close()
			k.ends(s, "policy orphan.max")
			c.expect(rstAck)
			d := k.next()
			both := d.establish()
			both.CloseWrite()
			d.expect(finAck)
			d.send(finAck, "")
			k.log.waitFor(t, both.ID(), tcpstate.TimeWait)
			both.Close() // it never is an orphan
			k.stays(tcpstate.TimeWait, both)
			k.orphans(0, 1)
		}},
		{"live: the newest of those that are there are reset", func(t *testing.T, k *knobGuest) {
			var conns []*rawConn
			var ends []*Conn
			for range 4 {
				c := k.next()
				conns = append(conns, c)
				ends = append(ends, k.finWait1(c))
			}
			k.orphans(4, 0)
			k.set("orphan.max=2")
			for i := 2; i < 4; i++ {
				k.ends(ends[i], "policy orphan.max")
				conns[i].expect(rstAck)
			}
			k.stays(tcpstate.FinWait1, ends[:2]...)
			k.orphans(2, 2)
			k.set("orphan.max=3")
			k.finWait1(k.next())
			k.orphans(3, 2)
		}},
	},
	"linger": {
		{"live: an RST, and not once both ends have closed", func(t *testing.T, k *knobGuest) {
			a, b, c := k.next(), k.next(), k.next()
			open, half, both := a.establish(), b.establish(), c.establish()
			half.CloseWrite()
			b.expect(finAck)
			b.send(ackFl, "")
			k.log.waitFor(t, half.ID(), tcpstate.FinWait2)
			both.CloseWrite()
			c.expect(finAck)
			c.send(finAck, "")
			c.expect(ackFl)
			k.log.waitFor(t, both.ID(), tcpstate.TimeWait)
			k.set("linger=reset")
			for _, s := range []*Conn{open, half, both} {
				s.Close()
			}
			a.expect(rstAck)
			b.expect(rstAck)
			k.ends(open, "call close")
			k.ends(half, "call close")
			k.stays(tcpstate.TimeWait, both)
			k.set("linger=keep")
			d := k.next()
			d.establish().Close()
			d.expect(finAck)
		}},
	},
}

// finWait1 brings the stack's end to FIN-WAIT-1, closed.
func (k *knobGuest) finWait1(c *rawConn) *Conn {
	k.t.Helper()
	s := c.establish()
	s.Close()
	c.expect(finAck)
	s.settle()
	return s
}

// lastAck brings the stack's end to LAST-ACK, closed.
func (k *knobGuest) lastAck(c *rawConn) *Conn {
	k.t.Helper()
	s := c.establish()
	c.send(finAck, "")
	k.log.waitFor(k.t, s.ID(), tcpstate.CloseWait)
	s.Close()
	c.expect(finAck)
	s.settle()
	return s
}

// orphans checks how many orphans there are, and were too many.
func (k *knobGuest) orphans(now int, overflow uint64) {
	k.t.Helper()
	if st := k.gateway.Stats(); st.Orphans != now || st.OrphanOverflow != overflow {
		k.t.Errorf("Orphans = %d and OrphanOverflow = %d, want %d and %d", st.Orphans, st.OrphanOverflow, now, overflow)
	}
}

// orphanEnds steps the clock, and the sweeper, until the endpoint is ended, which
// is when it has been there for so long, and checks why and that the guest is told.
func (k *knobGuest) orphanEnds(s *Conn, c *rawConn, after time.Duration, cause string) {
	k.t.Helper()
	for range after/time.Second - 1 {
		k.clock.Advance(time.Second)
		k.gateway.sweepOnce()
	}
	if s.rec.state() == tcpstate.Closed {
		k.t.Errorf("it ended too early: %q", describePath(k.log.of(s.ID())))
	}
	k.clock.Advance(time.Second)
	k.gateway.sweepOnce()
	k.ends(s, cause)
	c.expect(rstAck)
}
