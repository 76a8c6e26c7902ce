package stack

import (
	"time"
)

// How long Drain waits for what the guest has left behind.
const (
	drainIdle = 250 * time.Millisecond // without anything moving
	drainMost = 10 * time.Second       // in all
	drainPoll = 2 * time.Millisecond
)

// Drain waits until what the guest had sent when it ended has been delivered
// and its connections have been closed on the wire, as a kernel does for a
// process that has ended. It waits as long as bytes or states move, at most
// drainMost.
func (g *Gateway) Drain() {
	tick := time.NewTicker(drainPoll)
	defer tick.Stop()
	began := time.Now()
	last, lastMoved := g.net.Progress(), began
	for now := began; now.Sub(began) < drainMost; now = <-tick.C {
		p := g.net.Progress()
		if p.Unsettled == 0 && g.counters.open.Load() == 0 {
			return
		}
		if p != last {
			last, lastMoved = p, now
		}
		if now.Sub(lastMoved) > drainIdle {
			return
		}
	}
}
