package sockdiag

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox/stack/tcpstate"
)

// The messages of linux/inet_diag.h.
//
//	inet_diag_req_v2 (56)            inet_diag_msg (72)
//	 0 family, protocol, ext, pad     0 family, state, timer, retrans
//	 4 states                         4 sockid
//	 8 sockid (48)                   52 expires ms, rqueue, wqueue, uid, inode
//
//	inet_diag_sockid: 0 sport, 2 dport (big endian), 4 src[16], 20 dst[16],
//	36 interface, 40 cookie[2]
const (
	byFamily = 20 // SOCK_DIAG_BY_FAMILY
	destroy  = 21 // SOCK_DESTROY

	// compatible is TCPDIAG_GETSOCK, the request of old: it alone can be about
	// both families at once. Its struct inet_diag_req has family, 3 bytes, sockid
	// (48), states, dbs.
	compatible    = 18
	compatibleLen = 60

	requestLen = 56
	messageLen = 72
	idLen      = 48

	attrV6Only = 11 // INET_DIAG_SKV6ONLY
)

var native = binary.NativeEndian

var errMalformed = errors.New("the kernel's answer is malformed")

func header(b []byte) (length int, typ, flags uint16) {
	return int(native.Uint32(b)), native.Uint16(b[4:]), native.Uint16(b[6:])
}

func request(typ, flags uint16) []byte {
	b := make([]byte, unix.NLMSG_HDRLEN+requestLen)
	native.PutUint32(b, uint32(len(b)))
	native.PutUint16(b[4:], typ)
	native.PutUint16(b[6:], flags|unix.NLM_F_REQUEST)
	return b
}

func dumpRequest(q Query) []byte {
	if q.Family == 0 {
		b := make([]byte, unix.NLMSG_HDRLEN+compatibleLen)
		native.PutUint32(b, uint32(len(b)))
		native.PutUint16(b[4:], compatible)
		native.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
		native.PutUint32(b[unix.NLMSG_HDRLEN+4+idLen:], uint32(q.States))
		return b
	}
	b := request(byFamily, unix.NLM_F_DUMP)
	r := b[unix.NLMSG_HDRLEN:]
	r[0], r[1] = byte(q.Family), byte(q.Proto)
	native.PutUint32(r[4:], uint32(q.States))
	return b
}

func destroyRequest(s Socket) []byte {
	b := request(destroy, unix.NLM_F_ACK)
	r := b[unix.NLMSG_HDRLEN:]
	r[0], r[1] = byte(s.Family), byte(s.Proto)
	native.PutUint32(r[4:], uint32(AllStates))
	putID(r[8:8+idLen], s)
	return b
}

func putID(b []byte, s Socket) {
	binary.BigEndian.PutUint16(b, s.Local.Port())
	binary.BigEndian.PutUint16(b[2:], s.Remote.Port())
	putAddr(b[4:20], s.Local.Addr(), s.Family)
	putAddr(b[20:36], s.Remote.Addr(), s.Family)
	native.PutUint32(b[36:], s.Interface)
	native.PutUint32(b[40:], uint32(s.Cookie))
	native.PutUint32(b[44:], uint32(s.Cookie>>32))
}

func putAddr(b []byte, a netip.Addr, f Family) {
	switch {
	case !a.IsValid():
	case f == Inet4:
		a4 := a.Unmap().As4()
		copy(b, a4[:])
	default:
		a16 := a.As16()
		copy(b, a16[:])
	}
}

func addrOf(b []byte, f Family) netip.Addr {
	if f == Inet4 {
		return netip.AddrFrom4([4]byte(b))
	}
	return netip.AddrFrom16([16]byte(b))
}

// parseSocket reads an inet_diag_msg and its attributes. An address of IPv4
// that a socket of IPv6 has stays one of IPv6 (::ffff:1.2.3.4).
func parseSocket(b []byte, proto Proto) (Socket, error) {
	if len(b) < messageLen {
		return Socket{}, errMalformed
	}
	s := Socket{
		Proto: proto, Family: Family(b[0]),
		Timer: Timer{
			Kind: TimerKind(b[2]), Retries: b[3],
			Left: time.Duration(native.Uint32(b[52:])) * time.Millisecond,
		},
		RecvQueue: native.Uint32(b[56:]), SendQueue: native.Uint32(b[60:]),
		UID: native.Uint32(b[64:]), Inode: native.Uint32(b[68:]),
	}
	if s.Family != Inet4 && s.Family != Inet6 {
		return Socket{}, errMalformed
	}
	if n := int(b[1]); n < len(stateByNumber) {
		s.State = stateByNumber[n]
	}
	id := b[4:52]
	s.Local = netip.AddrPortFrom(addrOf(id[4:20], s.Family), binary.BigEndian.Uint16(id))
	s.Remote = netip.AddrPortFrom(addrOf(id[20:36], s.Family), binary.BigEndian.Uint16(id[2:]))
	s.Interface = native.Uint32(id[36:])
	s.Cookie = uint64(native.Uint32(id[40:])) | uint64(native.Uint32(id[44:]))<<32
	for attrs := b[messageLen:]; len(attrs) >= unix.SizeofRtAttr; {
		n := int(native.Uint16(attrs))
		if n < unix.SizeofRtAttr || n > len(attrs) {
			return Socket{}, errMalformed
		}
		if native.Uint16(attrs[2:]) == attrV6Only && n > unix.SizeofRtAttr {
			s.V6Only = attrs[unix.SizeofRtAttr] != 0
		}
		attrs = attrs[min(len(attrs), (n+3)&^3):]
	}
	return s, nil
}

// Accepts reports whether s listens where a connection to addr leads, or has
// the port of a datagram to addr: it is bound to that address or to all, of its
// own family or of both. One of UDP may be connected and hear its peer alone.
func (s *Socket) Accepts(addr netip.AddrPort) bool {
	if s.Local.Port() != addr.Port() || s.Proto == TCP && s.State != tcpstate.Listen {
		return false
	}
	own := s.Local.Addr()
	switch {
	case own.Unmap() == addr.Addr():
		return true
	case !own.IsUnspecified():
		return false
	case addr.Addr().Is4():
		return s.Family == Inet4 || !s.V6Only
	}
	return s.Family == Inet6
}
