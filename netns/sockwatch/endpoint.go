package sockwatch

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"tcpbox/stack/tcpstate"
)

// key is a pair of addresses, the socket's own first. Both ends of a connection
// within the namespace have one.
type key struct{ local, remote netip.AddrPort }

// endpoint is one socket, or what the kernel keeps of it before and after.
type endpoint struct {
	key
	conn    tcpstate.Conn
	state   tcpstate.State
	since   time.Time // when state began; zero if that was before the watching
	cause   tcpstate.Cause
	active  bool   // it asked for the connection
	trusted bool   // a SYN has told of it, and nothing else
	unseen  bool   // the trace or a dump told of it, and its SYN has not been seen
	iss     uint32 // of its SYN, which has been seen
	shown   bool   // a dump has shown state

	// What is known of the kernel's object.
	sock   uint64 // the trace's name of the full socket; 0: it tells of none
	bare   bool   // TIME-WAIT, or FIN-WAIT-2, of a socket that is no more
	cookie uint64 // of a listener

	// Dumps.
	changed  time.Time // when the state was last learnt, by whatever way
	due      time.Time // when it is to be looked for; zero: it need not be
	place    int       // in Watcher.restless, from 1; 0: it is not there
	expires  time.Time // when a bare state ends by its timer at the earliest
	began    time.Time // of TIME-WAIT: when it began, and not before
	exact    bool      // of began: it was seen, not found later
	ends     time.Time // when its TIME-WAIT is to be ended; zero: it is not
	inode    uint32
	absent   time.Time // when a dump first lacked it; zero: the last one had it
	doubted  time.Time // when a dump first had it in an earlier state; zero: none had
	tries    int       // to find its owner
	ask      time.Time // when to try again
	owned    bool      // the owner is known
	detached bool      // another endpoint has its addresses
}

// move makes a step and tells it. The lock is held.
func (w *Watcher) move(e *endpoint, to tcpstate.State, at time.Time, cause tcpstate.Cause, source tcpstate.Source) {
	from := e.state
	if from == to {
		return
	}
	tr := tcpstate.Transition{
		Time: at, Conn: e.conn, Leg: tcpstate.Guest, Local: e.local, Remote: e.remote,
		From: from, To: to, Cause: cause, Source: source,
	}
	if !e.since.IsZero() {
		if tr.Time.Before(e.since) {
			tr.Time = e.since // two sources, one order
		}
		tr.Age = tr.Time.Sub(e.since)
	}
	if to == tcpstate.Closed && (from == tcpstate.SynSent || e.unseen) {
		w.expectSYN(e)
	}
	if from != tcpstate.Closed {
		w.proves(e)
	}
	w.waiting -= waits(e)
	e.state, e.since, e.changed, e.cause = to, tr.Time, w.cfg.now(), cause
	e.absent, e.doubted = time.Time{}, time.Time{}
	e.shown = source == tcpstate.FromDiag
	if to == tcpstate.TimeWait {
		e.began, e.exact = tr.Time, source != tcpstate.FromDiag
	}
	w.waiting += waits(e)
	w.cfg.Sink(tr)
	if to == tcpstate.Closed {
		w.forget(e)
		return
	}
	if to == tcpstate.Established && w.trace == nil || to == tcpstate.Established && !e.active {
		w.wantOwner(e)
	}
	w.settle(e)
}

// perish: the namespace has ended, and with it what was left. Nobody has seen that:
// it follows, so it has no source. The lock is held.
func (w *Watcher) perish() {
	at, stopped := w.cfg.now(), tcpstate.Cause{Kind: tcpstate.ByPolicy, Which: "stopped"}
	for _, left := range []iter.Seq[*endpoint]{maps.Values(w.open), maps.Values(w.sockets), maps.Keys(w.listening)} {
		for _, e := range slices.Collect(left) {
			w.move(e, tcpstate.Closed, at, stopped, 0)
		}
	}
}

// waits is 1 for what the kernel counts as a TIME-WAIT socket.
func waits(e *endpoint) int {
	if e.state == tcpstate.TimeWait || e.bare && e.state == tcpstate.FinWait2 {
		return 1
	}
	return 0
}

// begin adds an endpoint, unless there are too many. The lock is held.
func (w *Watcher) begin(e *endpoint) bool {
	if len(w.open)+len(w.listening) >= w.cfg.MaxEndpoints {
		w.stats.Untracked++
		return false
	}
	if old := w.open[e.key]; old != nil {
		old.detached = true // its end is still to come
	}
	w.open[e.key] = e
	return true
}

// trusts counts an endpoint that only a SYN has told of. The lock is held.
func (w *Watcher) trusts(e *endpoint) {
	e.trusted = true
	w.unproved++
}

// proves: something else has told of the endpoint, or of its end. The lock is held.
func (w *Watcher) proves(e *endpoint) {
	if e.trusted {
		e.trusted = false
		w.unproved--
	}
}

// forget drops an endpoint that has ended. The lock is held.
func (w *Watcher) forget(e *endpoint) {
	if w.open[e.key] == e { // not a listener: those are not in open
		delete(w.open, e.key)
		w.cfg.OnEnd(e.local, e.remote)
	}
	if e.sock != 0 && w.sockets[e.sock] == e {
		delete(w.sockets, e.sock)
	}
	delete(w.listening, e)
	w.restless.remove(e)
	delete(w.ownerless, e)
	if w.looking {
		w.gone[e.key] = struct{}{}
	}
}

// named says which kernel socket an endpoint is. The lock is held.
func (w *Watcher) named(e *endpoint, sock uint64) {
	w.proves(e)
	e.sock = sock
	w.sockets[sock] = e
}

// kernelTells reports whether the trace will tell the endpoint's next step.
func (e *endpoint) kernelTells() bool { return e.sock != 0 && !e.bare }
