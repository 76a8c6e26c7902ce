package netstack

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"tcpbox/stack/tcpstate"
)

// orphans are the endpoints that their owner has closed and that are not in
// TIME-WAIT yet, and their knobs.
type orphans struct {
	timeoutNanos atomic.Int64 // zero: never
	retries      atomic.Int64
	reset        atomic.Bool // they are reset rather than closed
	most         atomic.Int64
	now          atomic.Int64  // how many there are
	overflow     atomic.Uint64 // reset because there were too many
}

// SetOrphanTimeout sets how long an endpoint that its owner has closed may stay
// in FIN-WAIT-1, CLOSING or LAST-ACK, those there are included. The sweeper looks
// once a second. Zero means for as long as it is acknowledged.
func (s *Stack) SetOrphanTimeout(d time.Duration) { s.orphans.timeoutNanos.Store(int64(d)) }

// SetOrphanRetries sets how often an endpoint that its owner has closed sends
// again, while nothing comes from the guest, before it is given up; those there
// are included. The sweeper looks once a second.
func (s *Stack) SetOrphanRetries(n int) { s.orphans.retries.Store(int64(n)) }

// SetOrphanMax sets how many endpoints there may be that their owner has closed
// and that are not in TIME-WAIT yet. What is over that is reset, the newest
// first; of those there are too.
func (s *Stack) SetOrphanMax(n int) {
	o := s.orphans
	o.most.Store(int64(n))
	if o.now.Load() <= int64(n) {
		return
	}
	type orphan struct {
		number uint64
		r      *record
	}
	var all []orphan
	for _, r := range s.tracker.snapshot() {
		if number := r.orphaned.Load(); number != 0 {
			all = append(all, orphan{number, r})
		}
	}
	slices.SortFunc(all, func(a, b orphan) int { return cmp.Compare(b.number, a.number) })
	for _, orphan := range all {
		if o.now.Load() <= int64(n) {
			return
		}
		s.endExcess(orphan.r)
	}
}

// SetLingerReset says whether an owner's Close resets its connection unless both
// ends have closed it, from the next Close on.
func (s *Stack) SetLingerReset(on bool) { s.orphans.reset.Store(on) }

// orphan counts an endpoint that its owner has just closed, and ends it if it is
// one too many.
func (s *Stack) orphan(r *record) {
	r.mu.Lock()
	over := false
	if closing(r.state()) && r.orphaned.Load() == 0 {
		r.orphaned.Store(s.tracker.orphanNumber.Add(1))
		over = s.orphans.now.Add(1) > s.orphans.most.Load()
	}
	r.mu.Unlock()
	if over {
		s.endExcess(r)
	}
}

// leaveOrphans is called with r.mu held when a state has been left.
func (t *tracker) leaveOrphans(r *record, to tcpstate.State) {
	if !closing(to) && r.orphaned.Swap(0) != 0 {
		t.orphans.now.Add(-1)
	}
}

// endExcess ends one of too many.
func (s *Stack) endExcess(r *record) {
	if s.endOrphan(r, endOrphanMax) {
		s.orphans.overflow.Add(1)
	}
}

// timeouts is how often the retransmission timer of an endpoint has run out. It
// takes no lock.
func timeouts(ep *tcp.Endpoint) uint64 {
	return ep.Stats().(*tcp.Stats).SendErrors.Timeouts.Value()
}

// stuck tells why an endpoint is to be ended, because it would stay for too
// long; endNone if it is not.
func (s *Stack) stuck(r *record, now time.Time) ending {
	st := r.state()
	if !closing(st) {
		return endNone
	}
	r.mu.Lock()
	since := r.since
	r.mu.Unlock()
	// CLOSING has no timer in gVisor: when the ACK of our FIN overtakes the
	// guest's FIN, it lasts for ever, whoever has closed.
	if st == tcpstate.Closing && now.Sub(since) > max(s.timeWait.timeout(), time.Minute) {
		return endOrphan
	}
	ep := r.ep.Load()
	if ep == nil || st == tcpstate.FinWait2 || !r.released.Load() { // FIN-WAIT-2 has a timer of its own
		return endNone
	}
	if inVain := timeouts(ep) - r.answered.Load(); int64(inVain) > s.orphans.retries.Load() {
		return endOrphanRetries
	}
	timeout := time.Duration(s.orphans.timeoutNanos.Load())
	if timeout == 0 {
		return endNone
	}
	if released := time.Unix(0, r.releasedAt.Load()); released.After(since) {
		since = released
	}
	if now.Sub(since) > timeout {
		return endOrphan
	}
	return endNone
}

// endOrphan ends a stuck endpoint, or one too many. In CLOSING both ends have
// said all, and no segment is sent; in the other states the guest may still be
// there, with its window closed, and has an RST.
func (s *Stack) endOrphan(r *record, why ending) bool {
	if r.state() == tcpstate.Closing {
		return s.end(r, why)
	}
	ep := r.ep.Load()
	if ep == nil || !r.policy.CompareAndSwap(uint32(endNone), uint32(why)) {
		return false
	}
	ep.Abort()
	s.tracker.observe(r, viaCall)
	return true
}
