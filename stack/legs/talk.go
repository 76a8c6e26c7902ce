package legs

import (
	"fmt"

	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

// NoteKind is what is worth saying about a segment.
type NoteKind uint8

// The kinds of notes.
const (
	Lost            NoteKind = iota + 1 // it never arrived
	Retransmitted                       // what it carries was sent before, in segment Note.Of
	NeedlessAgain                       // and had been acknowledged
	Gap                                 // what lies before it was not seen
	KeepAlive                           // it asks whether the other end is there
	KeepAliveAnswer                     // the other end is
	DuplicateACK                        // it says again what is missing
	ZeroWindow                          // its sender takes nothing more for now
	WindowUpdate                        // its sender takes more again
	MergedFIN                           // FIN, and the ACK of the other's, in one
	FINWithData                         // the last data and FIN in one
	SuperSegment                        // it stands for Note.Of segments
	SimultaneousSYN                     // its sender had not seen the other's SYN
	SimultaneousFIN                     // its sender had not seen the other's FIN
	Refusal                             // it answers a SYN that nobody wants
	Skipped                             // Note.Of segments before it were not kept

	numNoteKinds
)

var noteNames = [numNoteKinds]string{
	"none", "lost", "retransmitted", "needless", "gap", "keepalive", "keepalive-answer", "duplicate-ack",
	"zero-window", "window-update", "merged-fin", "fin-with-data", "super-segment", "simultaneous-syn",
	"simultaneous-fin", "refusal", "skipped",
}

// String returns one word, such as "retransmitted".
func (k NoteKind) String() string {
	if k < numNoteKinds {
		return noteNames[k]
	}
	return fmt.Sprintf("NoteKind(%d)", uint8(k))
}

// MarshalText implements encoding.TextMarshaler.
func (k NoteKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Note is something worth saying about a segment.
type Note struct {
	Kind NoteKind
	Of   uint64 // see the kind; else 0
}

// Has reports whether the rung has a note of the kind.
func (r *Rung) Has(kind NoteKind) bool {
	for _, n := range r.Notes {
		if n.Kind == kind {
			return true
		}
	}
	return false
}

// talk follows what two ends say to each other, to tell what is new in it.
type talk struct {
	ends     [2]speaker
	previous *Rung
}

// speaker is what one end has said.
type speaker struct {
	spoke  bool
	first  uint32 // to which its numbers are relative
	syn    bool
	agreed bool // by a SYN-ACK
	iss    uint32
	scale  uint8
	scales bool
	fin    bool
	finEnd uint32
	end    uint32 // behind all that it has sent
	acked  bool
	ack    uint32 // the latest that arrived
	said   uint32 // the latest, arrived or not
	window uint16
	sent   []sent // for the numbers of what is sent again
}

type sent struct {
	seq, end uint32
	number   int
}

// sentKept is how many segments of an end are remembered.
const sentKept = 1 << 12

func (t *talk) end(leg tcpstate.Leg) *speaker {
	if leg == tcpstate.Guest {
		return &t.ends[0]
	}
	return &t.ends[1]
}

// take fills in what the segment of r means after those before.
func (t *talk) take(r *Rung) {
	s := r.Segment
	me, other := &t.ends[0], &t.ends[1]
	if s.Sender == tcpstate.Stack {
		me, other = other, me
	}
	h := &r.TCP
	note := func(kind NoteKind, of uint64) { r.Notes = append(r.Notes, Note{kind, of}) }
	if s.Skipped > 0 {
		note(Skipped, s.Skipped)
	}
	if s.Lost {
		note(Lost, 0)
	}
	end := h.Seq + uint32(s.Payload)
	if h.Flags&packet.SYN != 0 {
		end++
		me.open(h, other, note)
	}
	if h.Flags&packet.FIN != 0 {
		end++
	}
	if !me.spoke && h.Flags&packet.RST == 0 {
		me.spoke, me.first, me.end = true, h.Seq, h.Seq
	}
	if h.Flags.Has(packet.ACK) && !other.spoke {
		other.spoke, other.first, other.end = true, h.Ack, h.Ack
	}
	r.Seq = h.Seq
	if me.spoke {
		r.Seq -= me.first
	}
	if h.Flags&packet.RST != 0 && !h.Flags.Has(packet.ACK) && !me.spoke {
		r.Seq = h.Seq
	}
	if h.Flags&(packet.RST|packet.ACK) == packet.RST|packet.ACK && h.Seq == 0 && !me.syn {
		r.Seq = 0 // it answers for an end that is none
	}
	if h.Flags.Has(packet.ACK) {
		r.Ack = h.Ack - other.first
	}
	r.Window = int(h.Window)
	if h.Flags&packet.SYN == 0 && me.scales && other.scales {
		r.Window <<= me.scale
	}
	if s.GSOSize > 0 && s.Payload > s.GSOSize {
		note(SuperSegment, uint64((s.Payload+s.GSOSize-1)/s.GSOSize))
	}
	t.repeats(r, me, other, end, note)
	t.closing(r, me, other, note)
	t.acknowledges(r, me, other, note)
	if h.Flags&packet.RST != 0 {
		if other.syn && !me.syn && h.Flags.Has(packet.ACK) && h.Ack == other.iss+1 {
			note(Refusal, 0)
		}
	} else if int32(end-me.end) > 0 {
		me.end = end
	}
	t.previous = r
}

// open notes a SYN.
func (me *speaker) open(h *packet.TCPHeader, other *speaker, note func(NoteKind, uint64)) {
	again := me.syn && me.iss == h.Seq
	if !again {
		*me = speaker{spoke: true, first: h.Seq, end: h.Seq}
	}
	me.syn, me.iss = true, h.Seq
	me.scales, me.scale = h.HasWScale, min(h.WScale, 14) // RFC 7323, section 2.3
	if h.Flags&packet.ACK == 0 && other.syn && !again {
		note(SimultaneousSYN, 0)
	}
}

// repeats tells what was sent before, and what asks whether anybody is there.
func (t *talk) repeats(r *Rung, me, other *speaker, end uint32, note func(NoteKind, uint64)) {
	h := &r.TCP
	if h.Flags&packet.RST != 0 {
		return
	}
	plain := h.Flags&(packet.SYN|packet.FIN) == 0
	switch {
	case plain && r.Segment.Payload <= 1 && h.Seq == me.end-1 && len(me.sent) > 0 && (!other.acked || int32(other.ack-me.end) >= 0):
		note(KeepAlive, 0)
	case h.Flags.Has(packet.SYN|packet.ACK) && !me.agreed:
		me.agreed = true // its SYN without ACK, of a simultaneous open, was another
	case end != h.Seq && int32(h.Seq-me.end) < 0:
		number := 0
		for _, s := range me.sent {
			if int32(s.seq-h.Seq) <= 0 && int32(s.end-h.Seq) > 0 {
				number = s.number
				break
			}
		}
		note(Retransmitted, uint64(number))
		if other.acked && int32(other.ack-end) >= 0 {
			note(NeedlessAgain, 0)
		}
	case int32(h.Seq-me.end) > 0 && !r.Has(Skipped):
		note(Gap, 0)
	}
	if end != h.Seq && len(me.sent) < sentKept {
		me.sent = append(me.sent, sent{h.Seq, end, r.Number})
	}
}

// closing tells how a FIN stands to the other's.
func (t *talk) closing(r *Rung, me, other *speaker, note func(NoteKind, uint64)) {
	h := &r.TCP
	if h.Flags&packet.FIN == 0 || h.Flags&packet.RST != 0 {
		return
	}
	if r.Segment.Payload > 0 {
		note(FINWithData, 0)
	}
	if other.fin && !me.fin {
		switch {
		case int32(h.Ack-other.finEnd) < 0:
			note(SimultaneousFIN, 0)
		case int32(me.said-other.finEnd) < 0:
			note(MergedFIN, 0)
		}
	}
	me.fin, me.finEnd = true, h.Seq+uint32(r.Segment.Payload)+1
}

// acknowledges tells what an ACK says that others have not.
func (t *talk) acknowledges(r *Rung, me, other *speaker, note func(NoteKind, uint64)) {
	h := &r.TCP
	if !h.Flags.Has(packet.ACK) || h.Flags&packet.RST != 0 {
		return
	}
	pure := r.Segment.Payload == 0 && h.Flags&(packet.SYN|packet.FIN) == 0
	switch {
	case pure && t.previous != nil && t.previous.Has(KeepAlive) && t.previous.Sender() != r.Sender():
		note(KeepAliveAnswer, 0)
	case h.Window == 0 && h.Flags&packet.SYN == 0:
		note(ZeroWindow, 0)
	case pure && me.acked && me.ack == h.Ack && me.window == 0:
		note(WindowUpdate, 0)
	case pure && me.acked && me.ack == h.Ack && me.window == h.Window && int32(other.end-h.Ack) > 0 && !r.Has(KeepAlive) && t.previous.Sender() != r.Sender():
		note(DuplicateACK, 0)
	}
	if !me.acked || int32(h.Ack-me.said) >= 0 {
		me.said = h.Ack
	}
	if r.Segment.Lost {
		return
	}
	if !me.acked || int32(h.Ack-me.ack) >= 0 {
		me.acked, me.ack = true, h.Ack
	}
	me.window = h.Window
}
