package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"tcpbox/stack/relay"
)

// packets is a connected datagram socket: UDP, or a ping socket. It implements
// relay.Packets. What it sends it sends whole: a datagram that is larger than
// the path takes leaves in fragments, as the kernel does it by default.
//
// Errors of the path are taken from the socket's error queue (ip(7),
// IP_RECVERR), where each is what the ICMP message said. The kernel tells of
// each a second time, by an errno that fails the next call, which is then made
// again: that is how a plain socket loses a datagram to an error about another.
type packets struct {
	host          *Host
	file          *os.File
	raw           syscall.RawConn
	local, remote netip.AddrPort
	closed        atomic.Bool
	echo          bool

	out packetSender
	in  packetReceiver
}

var _ relay.Packets = (*packets)(nil)

// packetSender is the sending half; see reader for its shape.
type packetSender struct {
	send func(fd uintptr)

	mu      sync.Mutex
	p       []byte
	hops    uint8
	current uint8 // the TTL set on the socket; zero: the host's default
	err     error
}

type packetReceiver struct {
	recv func(fd uintptr) bool

	mu   sync.Mutex
	take func([]byte)
	err  error
}

// openPackets makes a connected datagram socket.
func (h *Host) openPackets(ctx context.Context, network string, proto int, dst netip.AddrPort) (*packets, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	family, addr := sockaddr(dst)
	fd, err := h.socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return nil, socketError(err)
	}
	if err = preparePackets(fd, family); err == nil {
		err = unix.Connect(fd, addr)
	}
	local, remote := netip.AddrPort{}, dst
	if err == nil && network == "udp" { // a ping socket has no name before it sends
		local, remote, err = names(fd)
	}
	if err == nil {
		err = h.confirmPackets(network, local, remote, dst)
	}
	if err != nil {
		unix.Close(fd)
		return nil, packetError(err)
	}
	c := &packets{host: h, file: os.NewFile(uintptr(fd), network), local: local, remote: remote, echo: network == "icmp"}
	c.raw, _ = c.file.SyscallConn() // fails only for a nil file
	c.out.send = c.sendOn
	c.in.recv = c.receiveOn
	h.flows.Add(1)
	return c, nil
}

// preparePackets asks for the errors of the path.
func preparePackets(fd, family int) error {
	if family == unix.AF_INET {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
}

func names(fd int) (local, remote netip.AddrPort, err error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return local, remote, err
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return local, remote, err
	}
	return addrPort(sa), addrPort(peer), nil
}

// confirmPackets is confirm for a datagram socket.
func (h *Host) confirmPackets(network string, local, remote, dst netip.AddrPort) error {
	switch {
	case remote != dst:
		return &errElsewhere{"it led to " + remote.String()}
	case local == remote:
		return &errElsewhere{"it led to itself"}
	case h.Confirm != nil:
		return h.Confirm(network, local, dst)
	}
	return nil
}

// packetError judges an error of connect(2) on a datagram socket, which sends
// nothing. EADDRNOTAVAIL is then about the source address; EAGAIN means that
// no port is left.
func packetError(err error) error {
	switch err {
	case unix.EADDRNOTAVAIL:
		return errNoSource{}
	case unix.EAGAIN:
		return &ShortageError{Ports, unix.EAGAIN}
	}
	return shortage(err)
}

// Send implements relay.Packets.
func (c *packets) Send(p []byte, hops uint8) error {
	s := &c.out
	s.mu.Lock()
	defer s.mu.Unlock()
	s.p, s.hops = p, hops
	err := c.raw.Control(s.send)
	s.p = nil
	if err == nil {
		err = s.err
	}
	return c.failed("send", err)
}

// sendTries is how often a datagram is sent before an error is taken for its
// own: each earlier one may have been about another datagram.
const sendTries = 4

func (c *packets) sendOn(fd uintptr) {
	s := &c.out
	if s.hops != s.current {
		if s.err = c.setHops(int(fd), s.hops); s.err != nil {
			return
		}
		s.current = s.hops
	}
	for range sendTries {
		errno := sendDatagram(fd, s.p)
		if errno == 0 {
			s.err = nil
			return
		}
		if s.err = errno; !ofThePath(errno) {
			return
		}
	}
}

// ofThePath reports whether the kernel says errno because of an ICMP message,
// which may have been about an earlier datagram.
func ofThePath(errno unix.Errno) bool {
	switch errno {
	case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EMSGSIZE, unix.EPROTO, unix.ENOPROTOOPT,
		unix.EOPNOTSUPP, unix.EACCES, unix.EHOSTDOWN, unix.ENONET:
		return true
	}
	return false
}

// setHops sets the TTL or hop limit; -1 is the host's default.
func (c *packets) setHops(fd int, hops uint8) error {
	n := int(hops)
	if n == 0 {
		n = -1
	}
	if c.remote.Addr().Is4() {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, n)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, n)
}

// Receive implements relay.Packets.
func (c *packets) Receive(take func(p []byte)) error {
	r := &c.in
	r.mu.Lock()
	defer r.mu.Unlock()
	r.take, r.err = take, nil
	err := c.raw.Read(r.recv)
	if err != nil && !c.closed.Load() {
		// The runtime's poller gives up on a descriptor of which it hears an
		// error and nothing else: here, a socket that has an error of the path
		// and no room to send.
		err = c.raw.Control(c.waitAndReceive)
	}
	r.take = nil
	if r.err != nil {
		err = r.err
	}
	return c.failed("receive", err)
}

// waitAndReceive is receiveOn where the poller does not help.
func (c *packets) waitAndReceive(fd uintptr) {
	const patience = 100 // milliseconds
	fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	_, _ = unix.Poll(fds[:], patience) // whatever it says, the socket is asked
	c.receiveOn(fd)
}

// receiveOn is called by the poller until it returns true.
func (c *packets) receiveOn(fd uintptr) bool {
	r := &c.in
	b := batches.Get().(*batch)
	defer batches.Put(b)
	for {
		n, errno := b.receive(fd)
		switch errno {
		case 0:
			for i := range n {
				r.take(b.datagram(i))
			}
			return true
		case unix.EINTR:
		case unix.EAGAIN:
			r.err = c.nextError(int(fd), b.buffer())
			return r.err != nil
		default:
			// An error of the path, which the queue knows more about. If it
			// does not, the errno is all there is.
			if r.err = c.nextError(int(fd), b.buffer()); r.err == nil {
				r.err = errno
			}
			return true
		}
	}
}

// MTU implements relay.Packets.
func (c *packets) MTU() int {
	mtu := 0
	level, option := unix.IPPROTO_IP, unix.IP_MTU
	if !c.remote.Addr().Is4() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	_ = c.raw.Control(func(fd uintptr) {
		if n, err := unix.GetsockoptInt(int(fd), level, option); err == nil {
			mtu = n
		}
	})
	return mtu
}

// Close implements relay.Packets.
func (c *packets) Close() error {
	if !c.closed.CompareAndSwap(false, true) {
		return nil
	}
	err := c.file.Close()
	c.host.flows.Add(-1)
	return c.failed("close", err)
}

// failed says in which operation err was met. It leaves what the path said
// alone.
func (c *packets) failed(op string, err error) error {
	if err == nil {
		return nil // before anything of the below is made
	}
	var icmp *relay.ICMPError
	switch {
	case errors.As(err, &icmp):
		return err
	case c.closed.Load():
		return net.ErrClosed
	}
	return fmt.Errorf("upstream: %s %v: %w", op, c.remote, err)
}

// sendDatagram is send(2) without waiting; p may be empty.
func sendDatagram(fd uintptr, p []byte) unix.Errno {
	for {
		_, _, errno := unix.Syscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)),
			unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
		if errno != unix.EINTR {
			return errno
		}
	}
}
