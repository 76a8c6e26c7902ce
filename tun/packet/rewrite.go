package packet

import "net/netip"

// SetSrc gives the packet b another source, and p with it. The checksums
// follow by the difference alone (RFC 1624), so a packet that was damaged
// stays so. partial says that the transport's checksum field holds only the
// pseudo-header's sum, as in a packet with NeedsCsum.
//
// The address must be of the packet's family. The port is left alone where the
// packet has none.
func (p *Packet) SetSrc(b []byte, to netip.AddrPort, partial bool) error {
	return p.set(b, &p.Src, to, 0, partial)
}

// SetDst is SetSrc for the destination.
func (p *Packet) SetDst(b []byte, to netip.AddrPort, partial bool) error {
	return p.set(b, &p.Dst, to, 1, partial)
}

// set rewrites end 0, the source, or end 1, the destination.
func (p *Packet) set(b []byte, field *netip.AddrPort, to netip.AddrPort, end int, partial bool) error {
	if to.Addr().Is4() != (p.Version == 4) || !to.Addr().IsValid() {
		return ErrVersion
	}
	var oldSum, newSum uint16
	var addr []byte
	if p.Version == 4 {
		a := to.Addr().As4()
		addr = b[12+4*end : 16+4*end]
		oldSum, newSum = Sum(addr, 0), Sum(a[:], 0)
		copy(addr, a[:])
		put16(b[10:], update(be16(b[10:]), oldSum, newSum))
	} else {
		a := to.Addr().As16()
		addr = b[8+16*end : 24+16*end]
		oldSum, newSum = Sum(addr, 0), Sum(a[:], 0)
		copy(addr, a[:])
	}
	port := field.Port()
	if p.TransportLen != 0 && (p.Proto == TCP || p.Proto == UDP) {
		h := b[p.IPLen+2*end:]
		if !partial {
			oldSum, newSum = add(oldSum, port), add(newSum, to.Port())
		}
		port = to.Port()
		put16(h, port)
	}
	*field = netip.AddrPortFrom(to.Addr(), port)
	p.updateTransport(b, oldSum, newSum, partial)
	return nil
}

func (p *Packet) updateTransport(b []byte, oldSum, newSum uint16, partial bool) {
	// ICMP has no pseudo-header. A first fragment's checksum covers the whole
	// datagram and moves by the same difference.
	if p.TransportLen == 0 || p.Proto == ICMP {
		return
	}
	f := b[p.IPLen+p.Proto.csumOffset():]
	old := be16(f)
	switch {
	case partial: // the field is a sum, not a complement
		put16(f, ^update(^old, oldSum, newSum))
	case p.Proto == UDP && old == 0 && p.Version == 4: // no checksum
	default:
		c := update(old, oldSum, newSum)
		if c == 0 && p.Proto == UDP {
			c = 0xffff
		}
		put16(f, c)
	}
}

// update is equation 3 of RFC 1624: HC' = ~(~HC + ~m + m').
func update(csum, oldSum, newSum uint16) uint16 {
	return ^add(add(^csum, ^oldSum), newSum)
}
