package netstack

import (
	"sync"

	"tcpbox/stack/tcpstate"
)

// An ender ends endpoints for the hooks, which may not do that themselves: they
// are called with the endpoint locked. Its queue is no longer than there are
// endpoints, for each is ended once.
type ender struct {
	wake chan struct{} // has room for one

	mu    sync.Mutex
	queue []condemned
	busy  bool // one that has left the queue has not ended yet
}

// condemned is an endpoint that is to be ended, and why.
type condemned struct {
	r   *record
	why ending
}

func newEnder() *ender { return &ender{wake: make(chan struct{}, 1)} }

// condemn has the endpoint ended soon. It never blocks and takes no lock of
// gVisor's.
func (e *ender) condemn(r *record, why ending) {
	e.mu.Lock()
	e.queue = append(e.queue, condemned{r, why})
	e.mu.Unlock()
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// waiting reports whether something is still to be ended.
func (e *ender) waiting() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.busy || len(e.queue) > 0
}

// next returns what is to be ended.
func (e *ender) next() []condemned {
	e.mu.Lock()
	defer e.mu.Unlock()
	next := e.queue
	e.queue = nil
	e.busy = len(next) > 0
	return next
}

// endCondemned ends what the hooks have condemned, until the Stack is closed,
// which ends the rest.
func (s *Stack) endCondemned() {
	defer s.running.Done()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.ender.wake:
		}
		for next := s.ender.next(); len(next) > 0; next = s.ender.next() {
			for _, c := range next {
				s.carryOut(c.r, c.why)
			}
		}
	}
}

// carryOut ends an endpoint, now or, if it is in TIME-WAIT and its owner may
// still read what the guest sent last, when the owner has closed it.
func (s *Stack) carryOut(r *record, why ending) {
	if why.inTimeWait() {
		if r.state() != tcpstate.TimeWait {
			return // its timer was faster
		}
		r.atRelease.CompareAndSwap(uint32(endNone), uint32(why))
		if !r.released.Load() {
			return // Conn.release goes on from here
		}
	}
	if s.end(r, why) && why == endRecycle {
		s.timeWait.recycle.early.Add(1)
	}
}
