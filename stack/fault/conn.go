package fault

import (
	"slices"
	"time"

	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

// segment is what of a TCP segment is needed to follow its connection.
type segment struct {
	seq, ack uint32
	flags    packet.Flags
	payload  int
}

func segmentOf(p *packet.Packet) segment {
	return segment{p.TCP.Seq, p.TCP.Ack, p.TCP.Flags, max(0, p.PayloadLen())}
}

// end is the sequence number behind the segment.
func (s *segment) end() uint32 {
	n := s.seq + uint32(s.payload)
	if s.flags&packet.SYN != 0 {
		n++
	}
	if s.flags&packet.FIN != 0 {
		n++
	}
	return n
}

// covers reports whether the number a is at or behind n.
func covers(a, n uint32) bool { return int32(a-n) >= 0 }

// The ends of a connection, as indices: what goes toStack is the guest's.
const (
	guestEnd = iota
	stackEnd
)

// conn is one connection, followed by what its ends send and what reaches them.
// So an end's state is that in which it is when a segment passes: the sender has
// sent it, the receiver does not have it yet.
//
//	sends      CLOSED ─SYN─▶ SYN-SENT      ESTABLISHED ─FIN─▶ FIN-WAIT-1
//	           CLOSED ─SYN-ACK─▶ SYN-RECEIVED    CLOSE-WAIT ─FIN─▶ LAST-ACK
//	is reached SYN-SENT ─SYN-ACK─▶ ESTABLISHED   SYN-RECEIVED ─ACK─▶ ESTABLISHED
//	           ESTABLISHED ─FIN─▶ CLOSE-WAIT, and so on (RFC 9293, section 3.3.2)
//
// An end that is silent about its end, in TIME-WAIT or FIN-WAIT-2, stays there
// until a new connection begins.
type conn struct {
	ends   [2]end
	opener int       // guestEnd, stackEnd
	born   time.Time // its first segment
	last   time.Time // its last packet that passed

	hole   *rule // a black hole has it
	judged []judgement
}

// judgement is what a rule that fails connections has made of this one.
type judgement struct {
	by   *rule
	fail bool
}

// end is one of the two.
type end struct {
	state tcpstate.State

	syn bool // it has sent one, with the number iss
	iss uint32

	takes bool   // rcv is known
	rcv   uint32 // what it has got without a gap, as far as is known

	// strict: it looks at an ACK only in a segment that is the next one, and keeps
	// only those with a payload that come early, as the embedded stack does. Linux
	// takes an ACK as soon as it comes, and keeps a FIN.
	strict bool
	early  []segment // that came before what is in front of them

	fin      bool // it has sent one
	finEnd   uint32
	peerFIN  bool // one has reached it that it may not have taken in yet
	peerFEnd uint32
}

// begins reports whether a segment of an end is the first of a connection that c
// is not.
func (c *conn) begins(x int, s *segment) bool {
	if s.flags&(packet.SYN|packet.ACK|packet.RST) != packet.SYN {
		return false
	}
	e, peer := &c.ends[x], &c.ends[1-x]
	if e.syn {
		return e.iss != s.seq
	}
	return peer.state != tcpstate.SynSent // else both ask at once
}

// isOver reports whether neither end has the connection any more.
func (c *conn) isOver() bool {
	return c.ends[0].state == tcpstate.Closed && c.ends[1].state == tcpstate.Closed
}

// sends notes that an end has sent a segment.
func (c *conn) sends(x int, s *segment) {
	e := &c.ends[x]
	if s.flags&packet.ACK != 0 && s.flags&packet.RST == 0 {
		if !e.takes || covers(s.ack, e.rcv) {
			e.takes, e.rcv = true, s.ack
		}
	}
	switch {
	case s.flags&packet.RST != 0:
		// Without ACK it may be an answer to what does not fit, which ends nothing.
		waits := e.state == tcpstate.SynSent || e.state == tcpstate.SynReceived || e.state == tcpstate.TimeWait
		if s.flags&packet.ACK != 0 && e.state != tcpstate.TimeWait || !waits {
			e.state = tcpstate.Closed
		}
		return
	case s.flags&packet.SYN != 0:
		e.syn, e.iss = true, s.seq
		switch {
		case s.flags&packet.ACK != 0 && (e.state == tcpstate.Closed || e.state == tcpstate.Unknown || e.state == tcpstate.SynSent):
			e.state = tcpstate.SynReceived
		case s.flags&packet.ACK == 0 && (e.state == tcpstate.Closed || e.state == tcpstate.Unknown):
			e.state = tcpstate.SynSent
		}
		return
	}
	if e.state == tcpstate.SynReceived && (s.payload > 0 || s.flags&packet.FIN != 0) {
		e.state = tcpstate.Established
	}
	e.goOn()
	if s.flags&packet.FIN == 0 {
		return
	}
	e.fin, e.finEnd = true, s.end()
	switch e.state {
	case tcpstate.Established:
		e.state = tcpstate.FinWait1
	case tcpstate.CloseWait:
		e.state = tcpstate.LastAck
		if s.flags&packet.ACK != 0 && !covers(s.ack, e.peerFEnd) {
			e.state = tcpstate.Closing // it had not looked at the other's yet: they cross
		}
	}
}

// arrives notes that a segment has reached the end that it is for.
func (c *conn) arrives(f *frame) {
	s := &f.seg
	e := &c.ends[stackEnd]
	if f.dir == toGuest {
		e = &c.ends[guestEnd]
	}
	switch {
	case s.flags&packet.RST != 0:
		e.isReset(s)
		return
	case s.flags&packet.SYN != 0:
		e.opens(s)
		return
	case e.state == tcpstate.SynSent: // it has no number to compare with yet
		return
	}
	if !e.takes {
		e.takes, e.rcv = true, s.seq
	}
	isNext := s.seq == e.rcv || s.payload > 0 && covers(e.rcv, s.seq) && !covers(e.rcv, s.seq+uint32(s.payload))
	if covers(e.rcv, s.seq) && covers(s.end(), e.rcv) {
		e.rcv = s.end()
	}
	if s.flags&packet.ACK != 0 && (!e.strict || isNext) {
		e.isAcknowledged(s.ack)
	}
	early := !covers(e.rcv, s.seq)
	if early && e.strict && s.payload == 0 {
		return // not even a FIN: it has to come again
	}
	if s.flags&packet.FIN != 0 {
		e.peerFIN, e.peerFEnd = true, s.end()
	}
	if early && s.end() != s.seq && len(e.early) < mostEarly {
		e.early = append(e.early, *s)
	}
	e.goOn()
}

// mostEarly is how many segments behind a gap an end is taken to keep.
const mostEarly = 16

// goOn takes what came early and is next now, and the other's FIN if all before it
// is there.
func (e *end) goOn() {
	for i := 0; i < len(e.early); {
		s := e.early[i]
		if !covers(e.rcv, s.seq) {
			i++
			continue
		}
		e.early = slices.Delete(e.early, i, i+1)
		if covers(s.end(), e.rcv) {
			e.rcv = s.end()
		}
		if e.strict {
			e.isAcknowledged(s.ack)
		}
		i = 0
	}
	if e.peerFIN && covers(e.rcv, e.peerFEnd) {
		e.takesFIN()
	}
}

// opens: a SYN or SYN-ACK has reached the end.
func (e *end) opens(s *segment) {
	switch {
	case e.state == tcpstate.SynSent && s.flags&packet.ACK == 0:
		e.state = tcpstate.SynReceived
	case e.state == tcpstate.SynSent && s.ack == e.iss+1, e.state == tcpstate.SynReceived && s.flags&packet.ACK != 0 && s.ack == e.iss+1:
		e.state = tcpstate.Established
	case e.state != tcpstate.Unknown && e.state != tcpstate.Closed:
		return // what it answers with an ACK
	}
	e.takes, e.rcv = true, s.end()
}

// isReset: an RST has reached the end. RFC 9293, section 3.10.7: in SYN-SENT it
// has to acknowledge the SYN, later it has to be the next byte (RFC 5961).
func (e *end) isReset(s *segment) {
	switch e.state {
	case tcpstate.SynSent:
		if s.flags&packet.ACK == 0 || s.ack != e.iss+1 {
			return
		}
	default:
		if e.takes && s.seq != e.rcv {
			return
		}
	}
	e.state = tcpstate.Closed
}

func (e *end) isAcknowledged(ack uint32) {
	if e.state == tcpstate.SynReceived && covers(ack, e.iss+1) {
		e.state = tcpstate.Established
	}
	if !e.fin || !covers(ack, e.finEnd) {
		return
	}
	switch e.state {
	case tcpstate.FinWait1:
		e.state = tcpstate.FinWait2
	case tcpstate.Closing:
		e.state = tcpstate.TimeWait
	case tcpstate.LastAck:
		e.state = tcpstate.Closed
	}
}

// takesFIN: the end has got the other's FIN and all before it.
func (e *end) takesFIN() {
	e.peerFIN = false
	switch e.state {
	case tcpstate.SynReceived, tcpstate.Established:
		e.state = tcpstate.CloseWait
	case tcpstate.FinWait1:
		e.state = tcpstate.Closing
	case tcpstate.FinWait2:
		e.state = tcpstate.TimeWait
	}
}

// followLocked finds the connection that a segment belongs to, and notes that it
// was sent. It is nil for an RST of none.
func (d *Device) followLocked(dir int, p *packet.Packet, now time.Time) *conn {
	key, s := tupleOf(dir, p), segmentOf(p)
	x := guestEnd
	if dir == toGuest {
		x = stackEnd
	}
	c := d.conns[key]
	if c == nil || c.begins(x, &s) {
		if c == nil && s.flags&packet.RST != 0 {
			return nil
		}
		next := &conn{opener: x, born: now, last: now}
		switch s.flags & (packet.SYN | packet.ACK) {
		case packet.SYN:
			next.ends[0].state, next.ends[1].state = tcpstate.Closed, tcpstate.Closed
		case packet.SYN | packet.ACK: // its SYN was not seen
			next.opener = 1 - x
			next.ends[1-x] = end{state: tcpstate.SynSent, syn: true, iss: s.ack - 1}
		default: // one that was there before; that it stands is the best guess
			next.opener = guestEnd
			next.ends[0].state, next.ends[1].state = tcpstate.Established, tcpstate.Established
		}
		next.ends[stackEnd].strict, next.ends[guestEnd].strict = true, d.cfg.TwoStacks
		if c == nil {
			d.makeRoomLocked()
		}
		c = next
		d.conns[key] = c
	}
	c.sends(x, &s)
	return c
}

// makeRoomLocked forgets one connection of a few at random if there are too many:
// one that is over, or the one that is silent for longest.
func (d *Device) makeRoomLocked() {
	if len(d.conns) < d.cfg.MaxConnections {
		return
	}
	const look = 16
	var worst tuple
	var at time.Time
	n := 0
	for key, c := range d.conns {
		if n == 0 || c.last.Before(at) {
			worst, at = key, c.last
		}
		if c.isOver() {
			worst = key
			break
		}
		if n++; n == look {
			break
		}
	}
	delete(d.conns, worst)
	d.evicted++
}
