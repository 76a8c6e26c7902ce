package netstack

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

// halfOpen asks for a connection and leaves it in SYN-RECEIVED.
func (k *knobGuest) halfOpen() *rawConn {
	k.t.Helper()
	c := k.next()
	c.syn()
	accept(k.request())
	c.expect(synAck)
	return c
}

// next6 is next over IPv6.
func (k *knobGuest) next6() *rawConn {
	c := k.next()
	c.src, c.dst = ap(guestAddr6, k.port), serverAddr6
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

// pending asks for connections whose dials do not end.
func (k *knobGuest) pending(n int) {
	k.t.Helper()
	for range n {
		k.next().syn()
		k.request()
	}
}

// dropSYNs asks for connections that meet a limit.
func (k *knobGuest) dropSYNs(n int) int {
	k.t.Helper()
	before := k.gateway.counters.droppedSYNs()
	for range n {
		k.next().syn()
	}
	k.ping(k.t)
	if got := k.gateway.counters.droppedSYNs() - before; got != uint64(n) {
		k.t.Errorf("%d SYNs were dropped, want %d", got, n)
	}
	return n
}

// floods checks what is told of floods when a second has passed in which so many
// SYNs were dropped.
func (k *knobGuest) floods(n uint64, on bool, dropped int) {
	k.t.Helper()
	k.clock.Advance(time.Second)
	k.gateway.sweepOnce()
	if st := k.gateway.Stats(); st.SYNFloods != n || st.SYNFlood != on {
		k.t.Errorf("with %d dropped: SYNFloods = %d, SYNFlood = %v; want %d and %v", dropped, st.SYNFloods, st.SYNFlood, n, on)
	}
}

// warned checks that the log has a warning once, with these attributes.
func (k *knobGuest) warned(what, attrs string) {
	k.t.Helper()
	line := fmt.Sprintf("level=WARN msg=%q %s\n", what, attrs)
	eventually(k.t, "the log said "+line, func() bool { return strings.Contains(k.said.String(), line) })
	if n := strings.Count(k.said.String(), what); n != 1 {
		k.t.Errorf("%q was said %d times:\n%s", what, n, k.said)
	}
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
	"syn-overflow": {
		{"live: dropped, then an RST", func(t *testing.T, k *knobGuest) {
			k.set("syn-backlog=1")
			k.halfOpen()
			k.refused(dropBacklog)
			k.noRST()
			k.set("syn-overflow=reset")
			k.refused(dropBacklog).expect(rstAck)
			k.set("pending.max=1", "syn-backlog=10")
			k.next().syn()
			k.request()
			k.refused(func(st Stats) uint64 { return st.DropPending }).expect(rstAck)
		}},
	},
	"syn-rate": {
		{"live: so many at once, and then in each second", func(t *testing.T, k *knobGuest) {
			k.set("syn-rate=2")
			rate := func(st Stats) uint64 { return st.DropRate }
			for range 2 {
				k.halfOpen()
			}
			k.refused(rate)
			k.clock.Advance(500 * time.Millisecond)
			k.halfOpen()
			k.refused(rate)
			k.clock.Advance(time.Hour)
			for range 2 {
				k.halfOpen()
			}
			k.refused(rate)
			k.set("syn-rate=0")
			for range 10 {
				k.halfOpen()
			}
		}},
	},
	"syn-flood": {
		{"it begins, goes on, is over and comes again", func(t *testing.T, k *knobGuest) {
			k.set("syn-backlog=1", "syn-flood=5")
			k.halfOpen()
			k.floods(0, false, k.dropSYNs(4))
			k.floods(1, true, k.dropSYNs(5))
			k.floods(1, true, k.dropSYNs(6))
			for range 9 {
				k.floods(1, true, k.dropSYNs(4))
			}
			k.floods(1, false, k.dropSYNs(4))
			k.warned("a flood of SYNs began", "dropped_per_second=5 syn_flood=5")
			k.warned("a flood of SYNs is over", "lasted=2s dropped=51")
			k.floods(2, true, k.dropSYNs(5))
		}},
		{"whatever the limit is, and answered with an RST too", func(t *testing.T, k *knobGuest) {
			k.set("pending.max=2", "pending.per-destination=2", "syn-overflow=reset", "syn-flood=3")
			k.pending(2)
			k.floods(1, true, k.dropSYNs(3))
		}},
		{"a limit of the owner's", func(t *testing.T, k *knobGuest) {
			k.set("syn-flood=3")
			for range 3 {
				k.next().syn()
				r := k.request()
				r.DropOver()
				r.DropOver()
			}
			k.floods(1, true, 0)
		}},
		{"SYNs that are let in are none", func(t *testing.T, k *knobGuest) {
			k.set("syn-flood=3")
			k.pending(10)
			k.floods(0, false, 0)
		}},
		{"live: never, and at once", func(t *testing.T, k *knobGuest) {
			k.set("syn-backlog=1", "syn-flood=0")
			k.halfOpen()
			k.floods(0, false, k.dropSYNs(200))
			k.set("syn-flood=1")
			k.floods(1, true, k.dropSYNs(1))
			k.set("syn-flood=0")
			for range 9 {
				k.floods(1, true, k.dropSYNs(200))
			}
			k.floods(1, false, k.dropSYNs(200))
		}},
		{"default", func(t *testing.T, k *knobGuest) {
			k.set("syn-backlog=1")
			k.halfOpen()
			k.floods(0, false, k.dropSYNs(99))
			k.floods(1, true, k.dropSYNs(100))
		}},
	},
	"pending.max": {
		{"live, with dials that are in progress", func(t *testing.T, k *knobGuest) {
			k.pending(3)
			k.set("pending.max=3", "pending.per-destination=3")
			k.refused(func(st Stats) uint64 { return st.DropPending })
			k.set("pending.max=4", "pending.per-destination=4")
			k.pending(1)
			k.refused(func(st Stats) uint64 { return st.DropPending })
		}},
	},
	"pending.per-destination": {
		{"half, and live", func(t *testing.T, k *knobGuest) {
			perDst := func(st Stats) uint64 { return st.DropPerDst }
			k.set("pending.max=4")
			k.pending(2)
			k.refused(perDst)
			k.set("pending.per-destination=3")
			k.pending(1)
			k.refused(perDst)
			k.set("pending.per-destination=0")
			k.refused(perDst)
			if st := k.gateway.Stats(); st.Pending != 3 {
				t.Errorf("%d dials are pending, want 3", st.Pending)
			}
		}},
	},
	"pending.per-source": {
		{"live: dials and half-open handshakes together; another source has its own", func(t *testing.T, k *knobGuest) {
			perSrc := func(st Stats) uint64 { return st.DropPerSrc }
			k.pending(1) // which does not count
			k.set("pending.per-source=2")
			k.pending(1)
			c := k.halfOpen()
			k.refused(perSrc)
			k.next6().syn()
			k.request()
			c.send(ackFl, "") // what stands counts no more
			eventually(t, "it stands", func() bool { return k.gateway.Stats().HalfOpen == 0 })
			k.pending(1)
			k.refused(perSrc)
			k.set("pending.per-source=3", "syn-overflow=reset")
			k.pending(1)
			k.refused(perSrc).expect(rstAck)
			k.set("pending.per-source=0")
			k.pending(5)
		}},
		{"a flood of one source is told", func(t *testing.T, k *knobGuest) {
			k.set("pending.per-source=1", "syn-flood=5")
			k.pending(1)
			k.floods(1, true, k.dropSYNs(5))
			if st := k.gateway.Stats(); st.DropPerSrc != 5 {
				t.Errorf("DropPerSrc = %d, want 5", st.DropPerSrc)
			}
		}},
		{"a dial that ends leaves its place", func(t *testing.T, k *knobGuest) {
			k.set("pending.per-source=1")
			k.next().syn()
			k.request().Reset()
			k.next().syn()
			k.request().Drop()
			k.pending(1)
			k.refused(func(st Stats) uint64 { return st.DropPerSrc })
		}},
	},
	"syn-retries": {
		{"set before", func(t *testing.T, k *knobGuest) {
			k.set("syn-retries=2")
			_, errs, _ := k.dial(k.ctx, 8080)
			k.gaveUp(k.log.newest(), errs, 0, 7*time.Second)
			k.sent(packet.SYN, 3)
		}},
		{"live, for a SYN that is under way", func(t *testing.T, k *knobGuest) {
			_, errs, _ := k.dial(k.ctx, 8080)
			conn := k.log.newest()
			k.clock.Advance(time.Second)
			k.set("syn-retries=1")
			k.gaveUp(conn, errs, time.Second, 3*time.Second)
			k.sent(packet.SYN, 2)
		}},
		{"6 are as many as gVisor sends", func(t *testing.T, k *knobGuest) {
			k.set("syn-retries=6")
			_, errs, _ := k.dial(k.ctx, 8080)
			k.gaveUp(k.log.newest(), errs, 0, 127*time.Second)
			k.sent(packet.SYN, 7)
		}},
	},
	"synack-retries": {
		{"default", func(t *testing.T, k *knobGuest) {
			conn, errs := k.answered(k.next())
			k.gaveUp(conn, errs, 0, 63*time.Second)
			k.sent(synAck, 6)
			k.noRST()
		}},
		{"set before", func(t *testing.T, k *knobGuest) {
			k.set("synack-retries=1")
			conn, errs := k.answered(k.next())
			k.gaveUp(conn, errs, 0, 3*time.Second)
			k.sent(synAck, 2)
			k.noRST()
			eventually(t, "it was no longer half-open", func() bool { return k.gateway.Stats().HalfOpen == 0 })
		}},
		{"live, for a handshake that is half-open", func(t *testing.T, k *knobGuest) {
			conn, errs := k.answered(k.next())
			k.clock.Advance(time.Second)
			k.set("synack-retries=2")
			k.gaveUp(conn, errs, time.Second, 7*time.Second)
			k.sent(synAck, 3)
		}},
		{"a handshake that is completed in time", func(t *testing.T, k *knobGuest) {
			k.set("synack-retries=1")
			c := k.next()
			conn, errs := k.answered(c)
			k.clock.Advance(2900 * time.Millisecond)
			c.send(ackFl, "")
			if err := <-errs; err != nil {
				t.Error(err)
			}
			k.log.waitPast(t, conn, tcpstate.Established)
		}},
	},
}

// answered asks for a connection whose SYN-ACK the guest does not answer.
func (k *knobGuest) answered(c *rawConn) (tcpstate.Conn, <-chan error) {
	k.t.Helper()
	c.syn()
	req := k.request()
	errs := accept(req)
	c.expect(synAck)
	return req.ID(), errs
}

// gaveUp steps the clock until a handshake has ended, after exactly so long, of
// which some has passed.
func (k *knobGuest) gaveUp(conn tcpstate.Conn, errs <-chan error, passed, after time.Duration) {
	k.t.Helper()
	for range (after - passed) / time.Second {
		k.clock.Advance(time.Second)
	}
	path := k.log.waitFor(k.t, conn, tcpstate.Closed)
	wantAge(k.t, path, "timer retransmission", after)
	if err := <-errs; !errors.Is(err, syscall.ETIMEDOUT) {
		k.t.Errorf("the error is %v, want ETIMEDOUT", err)
	}
}

// sent checks how many segments with exactly these flags the guest has had.
func (k *knobGuest) sent(flags packet.Flags, n int) {
	k.t.Helper()
	k.ping(k.t)
	if got := countFlags(k.rawGuest, flags); got != n {
		k.t.Errorf("there were %d segments with %v, want %d", got, flags, n)
	}
}
