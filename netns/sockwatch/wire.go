package sockwatch

import (
	"net/netip"
	"time"

	"tcpbox/stack/tcpstate"
)

// A Step is what the segments have told of a socket: that it went from one state
// to the next.
type Step struct {
	Time          time.Time
	Local, Remote netip.AddrPort // the guest's end, and the other
	From, To      tcpstate.State
	Cause         tcpstate.Cause

	// ISS is the sequence number of the first SYN of the connection, whoever
	// sent it. It is looked at when the connection begins.
	ISS uint32
}

// Step takes what the wire tells. It is called in the order of the segments of a
// connection, and does not block.
func (w *Watcher) Step(s Step) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drain() // what the kernel did before it sent this has been written before
	k := key{s.Local, s.Remote}
	e := w.open[k]
	switch s.To {
	case tcpstate.SynSent, tcpstate.SynReceived:
		if s.From == tcpstate.Closed || e == nil {
			w.opens(e, k, s)
			return
		}
	case tcpstate.Closed:
		if e != nil && s.Cause == (tcpstate.Cause{}) && e.state == tcpstate.TimeWait {
			return // a SYN for the next connection follows, and says why
		}
	}
	switch {
	case e == nil || e.state == s.To:
	case e.kernelTells():
		// The kernel says so itself.
	case w.trace != nil && !e.bare && e.sock == 0 && e.active && e.state == tcpstate.SynSent:
		// Its socket is known, only not by its name yet.
	case w.trace != nil && !e.bare && e.sock == 0 && e.state == tcpstate.SynReceived && s.To == tcpstate.Established:
		// The kernel has not seen that ACK yet, and will say whether it takes it.
	case e.shown && stage(s.To) != 0 && stage(s.To) <= stage(e.state):
		// The kernel has shown what segments tell that were on their way.
	case e.bare && s.To != tcpstate.TimeWait && s.To != tcpstate.Closed && (s.To != tcpstate.Unknown || e.state != tcpstate.TimeWait):
		// The wire believes less than the trace has told, or doubts it.
	default:
		e.bare = e.bare || s.To == tcpstate.TimeWait
		w.move(e, s.To, s.Time, s.Cause, tcpstate.FromWire)
	}
}

// opens begins the endpoint of a SYN, or of a SYN-ACK, of the guest. The lock is
// held.
func (w *Watcher) opens(old *endpoint, k key, s Step) {
	if w.isOver(k, s.ISS) {
		w.cfg.OnEnd(k.local, k.remote)
		return
	}
	if old != nil && old.unseen && !old.kernelTells() {
		// A dump has shown it while this was in the queue.
		old.unseen, old.iss, old.active = false, s.ISS, s.To == tcpstate.SynSent
		w.cfg.Numbers.Bind(old.conn, tcpstate.Guest, k.local, k.remote, s.ISS)
		return
	}
	var asker uint64
	var asks *asking
	if s.To == tcpstate.SynSent && w.trace != nil {
		asker, asks = w.onlyAsking(k)
	}
	e := &endpoint{key: k, state: tcpstate.Closed, active: s.To == tcpstate.SynSent, iss: s.ISS}
	begun := false
	if e.active && asks == nil && w.unproved >= maxUnproved {
		w.stats.Untracked++
	} else {
		begun = w.begin(e)
	}
	if old != nil && !old.kernelTells() {
		w.move(old, tcpstate.Closed, s.Time, replaced(old, s), tcpstate.FromWire)
	}
	if !begun {
		w.cfg.OnEnd(k.local, k.remote)
		return
	}
	e.conn = w.cfg.Numbers.Begin(tcpstate.Guest, k.local, k.remote, s.ISS)
	if asks != nil {
		// Nobody else asks for that: it is this one's SYN.
		delete(w.asking, asker)
		w.named(e, asker)
		w.move(e, s.To, asks.at, s.Cause, tcpstate.FromKernel)
		w.ownedBy(e, asks.process)
		return
	}
	w.move(e, s.To, s.Time, s.Cause, tcpstate.FromWire)
	if e.active {
		w.trusts(e)
		w.wantOwner(e)
	}
}

// overdue is a connection that was over before its SYN was read, as on a machine that
// is busy, or whose SYN may come once more.
type overdue struct {
	conn   tcpstate.Conn
	unseen bool // no SYN has been
	iss    uint32
}

// expectSYN notes that the endpoint is over. The lock is held.
func (w *Watcher) expectSYN(e *endpoint) {
	if e.remote.Addr().IsLoopback() {
		return // no wire
	}
	if len(w.overdue) >= maxAsking {
		clear(w.overdue)
	}
	w.overdue[e.key] = overdue{conn: e.conn, unseen: e.unseen, iss: e.iss}
}

// isOver reports whether a SYN is one of a connection that is over. The stack will
// still want its number. The lock is held.
func (w *Watcher) isOver(k key, iss uint32) bool {
	o, known := w.overdue[k]
	switch {
	case !known:
		return false
	case o.unseen:
		w.cfg.Numbers.Bind(o.conn, tcpstate.Guest, k.local, k.remote, iss)
		w.overdue[k] = overdue{conn: o.conn, iss: iss}
		return true
	case o.iss == iss:
		return true
	}
	delete(w.overdue, k)
	return false
}

// stage counts the steps of a connection that cannot be taken back: of two states
// the one that comes later has the greater one. It is 0 where that is not known.
func stage(s tcpstate.State) int {
	switch s {
	case tcpstate.SynSent:
		return 1
	case tcpstate.SynReceived:
		return 2
	case tcpstate.Established:
		return 3
	case tcpstate.FinWait1, tcpstate.CloseWait:
		return 4
	case tcpstate.FinWait2, tcpstate.Closing, tcpstate.LastAck:
		return 5
	case tcpstate.TimeWait:
		return 6
	case tcpstate.Closed:
		return 7
	}
	return 0
}

// replaced is why an endpoint has ended whose addresses another one has.
func replaced(old *endpoint, s Step) tcpstate.Cause {
	switch {
	case old.state != tcpstate.TimeWait:
		return tcpstate.Cause{} // in silence, some time before
	case s.To == tcpstate.SynSent:
		return tcpstate.Cause{Kind: tcpstate.ByCall, Which: "connect"}
	}
	return tcpstate.Cause{Kind: tcpstate.BySegment, Which: "SYN"}
}
