package packet

import (
	"net/netip"
	"slices"
)

// Build describes a packet to be made; its zero fields mean what is said
// beside them. The family is that of Src, which Dst must share.
type Build struct {
	Src, Dst netip.AddrPort
	Proto    Proto // 0: TCP
	TTL      uint8 // 0: 64
	TOS      uint8

	ID         uint32 // identification; for IPv6 only in a fragment
	FragOffset int    // bytes, a multiple of 8
	MoreFrags  bool
	DontFrag   bool // IPv4

	IPOptions  []byte      // IPv4: raw, padded here to a multiple of 4
	Extensions []Extension // IPv6: in order, before the fragment header

	// TCP. The window is as in the header.
	Flags    Flags
	Seq, Ack uint32
	Window   uint16
	Urgent   uint16
	Options  []byte // as Options makes them

	// ICMP. ICMPRest is the second half of its header: identifier and sequence
	// number of an echo.
	ICMPType, ICMPCode uint8
	ICMPRest           uint32

	// Payload follows the headers. In a fragment behind the first, and with
	// Raw, it is all that follows the IP header.
	Payload []byte
	Raw     bool

	// Partial leaves only the pseudo-header's sum in the transport's checksum
	// field, as an offload does; BadChecksum damages that field.
	Partial     bool
	BadChecksum bool
}

// Extension is an extension header of IPv6: its number, and its bytes after
// the next-header and length fields, padded here to a multiple of 8.
type Extension struct {
	Proto Proto
	Body  []byte
}

// Bytes makes the packet.
func (b Build) Bytes() []byte { return b.Append(nil) }

// Append makes the packet behind dst. It allocates only if dst has not the
// capacity. What the headers cannot hold, such as a payload beyond 64 KiB, is
// the caller's mistake: length fields are cut to their size.
func (b *Build) Append(dst []byte) []byte {
	proto := b.Proto
	if proto == 0 {
		proto = TCP
	}
	start := len(dst)
	fragment := b.FragOffset != 0 || b.MoreFrags
	if b.Src.Addr().Is4() {
		dst = b.ipv4(dst, proto)
	} else {
		dst = b.ipv6(dst, proto, fragment)
	}
	ipLen := len(dst) - start
	transport := !b.Raw && b.FragOffset == 0
	if transport {
		dst = b.transport(dst, proto)
	}
	dst = append(dst, b.Payload...)
	pkt := dst[start:]
	p := Packet{Proto: proto, IPLen: ipLen, Len: len(pkt), Src: b.Src, Dst: b.Dst}
	if b.Src.Addr().Is4() {
		p.Version = 4
		put16(pkt[2:], uint16(len(pkt)))
		p.setIPChecksum(pkt)
	} else {
		p.Version = 6
		put16(pkt[4:], uint16(len(pkt)-40))
	}
	if off := proto.csumOffset(); transport && off >= 0 {
		if proto == UDP {
			put16(pkt[ipLen+4:], uint16(len(pkt)-ipLen))
		}
		p.TransportLen = 8 // a header is there
		b.checksum(pkt, &p, off)
	}
	return dst
}

func (b *Build) checksum(pkt []byte, p *Packet, off int) {
	put16(pkt[p.IPLen+off:], p.pseudo(p.Len-p.IPLen))
	if !b.Partial {
		_ = Complete(pkt, p.IPLen, off) // in range: the header is there
	}
	if b.BadChecksum {
		pkt[p.IPLen+off] ^= 0x55
	}
}

func (b *Build) ttl() uint8 {
	if b.TTL == 0 {
		return answerTTL
	}
	return b.TTL
}

func (b *Build) ipv4(dst []byte, proto Proto) []byte {
	opts := (len(b.IPOptions) + 3) / 4
	src, to := b.Src.Addr().As4(), b.Dst.Addr().As4()
	frag := uint16(b.FragOffset/8) & 0x1fff
	if b.DontFrag {
		frag |= 0x4000
	}
	if b.MoreFrags {
		frag |= 0x2000
	}
	dst = append(dst, 4<<4|byte(5+opts), b.TOS, 0, 0,
		byte(b.ID>>8), byte(b.ID), byte(frag>>8), byte(frag),
		b.ttl(), byte(proto), 0, 0)
	dst = append(dst, src[:]...)
	dst = append(dst, to[:]...)
	dst = append(dst, b.IPOptions...)
	return append(dst, zeros[:opts*4-len(b.IPOptions)]...)
}

func (b *Build) ipv6(dst []byte, proto Proto, fragment bool) []byte {
	src, to := b.Src.Addr().As16(), b.Dst.Addr().As16()
	last := proto
	if fragment {
		last = protoFragment
	}
	next := func(i int) byte {
		if i < len(b.Extensions) {
			return byte(b.Extensions[i].Proto)
		}
		return byte(last)
	}
	dst = append(dst, 6<<4|b.TOS>>4, b.TOS<<4, 0, 0, 0, 0, next(0), b.ttl())
	dst = append(dst, src[:]...)
	dst = append(dst, to[:]...)
	for i, x := range b.Extensions {
		units := (len(x.Body) + 2 + 7) / 8
		size := byte(units - 1)
		if x.Proto == protoAH {
			size = byte(units*2 - 2) // RFC 4302 section 2.2
		}
		dst = append(dst, next(i+1), size)
		dst = append(dst, x.Body...)
		dst = append(dst, zeros[:units*8-2-len(x.Body)]...)
	}
	if fragment {
		off := uint16(b.FragOffset) &^ 7
		if b.MoreFrags {
			off |= 1
		}
		dst = append(dst, byte(proto), 0, byte(off>>8), byte(off),
			byte(b.ID>>24), byte(b.ID>>16), byte(b.ID>>8), byte(b.ID))
	}
	return dst
}

func (b *Build) transport(dst []byte, proto Proto) []byte {
	switch proto {
	case TCP:
		opts := (len(b.Options) + 3) / 4
		dst = slices.Grow(dst, 20+4*opts)
		h := dst[len(dst) : len(dst)+20]
		put16(h, b.Src.Port())
		put16(h[2:], b.Dst.Port())
		put32(h[4:], b.Seq)
		put32(h[8:], b.Ack)
		h[12], h[13] = byte(5+opts)<<4, byte(b.Flags)
		put16(h[14:], b.Window)
		put16(h[16:], 0)
		put16(h[18:], b.Urgent)
		dst = append(dst[:len(dst)+20], b.Options...)
		return append(dst, zeros[:opts*4-len(b.Options)]...)
	case UDP:
		s, d := b.Src.Port(), b.Dst.Port()
		return append(dst, byte(s>>8), byte(s), byte(d>>8), byte(d), 0, 0, 0, 0)
	case ICMP, ICMPv6:
		r := b.ICMPRest
		return append(dst, b.ICMPType, b.ICMPCode, 0, 0, byte(r>>24), byte(r>>16), byte(r>>8), byte(r))
	}
	return dst
}

var zeros [8]byte

// Options joins TCP options for Build.
func Options(opts ...[]byte) []byte { return slices.Concat(opts...) }

// MSS is the TCP option of RFC 9293 section 3.7.1.
func MSS(n uint16) []byte { return []byte{optMSS, 4, byte(n >> 8), byte(n)} }

// WindowScale is the TCP option of RFC 7323 section 2.
func WindowScale(shift uint8) []byte { return []byte{optWScale, 3, shift} }

// SACKPermitted is the TCP option of RFC 2018 section 2.
func SACKPermitted() []byte { return []byte{optSACKPermitted, 2} }

// Timestamps is the TCP option of RFC 7323 section 3.
func Timestamps(val, ecr uint32) []byte {
	o := make([]byte, 10)
	o[0], o[1] = optTimestamps, 10
	put32(o[2:], val)
	put32(o[6:], ecr)
	return o
}

// SACKBlocks is the TCP option of RFC 2018 section 3.
func SACKBlocks(blocks ...SACKBlock) []byte {
	o := []byte{optSACK, byte(2 + 8*len(blocks))}
	for _, s := range blocks {
		o = append(o, byte(s.Left>>24), byte(s.Left>>16), byte(s.Left>>8), byte(s.Left),
			byte(s.Right>>24), byte(s.Right>>16), byte(s.Right>>8), byte(s.Right))
	}
	return o
}
