package packet

import "net/netip"

// Parse reads the headers of b: one IP packet, or a super-segment. Bytes
// beyond the packet's own length are ignored. It checks that all headers are
// whole and consistent, and no checksum. It does not allocate.
//
// A fragment that is not the first has no transport header: TransportLen is 0
// and all after the IP header is payload.
func Parse(b []byte) (Packet, error) { return parse(b, false) }

// ParseQuoted reads a packet that an ICMP error quotes, of which the end may be
// missing. Of the transport header only the first 8 bytes need be there; what
// is missing reads as zero, and Len may exceed len(b): the methods that take
// the packet's bytes are not for such a Packet.
func ParseQuoted(b []byte) (Packet, error) { return parse(b, true) }

func parse(b []byte, quoted bool) (Packet, error) {
	var p Packet
	if len(b) == 0 {
		return p, ErrTruncated
	}
	var err error
	switch b[0] >> 4 {
	case 4:
		err = p.ipv4(b, quoted)
	case 6:
		err = p.ipv6(b, quoted)
	default:
		err = ErrVersion
	}
	if err != nil {
		return Packet{}, err
	}
	if !quoted || p.Len < len(b) {
		b = b[:p.Len]
	}
	if p.FragOffset == 0 {
		if err := p.transport(b, quoted); err != nil {
			return Packet{}, err
		}
	}
	return p, nil
}

// ipv4 reads the header of RFC 791 section 3.1.
func (p *Packet) ipv4(b []byte, quoted bool) error {
	if len(b) < 20 {
		return ErrTruncated
	}
	p.Version = 4
	p.IPLen = int(b[0]&0x0f) * 4
	p.Len = int(be16(b[2:]))
	if p.IPLen < 20 || p.Len < p.IPLen {
		return ErrHeader
	}
	if len(b) < p.IPLen || !quoted && len(b) < p.Len {
		return ErrTruncated
	}
	p.TOS, p.TTL, p.Proto = b[1], b[8], Proto(b[9])
	p.ID = uint32(be16(b[4:]))
	frag := be16(b[6:])
	p.DontFrag = frag&0x4000 != 0
	p.MoreFrags = frag&0x2000 != 0
	p.FragOffset = int(frag&0x1fff) * 8
	p.Src = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:16])), 0)
	p.Dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[16:20])), 0)
	return nil
}

// ipv6 reads the header of RFC 8200 section 3 and walks over the extension
// headers of section 4.
func (p *Packet) ipv6(b []byte, quoted bool) error {
	if len(b) < 40 {
		return ErrTruncated
	}
	p.Version = 6
	p.IPLen = 40
	p.Len = 40 + int(be16(b[4:]))
	if !quoted {
		if len(b) < p.Len {
			return ErrTruncated
		}
		b = b[:p.Len]
	}
	p.TOS = b[0]<<4 | b[1]>>4
	p.TTL = b[7]
	p.Src = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])), 0)
	p.Dst = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[24:40])), 0)

	for next := Proto(b[6]); ; {
		switch next {
		case protoHopByHop, protoRouting, protoDest, protoMobility, protoHIP, protoShim6, protoAH, protoFragment:
		default: // a transport, or ESP or nothing, behind which none can be seen
			p.Proto = next
			return nil
		}
		h := b[min(p.IPLen, len(b)):]
		if len(h) < 8 {
			return ErrTruncated
		}
		size := (int(h[1]) + 1) * 8
		switch next {
		case protoAH:
			size = (int(h[1]) + 2) * 4 // RFC 4302 section 2.2
		case protoFragment:
			size = 8
			p.FragOffset = int(be16(h[2:]) &^ 7)
			p.MoreFrags = h[3]&1 != 0
			p.ID = be32(h[4:])
		}
		if len(h) < size || p.IPLen+size > p.Len {
			return ErrTruncated
		}
		p.IPLen += size
		next = Proto(h[0])
		if p.FragOffset != 0 {
			p.Proto = next
			return nil
		}
	}
}

// transport reads the header behind the IP header. b ends with the packet, or
// with the quote.
func (p *Packet) transport(b []byte, quoted bool) error {
	h := b[p.IPLen:]
	switch {
	case p.Proto == TCP, p.Proto == UDP, p.Proto == ICMP && p.Version == 4, p.Proto == ICMPv6 && p.Version == 6:
		if len(h) < 8 {
			return ErrTruncated
		}
	default:
		return nil
	}
	switch p.Proto {
	case TCP:
		p.ports(h)
		return p.tcp(h, quoted)
	case UDP:
		p.ports(h)
		p.TransportLen = 8
		// RFC 768. A length of 0 is for jumbograms alone; the packet may be
		// longer than the datagram, and a first fragment shorter.
		n := int(be16(h[4:]))
		if n < 8 || n > len(h) && !quoted && !p.MoreFrags {
			return ErrHeader
		}
		if !p.MoreFrags {
			p.surplus = max(0, p.Len-p.IPLen-n)
		}
	case ICMP, ICMPv6:
		p.TransportLen = 8
		p.ICMPType, p.ICMPCode = h[0], h[1]
	}
	return nil
}

func (p *Packet) ports(h []byte) {
	p.Src = netip.AddrPortFrom(p.Src.Addr(), be16(h))
	p.Dst = netip.AddrPortFrom(p.Dst.Addr(), be16(h[2:]))
}

// tcp reads the header of RFC 9293 section 3.1.
func (p *Packet) tcp(h []byte, quoted bool) error {
	t := &p.TCP
	t.Seq = be32(h[4:])
	if len(h) < 20 {
		if quoted {
			p.TransportLen = min(20, p.Len-p.IPLen)
			return nil
		}
		return ErrTruncated
	}
	t.Ack = be32(h[8:])
	t.Flags = Flags(h[13])
	t.Window = be16(h[14:])
	t.Urgent = be16(h[18:])
	p.TransportLen = int(h[12]>>4) * 4
	if p.TransportLen < 20 {
		return ErrHeader
	}
	if p.TransportLen > p.Len-p.IPLen {
		return ErrTruncated
	}
	if len(h) < p.TransportLen && !quoted {
		return ErrTruncated
	}
	if p.TransportLen > 20 {
		t.options(h[20:min(p.TransportLen, len(h))])
	}
	return nil
}

// options reads what it knows and passes over what it does not, RFC 9293
// section 3.2.
func (t *TCPHeader) options(o []byte) {
	for len(o) > 0 {
		kind := o[0]
		switch kind {
		case optEnd:
			return
		case optNop:
			o = o[1:]
			continue
		}
		if len(o) < 2 || o[1] < 2 || int(o[1]) > len(o) {
			t.BadOptions = true
			return
		}
		body := o[2:o[1]]
		o = o[o[1]:]
		switch {
		case kind == optMSS && len(body) == 2:
			t.HasMSS, t.MSS = true, be16(body)
		case kind == optWScale && len(body) == 1:
			t.HasWScale, t.WScale = true, body[0]
		case kind == optSACKPermitted && len(body) == 0:
			t.SACKPermitted = true
		case kind == optTimestamps && len(body) == 8:
			t.HasTimestamps, t.TSVal, t.TSEcr = true, be32(body), be32(body[4:])
		case kind == optSACK && len(body)%8 == 0:
			t.SACKCount = uint8(min(len(body)/8, len(t.SACK)))
			for i := range t.SACK[:t.SACKCount] {
				t.SACK[i] = SACKBlock{be32(body[8*i:]), be32(body[8*i+4:])}
			}
		case kind <= optSACK || kind == optTimestamps:
			t.BadOptions = true // one we know, of the wrong length
		}
	}
}

// The kinds of TCP options (IANA "TCP Option Kind Numbers").
const (
	optEnd           = 0
	optNop           = 1
	optMSS           = 2
	optWScale        = 3
	optSACKPermitted = 4
	optSACK          = 5
	optTimestamps    = 8
)
