package upstream

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"tcpbox/stack/relay"
)

// A message of a socket's error queue (recvmsg(2), MSG_ERRQUEUE) has what came
// back of the datagram as its data, and as control message, in the machine's
// byte order:
//
//	 0       4        5      6      7     8      12     16
//	+-------+--------+------+------+-----+------+------+------------------
//	| errno | origin | type | code | pad | info | data | offender sockaddr
//	+-------+--------+------+------+-----+------+------+------------------
//
// which is struct sock_extended_err of linux/errqueue.h and SO_EE_OFFENDER.
const (
	extendedErrLen = 16

	originICMP  = 2 // SO_EE_ORIGIN_ICMP
	originICMP6 = 3 // SO_EE_ORIGIN_ICMP6
)

// maxQuoted is how much of a datagram is kept of an error about it. An ICMP
// error of IPv4 quotes 548 bytes with the headers, one of IPv6 1,232.
const maxQuoted = 1232

// nextError takes the next ICMP error from the socket's error queue; nil if
// there is none. Errors of other origins, which the caller of send has been
// told, are thrown away.
func (c *packets) nextError(fd int, buf []byte) error {
	var oob [256]byte
	for {
		n, oobn, _, _, err := unix.Recvmsg(fd, buf, oob[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		switch err {
		case nil:
		case unix.EINTR:
			continue
		default:
			return nil // EAGAIN: the queue is empty
		}
		if e := parseExtendedErr(oob[:oobn]); e != nil {
			e.Quoted = slices.Clone(buf[:min(n, maxQuoted)])
			return e
		}
	}
}

// parseExtendedErr reads the control messages of an error; nil if they tell of
// none that came by ICMP. It does not trust their lengths.
func parseExtendedErr(oob []byte) *relay.ICMPError {
	for len(oob) >= unix.SizeofCmsghdr {
		hdr, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return nil
		}
		oob = rest
		v4 := hdr.Level == unix.IPPROTO_IP && hdr.Type == unix.IP_RECVERR
		v6 := hdr.Level == unix.IPPROTO_IPV6 && hdr.Type == unix.IPV6_RECVERR
		if !v4 && !v6 || len(data) < extendedErrLen {
			continue
		}
		if origin := data[4]; v4 && origin != originICMP || v6 && origin != originICMP6 {
			continue
		}
		return &relay.ICMPError{
			Type: data[5], Code: data[6],
			Info: binary.NativeEndian.Uint32(data[8:]),
			From: offender(data[extendedErrLen:]),
		}
	}
	return nil
}

// offender reads the sockaddr behind a struct sock_extended_err.
func offender(b []byte) netip.Addr {
	if len(b) < 2 {
		return netip.Addr{}
	}
	switch family := binary.NativeEndian.Uint16(b); {
	case family == unix.AF_INET && len(b) >= 8:
		return netip.AddrFrom4([4]byte(b[4:8]))
	case family == unix.AF_INET6 && len(b) >= 24:
		return netip.AddrFrom16([16]byte(b[8:24])).Unmap()
	}
	return netip.Addr{}
}
