package netstack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gvstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"tcpbox/tun"
	"tcpbox/tun/packet"
)

// What ingress says of a packet.
type ingressVerdict bool

const (
	pass ingressVerdict = true
	drop ingressVerdict = false
)

// ingress looks at each packet from the guest before gVisor does. The guest is
// not trusted: packets from addresses that are not its own, to groups, with
// wrong checksums, or malformed go no further. It may change the packet.
func (s *Stack) ingress(pkt []byte, off tun.Offload) ingressVerdict {
	h, ok := parseHeaders(pkt)
	if !ok {
		s.counters.malformed.Add(1)
		return drop
	}
	if !s.fromGuest(h.src) {
		s.counters.foreignSource.Add(1)
		return drop
	}
	if h.dst.IsMulticast() || h.dst == broadcast4 || h.dst.IsUnspecified() || h.dst.IsLoopback() {
		s.counters.notUnicast.Add(1)
		return drop
	}
	if !off.NeedsCsum && !off.DataValid && !s.checksumsValid(pkt) {
		return drop
	}
	switch h.proto {
	case uint8(header.TCPProtocolNumber):
		return s.ingressTCP(pkt, h, off)
	case uint8(header.ICMPv4ProtocolNumber), uint8(header.ICMPv6ProtocolNumber):
		return s.ingressICMP(pkt, h)
	case uint8(header.UDPProtocolNumber):
		return s.ingressUDP(pkt, h, off)
	}
	return pass
}

// checksumsValid verifies the checksums of a packet that came without a promise
// from the guest's kernel: one made on a raw socket, or forwarded.
func (s *Stack) checksumsValid(pkt []byte) bool {
	p, err := packet.Parse(pkt)
	if err != nil {
		s.counters.malformed.Add(1)
		return false
	}
	if !p.VerifyIP(pkt) || !p.VerifyTransport(pkt) {
		s.counters.badChecksum.Add(1)
		return false
	}
	return true
}

// ingressTCP notes RSTs, changes the options of SYNs, and judges SYNs on a
// 4-tuple that exists. Other
// segments cost one test of the flags.
func (s *Stack) ingressTCP(pkt []byte, h headers, off tun.Offload) ingressVerdict {
	if h.fragment || len(pkt) < h.length+header.TCPMinimumSize {
		return pass
	}
	tcpHdr := header.TCP(pkt[h.length:])
	flags := tcpHdr.Flags()
	if flags&(header.TCPFlagSyn|header.TCPFlagRst) == 0 {
		return pass
	}
	if int(tcpHdr.DataOffset()) < header.TCPMinimumSize || h.length+int(tcpHdr.DataOffset()) > len(pkt) {
		return pass // gVisor counts it as malformed
	}
	id := gvstack.TransportEndpointID{
		LocalAddress: toAddr(h.dst), LocalPort: tcpHdr.DestinationPort(),
		RemoteAddress: toAddr(h.src), RemotePort: tcpHdr.SourcePort(),
	}
	if flags&header.TCPFlagRst != 0 {
		if r := s.tracker.find(id); r != nil {
			r.noteRST(tcpHdr, s.clock.NowMonotonic())
			s.rstInTimeWait(r, tcpHdr)
		}
		s.admission.resetBeforeAccept(id)
		return pass
	}
	s.synOptions.rewrite(tcpHdr[:tcpHdr.DataOffset()], !off.NeedsCsum)
	if flags&header.TCPFlagAck != 0 {
		return pass
	}
	r := s.tracker.find(id)
	if r == nil && s.timeWait.recycle.refuses(id.RemoteAddress, tcpHdr[header.TCPMinimumSize:tcpHdr.DataOffset()], s.clock.NowMonotonic()) {
		return drop
	}
	if r != nil && !s.synOnRecord(r, pkt, h.length) {
		return drop
	}
	return pass
}

// headers is what ingress needs of a packet's IP header.
type headers struct {
	src, dst netip.Addr
	proto    uint8
	length   int // bytes up to the transport header
	fragment bool
}

var broadcast4 = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// parseHeaders reads the IP header and, for IPv6, the extension headers in
// front of the transport header.
func parseHeaders(pkt []byte) (h headers, ok bool) {
	if len(pkt) < header.IPv4MinimumSize {
		return h, false
	}
	switch pkt[0] >> 4 {
	case 4:
		ip := header.IPv4(pkt)
		h.length = int(ip.HeaderLength())
		if h.length < header.IPv4MinimumSize || h.length > len(pkt) {
			return h, false
		}
		h.src = netip.AddrFrom4([4]byte(pkt[12:16]))
		h.dst = netip.AddrFrom4([4]byte(pkt[16:20]))
		h.proto = ip.Protocol()
		h.fragment = ip.More() || ip.FragmentOffset() != 0
		return h, true
	case 6:
		if len(pkt) < header.IPv6MinimumSize {
			return h, false
		}
		h.src = netip.AddrFrom16([16]byte(pkt[8:24]))
		h.dst = netip.AddrFrom16([16]byte(pkt[24:40]))
		return h, h.skipExtensions(pkt, pkt[6])
	}
	return h, false
}

// skipExtensions walks IPv6 extension headers (RFC 8200, section 4) up to the
// transport header, or to the first one it does not know.
func (h *headers) skipExtensions(pkt []byte, next uint8) bool {
	const (
		hopByHop, routing, fragment, destination = 0, 43, 44, 60
	)
	h.length = header.IPv6MinimumSize
	for {
		h.proto = next
		switch next {
		case hopByHop, routing, destination:
			if len(pkt) < h.length+8 {
				return false
			}
			next = pkt[h.length]
			h.length += (int(pkt[h.length+1]) + 1) * 8
		case fragment:
			if len(pkt) < h.length+8 {
				return false
			}
			h.fragment = true
			next = pkt[h.length]
			h.length += 8
		default:
			return h.length <= len(pkt)
		}
	}
}

// fromGuest reports whether a source address is the guest's.
func (s *Stack) fromGuest(a netip.Addr) bool {
	if len(s.guest) == 0 {
		return true
	}
	for _, p := range s.guest {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// redeliver gives a SYN that had to wait to gVisor again, in a goroutine of its
// own, for it is called with an endpoint locked.
func (s *Stack) redeliver(pkt []byte) {
	if !s.admission.begin() {
		return
	}
	s.settling.busy.Add(1)
	go func() {
		defer s.admission.running.Done()
		defer s.settling.busy.Add(-1)
		if s.ingress(pkt, tun.Offload{DataValid: true}) == pass { // in TIME-WAIT it is judged anew
			s.link.inject(buffer.NewViewWithData(pkt))
		}
	}()
}
