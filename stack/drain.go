package stack

import (
	"context"
	"time"
)

// How long Drain waits.
const (
	// drainIdle is how long connections that have nothing to deliver may go
	// without a segment before their closing is no longer waited for.
	drainIdle = 250 * time.Millisecond

	drainPoll = 2 * time.Millisecond
)

// Drain waits, when the guest has ended, until what it had sent is delivered
// upstream and its connections are closed, as a kernel does for a process that
// has ended. It returns how many connections still had something to deliver
// when ctx ended.
func (g *Gateway) Drain(ctx context.Context) (undelivered int) {
	tick := time.NewTicker(drainPoll)
	defer tick.Stop()
	last, lastMoved := g.net.Progress(), time.Now()
	for {
		p := g.net.Progress()
		waiting := g.counters.undelivered.Load()
		if p.Unsettled == 0 && waiting == 0 {
			return 0
		}
		now := time.Now()
		if p != last {
			last, lastMoved = p, now
		}
		if waiting == 0 && now.Sub(lastMoved) > drainIdle {
			return 0
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return int(waiting)
		}
	}
}
