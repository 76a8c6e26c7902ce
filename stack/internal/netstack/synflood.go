package netstack

import (
	"log/slog"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// floodRest is how long there must have been no second with so many drops before
// a flood is over.
const floodRest = 10 * time.Second

// synFlood notices when SYNs are dropped at such a rate that somebody must be
// flooding. It looks at the counters of the drops, once a second, and so costs
// a SYN nothing.
type synFlood struct {
	mu      sync.Mutex
	least   uint64              // dropped in a second; zero: never
	looked  tcpip.MonotonicTime // when the last second ended
	dropped uint64              // until then
	on      bool
	began   tcpip.MonotonicTime
	before  uint64 // dropped before it began
	lastBad tcpip.MonotonicTime
	floods  uint64 // that have begun
}

// SetSYNFlood sets how many SYNs that are dropped in a second count as a flood,
// from the next second on. Zero means that none do; a flood that goes on is over
// then, once nothing has counted for a while.
func (s *Stack) SetSYNFlood(n int) {
	f := &s.synFlood
	f.mu.Lock()
	defer f.mu.Unlock()
	f.least = uint64(n)
}

// look is called by the sweeper, with how many SYNs have been dropped. It tells
// the log what has changed.
func (f *synFlood) look(clock tcpip.Clock, dropped func() uint64, log *slog.Logger) {
	if what, args := f.turn(clock, dropped); what != "" {
		log.Warn(what, args...)
	}
}

// turn takes what has been dropped since the last second ended as evenly spread,
// and returns what there is to tell, if anything.
func (f *synFlood) turn(clock tcpip.Clock, dropped func() uint64) (what string, args []any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := clock.NowMonotonic()
	passed := now.Sub(f.looked)
	if passed < time.Second {
		return "", nil
	}
	total := dropped()
	since := total - f.dropped
	perSecond := uint64(float64(since) / passed.Seconds())
	switch bad := f.least != 0 && perSecond >= f.least; {
	case bad && !f.on:
		f.on, f.began, f.before = true, f.looked, f.dropped
		f.floods++
		what, args = "a flood of SYNs began", []any{"dropped_per_second", perSecond, "syn_flood", f.least}
		fallthrough
	case bad:
		f.lastBad = now
	case f.on && now.Sub(f.lastBad) >= floodRest:
		f.on = false
		what, args = "a flood of SYNs is over", []any{"lasted", f.lastBad.Sub(f.began), "dropped", total - f.before}
	}
	f.looked, f.dropped = now, total
	return what, args
}

// count is how many floods have begun, and whether one goes on.
func (f *synFlood) count() (floods uint64, on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.floods, f.on
}

// droppedSYNs are those that met a limit, answered with an RST or not.
func (c *counters) droppedSYNs() uint64 {
	return c.dropBacklog.Load() + c.dropPending.Load() + c.dropPerDst.Load() + c.dropRate.Load() + c.dropOwner.Load()
}
