package upstream

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// PacketPort is a UDP port of the host that is open only at times. It has its
// port from BindPackets to Close.
//
// While it is shut, what comes is answered with "port unreachable", as where
// nobody has the port: the socket is connected to itself, and so hears nobody
// else. One that is bound to every address cannot do that, for connected it
// would have one address only; it stays open.
type PacketPort struct {
	file     *os.File
	raw      syscall.RawConn
	addr     netip.AddrPort
	wildcard bool
	closed   atomic.Bool

	mu   sync.Mutex
	open bool
}

// BindPackets takes a UDP port of the host. It is shut. Port zero takes one that
// is free. The errors are those of Bind.
func (h *Host) BindPackets(addr netip.AddrPort) (*PacketPort, error) {
	fd, at, err := h.bindPort(unix.SOCK_DGRAM, unix.IPPROTO_UDP, addr)
	if err != nil {
		return nil, fmt.Errorf("upstream: bind udp %v: %w", addr, err)
	}
	p := &PacketPort{file: os.NewFile(uintptr(fd), "udp"), addr: at, wildcard: at.Addr().IsUnspecified(), open: true}
	p.raw, _ = p.file.SyscallConn() // fails only for a nil file
	if p.wildcard {
		err = p.control(askDestination(at.Addr()))
	} else {
		err = p.Shut()
	}
	if err != nil {
		p.file.Close()
		return nil, fmt.Errorf("upstream: bind udp %v: %w", addr, err)
	}
	return p, nil
}

// askDestination has the kernel tell to which of its addresses a datagram was
// sent: a reply has to come from there.
func askDestination(addr netip.Addr) func(fd int) error {
	level, option := unix.IPPROTO_IP, unix.IP_PKTINFO
	if addr.Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO
	}
	return func(fd int) error { return unix.SetsockoptInt(fd, level, option, 1) }
}

// Addr is the address and port that it has.
func (p *PacketPort) Addr() netip.AddrPort { return p.addr }

// Open begins to take datagrams, unless it does already.
func (p *PacketPort) Open() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open {
		return nil
	}
	err := p.control(func(fd int) error {
		sa := unix.RawSockaddr{Family: unix.AF_UNSPEC}
		if _, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa)); errno != 0 {
			return errno
		}
		return nil
	})
	p.open = err == nil
	return err
}

// Shut ends that, unless it has ended.
func (p *PacketPort) Shut() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.open || p.wildcard {
		return nil
	}
	_, own := sockaddr(p.addr)
	err := p.control(func(fd int) error { return unix.Connect(fd, own) })
	p.open = err != nil
	return err
}

// Receive waits for a datagram, and returns its length, its sender and, if the
// port is that of every address, to which of them it was sent. After Close it
// returns net.ErrClosed; after another error it can go on.
func (p *PacketPort) Receive(buf []byte) (n int, from netip.AddrPort, to netip.Addr, err error) {
	var oob [64]byte
	var oobn int
	var sa unix.Sockaddr
	rerr := p.raw.Read(func(fd uintptr) bool {
		for {
			n, oobn, _, sa, err = unix.Recvmsg(int(fd), buf, oob[:], unix.MSG_DONTWAIT)
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	})
	switch {
	case p.closed.Load():
		return 0, from, to, net.ErrClosed
	case err == nil:
		err = rerr
	}
	if err != nil {
		return 0, from, to, fmt.Errorf("upstream: receive on %v: %w", p.addr, err)
	}
	to = p.addr.Addr()
	if p.wildcard {
		to = destinationIn(oob[:oobn])
	}
	return n, clientOf(sa), to, nil
}

// Send sends a datagram to a client from the address that it spoke to. It does
// not wait.
func (p *PacketPort) Send(data []byte, to netip.AddrPort, from netip.Addr) error {
	var oob []byte
	switch {
	case !p.wildcard || !from.IsValid():
	case from.Is4():
		oob = unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: from.As4()})
	default:
		oob = unix.PktInfo6(&unix.Inet6Pktinfo{Addr: from.As16()})
	}
	sa := clientSockaddr(to)
	return p.control(func(fd int) error {
		for {
			_, err := unix.SendmsgN(fd, data, oob, sa, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
			if err != unix.EINTR {
				return err
			}
		}
	})
}

// Close gives the port up, and ends Receive. It is safe to call twice.
func (p *PacketPort) Close() error {
	if !p.closed.CompareAndSwap(false, true) {
		return nil
	}
	return p.file.Close()
}

func (p *PacketPort) control(f func(fd int) error) error {
	var err error
	if cerr := p.raw.Control(func(fd uintptr) { err = f(int(fd)) }); err == nil {
		err = cerr
	}
	if p.closed.Load() && errors.Is(err, os.ErrClosed) {
		return net.ErrClosed
	}
	return err
}

// destinationIn is the address that a datagram was sent to.
func destinationIn(oob []byte) netip.Addr {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return netip.Addr{}
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
			return netip.AddrFrom4([4]byte(m.Data[8:12])) // ipi_addr
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			return netip.AddrFrom16([16]byte(m.Data[:16]))
		}
	}
	return netip.Addr{}
}

// clientOf is addrPort with the number of the interface as the zone of a
// link-local address, which a reply needs.
func clientOf(sa unix.Sockaddr) netip.AddrPort {
	at := addrPort(sa)
	if six, ok := sa.(*unix.SockaddrInet6); ok && six.ZoneId != 0 {
		at = netip.AddrPortFrom(at.Addr().WithZone(strconv.FormatUint(uint64(six.ZoneId), 10)), at.Port())
	}
	return at
}

func clientSockaddr(to netip.AddrPort) unix.Sockaddr {
	_, sa := sockaddr(to)
	if six, ok := sa.(*unix.SockaddrInet6); ok && to.Addr().Zone() != "" {
		if n, err := strconv.ParseUint(to.Addr().Zone(), 10, 32); err == nil {
			six.ZoneId = uint32(n)
		}
	}
	return sa
}
