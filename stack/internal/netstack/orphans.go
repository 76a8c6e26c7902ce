package netstack

import (
	"sync/atomic"
	"time"

	"tcpbox/stack/tcpstate"
)

// orphans are the knobs of endpoints that their owner has closed.
type orphans struct {
	timeoutNanos atomic.Int64 // zero: never
	reset        atomic.Bool  // they are reset rather than closed
}

// SetOrphanTimeout sets how long an endpoint that its owner has closed may stay
// in FIN-WAIT-1, CLOSING or LAST-ACK, those there are included. The sweeper looks
// once a second. Zero means for as long as it is acknowledged.
func (s *Stack) SetOrphanTimeout(d time.Duration) { s.orphans.timeoutNanos.Store(int64(d)) }

// SetLingerReset says whether an owner's Close resets its connection unless both
// ends have closed it, from the next Close on.
func (s *Stack) SetLingerReset(on bool) { s.orphans.reset.Store(on) }

// stuck reports whether an endpoint is to be ended because it would stay for too
// long.
func (s *Stack) stuck(r *record, now time.Time) bool {
	st := r.state()
	if !closing(st) {
		return false
	}
	r.mu.Lock()
	since := r.since
	r.mu.Unlock()
	// CLOSING has no timer in gVisor: when the ACK of our FIN overtakes the
	// guest's FIN, it lasts for ever, whoever has closed.
	if st == tcpstate.Closing && now.Sub(since) > max(s.timeWait.timeout(), time.Minute) {
		return true
	}
	timeout := time.Duration(s.orphans.timeoutNanos.Load())
	if timeout == 0 || st == tcpstate.FinWait2 || !r.released.Load() { // FIN-WAIT-2 has a timer of its own
		return false
	}
	if released := time.Unix(0, r.releasedAt.Load()); released.After(since) {
		since = released
	}
	return now.Sub(since) > timeout
}

// endOrphan ends a stuck endpoint. In CLOSING both ends have said all, and no
// segment is sent; in the other states the guest may still be there, with its
// window closed, and has an RST.
func (s *Stack) endOrphan(r *record) bool {
	if r.state() == tcpstate.Closing {
		return s.end(r, endOrphan)
	}
	ep := r.ep.Load()
	if ep == nil || !r.policy.CompareAndSwap(uint32(endNone), uint32(endOrphan)) {
		return false
	}
	ep.Abort()
	s.tracker.observe(r, viaCall)
	return true
}
