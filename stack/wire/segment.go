package wire

import (
	"net/netip"
	"time"

	"tcpbox/stack/tcpstate"
	"tcpbox/tun"
	"tcpbox/tun/packet"
)

// Segment is the header of a TCP segment, or of a super-segment that stands for
// several.
type Segment struct {
	// Time is when it passed: of a segment to the guest, before the guest's
	// kernel has it.
	Time time.Time

	FromGuest bool
	Src, Dst  netip.AddrPort
	TCP       packet.TCPHeader

	Payload int // bytes behind the header
	GSOSize int // payload of each segment of a super-segment; else 0

	// Raw are the bytes of the TCP header. They belong to the packet: who wants
	// them after the call copies them. The checksum may not be complete.
	Raw []byte
}

// Guest and Remote are the ends: the guest's, and the one that it talks to,
// which the stack stands for.
func (s *Segment) Guest() netip.AddrPort {
	if s.FromGuest {
		return s.Src
	}
	return s.Dst
}

// Remote is the end that is not the guest's.
func (s *Segment) Remote() netip.AddrPort {
	if s.FromGuest {
		return s.Dst
	}
	return s.Src
}

// Sender is the leg that has sent the segment, tcpstate.Guest or tcpstate.Stack.
func (s *Segment) Sender() tcpstate.Leg {
	if s.FromGuest {
		return tcpstate.Guest
	}
	return tcpstate.Stack
}

// End is the sequence number behind the segment: SYN and FIN count for one.
func (s *Segment) End() uint32 {
	end := s.TCP.Seq + uint32(s.Payload)
	if s.TCP.Flags&packet.SYN != 0 {
		end++
	}
	if s.TCP.Flags&packet.FIN != 0 {
		end++
	}
	return end
}

// Tuple names a connection by its ends. Connections follow each other on it.
type Tuple struct{ Guest, Remote netip.AddrPort }

// Tuple is that of the segment.
func (s *Segment) Tuple() Tuple { return Tuple{s.Guest(), s.Remote()} }

// Parse reads the headers of a packet of which at least all headers are in b.
// It reports false for what is no TCP segment, or a fragment.
func Parse(b []byte, fromGuest bool, h tun.Offload) (Segment, bool) {
	p, err := packet.ParseQuoted(b)
	if err != nil || p.Proto != packet.TCP || p.Fragment() || p.TransportLen < 20 || p.HeaderLen() > len(b) {
		return Segment{}, false
	}
	s := Segment{
		FromGuest: fromGuest, Src: p.Src, Dst: p.Dst, TCP: p.TCP,
		Payload: max(0, p.PayloadLen()), Raw: b[p.IPLen:p.HeaderLen()],
	}
	if h.GSO != tun.GSONone {
		s.GSOSize = int(h.GSOSize)
	}
	return s, true
}

// covers reports whether the ACK number a is at or behind n.
func covers(a, n uint32) bool { return int32(a-n) >= 0 }
