package sockwatch

import (
	"container/heap"
	"context"
	"time"

	"tcpbox/netns/sockdiag"
	"tcpbox/stack/tcpstate"
)

const (
	// TimeWaitLength is how long the kernel's TIME-WAIT lasts (TCP_TIMEWAIT_LEN),
	// which nothing can make longer.
	TimeWaitLength = time.Minute

	// endMost is how many are ended at a time, and betweenEnds the time between:
	// each time opens a socket in the namespace.
	endMost     = 1 << 11
	betweenEnds = 100 * time.Millisecond
)

// SetTimeWait makes TIME-WAITs of the namespace's sockets end after d, also those
// that there are. TimeWaitLength and more leave it to the kernel, as without a
// call. The kernel has no shorter ones: the Watcher ends them, through sock_diag,
// about a tenth of a second late. Those that it does not follow, being too many,
// stay as long as the kernel has them.
func (w *Watcher) SetTimeWait(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timeWait, w.shortened, w.ends = d, d < TimeWaitLength, nil
	for _, e := range w.restless {
		e.ends = time.Time{}
		w.willEnd(e)
	}
}

// willEnd has a TIME-WAIT ended in time. The lock is held.
func (w *Watcher) willEnd(e *endpoint) {
	if !w.shortened || e.state != tcpstate.TimeWait {
		return
	}
	at := e.began.Add(w.timeWait)
	if moved := at.Sub(e.ends); moved < timerStep && moved > -timerStep {
		return
	}
	w.willEndAt(e, at)
}

func (w *Watcher) willEndAt(e *endpoint, at time.Time) {
	e.ends = at
	heap.Push(&w.ends, ending{e, at})
	if w.ends[0].endpoint == e {
		select {
		case w.sooner <- struct{}{}:
		default:
		}
	}
}

// ending is a TIME-WAIT that is to be ended; void if the endpoint says another
// time since.
type ending struct {
	*endpoint
	at time.Time
}

// endings is a heap of them, the next one first.
type endings []ending

func (l endings) Len() int           { return len(l) }
func (l endings) Less(i, j int) bool { return l[i].at.Before(l[j].at) }
func (l endings) Swap(i, j int)      { l[i], l[j] = l[j], l[i] }
func (l *endings) Push(x any)        { *l = append(*l, x.(ending)) }
func (l *endings) Pop() any {
	old := *l
	last := old[len(old)-1]
	old[len(old)-1] = ending{}
	*l = old[:len(old)-1]
	return last
}

// endTimeWaits ends those that are due. It ends with ctx.
func (w *Watcher) endTimeWaits(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-w.sooner:
		}
		due, next := w.dueToEnd()
		if len(due) > 0 {
			w.end(due)
			next = max(next, betweenEnds)
		}
		timer.Reset(next)
	}
}

// dueToEnd takes what is due, and says how long it is to the next.
func (w *Watcher) dueToEnd() (due []*endpoint, next time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.cfg.now()
	for len(w.ends) > 0 && len(due) < endMost && !w.ends[0].at.After(now) {
		if e := heap.Pop(&w.ends).(ending); e.state == tcpstate.TimeWait && e.at.Equal(e.ends) {
			due = append(due, e.endpoint)
		}
	}
	if len(w.ends) > 0 {
		return due, w.ends[0].at.Sub(now)
	}
	return due, time.Hour
}

// end ends them. Those that the kernel does not have any more, or has for another
// connection, the next look tells of.
func (w *Watcher) end(due []*endpoint) {
	pairs := make([]sockdiag.Pair, len(due))
	for i, e := range due {
		pairs[i] = sockdiag.Pair{Local: e.local, Remote: e.remote}
	}
	ended, err := sockdiag.EndTimeWaits(w.cfg.NS, pairs)
	w.mu.Lock()
	defer w.mu.Unlock()
	at := w.cfg.now()
	w.drain()
	for i, e := range due {
		switch {
		case e.state != tcpstate.TimeWait:
			// A new connection has its addresses, or the watching has ended.
		case ended[i]:
			w.stats.Ended++
			w.move(e, tcpstate.Closed, at, tcpstate.Cause{Kind: tcpstate.ByPolicy, Which: "time-wait.timeout"}, tcpstate.FromDiag)
		case err != nil: // no descriptor, or no memory: later
			w.willEndAt(e, at.Add(time.Second))
		default:
			e.ends, e.due = time.Time{}, at
			w.rest(e)
		}
	}
}
