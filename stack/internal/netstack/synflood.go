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
	if tell := f.turn(clock, dropped); tell != nil {
		tell(log)
	}
}

// turn takes what has been dropped since the last second ended as evenly spread,
// and returns what tells of a change, if there is one, with f unlocked.
func (f *synFlood) turn(clock tcpip.Clock, dropped func() uint64) (tell func(*slog.Logger)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := clock.NowMonotonic()
	passed := now.Sub(f.looked)
	if passed < time.Second {
		return nil
	}
	total := dropped()
	since := total - f.dropped
	perSecond := uint64(float64(since)/passed.Seconds() + 0.5) // the sweeper is a little late, always
	switch bad := f.least != 0 && perSecond >= f.least; {
	case bad && !f.on:
		f.on, f.began, f.before = true, f.looked, f.dropped
		f.floods++
		least := f.least
		tell = func(log *slog.Logger) {
			log.Warn("a flood of SYNs began", "dropped_per_second", perSecond, "syn_flood", least)
		}
		fallthrough
	case bad:
		f.lastBad = now
	case f.on && now.Sub(f.lastBad) >= floodRest:
		f.on = false
		lasted, dropped := f.lastBad.Sub(f.began), total-f.before
		tell = func(log *slog.Logger) {
			log.Warn("a flood of SYNs is over", "lasted", lasted, "dropped", dropped)
		}
	}
	f.looked, f.dropped = now, total
	return tell
}

// count is how many floods have begun, and whether one goes on.
func (f *synFlood) count() (floods uint64, on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.floods, f.on
}

// droppedSYNs are those that met a limit, answered with an RST or not.
func (c *counters) droppedSYNs() uint64 {
	return c.dropBacklog.Load() + c.dropPending.Load() + c.dropPerDst.Load() + c.dropPerSrc.Load() + c.dropRate.Load() + c.dropOwner.Load()
}
