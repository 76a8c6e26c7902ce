package packet

import "net/netip"

// Kind is a reason why a packet cannot be delivered.
type Kind uint8

// The reasons, with the message each becomes and what a Linux program's
// connect then fails with.
const (
	NoRoute         Kind = iota // ICMP 3/0, ICMPv6 1/0: ENETUNREACH
	HostUnreachable             // ICMP 3/1, ICMPv6 1/3: EHOSTUNREACH
	PortUnreachable             // ICMP 3/3, ICMPv6 1/4: ECONNREFUSED
	Prohibited                  // ICMP 3/13, ICMPv6 1/1: EHOSTUNREACH, and EACCES for IPv6
)

// codes holds the code of each kind for ICMP type 3 (RFC 792, RFC 1812 section
// 5.2.7.1) and ICMPv6 type 1 (RFC 4443 section 3.1).
var codes = [...]struct{ v4, v6 uint8 }{
	NoRoute:         {0, 0},
	HostUnreachable: {1, 3},
	PortUnreachable: {3, 4},
	Prohibited:      {13, 1},
}

// How much of the packet an error may quote, as the size in bytes of the whole
// error: RFC 1812 section 4.3.2.3, and the least MTU of IPv6 (RFC 4443 section
// 2.4 (c)).
const (
	maxError4 = 576
	maxError6 = 1280
)

// answerTTL is the hop limit of what this package answers.
const answerTTL = 64

// Message is what an ICMP or ICMPv6 message says, beside what it quotes. Rest is
// the second half of its header.
type Message struct {
	Type, Code uint8
	Rest       uint32
}

// Message returns the error of that kind for IPv4, or for IPv6.
func (k Kind) Message(six bool) Message {
	switch {
	case int(k) >= len(codes):
		return Message{}
	case six:
		return Message{Type: 1, Code: codes[k].v6}
	}
	return Message{Type: 3, Code: codes[k].v4}
}

// TooBig returns the message that a packet is larger than the next link takes,
// whose MTU is so many bytes: RFC 1191 section 4, RFC 4443 section 3.2.
func TooBig(mtu int, six bool) Message {
	if six {
		return Message{Type: 2, Rest: uint32(mtu)}
	}
	return Message{Type: 3, Code: 4, Rest: uint32(min(mtu, 0xffff))}
}

// Unreachable makes the ICMP error which tells the sender of orig that it
// cannot be delivered, as ErrorAbout does. It is nil for an unknown kind.
func Unreachable(dst, orig []byte, kind Kind, from netip.Addr) []byte {
	if int(kind) >= len(codes) {
		return nil
	}
	return ErrorAbout(dst, orig, kind.Message(!from.Unmap().Is4()), from)
}

// ErrorAbout makes an ICMP error about orig, to its sender. from is the source
// of the error: the address of whoever says so. It quotes orig as far as it
// may.
//
// The result is nil if orig must not be answered by an error, or from is not
// of its family (RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e)): an ICMP
// error itself, a fragment but the first, to or from an address that is not
// one host's, malformed. Otherwise it lies in dst, if that is large enough
// (MaxUnreachable bytes), else in new memory.
func ErrorAbout(dst, orig []byte, m Message, from netip.Addr) []byte {
	p, err := ParseQuoted(orig)
	from = from.Unmap()
	if err != nil || p.ICMPError() || !p.answerable() || from.Is4() != (p.Version == 4) || !from.IsValid() {
		return nil
	}
	b := Build{
		Src: netip.AddrPortFrom(from, 0),
		Dst: netip.AddrPortFrom(p.Src.Addr(), 0),
		TTL: answerTTL, ICMPType: m.Type, ICMPCode: m.Code, ICMPRest: m.Rest,
	}
	quote := orig[:min(len(orig), p.Len)]
	if p.Version == 4 {
		b.Proto = ICMP
		quote = quote[:min(len(quote), maxError4-20-8)]
	} else {
		b.Proto = ICMPv6
		quote = quote[:min(len(quote), maxError6-40-8)]
	}
	b.Payload = quote
	return b.Append(dst[:0])
}

// MaxUnreachable is the largest packet in bytes that Unreachable and ErrorAbout
// make.
const MaxUnreachable = maxError6

// EchoReply makes the answer to the echo request orig (RFC 792, RFC 4443
// section 4.2), or nil if orig is none, is a fragment, or comes from or goes
// to an address that is not one host's. The result lies in dst, if that is
// large enough, else in new memory.
func EchoReply(dst, orig []byte) []byte {
	p, err := Parse(orig)
	if err != nil || p.TransportLen == 0 || p.Fragment() || !p.answerable() {
		return nil
	}
	b := Build{Src: p.Dst, Dst: p.Src, Proto: p.Proto, TTL: answerTTL, TOS: p.TOS, Payload: p.Payload(orig)}
	switch {
	case p.Proto == ICMP && p.ICMPType == 8 && p.ICMPCode == 0:
		b.ICMPType = 0
	case p.Proto == ICMPv6 && p.ICMPType == 128 && p.ICMPCode == 0:
		b.ICMPType = 129
	default:
		return nil
	}
	b.ICMPRest = be32(orig[p.IPLen+4:])
	return b.Append(dst[:0])
}

// Reset makes the RST which a host without a connection answers the segment
// orig with (RFC 9293 section 3.10.7.1), or nil if orig is no TCP segment, is
// itself an RST, is a fragment, or comes from or goes to an address that is
// not one host's. The result lies in dst, if that is large enough (MaxReset
// bytes), else in new memory.
func Reset(dst, orig []byte) []byte {
	p, err := Parse(orig)
	if err != nil || p.Proto != TCP || p.Fragment() || p.TCP.Flags&RST != 0 || !p.answerable() {
		return nil
	}
	b := Build{Src: p.Dst, Dst: p.Src, TTL: answerTTL}
	if p.TCP.Flags&ACK != 0 {
		b.Seq, b.Flags = p.TCP.Ack, RST
	} else {
		b.Ack, b.Flags = p.TCP.Seq+p.SegLen(), RST|ACK
	}
	return b.Append(dst[:0])
}

// MaxReset is the largest packet in bytes that Reset makes.
const MaxReset = 40 + 20

// answerable reports whether the packet may be answered by a packet of the
// other direction: it is not a fragment behind the first, it comes from an
// address that is one host's, and goes to no group of hosts.
func (p *Packet) answerable() bool {
	return p.FragOffset == 0 && oneHost(p.Src.Addr()) && noGroup(p.Dst.Addr())
}

// noGroup reports whether a packet to an address can be for one host: not to
// the unspecified address, loopback, a multicast group or broadcast.
func noGroup(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && a != broadcast
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// oneHost reports whether a source address is one host's: also not of network 0
// or class E, whose sender a Linux host would not hear.
func oneHost(a netip.Addr) bool {
	if !noGroup(a) {
		return false
	}
	if a.Is4() {
		b := a.As4()
		return b[0] != 0 && b[0] < 240
	}
	return true
}
