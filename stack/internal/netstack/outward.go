package netstack

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

// This file is what a Stack needs whose device leads to the world, and not to a
// guest: it sends what others have begun, as those others, in packets that fit
// the device, and hears what comes back.

// A PathError is an ICMP error that has come back for a datagram or an echo
// request which the Stack had sent.
type PathError struct {
	Type, Code uint8
	Rest       uint32     // the second half of its header, such as an MTU
	From       netip.Addr // who says so

	// What the error is about. An echo request has its identifier as the source
	// port.
	Echo     bool
	Src, Dst netip.AddrPort

	// Quoted is as much of the datagram's payload as the error has, of an echo
	// request of the whole ICMP message. It is valid only during the call.
	Quoted []byte
}

// takePathError gives an ICMP error about a datagram or an echo request to
// whoever waits for it. quoted was parsed from about.
func (s *Stack) takePathError(outer, quoted *packet.Packet, rest uint32, about []byte) {
	e := PathError{
		Type: outer.ICMPType, Code: outer.ICMPCode, Rest: rest, From: outer.Src.Addr(),
		Src: quoted.Src, Dst: quoted.Dst,
	}
	from := quoted.HeaderLen()
	if e.Echo = quoted.Proto != packet.UDP; e.Echo {
		from = quoted.IPLen
		if len(about) < from+icmpHeaderLen {
			return
		}
		e.Src = netip.AddrPortFrom(e.Src.Addr(), binary.BigEndian.Uint16(about[from+4:]))
	}
	if from > len(about) || quoted.FragOffset != 0 {
		return
	}
	e.Quoted = about[from:min(len(about), max(from, quoted.Len))]
	s.onPathError(e)
}

// DialAs is Dial for somebody who has begun the connection elsewhere, from a port
// that is free for it: what the Stack itself still holds between the two in
// TIME-WAIT ends for it.
func (s *Stack) DialAs(ctx context.Context, conn tcpstate.Conn, src, dst netip.AddrPort) (*Conn, error) {
	c, err := s.Dial(ctx, conn, src, dst)
	if !errors.Is(err, syscall.EADDRNOTAVAIL) && !errors.Is(err, syscall.EADDRINUSE) {
		return c, err
	}
	r := s.tracker.find(tupleOf(src, dst))
	if r == nil || r.state() != tcpstate.TimeWait {
		return nil, err
	}
	s.end(r, endReuse)
	return s.Dial(ctx, conn, src, dst)
}

// MTU is the device's, in bytes.
func (s *Stack) MTU() int { return int(s.link.mtu) }

// SendUDP sends a datagram to the world, in fragments if it is larger than the
// device's MTU. hops is its TTL or hop limit; zero means 64. It keeps nothing of
// payload.
func (s *Stack) SendUDP(src, dst netip.AddrPort, payload []byte, hops uint8) error {
	if n := len(payload); n > MaxPayload6 || src.Addr().Is4() && n > MaxPayload4 {
		return errTooLarge
	}
	fits := len(payload)+header.IPv6MinimumSize+header.UDPMinimumSize <= int(s.link.mtu)
	if fits && hopsOr64(hops) == 64 {
		return s.WriteUDP(src, dst, payload) // which allocates nothing
	}
	b := packet.Build{Src: src, Dst: dst, Proto: packet.UDP, TTL: hopsOr64(hops), DontFrag: true, Payload: payload}
	return s.send(b.Bytes(), src.Addr().Is6())
}

// SendEchoRequest is SendUDP for an echo request.
func (s *Stack) SendEchoRequest(src, dst netip.Addr, id, seq uint16, payload []byte, hops uint8) error {
	request, _ := echoTypes(src.Is6())
	return s.sendEcho(request, src, dst, id, seq, payload, hops)
}

// SendEchoReply is SendUDP for an echo reply.
func (s *Stack) SendEchoReply(src, dst netip.Addr, id, seq uint16, payload []byte) error {
	_, reply := echoTypes(src.Is6())
	return s.sendEcho(reply, src, dst, id, seq, payload, 0)
}

func (s *Stack) sendEcho(typ uint8, src, dst netip.Addr, id, seq uint16, payload []byte, hops uint8) error {
	if n := len(payload); n > MaxPayload6 || src.Is4() && n > MaxPayload4 {
		return errTooLarge
	}
	b := packet.Build{
		Src: netip.AddrPortFrom(src, 0), Dst: netip.AddrPortFrom(dst, 0), Proto: packet.ICMP, TTL: hopsOr64(hops), DontFrag: true,
		ICMPType: typ, ICMPRest: uint32(id)<<16 | uint32(seq), Payload: payload,
	}
	if src.Is6() {
		b.Proto = packet.ICMPv6
	}
	return s.send(b.Bytes(), src.Is6())
}

func hopsOr64(hops uint8) uint8 {
	if hops == 0 {
		return 64
	}
	return hops
}

// send writes a packet without options or extension headers, whose checksums are
// complete, in fragments if need be.
func (s *Stack) send(pkt []byte, six bool) error {
	mtu := int(s.link.mtu)
	switch {
	case len(pkt) <= mtu:
		return s.write(pkt)
	case six:
		return s.writeFragmentsOf(pkt, header.IPv6MinimumSize, (mtu-header.IPv6MinimumSize-8)&^(fragmentUnit-1))
	}
	return s.writeFragments4(pkt, (mtu-header.IPv4MinimumSize)&^(fragmentUnit-1))
}

// writeFragments4 sends an IPv4 packet in fragments of room bytes of payload (RFC
// 791, section 3.2).
func (s *Stack) writeFragments4(pkt []byte, room int) error {
	const ipLen = header.IPv4MinimumSize
	body := pkt[ipLen:]
	id := uint16(s.fragmentID.Add(1))
	for at := 0; at < len(body); at += room {
		end := min(at+room, len(body))
		f := append(append(make([]byte, 0, ipLen+end-at), pkt[:ipLen]...), body[at:end]...)
		field := uint16(at / fragmentUnit)
		if end < len(body) {
			field |= 0x2000 // more follow
		}
		binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
		binary.BigEndian.PutUint16(f[4:], id)
		binary.BigEndian.PutUint16(f[6:], field)
		f[10], f[11] = 0, 0
		binary.BigEndian.PutUint16(f[10:], ^packet.Sum(f[:ipLen], 0))
		if err := s.write(f); err != nil {
			return err
		}
	}
	return nil
}
