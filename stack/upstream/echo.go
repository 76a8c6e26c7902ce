package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"tcpbox/stack/relay"
)

// ErrNoPing is returned by DialEcho, wrapped, when the host lets this process
// have no ping sockets. It says how to allow them.
var ErrNoPing error = errNoPing{}

type errNoPing struct{}

func (errNoPing) Error() string {
	return "the host allows no ping sockets; see net.ipv4.ping_group_range"
}

// Unwrap returns the errno: EACCES.
func (errNoPing) Unwrap() error { return unix.EACCES }

// Remedy says what would allow it. Code that must not import this package
// finds the error by this method.
func (errNoPing) Remedy() string {
	return "the host allows no ping sockets; to allow them, as root: sysctl -w net.ipv4.ping_group_range='0 2147483647'"
}

// DialEcho makes a ping socket (icmp(7)) for dst. Its datagrams are ICMP echo
// messages from the type on, requests to be sent and replies that have come;
// the identifier in them is the socket's own, whatever is sent, and the kernel
// writes the checksum. What an ICMPError quotes begins with such a message too.
//
// The errors are those of DialUDP, and ErrNoPing.
func (h *Host) DialEcho(ctx context.Context, src, dst netip.Addr) (relay.Packets, error) {
	proto := unix.IPPROTO_ICMP
	if dst.Unmap().Is6() {
		proto = unix.IPPROTO_ICMPV6
	}
	c, err := h.openPackets(ctx, "icmp", proto, netip.AddrPortFrom(dst, 0))
	if errors.Is(err, unix.EACCES) && !h.canPing(dst.Unmap(), proto) {
		err = ErrNoPing
	}
	if err != nil {
		return nil, fmt.Errorf("upstream: ping %v: %w", dst, err)
	}
	return c, nil
}

// canPing tells a refusal to make a ping socket from one to connect it.
func (h *Host) canPing(dst netip.Addr, proto int) bool {
	family, _ := sockaddr(netip.AddrPortFrom(dst, 0))
	fd, err := h.socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}
