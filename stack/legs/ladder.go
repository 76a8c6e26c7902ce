package legs

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"time"

	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

// Ladder is what passed between the guest and the stack in one connection, and
// what each end became by it: the picture of a handshake that is in every
// textbook, of a connection that was.
type Ladder struct {
	Sandbox       string
	Conn          tcpstate.Conn
	Guest, Remote netip.AddrPort
	OpenedBy      tcpstate.Leg // who sent the first SYN; zero if none was seen
	Rungs         []Rung

	// Seen tells of which leg there are states, by leg.
	Seen map[tcpstate.Leg]bool

	// ISS are the initial sequence numbers, by leg, of those whose SYN was seen.
	ISS map[tcpstate.Leg]uint32

	// FIN are the sequence numbers of the FINs, by leg.
	FIN map[tcpstate.Leg]uint32
}

// Rung is one segment, or a step of an end that no segment goes with.
type Rung struct {
	Time time.Time

	// Segment is nil for a rung without a segment. The fields up to Notes are
	// zero then.
	Segment *statelog.Segment
	Number  int // of the segment, from 1
	TCP     packet.TCPHeader

	// Seq and Ack are relative to the initial sequence numbers, or to the first
	// that was seen.
	Seq, Ack uint32

	// Window is the receive window in bytes, by the scale that was agreed on.
	Window int

	Notes []Note

	Steps []Step // in their order, those of the guest and of the stack
}

// Sender is the leg that has sent the segment.
func (r *Rung) Sender() tcpstate.Leg { return r.Segment.Sender }

// Step is a change of state, drawn at the end of a rung that belongs to it.
type Step struct {
	Leg      tcpstate.Leg
	From, To tcpstate.State
	Cause    tcpstate.Cause
	Source   tcpstate.Source
	Time     time.Time
	Age      time.Duration
}

// Ladders collects the lines of a log that a Ladder of one connection is made
// of. The zero value is not ready; see NewLadders.
type Ladders struct {
	conn     tcpstate.Conn
	segments []statelog.Segment
	records  []statelog.Record
	known    bool // some record is of the connection
	sandbox  string
}

// Limits of what is collected of one connection, for a recording may come from
// anybody.
const (
	maxLadderSegments = 1 << 12
	maxLadderRecords  = 1 << 10
)

// NewLadders returns a collector for the connection of that number.
func NewLadders(conn tcpstate.Conn) *Ladders { return &Ladders{conn: conn} }

// Record takes a record of the log.
func (l *Ladders) Record(r *statelog.Record) {
	if r.Conn != l.conn || r.Dropped > 0 || r.Set != nil || !l.same(r.Sandbox) {
		return
	}
	l.known = true
	if r.Facts == nil && (r.Leg == tcpstate.Guest || r.Leg == tcpstate.Stack) && len(l.records) < maxLadderRecords {
		l.records = append(l.records, *r)
	}
}

// Segment takes a segment of the log.
func (l *Ladders) Segment(s *statelog.Segment) {
	if s.Conn == l.conn && l.same(s.Sandbox) && len(l.segments) < maxLadderSegments {
		l.known = true
		l.segments = append(l.segments, *s)
	}
}

// same reports whether a line is of the first sandbox that had the connection:
// a file may hold the logs of several.
func (l *Ladders) same(sandbox string) bool {
	if !l.known {
		l.sandbox = sandbox
	}
	return l.sandbox == sandbox
}

// What a Ladder cannot be made of.
var (
	ErrNoConn     = errors.New("legs: no such connection")
	ErrNoSegments = errors.New("legs: no segments of the connection")
)

// Ladder makes the ladder. ErrNoConn: nothing is known of the connection;
// ErrNoSegments: its states are, but no segments.
func (l *Ladders) Ladder() (*Ladder, error) {
	switch {
	case !l.known:
		return nil, ErrNoConn
	case len(l.segments) == 0:
		return nil, ErrNoSegments
	}
	slices.SortStableFunc(l.segments, func(a, b statelog.Segment) int { return a.Time.Compare(b.Time) })
	slices.SortStableFunc(l.records, func(a, b statelog.Record) int { return a.Time.Compare(b.Time) })
	lad := &Ladder{
		Sandbox: l.sandbox, Conn: l.conn,
		Seen: make(map[tcpstate.Leg]bool), ISS: make(map[tcpstate.Leg]uint32), FIN: make(map[tcpstate.Leg]uint32),
	}
	if err := lad.addSegments(l.segments); err != nil {
		return nil, err
	}
	lad.addSteps(l.records)
	return lad, nil
}

// addSegments makes the rungs of the segments.
func (lad *Ladder) addSegments(segments []statelog.Segment) error {
	var t talk
	for i := range segments {
		s := &segments[i]
		h, err := s.TCP()
		if err != nil {
			return err
		}
		if i == 0 {
			lad.Guest, lad.Remote = s.Src, s.Dst
			if s.Sender == tcpstate.Stack {
				lad.Guest, lad.Remote = s.Dst, s.Src
			}
		}
		r := Rung{Time: s.Time, Segment: s, Number: i + 1, TCP: h}
		t.take(&r)
		lad.Rungs = append(lad.Rungs, r)
	}
	for _, leg := range []tcpstate.Leg{tcpstate.Guest, tcpstate.Stack} {
		e := t.end(leg)
		if e.syn {
			lad.ISS[leg] = e.iss
		}
		if e.fin {
			lad.FIN[leg] = e.finEnd - 1
		}
	}
	if h := lad.Rungs[0].TCP; h.Flags&(packet.SYN|packet.ACK) == packet.SYN {
		lad.OpenedBy = lad.Rungs[0].Sender()
	}
	return nil
}

// addSteps puts each step where it belongs: at the tail of the segment by which
// the end told of it, or at the head of the one that led to it. What no segment
// goes with gets a rung of its own.
func (lad *Ladder) addSteps(records []statelog.Record) {
	var alone []Rung
	var latest placed
	for i := range records {
		rec := &records[i]
		lad.Seen[rec.Leg] = true
		step := Step{rec.Leg, rec.From, rec.To, rec.Cause, rec.Source, rec.Time, rec.Age}
		at := lad.carrier(&step, &latest)
		if at < 0 {
			alone = append(alone, Rung{Time: rec.Time, Steps: []Step{step}})
			continue
		}
		lad.Rungs[at].Steps = append(lad.Rungs[at].Steps, step)
	}
	for _, r := range alone {
		at, _ := slices.BinarySearchFunc(lad.Rungs, r, func(a, b Rung) int {
			return cmp.Or(a.Time.Compare(b.Time), -1) // behind those of the same moment
		})
		lad.Rungs = slices.Insert(lad.Rungs, at, r)
	}
}

// placed is where an end's steps have gone so far: the rungs of its segments, of
// those that it was sent, and the lowest of all, by leg.
type placed [numLegs]struct{ sent, got, lowest int }

// carrier finds the rung that a step belongs to, and notes it; -1 if there is
// none. A step that was caused by a segment which crossed one of the end's own is
// put beside that one: the states of an end are in their order, top to bottom.
func (lad *Ladder) carrier(s *Step, latest *placed) int {
	if s.Cause.Kind == tcpstate.ByTimer {
		return -1
	}
	sent, wants := carries(s, lad)
	p := &latest[s.Leg]
	at := -1
	if sent {
		if at = lad.sentBy(s, wants, p.sent); at >= 0 {
			p.sent = at
		}
	} else {
		for i := p.got; i < len(lad.Rungs) && at < 0; i++ {
			r := &lad.Rungs[i]
			if r.Sender() != s.Leg && !r.Segment.Lost && !r.Time.After(s.Time) && wants(r) {
				at = i
			}
		}
		if at >= 0 {
			p.got = at
		}
	}
	if at < 0 {
		return -1
	}
	p.lowest = max(p.lowest, at)
	return p.lowest
}

// sentBy finds the segment by which an end showed its step, from a rung on; -1 if
// there is none.
func (lad *Ladder) sentBy(s *Step, wants func(*Rung) bool, from int) int {
	before, after := -1, -1
	for i := from; i < len(lad.Rungs); i++ {
		r := &lad.Rungs[i]
		switch {
		case r.Sender() != s.Leg || !wants(r):
		case r.Time.Before(s.Time):
			before = i
		case after < 0:
			after = i
		}
	}
	switch {
	case after < 0:
		return before
	case before >= 0 && s.To == tcpstate.Closed && lad.Rungs[after].Time.After(s.Time):
		return before // an RST is sent first, and then the end is gone
	}
	return after // the end is in the state, and then it sends
}

// carries says which segment goes with a step: whether the end sends it, and what
// it is like.
func carries(s *Step, lad *Ladder) (sent bool, wants func(*Rung) bool) {
	has := func(all, none packet.Flags) func(*Rung) bool {
		return func(r *Rung) bool { return r.TCP.Flags.Has(all) && r.TCP.Flags&none == 0 }
	}
	covers := func(r *Rung) bool {
		fin, ok := lad.FIN[s.Leg]
		return r.TCP.Flags.Has(packet.ACK) && ok && int32(r.TCP.Ack-fin) > 0
	}
	switch s.To {
	case tcpstate.SynSent:
		return true, has(packet.SYN, packet.ACK)
	case tcpstate.SynReceived:
		return false, has(packet.SYN, packet.ACK)
	case tcpstate.Established:
		if s.From == tcpstate.SynSent {
			return false, has(packet.SYN|packet.ACK, 0)
		}
		iss, ok := lad.ISS[s.Leg]
		without := packet.RST
		if s.Cause.Which == "ACK" {
			without |= packet.SYN
		}
		return false, func(r *Rung) bool {
			return r.TCP.Flags.Has(packet.ACK) && r.TCP.Flags&without == 0 && (!ok || int32(r.TCP.Ack-iss) > 0)
		}
	case tcpstate.FinWait1, tcpstate.LastAck:
		return true, has(packet.FIN, 0)
	case tcpstate.FinWait2:
		return false, covers
	case tcpstate.CloseWait, tcpstate.Closing:
		return false, has(packet.FIN, 0)
	case tcpstate.TimeWait:
		if s.From == tcpstate.Closing {
			return false, covers
		}
		return false, has(packet.FIN, 0)
	case tcpstate.Closed:
		switch {
		case s.Cause == tcpstate.Cause{Kind: tcpstate.BySegment, Which: "ICMP"}:
			return false, func(*Rung) bool { return false }
		case s.From == tcpstate.LastAck && s.Cause.Which != "RST":
			return false, covers
		case s.Cause.Kind == tcpstate.BySegment && s.Cause.Which == "RST":
			return false, has(packet.RST, 0)
		}
		return true, has(packet.RST, 0)
	}
	return false, func(*Rung) bool { return false }
}
