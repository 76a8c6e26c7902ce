package netstack

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	gvstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"tcpbox/tun"
	"tcpbox/tun/packet"
)

// A Datagram is one UDP datagram of the guest's.
type Datagram struct {
	Src, Dst netip.AddrPort
	TTL      uint8 // or hop limit

	// Probe: its sender wants to be told if it is larger than the path takes.
	// That is "don't fragment" with the identification 0 of a datagram that
	// never is (RFC 6864, section 4.1), as Linux sends it for IP_PMTUDISC_DO
	// and PROBE on a socket that is not connected. "Don't fragment" alone says
	// little: by default Linux sets it on whatever the guest's interface takes.
	Probe bool

	// Payload is valid only during the call.
	Payload []byte
}

// ingressUDP takes a datagram past gVisor, which would copy it, to Config.OnUDP.
// Fragments go to gVisor to be put together, and so do datagrams with options
// or extension headers.
func (s *Stack) ingressUDP(pkt []byte, h headers, off tun.Offload) ingressVerdict {
	own := s.owns(h.dst)
	if s.onUDP == nil || h.fragment || own && s.ownUDP == nil {
		return pass
	}
	if plain := h.length == header.IPv4MinimumSize || h.length == header.IPv6MinimumSize && !h.dst.Is4(); !plain {
		if off.NeedsCsum && packet.Complete(pkt, int(off.CsumStart), int(off.CsumOffset)) != nil {
			s.counters.malformed.Add(1)
			return drop
		}
		return pass
	}
	p, err := packet.Parse(pkt)
	switch {
	case own && (err != nil || p.Proto != packet.UDP || !s.ownUDP(p.Src, p.Dst)):
		return pass
	case err != nil || p.Proto != packet.UDP:
		s.counters.malformed.Add(1)
		return drop
	}
	d := Datagram{Src: p.Src, Dst: p.Dst, TTL: p.TTL, Probe: p.DontFrag && p.ID == 0, Payload: p.Payload(pkt)}
	if !s.onUDP(d) {
		s.refuseOther(Other{UDP: true, Src: d.Src, Dst: d.Dst}, pkt)
	}
	return drop
}

// takeUDP is ingressUDP for a datagram that gVisor has put together. It reports
// false if nobody takes it.
func (s *Stack) takeUDP(id gvstack.TransportEndpointID, pkt *gvstack.PacketBuffer) bool {
	d := Datagram{Src: remoteOf(id), Dst: localOf(id)}
	if s.onUDP == nil || s.owns(d.Dst.Addr()) && (s.ownUDP == nil || !s.ownUDP(d.Src, d.Dst)) {
		return false
	}
	switch ip := pkt.NetworkHeader().Slice(); pkt.NetworkProtocolNumber {
	case header.IPv4ProtocolNumber:
		d.TTL = header.IPv4(ip).TTL()
	default:
		d.TTL = header.IPv6(ip).HopLimit()
	}
	udp := header.UDP(pkt.TransportHeader().Slice())
	d.Payload = pkt.Data().AsRange().ToSlice()
	size := int(udp.Length()) - header.UDPMinimumSize
	if size < 0 || size > len(d.Payload) {
		s.counters.malformed.Add(1)
		return true
	}
	d.Payload = d.Payload[:size]
	if !validUDP(udp, &d) {
		s.counters.badChecksum.Add(1)
		return true
	}
	return s.onUDP(d)
}

// validUDP verifies a checksum that nobody has looked at yet.
func validUDP(udp header.UDP, d *Datagram) bool {
	if udp.Checksum() == 0 {
		return d.Dst.Addr().Is4() // RFC 768; RFC 8200, section 8.1
	}
	sum := packet.PseudoSum(d.Src.Addr(), d.Dst.Addr(), packet.UDP, len(udp)+len(d.Payload))
	return packet.Sum(d.Payload, packet.Sum(udp, sum)) == 0xffff
}

// MaxPayload4 and MaxPayload6 are the largest UDP payloads in bytes.
const (
	MaxPayload4 = 65535 - 20 - 8
	MaxPayload6 = 65535 - 8
)

var errTooLarge = errors.New("netstack: the datagram is larger than IP allows")

// udpHeaders are the headers of a datagram for the guest, and the pieces that
// are given to the device.
type udpHeaders struct {
	buf  [40 + 8]byte
	bufs [2][]byte
}

var udpHeadersPool = sync.Pool{New: func() any { return new(udpHeaders) }}

// WriteUDP sends the guest a datagram. It goes as one packet however large it
// is: the guest's kernel takes more than its MTU, and the checksum is left to
// it, as an offload. It keeps nothing of payload and does not allocate.
func (s *Stack) WriteUDP(src, dst netip.AddrPort, payload []byte) error {
	six := !src.Addr().Is4()
	if n := len(payload); n > MaxPayload6 || !six && n > MaxPayload4 {
		return errTooLarge
	}
	w := udpHeadersPool.Get().(*udpHeaders)
	defer udpHeadersPool.Put(w)
	ipLen := w.fill(src, dst, len(payload), six)
	total := ipLen + header.UDPMinimumSize + len(payload)
	if total > tun.MaxPacket {
		return s.writeFragments(w.whole(ipLen, payload), ipLen)
	}
	w.bufs[0], w.bufs[1] = w.buf[:ipLen+header.UDPMinimumSize], payload
	err := s.link.dev.Write(w.bufs[:], tun.Offload{NeedsCsum: true, CsumStart: uint16(ipLen), CsumOffset: 6})
	w.bufs[1] = nil
	if err != nil {
		s.counters.writeErrors.Add(1)
	}
	return err
}

// fill writes the headers, with a partial checksum, and returns the length of
// the IP header.
func (w *udpHeaders) fill(src, dst netip.AddrPort, n int, six bool) int {
	const ttl = 64
	n += header.UDPMinimumSize
	ipLen := header.IPv4MinimumSize
	if six {
		ipLen = header.IPv6MinimumSize
		b, from, to := w.buf[:ipLen], src.Addr().As16(), dst.Addr().As16()
		clear(b)
		b[0], b[6], b[7] = 6<<4, byte(packet.UDP), ttl
		binary.BigEndian.PutUint16(b[4:], uint16(n))
		copy(b[8:], from[:])
		copy(b[24:], to[:])
	} else {
		b, from, to := w.buf[:ipLen], src.Addr().As4(), dst.Addr().As4()
		clear(b)
		b[0], b[6], b[8], b[9] = 4<<4|5, 0x40, ttl, byte(packet.UDP) // never fragmented: RFC 6864
		binary.BigEndian.PutUint16(b[2:], uint16(ipLen+n))
		copy(b[12:], from[:])
		copy(b[16:], to[:])
		binary.BigEndian.PutUint16(b[10:], ^packet.Sum(b, 0))
	}
	u := w.buf[ipLen:]
	binary.BigEndian.PutUint16(u, src.Port())
	binary.BigEndian.PutUint16(u[2:], dst.Port())
	binary.BigEndian.PutUint16(u[4:], uint16(n))
	binary.BigEndian.PutUint16(u[6:], packet.PseudoSum(src.Addr(), dst.Addr(), packet.UDP, n))
	return ipLen
}

// whole is the datagram in one piece with its checksum complete.
func (w *udpHeaders) whole(ipLen int, payload []byte) []byte {
	b := append(append([]byte(nil), w.buf[:ipLen+header.UDPMinimumSize]...), payload...)
	_ = packet.Complete(b, ipLen, 6) // in range: the header is there
	return b
}
