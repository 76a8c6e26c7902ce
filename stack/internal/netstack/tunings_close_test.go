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
			k.orphanEnds(s, c, 31*time.Second)
		}},
		{"live, for one that is there; open ones stay", func(t *testing.T, k *knobGuest) {
			c := k.next()
			s := k.finWait1(c)
			open := k.next().establish()
			k.set("orphan.timeout=30s")
			k.orphanEnds(s, c, 31*time.Second)
			k.stays(tcpstate.Established, open)
		}},
		{"LAST-ACK", func(t *testing.T, k *knobGuest) {
			k.set("orphan.timeout=30s")
			c := k.next()
			s := c.establish()
			c.send(finAck, "")
			k.log.waitFor(t, s.ID(), tcpstate.CloseWait)
			s.Close()
			c.expect(finAck)
			s.settle()
			k.orphanEnds(s, c, 31*time.Second)
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

// orphanEnds steps the clock, and the sweeper, until the endpoint is ended, which
// is when it has been there for so long, and checks that the guest is told.
func (k *knobGuest) orphanEnds(s *Conn, c *rawConn, after time.Duration) {
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
	k.ends(s, "policy orphan")
	c.expect(rstAck)
}
