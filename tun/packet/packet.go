// Package packet reads, checks, rewrites, splits and builds IP packets with
// their TCP, UDP or ICMP headers, on plain byte slices and without allocating
// where packets pass by the million.
//
// It holds no state and knows no connections. Begin with Parse to read a
// packet and with Build to make one.
package packet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Proto is an IP protocol number (IANA "Protocol Numbers").
type Proto uint8

// The protocols that Parse looks into.
const (
	ICMP   Proto = 1
	TCP    Proto = 6
	UDP    Proto = 17
	ICMPv6 Proto = 58
)

// The extension headers of IPv6 that Parse walks over, and two that end the
// walk: encrypted payload, and nothing.
const (
	protoHopByHop Proto = 0
	protoRouting  Proto = 43
	protoFragment Proto = 44
	protoESP      Proto = 50
	protoAH       Proto = 51
	protoNone     Proto = 59
	protoDest     Proto = 60
	protoMobility Proto = 135
	protoHIP      Proto = 139
	protoShim6    Proto = 140
)

// String returns "TCP", "UDP", "ICMP", "ICMPv6", or "protocol N".
func (p Proto) String() string {
	switch p {
	case ICMP:
		return "ICMP"
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case ICMPv6:
		return "ICMPv6"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// Flags are the control bits of a TCP header, RFC 9293 section 3.1.
type Flags uint8

// The control bits.
const (
	FIN Flags = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

// Has reports whether all of the flags in g are set in f.
func (f Flags) Has(g Flags) bool { return f&g == g }

// String returns the set flags joined by "|", such as "SYN|ACK", or "none".
func (f Flags) String() string {
	if f == 0 {
		return "none"
	}
	var b strings.Builder
	for i, name := range [...]string{"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"} {
		if f&(1<<i) == 0 {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('|')
		}
		b.WriteString(name)
	}
	return b.String()
}

// Packet is what Parse found. It holds no reference to the bytes.
type Packet struct {
	Version uint8 // 4 or 6
	Proto   Proto // of the transport, behind any extension headers
	TTL     uint8 // or hop limit
	TOS     uint8 // or traffic class

	// Src and Dst have port 0 where the protocol has no ports, and in a
	// fragment that is not the first.
	Src, Dst netip.AddrPort

	// ID, FragOffset (in bytes) and MoreFrags are the fragmentation fields,
	// for IPv6 from the fragment header. DontFrag is IPv4's alone.
	ID         uint32
	FragOffset int
	MoreFrags  bool
	DontFrag   bool

	// IPLen is the length in bytes of the IP header with options and extension
	// headers, which is where the transport header begins; TransportLen is the
	// transport header's, 0 if there is none or Parse does not know it. Len is
	// the packet's length by its IP header.
	IPLen        int
	TransportLen int
	Len          int

	ICMPType, ICMPCode uint8

	TCP TCPHeader

	surplus int // bytes between the end of a UDP datagram and Len
}

// TCPHeader is the TCP part of a Packet, zero for other protocols.
type TCPHeader struct {
	Seq, Ack uint32
	Flags    Flags
	Window   uint16 // as in the header, not scaled
	Urgent   uint16

	// The options of RFC 9293, 7323 and 2018. HasX tells whether the option
	// was there.
	HasMSS        bool
	HasWScale     bool
	HasTimestamps bool
	SACKPermitted bool
	BadOptions    bool // malformed; those before the fault were read
	MSS           uint16
	WScale        uint8
	TSVal, TSEcr  uint32
	SACKCount     uint8
	SACK          [4]SACKBlock // the first SACKCount are set
}

// SACKBlock is one block of a SACK option, RFC 2018 section 3.
type SACKBlock struct{ Left, Right uint32 }

// What is wrong with a packet that Parse refuses.
var (
	ErrTruncated = errors.New("packet: cut short")
	ErrVersion   = errors.New("packet: neither IPv4 nor IPv6")
	ErrHeader    = errors.New("packet: malformed header")
)

// Fragment reports whether the packet is part of a larger one.
func (p *Packet) Fragment() bool { return p.MoreFrags || p.FragOffset != 0 }

// HeaderLen is the length in bytes of all headers together.
func (p *Packet) HeaderLen() int { return p.IPLen + p.TransportLen }

// PayloadLen is the length in bytes of what follows the headers; of a UDP
// datagram, by its own length field.
func (p *Packet) PayloadLen() int { return p.Len - p.HeaderLen() - p.surplus }

// Payload returns what follows the headers of b, from which p was parsed.
func (p *Packet) Payload(b []byte) []byte { return b[p.HeaderLen() : p.Len-p.surplus] }

// SegLen is the number of sequence numbers that a TCP segment occupies: its
// payload, SYN and FIN (SEG.LEN of RFC 9293 section 3.4).
func (p *Packet) SegLen() uint32 {
	n := uint32(p.PayloadLen())
	if p.TCP.Flags&SYN != 0 {
		n++
	}
	if p.TCP.Flags&FIN != 0 {
		n++
	}
	return n
}

// ICMPError reports whether the packet is an ICMP message that tells of an
// error, or a redirect: such a message is never answered by another.
func (p *Packet) ICMPError() bool {
	if p.TransportLen == 0 {
		return false
	}
	switch p.Proto {
	case ICMP:
		switch p.ICMPType {
		case 3, 4, 5, 11, 12: // unreachable, quench, redirect, time exceeded, parameter problem
			return true
		}
	case ICMPv6:
		return p.ICMPType < 128 || p.ICMPType == 137 // RFC 4443 section 2.4 (e)
	}
	return false
}

// String is one line for a test's failure or a debug log.
func (p *Packet) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v > %v %v", p.Src, p.Dst, p.Proto)
	switch {
	case p.FragOffset != 0:
		fmt.Fprintf(&b, " fragment at %d", p.FragOffset)
	case p.Proto == TCP:
		fmt.Fprintf(&b, " %v seq=%d ack=%d win=%d", p.TCP.Flags, p.TCP.Seq, p.TCP.Ack, p.TCP.Window)
	case p.Proto == ICMP || p.Proto == ICMPv6:
		fmt.Fprintf(&b, " type=%d code=%d", p.ICMPType, p.ICMPCode)
	}
	fmt.Fprintf(&b, " len=%d", p.PayloadLen())
	return b.String()
}

// be16 and be32 read the network's byte order.
func be16(b []byte) uint16 { return binary.BigEndian.Uint16(b) }
func be32(b []byte) uint32 { return binary.BigEndian.Uint32(b) }

func put16(b []byte, v uint16) { binary.BigEndian.PutUint16(b, v) }
func put32(b []byte, v uint32) { binary.BigEndian.PutUint32(b, v) }
