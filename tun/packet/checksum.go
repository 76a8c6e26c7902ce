package packet

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// Sum adds b to the ones' complement sum initial, RFC 1071, and returns the
// sum, not its complement. An odd last byte counts as the high half of a word,
// so only the last of several pieces may be odd.
func Sum(b []byte, initial uint16) uint16 {
	sum, carry := uint64(initial), uint64(0)
	for len(b) >= 32 {
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b), carry)
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b[8:]), carry)
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b[16:]), carry)
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b[24:]), carry)
		b = b[32:]
	}
	for len(b) >= 8 {
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b), carry)
		b = b[8:]
	}
	if len(b) > 0 {
		var last [8]byte
		copy(last[:], b)
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(last[:]), carry)
	}
	// 2^64, 2^32 and 2^16 are all 1 to the ones' complement sum of 16 bits.
	sum = sum>>32 + sum&0xffffffff + carry
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	return uint16(sum)
}

// add is the ones' complement sum of two words.
func add(a, b uint16) uint16 {
	s := uint32(a) + uint32(b)
	return uint16(s>>16 + s&0xffff)
}

// PseudoSum is the ones' complement sum of the pseudo-header for a transport
// of so many bytes: RFC 9293 section 3.1 for IPv4, RFC 8200 section 8.1 for
// IPv6.
func PseudoSum(src, dst netip.Addr, proto Proto, length int) uint16 {
	var sum uint16
	if src.Is4() {
		s, d := src.As4(), dst.As4()
		sum = Sum(d[:], Sum(s[:], 0))
	} else {
		s, d := src.As16(), dst.As16()
		sum = Sum(d[:], Sum(s[:], 0))
	}
	sum = add(sum, uint16(proto))
	sum = add(sum, uint16(length>>16))
	return add(sum, uint16(length))
}

// csumOffset is where in the transport header the checksum lies; -1 for a
// protocol that Parse does not look into.
func (p Proto) csumOffset() int {
	switch p {
	case TCP:
		return 16
	case UDP:
		return 6
	case ICMP, ICMPv6:
		return 2
	}
	return -1
}

// pseudo is the sum with which the transport's checksum begins.
func (p *Packet) pseudo(length int) uint16 {
	if p.Proto == ICMP {
		return 0 // RFC 792 has no pseudo-header
	}
	return PseudoSum(p.Src.Addr(), p.Dst.Addr(), p.Proto, length)
}

// covered is what the transport's checksum covers.
func (p *Packet) covered(b []byte) []byte {
	if p.Proto == UDP {
		return b[p.IPLen : p.IPLen+int(be16(b[p.IPLen+4:]))]
	}
	return b[p.IPLen:p.Len]
}

// checkable reports whether the packet carries a transport checksum that can
// be computed from it alone.
func (p *Packet) checkable() bool { return p.TransportLen != 0 && !p.Fragment() }

// VerifyIP checks the header checksum of an IPv4 packet. IPv6 has none.
func (p *Packet) VerifyIP(b []byte) bool {
	return p.Version != 4 || Sum(b[:p.IPLen], 0) == 0xffff
}

// VerifyTransport checks the checksum of a TCP segment, UDP datagram or ICMP
// message b, from which p was parsed. A packet that has none is true: another
// protocol, a fragment, UDP over IPv4 with checksum 0 (RFC 768). Over IPv6 UDP
// must have one (RFC 8200 section 8.1).
func (p *Packet) VerifyTransport(b []byte) bool {
	if !p.checkable() {
		return true
	}
	if p.Proto == UDP && be16(b[p.IPLen+6:]) == 0 {
		return p.Version == 4
	}
	c := p.covered(b)
	return Sum(c, p.pseudo(len(c))) == 0xffff
}

// Complete finishes a partial checksum, as struct virtio_net_hdr describes it:
// the field at start+offset holds the pseudo-header's sum, and is replaced by
// the checksum over b from start to its end. A checksum that comes out as 0 is
// written as 0xffff, its equal, which UDP needs and others do not mind.
func Complete(b []byte, start, offset int) error {
	if start < 0 || offset < 0 || start+offset+2 > len(b) {
		return ErrTruncated
	}
	c := ^Sum(b[start:], 0)
	if c == 0 {
		c = 0xffff
	}
	put16(b[start+offset:], c)
	return nil
}

// SetChecksums writes the IP header's and the transport's checksum anew into
// b, from which p was parsed.
func (p *Packet) SetChecksums(b []byte) {
	p.setIPChecksum(b)
	if start, offset, ok := p.SetPartialChecksum(b); ok {
		c := p.covered(b)
		b = b[:start+len(c)]
		_ = Complete(b, start, offset) // in range: Parse saw the header
	}
}

// SetPartialChecksum writes the sum of the pseudo-header into the transport's
// checksum field and returns where a receiver completes it. ok is false, and b
// as it was, for a packet that has no checksum of its own.
func (p *Packet) SetPartialChecksum(b []byte) (start, offset int, ok bool) {
	if !p.checkable() {
		return 0, 0, false
	}
	start, offset = p.IPLen, p.Proto.csumOffset()
	put16(b[start+offset:], p.pseudo(len(p.covered(b))))
	return start, offset, true
}

func (p *Packet) setIPChecksum(b []byte) {
	if p.Version == 4 {
		put16(b[10:], 0)
		put16(b[10:], ^Sum(b[:p.IPLen], 0))
	}
}
