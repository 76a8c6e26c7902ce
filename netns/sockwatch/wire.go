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
	case e.bare && s.To != tcpstate.TimeWait && s.To != tcpstate.Closed && s.To != tcpstate.Unknown:
		// The wire believes less than the trace has told.
	default:
		e.bare = e.bare || s.To == tcpstate.TimeWait
		w.move(e, s.To, s.Time, s.Cause, tcpstate.FromWire)
	}
}

// opens begins the endpoint of a SYN, or of a SYN-ACK, of the guest. The lock is
// held.
func (w *Watcher) opens(old *endpoint, k key, s Step) {
	e := &endpoint{key: k, state: tcpstate.Closed, active: s.To == tcpstate.SynSent}
	begun := w.begin(e)
	if old != nil && !old.kernelTells() {
		w.move(old, tcpstate.Closed, s.Time, replaced(old, s), tcpstate.FromWire)
	}
	if !begun {
		w.cfg.OnEnd(k.local, k.remote)
		return
	}
	e.conn = w.cfg.Numbers.Begin(tcpstate.Guest, k.local, k.remote, s.ISS)
	at, source := s.Time, tcpstate.FromWire
	if e.active && w.trace != nil {
		if sock, a := w.onlyAsking(k); a != nil {
			// Nobody else asks for that: it is this one's SYN.
			delete(w.asking, sock)
			w.named(e, sock)
			at, source = a.at, tcpstate.FromKernel
			w.move(e, s.To, at, s.Cause, source)
			w.ownedBy(e, a.process)
			return
		}
	}
	w.move(e, s.To, at, s.Cause, source)
	if e.active {
		w.wantOwner(e)
	}
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
