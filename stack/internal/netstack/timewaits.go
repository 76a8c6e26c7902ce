package netstack

import (
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"

	"tcpbox/stack/tcpstate"
)

// timeWaits are the endpoints in TIME-WAIT, in the order in which they came. It
// is told of each when it enters and leaves that state, so that a segment costs
// nothing. Those that have been condemned are not among them any more.
//
// gVisor has no limit on their number: each holds about 6 KB until its timer
// ends it.
type timeWaits struct {
	overflow atomic.Uint64 // ended because there were too many

	mu          sync.Mutex
	first, last *record
	n, most     int
	oldest      bool // of too many the oldest ends, else the newest
}

// twLink is a record's place among the timeWaits, and guarded by their mu.
type twLink struct {
	prev, next *record
	in         bool
	entered    tcpip.MonotonicTime
}

// enter adds a record that has just entered TIME-WAIT, and returns the one that
// has to leave for it, or nil.
func (w *timeWaits) enter(r *record, now tcpip.MonotonicTime) *record {
	w.mu.Lock()
	defer w.mu.Unlock()
	r.twLink = twLink{prev: w.last, in: true, entered: now}
	if w.last == nil {
		w.first = r
	} else {
		w.last.twLink.next = r
	}
	w.last = r
	w.n++
	return w.excessLocked()
}

// leave takes out a record that has left TIME-WAIT.
func (w *timeWaits) leave(r *record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unlinkLocked(r)
}

func (w *timeWaits) unlinkLocked(r *record) {
	l := &r.twLink
	if !l.in {
		return
	}
	if l.prev == nil {
		w.first = l.next
	} else {
		l.prev.twLink.next = l.next
	}
	if l.next == nil {
		w.last = l.prev
	} else {
		l.next.twLink.prev = l.prev
	}
	*l = twLink{}
	w.n--
}

// excessLocked takes out one record if there are too many, and returns it.
func (w *timeWaits) excessLocked() *record {
	if w.n <= w.most {
		return nil
	}
	r := w.last
	if w.oldest {
		r = w.first
	}
	w.unlinkLocked(r)
	w.overflow.Add(1)
	return r
}

// limit sets how many there may be, and returns those that are too many now.
func (w *timeWaits) limit(most int) (excess []*record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.most = most
	for r := w.excessLocked(); r != nil; r = w.excessLocked() {
		excess = append(excess, r)
	}
	return excess
}

func (w *timeWaits) setOldest(oldest bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.oldest = oldest
}

// count returns how many there are.
func (w *timeWaits) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.n
}

// reusable takes out the record that has been there longest of those that fit,
// and returns it: one that has been in TIME-WAIT for delay, and whose owner has
// closed it. It returns nil if there is none.
func (w *timeWaits) reusable(fits func(*record) bool, delay time.Duration, now tcpip.MonotonicTime) *record {
	w.mu.Lock()
	defer w.mu.Unlock()
	for r := w.first; r != nil && now.Sub(r.twLink.entered) >= delay; r = r.twLink.next {
		if r.released.Load() && fits(r) {
			w.unlinkLocked(r)
			return r
		}
	}
	return nil
}

// moved keeps the timeWaits and the orphans what they are. It is called with r.mu held.
func (t *tracker) moved(r *record, from, to tcpstate.State) {
	t.leaveOrphans(r, to)
	switch {
	case to == tcpstate.TimeWait:
		if excess := t.tw.waits.enter(r, t.clock.NowMonotonic()); excess != nil {
			t.ender.condemn(excess, endTimeWaitMax)
		}
	case from == tcpstate.TimeWait:
		t.tw.waits.leave(r)
	}
}

// SetTimeWaitMax sets how many endpoints may be in TIME-WAIT; what is over that
// ends at once, without a segment, or as soon as its owner has closed it. Of
// too many the newest ends, or the oldest after SetTimeWaitOldest(true). Zero
// means that there is no TIME-WAIT.
func (s *Stack) SetTimeWaitMax(n int) {
	for _, r := range s.timeWait.waits.limit(n) {
		s.ender.condemn(r, endTimeWaitMax)
	}
}

// SetTimeWaitOldest says whether the oldest of too many TIME-WAITs ends, rather
// than the newest, from the next one on.
func (s *Stack) SetTimeWaitOldest(oldest bool) { s.timeWait.waits.setOldest(oldest) }
