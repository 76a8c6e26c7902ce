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
}
