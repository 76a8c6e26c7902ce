package netstack

import "testing"

// halfOpen asks for a connection and leaves it in SYN-RECEIVED.
func (k *knobGuest) halfOpen() *rawConn {
	k.t.Helper()
	c := k.next()
	c.syn()
	accept(k.request())
	c.expect(synAck)
	return c
}

// refused asks for a connection that makes no request, and counts.
func (k *knobGuest) refused(counter func(Stats) uint64) *rawConn {
	k.t.Helper()
	before := counter(k.gateway.Stats())
	c := k.next()
	c.syn()
	k.ping(k.t)
	if n := counter(k.gateway.Stats()) - before; n != 1 || len(k.requests) != 0 {
		k.t.Errorf("the counter grew by %d, and there are %d requests; want 1 and none", n, len(k.requests))
	}
	return c
}

func dropBacklog(st Stats) uint64 { return st.DropBacklog }

// openRows are those of the handshake.
var openRows = map[string][]knobRow{
	"syn-backlog": {
		{"set before, and live with handshakes that are half-open", func(t *testing.T, k *knobGuest) {
			k.set("syn-backlog=2")
			k.halfOpen()
			c := k.halfOpen()
			k.refused(dropBacklog)
			k.set("syn-backlog=3")
			k.halfOpen()
			k.refused(dropBacklog)
			k.set("syn-backlog=1")
			c.send(ackFl, "") // what is half-open may go on
			eventually(t, "it completed", func() bool { return k.gateway.Stats().HalfOpen == 2 })
			k.refused(dropBacklog)
			if st := k.gateway.Stats(); st.PeakHalfOpen != 3 {
				t.Errorf("PeakHalfOpen = %d, want 3", st.PeakHalfOpen)
			}
		}},
	},
}
