package wire

import (
	"time"

	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

// Change is a step that one end of a connection took.
type Change struct {
	Leg      tcpstate.Leg // tcpstate.Guest or tcpstate.Stack
	From, To tcpstate.State
	Cause    tcpstate.Cause

	// Time is when the segment passed that caused the step, or with which the
	// end showed it. It never goes back for one end.
	Time time.Time

	// Sure: the end has itself sent what it sends in no other state. Otherwise
	// the segment that leads to the state has passed, and nothing tells whether
	// the end has taken it in. A step that is not sure may be taken back: then a
	// Change leads away from it by an edge that RFC 9293 does not have, or to
	// tcpstate.Unknown.
	Sure bool
}

// Machine concludes from the segments of one connection in which states its two
// ends are. The zero Machine knows nothing. It is pure, and not safe for
// concurrent use.
//
// An end is taken to be in a state when its own segments prove it: in
// SYN-RECEIVED by its SYN-ACK, in CLOSE-WAIT by its ACK of the other's FIN. By
// what it was sent it is believed to be where no segment of its own would tell:
// ESTABLISHED after a passive open, FIN-WAIT-2, TIME-WAIT out of CLOSING, CLOSED
// out of LAST-ACK and by RST.
//
// What it cannot know are the ends of TIME-WAIT and of FIN-WAIT-2, endpoints
// that are given up in silence, and a FIN that waits behind a closed window.
type Machine struct {
	ends [2]end
}

// end is what the segments have told of one end.
type end struct {
	state  tcpstate.State
	before tcpstate.State
	sure   bool
	at     time.Time // of the last change

	syn, fin     bool // it has sent one
	iss          uint32
	synAt        time.Time
	finEnd       uint32 // the number behind its FIN
	finAt        time.Time
	acked        bool // it has acknowledged something
	ack          uint32
	finAcked     bool // the ACK of its FIN has passed
	finAckedAt   time.Time
	finAckedByIt bool // that was in the other's FIN itself
}

// State is that of a leg's end, and whether it is proved.
func (m *Machine) State(leg tcpstate.Leg) (s tcpstate.State, sure bool) {
	e := &m.ends[index(leg)]
	return e.state, e.sure
}

func index(leg tcpstate.Leg) int {
	if leg == tcpstate.Guest {
		return 0
	}
	return 1
}

// step is the working of one segment on a Machine.
type step struct {
	m       *Machine
	s       *Segment
	changes []Change
}

// See takes the next segment of the connection, of those that a Tap shows, and
// appends what it tells to changes.
func (m *Machine) See(s *Segment, changes []Change) []Change {
	st := step{m, s, changes}
	from, to := 0, 1
	if !s.FromGuest {
		from, to = 1, 0
	}
	flags := s.TCP.Flags
	switch {
	case flags&packet.RST != 0:
		st.reset(from, to)
	case flags&packet.SYN != 0:
		st.opens(from, to)
	default:
		st.goesOn(from, to)
	}
	return st.changes
}

// move makes a step of an end; nothing if it is there already.
func (st *step) move(i int, to tcpstate.State, cause tcpstate.Cause, at time.Time, sure bool) {
	e := &st.m.ends[i]
	if e.state == to {
		e.sure = e.sure || sure
		return
	}
	e.before = e.state
	if at.Before(e.at) {
		at = e.at
	}
	leg := tcpstate.Stack
	if i == 0 {
		leg = tcpstate.Guest
	}
	st.changes = append(st.changes, Change{Leg: leg, From: e.state, To: to, Cause: cause, Time: at, Sure: sure})
	e.state, e.sure, e.at = to, sure, at
}

func segment(which string) tcpstate.Cause {
	return tcpstate.Cause{Kind: tcpstate.BySegment, Which: which}
}

func call(which string) tcpstate.Cause {
	return tcpstate.Cause{Kind: tcpstate.ByCall, Which: which}
}

// opens is a SYN or a SYN-ACK of the end x to the end y.
func (st *step) opens(x, y int) {
	m, s := st.m, st.s
	e := &m.ends[x]
	if !e.syn || e.iss != s.TCP.Seq {
		st.begin(x)
	}
	e.syn, e.iss = true, s.TCP.Seq
	if e.synAt.IsZero() {
		e.synAt = s.Time
	}
	peer := &m.ends[y]
	if s.TCP.Flags&packet.ACK == 0 {
		if e.state == tcpstate.Unknown || e.state == tcpstate.Closed {
			e.state = tcpstate.Closed
			st.move(x, tcpstate.SynSent, call("connect"), s.Time, true)
		}
		return
	}
	e.acked, e.ack = true, s.TCP.Ack
	switch e.state {
	case tcpstate.Unknown, tcpstate.Closed:
		e.state = tcpstate.Closed
		st.move(x, tcpstate.SynReceived, segment("SYN"), peer.synAt, true)
	case tcpstate.SynSent: // both ask at once, RFC 9293 section 3.5
		st.move(x, tcpstate.SynReceived, segment("SYN"), peer.synAt, true)
	case tcpstate.Established:
		if !e.sure { // it has not taken in the ACK that should have led here
			st.move(x, tcpstate.SynReceived, tcpstate.Cause{}, s.Time, true)
			return
		}
	}
	// What had passed before: the other's ACK of this SYN.
	if e.state == tcpstate.SynReceived && peer.acked && peer.ack == e.iss+1 {
		st.move(x, tcpstate.Established, segment("ACK"), s.Time, false)
	}
	if peer.state == tcpstate.SynReceived && s.TCP.Ack == peer.iss+1 {
		st.move(y, tcpstate.Established, segment("SYN-ACK"), s.Time, false)
	}
}

// begin forgets the connection before, of which a new SYN of x tells that it is
// over for x. What it is for the other end, its own segments tell.
func (st *step) begin(x int) {
	e := &st.m.ends[x]
	if e.state != tcpstate.Unknown && e.state != tcpstate.Closed {
		st.move(x, tcpstate.Closed, tcpstate.Cause{}, st.s.Time, true)
	}
	*e = end{state: e.state, sure: e.sure, at: e.at}
}

// goesOn is a segment without SYN and RST of the end x to the end y.
func (st *step) goesOn(x, y int) {
	s := st.s
	e, peer := &st.m.ends[x], &st.m.ends[y]
	if s.TCP.Flags&packet.ACK != 0 {
		if !e.acked || covers(s.TCP.Ack, e.ack) {
			e.acked, e.ack = true, s.TCP.Ack
		}
		st.stands(x, y)
		if peer.fin && covers(e.ack, peer.finEnd) {
			st.tookFIN(x, y)
		}
	}
	st.revived(x)
	if s.TCP.Flags&packet.FIN != 0 {
		st.closes(x)
	}
	if s.TCP.Flags&packet.ACK != 0 {
		st.ackArrives(x, y)
	}
}

// stands: what an ACK of x tells about the handshake.
func (st *step) stands(x, y int) {
	s := st.s
	e, peer := &st.m.ends[x], &st.m.ends[y]
	switch e.state {
	case tcpstate.SynSent:
		if peer.syn && covers(s.TCP.Ack, peer.iss+1) {
			st.move(x, tcpstate.Established, segment("SYN-ACK"), peer.synAt, true)
		}
	case tcpstate.SynReceived:
		// In SYN-RECEIVED an end repeats its SYN-ACK, or acknowledges what does
		// not fit. With data, a FIN or an ACK of data it stands.
		if s.Payload > 0 || s.TCP.Flags&packet.FIN != 0 || peer.syn && s.TCP.Ack != peer.iss+1 {
			st.move(x, tcpstate.Established, segment("ACK"), s.Time, true)
		}
	case tcpstate.Established:
		e.sure = e.sure || s.Payload > 0 || s.TCP.Flags&packet.FIN != 0 || peer.syn && s.TCP.Ack != peer.iss+1
	}
}

// tookFIN: x has acknowledged the FIN of y, and so was led on by it.
func (st *step) tookFIN(x, y int) {
	e, peer := &st.m.ends[x], &st.m.ends[y]
	at := peer.finAt
	switch e.state {
	case tcpstate.SynReceived:
		st.move(x, tcpstate.Established, segment("ACK"), at, true)
		st.move(x, tcpstate.CloseWait, segment("FIN"), at, true)
	case tcpstate.Established:
		st.move(x, tcpstate.CloseWait, segment("FIN"), at, true)
	case tcpstate.FinWait1:
		switch {
		case e.finAcked && e.finAckedByIt:
			st.move(x, tcpstate.TimeWait, segment("FIN"), at, true)
		case e.finAcked: // the FIN had come before the ACK
			st.move(x, tcpstate.Closing, segment("FIN"), at, true)
			st.move(x, tcpstate.TimeWait, segment("ACK"), e.finAckedAt, false)
		default:
			st.move(x, tcpstate.Closing, segment("FIN"), at, true)
		}
	case tcpstate.FinWait2:
		st.move(x, tcpstate.TimeWait, segment("FIN"), at, true)
	}
}

// closes: x has sent a FIN. Whether it had taken in the other's is what its ACK
// tells, which was looked at before: of two FINs that cross, the one whose ACK
// does not cover the other was sent in ESTABLISHED.
func (st *step) closes(x int) {
	s := st.s
	e := &st.m.ends[x]
	if !e.fin {
		e.fin, e.finEnd, e.finAt = true, s.End(), s.Time
	}
	switch e.state {
	case tcpstate.SynReceived:
		st.move(x, tcpstate.Established, segment("ACK"), s.Time, true)
		st.move(x, tcpstate.FinWait1, call(""), s.Time, true)
	case tcpstate.Established:
		st.move(x, tcpstate.FinWait1, call(""), s.Time, true)
	case tcpstate.CloseWait:
		st.move(x, tcpstate.LastAck, call(""), s.Time, true)
	}
}

// ackArrives: what x acknowledges leads y on.
func (st *step) ackArrives(x, y int) {
	s := st.s
	e, peer := &st.m.ends[x], &st.m.ends[y]
	if peer.state == tcpstate.SynReceived && s.TCP.Ack == peer.iss+1 {
		st.move(y, tcpstate.Established, segment("ACK"), s.Time, false)
	}
	if !peer.fin || !covers(s.TCP.Ack, peer.finEnd) || peer.finAcked {
		return
	}
	peer.finAcked, peer.finAckedAt = true, s.Time
	peer.finAckedByIt = s.TCP.Flags&packet.FIN != 0 && e.finAt.Equal(s.Time)
	switch peer.state {
	case tcpstate.FinWait1:
		if !e.fin { // otherwise the order is told by its ACK of that FIN
			st.move(y, tcpstate.FinWait2, segment("ACK"), s.Time, false)
		}
	case tcpstate.Closing:
		st.move(y, tcpstate.TimeWait, segment("ACK"), s.Time, false)
	case tcpstate.LastAck:
		st.move(y, tcpstate.Closed, segment("ACK"), s.Time, false)
	case tcpstate.Unknown: // revived
		if peer.before == tcpstate.FinWait2 && e.fin {
			return
		}
		if peer.before == tcpstate.FinWait2 || peer.before == tcpstate.Closed {
			st.move(y, peer.before, segment("ACK"), s.Time, false)
		}
	}
}

// revived: x has sent what contradicts a state that was only believed. It may be
// that it has not taken in what led there, or that it had sent this before.
func (st *step) revived(x int) {
	e := &st.m.ends[x]
	again := e.fin && st.s.TCP.Flags&packet.FIN != 0
	if e.sure || !e.syn || e.state != tcpstate.Closed && !(e.state == tcpstate.FinWait2 && again) {
		return
	}
	if again {
		e.finAcked = false // and will be once more
	}
	st.move(x, tcpstate.Unknown, tcpstate.Cause{}, st.s.Time, true)
}

// reset is an RST of the end x to the end y.
func (st *step) reset(x, y int) {
	s := st.s
	e, peer := &st.m.ends[x], &st.m.ends[y]
	exact := s.TCP.Flags&packet.ACK != 0 && e.syn && s.TCP.Seq == e.iss+1
	switch e.state {
	case tcpstate.Unknown, tcpstate.Closed:
	case tcpstate.SynSent, tcpstate.SynReceived:
		// It may refuse a segment that does not fit and remain, RFC 9293 section
		// 3.10.7.3.
		if exact {
			st.move(x, tcpstate.Closed, tcpstate.Cause{}, s.Time, true)
		}
	default:
		st.move(x, tcpstate.Closed, tcpstate.Cause{}, s.Time, true)
	}
	switch peer.state {
	case tcpstate.Unknown, tcpstate.Closed:
	case tcpstate.SynSent:
		if s.TCP.Flags&packet.ACK != 0 && s.TCP.Ack == peer.iss+1 {
			st.move(y, tcpstate.Closed, segment("RST"), s.Time, false)
		}
	case tcpstate.TimeWait:
		// Some end it by that, some do not, RFC 1337.
		st.move(y, tcpstate.Unknown, segment("RST"), s.Time, false)
	default:
		st.move(y, tcpstate.Closed, segment("RST"), s.Time, false)
	}
}
