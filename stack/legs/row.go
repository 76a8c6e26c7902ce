package legs

import (
	"net/netip"
	"time"

	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

// Row is one connection: its three legs side by side and what is known of it. A
// listener is a row with one leg.
type Row struct {
	Sandbox        string
	tcpstate.Facts           // Guest is where a listener listens
	Began          time.Time // of the first record of it

	// Host are the ends of the host's socket, if there is one.
	HostLocal, HostRemote netip.AddrPort

	legs  [3]Leg
	ended bool // the table has it among those that have
}

// Leg is the state of a leg. The zero Leg is one that nothing is known of.
type Leg struct {
	State  tcpstate.State
	Source tcpstate.Source
	Since  time.Time
}

// Leg returns the state of a leg.
func (r *Row) Leg(leg tcpstate.Leg) Leg {
	if leg < tcpstate.Guest || leg > tcpstate.Upstream {
		return Leg{}
	}
	return r.legs[leg-tcpstate.Guest]
}

// Listening reports whether it is a listener.
func (r *Row) Listening() bool {
	for _, l := range r.legs {
		if l.State == tcpstate.Listen {
			return true
		}
	}
	return false
}

// Ended reports whether no leg is in any state but CLOSED.
func (r *Row) Ended() bool {
	for _, l := range r.legs {
		if l.State != tcpstate.Closed && l.State != tcpstate.Unknown {
			return false
		}
	}
	return true
}

// Held reports whether the connection is frozen: no byte moves between its legs.
func (r *Row) Held() bool { return r.Frozen != nil && *r.Frozen && !r.Ended() }

// Since is when a leg changed its state last.
func (r *Row) Since() time.Time {
	var last time.Time
	for _, l := range r.legs {
		if l.Since.After(last) {
			last = l.Since
		}
	}
	return last
}

// Match reports whether the filter chooses the row; see statelog.Filter.MatchLegs.
func (r *Row) Match(f statelog.Filter) bool {
	if f.IsZero() {
		return true
	}
	return f.MatchLegs(&r.Facts, r.legRecords())
}

// legRecords are records that lead to the states that the legs are in.
func (r *Row) legRecords() []statelog.Record {
	records := make([]statelog.Record, 0, len(r.legs))
	for i, l := range r.legs {
		if l.Since.IsZero() {
			continue
		}
		rec := statelog.Record{Time: l.Since, Sandbox: r.Sandbox, Conn: r.Conn, Leg: tcpstate.Leg(i) + tcpstate.Guest, To: l.State, Source: l.Source}
		switch rec.Leg {
		case tcpstate.Upstream:
			rec.Local, rec.Remote = r.HostLocal, r.HostRemote
		case tcpstate.Stack:
			rec.Local, rec.Remote = r.Peer, r.Guest
			if l.State == tcpstate.Listen { // it is the local one of a listener
				rec.Local, rec.Remote = r.Guest, netip.AddrPort{}
			}
		default:
			rec.Local, rec.Remote = r.Guest, r.Peer
		}
		records = append(records, rec)
	}
	return records
}

// Records are records that make the same row in an empty Table: one of facts, and
// one for each leg, which comes from UNKNOWN, as how it got there is not told.
func (r *Row) Records() []statelog.Record {
	facts := r.Facts
	facts.Time = r.Began
	records := []statelog.Record{{Time: r.Began, Sandbox: r.Sandbox, Conn: r.Conn, Facts: &facts}}
	return append(records, r.legRecords()...)
}

// take makes the row follow a transition.
func (r *Row) take(rec *statelog.Record) {
	if rec.Leg < tcpstate.Guest || rec.Leg > tcpstate.Upstream {
		return
	}
	r.learnEnds(rec)
	if r.Closed == nil {
		r.Closed = r.ending(rec)
	}
	r.legs[rec.Leg-tcpstate.Guest] = Leg{rec.To, rec.Source, rec.Time}
}

// learnEnds takes from a transition between whom the connection is.
func (r *Row) learnEnds(rec *statelog.Record) {
	if rec.Leg == tcpstate.Upstream {
		if rec.Local.IsValid() {
			r.HostLocal = rec.Local
		}
		if rec.Remote.IsValid() {
			r.HostRemote = rec.Remote
		}
		return
	}
	guest, peer := rec.Local, rec.Remote
	if rec.Leg == tcpstate.Stack && peer.IsValid() {
		guest, peer = peer, guest
	}
	if !r.Guest.IsValid() {
		r.Guest = guest
	}
	if !r.Peer.IsValid() {
		r.Peer = peer
	}
	if r.Direction == 0 && rec.From == tcpstate.Closed {
		active := rec.To == tcpstate.SynSent
		if active || rec.To == tcpstate.SynReceived {
			r.Direction = tcpstate.Inbound
			if active == (rec.Leg == tcpstate.Guest) {
				r.Direction = tcpstate.Outbound
			}
		}
	}
}

// ending tells from a transition who closed the connection, where the facts have
// not said so: nil if it does not tell.
func (r *Row) ending(rec *statelog.Record) *tcpstate.Ending {
	switch rec.From {
	case tcpstate.SynReceived, tcpstate.Established:
	default:
		return nil
	}
	// Of the two ends that this leg stands between, its own and the other one.
	own, other := tcpstate.Guest, r.far()
	switch rec.Leg {
	case tcpstate.Stack:
		own, other = r.far(), tcpstate.Guest
	case tcpstate.Upstream:
		own, other = tcpstate.Guest, tcpstate.Upstream
	}
	end := func(by tcpstate.Leg, how tcpstate.How) *tcpstate.Ending { return &tcpstate.Ending{By: by, How: how} }
	kind, which := rec.Cause.Kind, rec.Cause.Which
	switch {
	case kind == tcpstate.ByPolicy && which == "conn close":
		return end(tcpstate.Stack, tcpstate.ByFIN)
	case rec.To == tcpstate.FinWait1:
		return end(own, tcpstate.ByFIN)
	case rec.To == tcpstate.CloseWait:
		return end(other, tcpstate.ByFIN)
	case rec.To != tcpstate.Closed || rec.From != tcpstate.Established:
		return nil
	case kind == tcpstate.BySegment && which == "RST":
		return end(other, tcpstate.ByRST)
	case kind == tcpstate.ByCall:
		return end(own, tcpstate.ByRST)
	case kind == tcpstate.ByTimer:
		return end(tcpstate.Stack, tcpstate.ByTimeout)
	case kind == tcpstate.ByPolicy && which == "conn rst":
		return end(tcpstate.Stack, tcpstate.ByRST)
	case kind == tcpstate.ByPolicy && which == "stopped":
		return end(tcpstate.Stack, tcpstate.ByStop)
	}
	return nil
}

// far is who the guest talks to: the upstream, or a host inside the stack.
func (r *Row) far() tcpstate.Leg {
	if r.Leg(tcpstate.Upstream).Since.IsZero() {
		return tcpstate.Stack
	}
	return tcpstate.Upstream
}
