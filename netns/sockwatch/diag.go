package sockwatch

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"tcpbox/netns"
	"tcpbox/netns/sockdiag"
	"tcpbox/stack/tcpstate"
)

const (
	// discover is how often everything is listed where there is no trace: who
	// listens, and connections within the namespace, show on no wire.
	discover = 2 * time.Second

	// findMost is how many sockets are looked up one by one. To list all is
	// cheaper for more.
	findMost = 256

	timerStep = 10 * time.Millisecond // in which the kernel's timers count, at most
)

// pace is how often a socket is looked for that nothing tells of: the less often
// the more there are. The lock is held.
func (w *Watcher) pace() time.Duration {
	return min(max(250*time.Millisecond, time.Duration(len(w.restless))*2*time.Millisecond), 15*time.Second)
}

// settle says when an endpoint is to be looked for, for its state is a new one.
// What the trace tells of needs none, but where it should tell more soon: it has
// gaps, though rarely. The lock is held.
func (w *Watcher) settle(e *endpoint) {
	switch {
	case e.kernelTells() && passing(e.state):
		e.due = w.cfg.now().Add(4 * w.pace())
	case e.kernelTells():
		e.due = time.Time{}
	case e.state == tcpstate.Listen: // found and missed by lists
		e.due = time.Time{}
	default:
		if e.state == tcpstate.TimeWait {
			e.bare, e.expires = true, e.since.Add(TimeWaitLength)
			w.willEnd(e)
		} else {
			e.expires = time.Time{}
		}
		e.due = w.cfg.now().Add(w.pace())
	}
	w.rest(e)
}

// passing reports whether a state lasts for a round trip, most often.
func passing(s tcpstate.State) bool {
	switch s {
	case tcpstate.SynSent, tcpstate.SynReceived, tcpstate.FinWait1, tcpstate.Closing, tcpstate.LastAck:
		return true
	}
	return false
}

// again says when an endpoint that has been found is to be looked for next. The
// lock is held.
func (w *Watcher) again(e *endpoint, s *sockdiag.Socket, began, ended time.Time) {
	if e.due.IsZero() {
		return
	}
	pace := w.pace()
	e.due = ended.Add(pace)
	if s.Timer.Kind == sockdiag.TimeWaiting {
		// Not before: the kernel has filled this in since it was asked.
		e.bare, e.expires = true, began.Add(s.Timer.Left-timerStep)
		if !e.exact {
			e.began = ended.Add(s.Timer.Left - TimeWaitLength)
		}
		w.willEnd(e)
		if e.expires.Before(e.due) { // its end is near, and may be late by seconds
			e.due = e.expires
		}
		if least := ended.Add(pace / 5); e.due.Before(least) {
			e.due = least
		}
	}
	w.rest(e)
}

// rest keeps the endpoint among those to be looked for, or not. The lock is held.
func (w *Watcher) rest(e *endpoint) {
	if e.due.IsZero() {
		w.restless.remove(e)
		return
	}
	w.restless.put(e)
	w.rouse(w.budget.allowed(e.due, false))
}

// rouse makes run think again at that time, if it would sleep longer. The lock
// is held.
func (w *Watcher) rouse(at time.Time) {
	if !w.asleepTill.IsZero() && !at.Before(w.asleepTill) {
		return
	}
	w.asleepTill = at
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run looks when it is time. It ends with ctx.
func (w *Watcher) run(ctx context.Context) {
	defer w.budget.begin()()
	timer := time.NewTimer(0)
	defer timer.Stop()
	w.look()
	for {
		next := w.next()
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(max(0, next.Sub(w.cfg.now())))
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			w.look()
		case <-w.wake:
		}
	}
}

// next is when to look, zero for never before something happens.
func (w *Watcher) next() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	var first time.Time
	sooner := func(at time.Time) {
		if first.IsZero() || at.Before(first) {
			first = at
		}
	}
	if w.trace == nil {
		sooner(w.budget.allowed(w.listed.Add(discover), false))
	}
	if len(w.restless) > 0 {
		sooner(w.budget.allowed(w.restless[0].due, false))
	}
	for e := range w.ownerless {
		sooner(w.budget.allowed(e.ask, true))
	}
	w.asleepTill = first
	return first
}

// look looks for what is due, and for owners.
func (w *Watcher) look() {
	spent := w.budget.spent()
	now := w.cfg.now()
	w.mu.Lock()
	var find []*endpoint
	urgent := len(w.ownerless) > 0
	if w.budget.allowed(now, false).Equal(now) {
		find = w.restless.due(now.Add(w.pace() / 10)) // those that are due together are looked for together
	}
	list := w.listed.IsZero() || w.trace == nil && !now.Before(w.listed.Add(discover)) || len(find) > findMost
	for e := range w.ownerless {
		dueAnyway := !e.due.IsZero() && !e.due.After(now)
		if e.inode == 0 && !e.ask.After(now) && e.state != tcpstate.Listen && !dueAnyway && len(find) < findMost {
			find = append(find, e)
		}
	}
	w.looking, w.gone = true, make(map[key]struct{})
	w.mu.Unlock()

	if list {
		w.list(now)
	} else if len(find) > 0 {
		w.find(find, now)
	}

	w.mu.Lock()
	w.looking, w.gone = false, nil
	ask := w.askOwnersLocked(now)
	w.mu.Unlock()
	if len(ask) > 0 {
		w.findOwners(ask)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stats.Looks++
	w.stats.LookTime += w.budget.spend(spent, urgent, w.cfg.now())
}

// find looks sockets up.
func (w *Watcher) find(es []*endpoint, began time.Time) {
	pairs := make([]sockdiag.Pair, len(es))
	for i, e := range es {
		pairs[i] = sockdiag.Pair{Local: e.local, Remote: e.remote}
	}
	found, err := sockdiag.Find(w.cfg.NS, pairs)
	ended := w.cfg.now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.putOff(ended) // the sandbox ends, or there are no descriptors: later
		return
	}
	w.drain()
	for i, e := range es {
		switch {
		case w.open[e.key] != e:
			// It has ended meanwhile, or another one has its addresses.
		case found[i].OK:
			w.shows(e, &found[i].Socket, began, ended)
		case e.changed.Before(began):
			w.misses(e, ended)
		}
	}
}

// list makes a dump of all sockets and compares it with what is known.
func (w *Watcher) list(began time.Time) {
	sockets, err := sockdiag.Dump(w.cfg.NS, sockdiag.Query{Proto: sockdiag.TCP})
	ended := w.cfg.now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listed = ended
	defer func() { w.begun = true }()
	if err != nil && !errors.Is(err, sockdiag.ErrChanged) {
		w.putOff(ended)
		return
	}
	w.drain()
	w.join(sockets, began, ended, err == nil)
}

// putOff looks later for what is due. The lock is held.
func (w *Watcher) putOff(now time.Time) {
	for _, e := range w.restless.due(now) {
		e.due = now.Add(time.Second)
		w.restless.put(e)
	}
	for e := range w.ownerless {
		w.giveUpOwner(e)
	}
}

// join compares a list, made between began and ended, with what is known. whole
// says that nothing is missing in it. The lock is held.
func (w *Watcher) join(sockets []sockdiag.Socket, began, ended time.Time, whole bool) {
	seen := make(map[*endpoint]struct{}, len(sockets))
	listeners := w.knownListeners()
	for i := range sockets {
		s := &sockets[i]
		switch s.State {
		case tcpstate.Unknown, tcpstate.Closed:
			continue
		case tcpstate.Listen:
			if e := w.listens(s, listeners, ended); e != nil {
				seen[e] = struct{}{}
			}
			continue
		}
		k := key{unmap(s.Local), unmap(s.Remote)}
		e := w.open[k]
		if e == nil {
			if e = w.discovers(k, s, ended); e == nil {
				continue
			}
		}
		seen[e] = struct{}{}
		w.shows(e, s, began, ended)
	}
	if !whole {
		return
	}
	for _, e := range slices.Clone(w.restless) { // which lacks changes
		if _, there := seen[e]; !there && e.changed.Before(began) {
			w.lacks(e, ended)
		}
	}
	for e := range w.listening {
		if _, there := seen[e]; !there && e.sock == 0 && e.changed.Before(began) {
			w.lacks(e, ended)
		}
	}
}

// discovers begins the endpoint of a socket that nothing else has told of. The
// lock is held.
func (w *Watcher) discovers(k key, s *sockdiag.Socket, at time.Time) *endpoint {
	if _, over := w.gone[k]; over || w.trace != nil && s.State == tcpstate.SynSent {
		return nil // or the trace knows it, though not its port yet
	}
	e := &endpoint{key: k, inode: s.Inode, unseen: w.begun}
	if !w.begin(e) {
		return nil
	}
	e.conn = w.cfg.Numbers.Next()
	w.move(e, s.State, at, tcpstate.Cause{}, tcpstate.FromDiag)
	w.wantOwner(e)
	return e
}

// shows: the kernel has shown the endpoint. The lock is held.
func (w *Watcher) shows(e *endpoint, s *sockdiag.Socket, began, ended time.Time) {
	w.proves(e)
	e.absent = time.Time{}
	if s.Inode != 0 {
		e.inode = s.Inode
	}
	if e.state != s.State && s.State != tcpstate.Unknown && s.State != tcpstate.Closed && e.changed.Before(began) {
		if stage(s.State) < stage(e.state) && e.doubted.IsZero() {
			// The segment that leads on may be about to be delivered.
			e.doubted, e.due = began, ended.Add(w.pace())
			w.rest(e)
			return
		}
		w.stats.Corrected++
		w.move(e, s.State, ended, tcpstate.Cause{}, tcpstate.FromDiag)
	}
	e.doubted = time.Time{}
	w.again(e, s, began, ended)
}

// lacks: a list lacked the endpoint. One that is read while it changes may lack
// what is there, so it is looked for once more. The lock is held.
func (w *Watcher) lacks(e *endpoint, at time.Time) {
	if e.absent.IsZero() {
		e.absent, e.due = at, at
		if e.state == tcpstate.Listen {
			w.listed = at.Add(-discover)
			e.due = time.Time{}
		}
		w.rest(e)
		return
	}
	w.misses(e, e.absent)
}

// misses: the endpoint is no more. The lock is held.
func (w *Watcher) misses(e *endpoint, at time.Time) {
	cause := tcpstate.Cause{}
	switch {
	case e.state == tcpstate.Listen:
		cause = tcpstate.Cause{Kind: tcpstate.ByCall, Which: "close"}
	case e.expires.IsZero() || at.Before(e.expires):
	case e.state == tcpstate.TimeWait:
		cause = tcpstate.Cause{Kind: tcpstate.ByTimer, Which: "time-wait"}
	case e.state == tcpstate.FinWait2:
		cause = tcpstate.Cause{Kind: tcpstate.ByTimer, Which: "fin-wait-2"}
	}
	w.move(e, tcpstate.Closed, at, cause, tcpstate.FromDiag)
}

// sysctl reads one that is a number; 0 if it cannot be read.
func sysctl(ns netns.NS, name string) int {
	v, err := ns.Sysctl(name)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(v)
	return n
}
