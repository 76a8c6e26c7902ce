package packet

import "errors"

// ErrSplit is for a packet that cannot be split into segments: no TCP, a
// fragment, SYN or RST with more than one segment's payload, or a size of 0.
var ErrSplit = errors.New("packet: not to be split into segments")

// Split cuts the super-segment b into TCP segments of at most size bytes of
// payload, as a network card with segmentation offload would, and calls yield
// for each in order until it returns false. All checksums are complete; that
// of b does not matter.
//
//	sequence number   advances by the payload before it
//	FIN, PSH          on the last segment only
//	CWR               on the first only (RFC 3168 section 6.1.2)
//	urgent pointer    still points to the same byte, and goes behind it
//	IPv4 ID           counts up
//
// Segments are made in buf, which is allocated if it is too small for one, and
// are valid until yield returns. b is not changed.
func Split(buf, b []byte, size int, yield func(seg []byte) bool) error {
	p, err := Parse(b)
	if err != nil {
		return err
	}
	return p.Split(buf, b, size, yield)
}

// Split is the function Split for a packet that has been parsed.
func (p *Packet) Split(buf, b []byte, size int, yield func(seg []byte) bool) error {
	if p.Proto != TCP || p.Fragment() || size <= 0 {
		return ErrSplit
	}
	head, payload := b[:p.HeaderLen()], p.Payload(b)
	if len(payload) > size && p.TCP.Flags&(SYN|RST) != 0 {
		return ErrSplit
	}
	size = min(size, len(payload))
	if need := len(head) + size; cap(buf) < need {
		buf = make([]byte, need)
	}
	buf = buf[:cap(buf)]
	copy(buf, head)
	for i, done := 0, 0; ; i++ {
		n := min(size, len(payload)-done)
		seg := buf[:len(head)+n]
		copy(seg[len(head):], payload[done:done+n])
		p.segment(seg, i, done, done+n == len(payload))
		done += n
		if !yield(seg) || done == len(payload) {
			return nil
		}
	}
}

// segment writes the headers of segment i, which begins so many bytes into the
// payload. Its headers are those of the super-segment or of another segment.
func (p *Packet) segment(seg []byte, i, done int, last bool) {
	q := *p
	q.Len = len(seg)
	if q.Version == 4 {
		put16(seg[2:], uint16(q.Len))
		put16(seg[4:], uint16(q.ID)+uint16(i))
	} else {
		put16(seg[4:], uint16(q.Len-40))
	}
	t, flags, urgent := seg[q.IPLen:], q.TCP.Flags, int(q.TCP.Urgent)
	if !last {
		flags &^= FIN | PSH
	}
	if i > 0 {
		flags &^= CWR
	}
	if flags&URG != 0 {
		if urgent -= done; urgent <= 0 && done > 0 {
			flags, urgent = flags&^URG, 0
		}
	}
	put32(t[4:], q.TCP.Seq+uint32(done))
	t[13] = byte(flags)
	put16(t[18:], uint16(urgent))
	q.SetChecksums(seg)
}
