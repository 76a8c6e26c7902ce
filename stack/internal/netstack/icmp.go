package netstack

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/time/rate"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gvstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"tcpbox/tun/packet"
)

// icmpPerSecond and icmpBurst bound the ICMP errors that the guest can provoke
// (RFC 1812, section 4.3.2.8; RFC 4443, section 2.4 f).
const (
	icmpPerSecond = 1000
	icmpBurst     = 200
)

func newICMPLimiter() *rate.Limiter { return rate.NewLimiter(icmpPerSecond, icmpBurst) }

// unreachable answers a packet of the guest with an ICMP error from the
// stack's own address.
func (s *Stack) unreachable(orig []byte, kind packet.Kind, dst netip.Addr) {
	s.writeError(orig, kind.Message(!dst.Is4()), s.ownAddr(dst))
}

// writeError sends the guest an ICMP error about its packet orig.
func (s *Stack) writeError(orig []byte, m packet.Message, from netip.Addr) {
	if !s.icmpLimit.AllowN(s.clock.Now(), 1) {
		s.counters.icmpLimited.Add(1)
		return
	}
	if answer := packet.ErrorAbout(nil, orig, m, from); answer != nil {
		_ = s.write(answer) // what the device does not take is lost, and counted
	}
}

// ownAddr is the stack's address of dst's family. Without one it speaks as dst.
func (s *Stack) ownAddr(dst netip.Addr) netip.Addr {
	for _, a := range s.addrs {
		if a.Is4() == dst.Is4() {
			return a
		}
	}
	return dst
}

// ingressICMP keeps echo requests to everything but the stack itself from
// gVisor, which would answer for every address: its interface takes all of
// them.
func (s *Stack) ingressICMP(pkt []byte, h headers) ingressVerdict {
	if h.fragment {
		return s.ingressICMPFragment(pkt, h)
	}
	if len(pkt) <= h.length {
		return pass
	}
	request, reply := echoTypes(h.proto != uint8(header.ICMPv4ProtocolNumber))
	switch t := pkt[h.length]; {
	case t == reply:
		s.noteEchoReply(pkt[h.length:])
		if s.takeEchoReply(pkt, h) {
			return drop
		}
		return pass
	case t != request:
		s.noteICMPError(pkt, h)
		return pass
	case s.owns(h.dst):
		return pass
	case s.takeEcho(pkt, h):
		return drop
	}
	s.refuseOther(Other{Src: netip.AddrPortFrom(h.src, 0), Dst: netip.AddrPortFrom(h.dst, 0)}, pkt)
	return drop
}

// noteICMPError remembers that the guest answered one of our segments with an
// ICMP error: that ends a handshake. For a datagram it says that nobody has the
// port any more.
func (s *Stack) noteICMPError(pkt []byte, h headers) {
	outer, err := packet.Parse(pkt)
	if err != nil || !outer.ICMPError() || len(pkt) < h.length+8 {
		return
	}
	quoted, err := packet.ParseQuoted(pkt[h.length+8:])
	if err == nil && quoted.Proto != packet.TCP && s.onPathError != nil {
		s.takePathError(&outer, &quoted, binary.BigEndian.Uint32(pkt[h.length+4:]), pkt[h.length+8:])
	}
	if err == nil && quoted.Proto == packet.UDP && s.onNoPort != nil && isPortUnreachable(&outer) {
		s.onNoPort(quoted.Dst, quoted.Src)
	}
	if err != nil || quoted.Proto != packet.TCP {
		return
	}
	if r := s.tracker.find(tupleOf(quoted.Src, quoted.Dst)); r != nil {
		r.icmpIn.Store(true)
		closed := packet.PortUnreachable.Message(outer.Version == 6)
		if outer.ICMPType == closed.Type && outer.ICMPCode == closed.Code {
			r.portClosed.Store(true)
		}
	}
}

func isPortUnreachable(p *packet.Packet) bool {
	m := packet.PortUnreachable.Message(p.Version == 6)
	return p.ICMPType == m.Type && p.ICMPCode == m.Code
}

// handleUDP takes the datagrams that no endpoint of the stack takes.
func (s *Stack) handleUDP(id gvstack.TransportEndpointID, pkt *gvstack.PacketBuffer) bool {
	if s.takeUDP(id, pkt) {
		return true
	}
	orig := make([]byte, 0, 128)
	orig = append(orig, pkt.NetworkHeader().Slice()...)
	orig = append(orig, pkt.TransportHeader().Slice()...)
	s.refuseOther(Other{UDP: true, Src: remoteOf(id), Dst: localOf(id)}, orig)
	return true
}

// refuseOther answers with "administratively prohibited": there is a host, and
// tcpbox does not carry this protocol to it. To its own addresses it says that
// the port is closed.
func (s *Stack) refuseOther(o Other, orig []byte) {
	s.counters.refusedOther.Add(1)
	kind := packet.Prohibited
	if s.owns(o.Dst.Addr()) {
		kind = packet.PortUnreachable
	}
	s.unreachable(orig, kind, o.Dst.Addr())
	if s.onOther != nil && kind == packet.Prohibited {
		s.onOther(o)
	}
}

// owns reports whether a is one of the stack's own addresses.
func (s *Stack) owns(a netip.Addr) bool {
	for _, own := range s.addrs {
		if own == a {
			return true
		}
	}
	return false
}
