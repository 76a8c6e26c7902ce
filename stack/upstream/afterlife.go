package upstream

import (
	"container/heap"
	"sync"
	"time"

	"tcpbox/stack/tcpstate"
)

// What the following of released sockets may cost: a look takes a few
// microseconds.
const (
	maxReleased  = 1 << 15
	looksAtOnce  = 256
	betweenLooks = 50 * time.Millisecond

	// firstLook is when a socket is looked at first, and longestWait how long it is
	// left alone at most where nobody can say when it will end.
	firstLook   = 200 * time.Millisecond
	longestWait = 10 * time.Second

	// confirmLook is when it is made sure that a TIME-WAIT is there.
	confirmLook = time.Second
)

// afterlife follows sockets after they were released: the kernel goes on with
// FIN-WAIT, CLOSING, LAST-ACK and TIME-WAIT for up to minutes, and tells nobody. So
// each is looked at a few times, when something is likely to have happened, by one
// goroutine, which lives while there are any. Times of what it tells are when it
// looked.
type afterlife struct {
	mu      sync.Mutex
	waiting looks
	running bool
	closed  bool
	stop    chan struct{} // closed by close
	sooner  chan struct{} // what is due next is so sooner than before
	done    sync.WaitGroup
}

// look is a socket that will be looked at.
type look struct {
	conn *Conn
	due  time.Time
	wait time.Duration // before this look
}

// looks is a heap of them, the next one first.
type looks []look

func (l looks) Len() int           { return len(l) }
func (l looks) Less(i, j int) bool { return l[i].due.Before(l[j].due) }
func (l looks) Swap(i, j int)      { l[i], l[j] = l[j], l[i] }
func (l *looks) Push(x any)        { *l = append(*l, x.(look)) }
func (l *looks) Pop() any {
	old := *l
	last := old[len(old)-1]
	old[len(old)-1] = look{}
	*l = old[:len(old)-1]
	return last
}

// outlive follows the socket of a Conn that has just been released, where its
// connection goes on. If it cannot be followed its state is unknown from here on.
func (c *Conn) outlive() {
	c.leg.mu.Lock()
	state, followed := c.leg.state, c.leg.sink != nil
	c.leg.mu.Unlock()
	switch {
	case !followed:
	case c.host.Find == nil || !c.host.after.add(c, state):
		c.went(tcpstate.Unknown, tcpstate.Cause{})
	}
}

// add reports whether there was room for one more.
func (a *afterlife) add(c *Conn, state tcpstate.State) bool {
	wait := firstLook
	if state == tcpstate.TimeWait {
		wait = confirmLook
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || len(a.waiting) >= maxReleased {
		return false
	}
	heap.Push(&a.waiting, look{c, time.Now().Add(wait), wait})
	if !a.running {
		a.running = true
		if a.stop == nil {
			a.stop, a.sooner = make(chan struct{}), make(chan struct{}, 1)
		}
		a.done.Go(func() { lookAfter(a) })
	}
	if a.waiting[0].conn == c {
		select {
		case a.sooner <- struct{}{}:
		default:
		}
	}
	return true
}

// lookAfter looks at what is due until there is nothing left, or until close.
func lookAfter(a *afterlife) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-a.stop:
			return
		case <-timer.C:
		case <-a.sooner:
		}
		due, next, more := a.take(time.Now())
		for _, l := range due {
			a.again(l, l.conn.lookOutside())
		}
		if !more && len(due) == 0 {
			return
		}
		timer.Reset(max(next, betweenLooks))
	}
}

// take returns what is due, and how long it is to the next. If there is nothing
// more it ends the running.
func (a *afterlife) take(now time.Time) (due []look, next time.Duration, more bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.waiting) > 0 && len(due) < looksAtOnce && !a.waiting[0].due.After(now) {
		due = append(due, heap.Pop(&a.waiting).(look))
	}
	if len(a.waiting) > 0 {
		return due, a.waiting[0].due.Sub(now), true
	}
	a.running = len(due) > 0
	return due, 0, false
}

// again arranges the next look: in so long, or later than the last one took if that
// is not known; never if wait is negative.
func (a *afterlife) again(l look, wait time.Duration) {
	if wait < 0 {
		return
	}
	if wait == 0 {
		wait = min(2*l.wait, longestWait)
	}
	l.wait, l.due = wait, time.Now().Add(wait)
	a.mu.Lock()
	defer a.mu.Unlock()
	heap.Push(&a.waiting, l)
}

func (a *afterlife) close() {
	a.mu.Lock()
	if !a.closed && a.stop != nil {
		close(a.stop)
	}
	a.closed = true
	a.mu.Unlock()
	a.done.Wait()
	a.mu.Lock()
	a.waiting = nil
	a.mu.Unlock()
}

// lookOutside asks what has become of a released socket, and how long it will last:
// zero if that is not known, negative if it has ended.
func (c *Conn) lookOutside() time.Duration {
	state, left, err := c.host.Find(c.local, c.remote)
	c.leg.mu.Lock()
	defer c.leg.mu.Unlock()
	from := c.leg.state
	switch {
	case err != nil:
		c.wentLocked(tcpstate.Unknown, tcpstate.Cause{}, tcpstate.FromDiag)
		return -1
	case state == from:
	case state != tcpstate.Closed && tcpstate.Legal(from, state) && from != tcpstate.TimeWait:
		c.wentLocked(state, c.causeLocked(from, state), tcpstate.FromDiag)
	default: // there is none, or it is another connection's
		c.wentLocked(tcpstate.Closed, endOutside(from, time.Since(c.leg.since)), tcpstate.FromDiag)
		return -1
	}
	if state == tcpstate.TimeWait {
		return max(left, confirmLook) + betweenLooks
	}
	return 0
}

// kernelTimeWait is how long the kernel keeps TIME-WAIT (TCP_TIMEWAIT_LEN). Its
// timers are a few seconds late at most.
const kernelTimeWait = 60 * time.Second

// endOutside is why a connection has gone that nobody watched.
func endOutside(from tcpstate.State, age time.Duration) tcpstate.Cause {
	if from == tcpstate.TimeWait && age >= kernelTimeWait-time.Second {
		return tcpstate.Cause{Kind: tcpstate.ByTimer, Which: "time-wait"}
	}
	if from == tcpstate.LastAck && age < 5*time.Second { // too early for a timer
		return tcpstate.Cause{Kind: tcpstate.BySegment}
	}
	return tcpstate.Cause{}
}
