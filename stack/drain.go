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

	// drainFlush is how long what the guest has sent may take to be read. Its
	// kernel answers at once, unless it has been told to answer no pings.
	drainFlush = 250 * time.Millisecond
)

// Drain waits, when the guest has ended, until what it had sent is delivered
// upstream and its connections are closed, as a kernel does for a process that
// has ended: a datagram that was the last thing it did has left too. It
// returns when that is so, or when ctx or the Gateway ends; Cut then says what
// was lost.
func (g *Gateway) Drain(ctx context.Context) {
	flush, cancel := context.WithTimeout(ctx, drainFlush)
	g.net.Flush(flush)
	cancel()
	tick := time.NewTicker(drainPoll)
	defer tick.Stop()
	last, lastMoved := g.net.Progress(), time.Now()
	for {
		p := g.net.Progress()
		waiting := g.counters.undelivered.Load()
		_, undecided := g.packets.count()
		if p.Unsettled == 0 && waiting == 0 && undecided == 0 {
			return
		}
		now := time.Now()
		if p != last {
			last, lastMoved = p, now
		}
		if waiting == 0 && undecided == 0 && now.Sub(lastMoved) > drainIdle {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		case <-g.ctx.Done():
			return
		}
	}
}

// Cut returns, once Close has returned, how many connections it ended before
// the guest's FIN had been passed on.
func (g *Gateway) Cut() int { return int(g.counters.cut.Load()) }
