package netstack

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"tcpbox/tun"
	"tcpbox/tun/packet"
)

// An Echo is an echo request of the guest's to an address that is not the
// stack's own.
type Echo struct {
	Src, Dst netip.Addr
	ID, Seq  uint16
	TTL      uint8 // or hop limit
	Probe    bool  // as in Datagram

	// Message is the whole ICMP message, from its type on. It is valid only
	// during the call.
	Message []byte
}

const icmpHeaderLen = 8

// echoTypes are the types of requests and replies.
func echoTypes(six bool) (request, reply uint8) {
	if six {
		return 128, 129 // RFC 4443, section 4
	}
	return 8, 0 // RFC 792
}

// echoOf reads an ICMP message that is an echo request. pkt is the packet that
// it came in, or its last fragment.
func echoOf(msg []byte, h headers, pkt []byte) (Echo, bool) {
	request, _ := echoTypes(h.dst.Is6())
	return echoOfType(request, msg, h, pkt)
}

func echoOfType(typ uint8, msg []byte, h headers, pkt []byte) (Echo, bool) {
	if len(msg) < icmpHeaderLen || msg[0] != typ || msg[1] != 0 {
		return Echo{}, false
	}
	e := Echo{
		Src: h.src, Dst: h.dst, Message: msg,
		ID: binary.BigEndian.Uint16(msg[4:]), Seq: binary.BigEndian.Uint16(msg[6:]),
	}
	if h.dst.Is6() {
		e.TTL = header.IPv6(pkt).HopLimit()
		return e, true
	}
	ip := header.IPv4(pkt)
	e.TTL = ip.TTL()
	e.Probe = ip.Flags()&header.IPv4FlagDontFragment != 0 && ip.ID() == 0
	return e, true
}

// takeEcho gives an echo request to whoever carries it on, and reports false if
// nobody does.
func (s *Stack) takeEcho(pkt []byte, h headers) bool {
	if s.onEcho == nil {
		return false
	}
	p, err := packet.Parse(pkt)
	if err != nil {
		return false
	}
	e, ok := echoOf(pkt[p.IPLen:p.Len], h, pkt)
	return ok && s.onEcho(e)
}

// takeEchoReply is takeEcho for an echo reply.
func (s *Stack) takeEchoReply(pkt []byte, h headers) bool {
	if s.onEchoReply == nil {
		return false
	}
	p, err := packet.Parse(pkt)
	if err != nil {
		return false
	}
	_, reply := echoTypes(h.dst.Is6())
	e, ok := echoOfType(reply, pkt[p.IPLen:p.Len], h, pkt)
	return ok && s.onEchoReply(e)
}

// ingressICMPFragment puts echo requests together that came in fragments, as
// gVisor must not: it would answer them itself, for whatever address. What is
// no echo request, and what nobody takes, is dropped.
func (s *Stack) ingressICMPFragment(pkt []byte, h headers) ingressVerdict {
	if s.owns(h.dst) {
		return pass
	}
	msg := s.fragments.add(pkt, s.clock.Now())
	if msg == nil || s.onEcho == nil {
		return drop
	}
	sum := uint16(0)
	if h.dst.Is6() {
		sum = packet.PseudoSum(h.src, h.dst, packet.ICMPv6, len(msg))
	}
	if packet.Sum(msg, sum) != 0xffff {
		s.counters.badChecksum.Add(1)
		return drop
	}
	if s.onEchoReply != nil {
		_, reply := echoTypes(h.dst.Is6())
		if e, ok := echoOfType(reply, msg, h, pkt); ok {
			s.onEchoReply(e)
			return drop
		}
	}
	if e, ok := echoOf(msg, h, pkt); ok && !s.onEcho(e) {
		s.refuseOther(Other{Src: netip.AddrPortFrom(h.src, 0), Dst: netip.AddrPortFrom(h.dst, 0)}, pkt)
	}
	return drop
}

// WriteEchoReply sends the guest an echo reply from src.
func (s *Stack) WriteEchoReply(src, dst netip.Addr, id, seq uint16, payload []byte) error {
	_, reply := echoTypes(src.Is6())
	return s.writeEcho(reply, src, dst, id, seq, payload)
}

func (s *Stack) writeEcho(typ uint8, src, dst netip.Addr, id, seq uint16, payload []byte) error {
	if n := len(payload); n > MaxPayload6 || src.Is4() && n > MaxPayload4 {
		return errTooLarge
	}
	b := packet.Build{
		Src: netip.AddrPortFrom(src, 0), Dst: netip.AddrPortFrom(dst, 0), Proto: packet.ICMP,
		ICMPType: typ, ICMPRest: uint32(id)<<16 | uint32(seq), Payload: payload,
	}
	ipLen := header.IPv4MinimumSize
	if src.Is6() {
		b.Proto, ipLen = packet.ICMPv6, header.IPv6MinimumSize
	}
	pkt := b.Bytes()
	if len(pkt) > tun.MaxPacket {
		return s.writeFragments(pkt, ipLen)
	}
	return s.write(pkt)
}

// write sends the guest a packet that is complete.
func (s *Stack) write(pkt []byte) error {
	err := s.link.dev.Write([][]byte{pkt}, tun.Offload{})
	if err != nil {
		s.counters.writeErrors.Add(1)
	}
	return err
}

// WriteError sends the guest an ICMP error about a packet of its own, which is
// described by about. from is whoever says so; without an address it is the
// stack. Errors have a rate, and beyond it they are counted and not sent.
func (s *Stack) WriteError(m packet.Message, from netip.Addr, about packet.Build) {
	if !from.IsValid() {
		from = s.ownAddr(about.Dst.Addr())
	}
	s.writeError(about.Bytes(), m, from)
}

// flushes are the echo requests by which Flush learns that the guest's queue is
// empty.
type flushes struct {
	mu      sync.Mutex
	waiting map[uint64]chan struct{}
}

// Flush returns when all packets that the guest had sent before it have been
// read, or ctx ends. It asks the guest's kernel for an echo, whose reply is
// queued behind them.
func (s *Stack) Flush(ctx context.Context) {
	var guest netip.Addr
	for _, p := range s.guest {
		if p.IsSingleIP() {
			guest = p.Addr()
			break
		}
	}
	if !guest.IsValid() {
		return
	}
	nonce, replied := rand.Uint64(), make(chan struct{})
	f := &s.flushes
	f.mu.Lock()
	if f.waiting == nil {
		f.waiting = make(map[uint64]chan struct{})
	}
	f.waiting[nonce] = replied
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.waiting, nonce)
		f.mu.Unlock()
	}()
	request, _ := echoTypes(guest.Is6())
	payload := binary.BigEndian.AppendUint64(nil, nonce)
	if s.writeEcho(request, s.ownAddr(guest), guest, uint16(nonce>>16), uint16(nonce), payload) != nil {
		return
	}
	select {
	case <-replied:
	case <-ctx.Done():
	case <-s.ctx.Done():
	}
}

// noteEchoReply tells who waits in Flush.
func (s *Stack) noteEchoReply(msg []byte) {
	if len(msg) != icmpHeaderLen+8 {
		return
	}
	nonce := binary.BigEndian.Uint64(msg[icmpHeaderLen:])
	f := &s.flushes
	f.mu.Lock()
	if ch := f.waiting[nonce]; ch != nil {
		delete(f.waiting, nonce)
		close(ch)
	}
	f.mu.Unlock()
}
