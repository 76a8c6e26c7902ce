package upstream

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"tcpbox/stack/tcpstate"
)

// dialTCP makes a socket and connects it. The raw way saves the system calls
// that net.Dial makes for addresses it is not asked for.
func (h *Host) dialTCP(ctx context.Context, id tcpstate.Conn, dst netip.AddrPort) (*Conn, error) {
	if err := h.admit(); err != nil {
		return nil, err
	}
	c, err := h.connect(ctx, id, netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port()))
	h.dialing.Add(-1)
	if err != nil {
		h.open.Add(-1)
		return nil, err
	}
	return c, nil
}

func (h *Host) connect(ctx context.Context, id tcpstate.Conn, dst netip.AddrPort) (*Conn, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	family, addr := sockaddr(dst)
	fd, err := h.socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return nil, socketError(err)
	}
	prepared, err := h.knobs.prepare(fd)
	if err != nil {
		unix.Close(fd)
		return nil, shortage(err)
	}
	err = unix.Connect(fd, addr)
	if err != nil && err != unix.EINPROGRESS && err != unix.EINTR && !connectedThenReset(err) {
		unix.Close(fd)
		return nil, h.connectError(err, family, addr)
	}
	// From here on the descriptor is the poller's, and closing is the file's.
	c := newConn(h, os.NewFile(uintptr(fd), "tcp"))
	c.remote = dst
	h.knobs.enrol(c, prepared)
	c.dialled(id, fd)
	if connectedThenReset(err) {
		c.out.note(err)
		c.stands()
		c.failedWith(err)
		c.in.last = c.failed("read", err) // nothing more is known of it
		return c, nil
	}
	if err := c.awaitConnect(ctx); err != nil {
		h.knobs.dismiss(c)
		c.notConnected(ctx, err)
		c.file.Close()
		return nil, h.connectError(err, family, addr)
	}
	c.stands()
	if err := h.confirm(c, dst); err != nil {
		h.knobs.dismiss(c)
		_ = c.abort()
		c.went(tcpstate.Closed, tcpstate.Cause{Kind: tcpstate.ByCall, Which: "abort"})
		return nil, err
	}
	return c, nil
}

// awaitConnect waits for the handshake and learns both addresses.
func (c *Conn) awaitConnect(ctx context.Context) error {
	var err error
	connected := func(fd uintptr) bool {
		var errno int
		if errno, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err != nil {
			return true
		}
		switch err = syscall.Errno(errno); {
		case connectedThenReset(err):
			c.out.note(err) // who reads is told, behind what came before
		case errno != 0:
			return true
		default:
			// The poller may wake without a reason; only the peer's name proves
			// a connection.
			var peer unix.Sockaddr
			if peer, err = unix.Getpeername(int(fd)); err == unix.ENOTCONN {
				err = nil
				return false
			}
			c.remote = addrPort(peer)
		}
		var local unix.Sockaddr
		if local, err = unix.Getsockname(int(fd)); err == nil {
			c.local = addrPort(local)
		}
		return true
	}
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		c.file.Close() // wakes the wait below
		close(closed)
	})
	if werr := c.raw.Write(connected); err == nil {
		err = werr
	}
	if !stop() {
		<-closed
		return context.Cause(ctx)
	}
	return err
}

// connectedThenReset reports whether err, met while connecting, says that the
// connection stood already, and that the peer has reset it since: a SYN that is
// answered by RST is ECONNREFUSED. The guest is to see both.
func connectedThenReset(err error) bool { return err == unix.ECONNRESET || err == unix.EPIPE }

// confirm asks whether the connection that stands is the one that was meant.
func (h *Host) confirm(c *Conn, dst netip.AddrPort) error {
	switch {
	case c.remote != dst:
		return &errElsewhere{"it led to " + c.remote.String()}
	case c.local == c.remote:
		return &errElsewhere{"it led to itself"}
	case h.Confirm != nil:
		return h.Confirm("tcp", c.local, c.remote)
	}
	return nil
}

func (h *Host) socket(domain, typ, proto int) (int, error) {
	if h.Socket != nil {
		return h.Socket(domain, typ, proto)
	}
	return unix.Socket(domain, typ, proto)
}

// socketError judges an error of socket(2). A kernel without the family cannot
// reach anything of it.
func socketError(err error) error {
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return unix.ENETUNREACH
	}
	return shortage(err)
}

// connectError judges an error of connect(2). The kernel says EADDRNOTAVAIL
// both when no port is left and when it has no source address; a datagram
// socket, whose connect sends nothing, meets only the second.
func (h *Host) connectError(err error, family int, addr unix.Sockaddr) error {
	if err != unix.EADDRNOTAVAIL {
		return shortage(err)
	}
	fd, serr := h.socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if serr == nil {
		defer unix.Close(fd)
		if unix.Connect(fd, addr) == unix.EADDRNOTAVAIL {
			return errNoSource{}
		}
	}
	return &ShortageError{Ports, unix.EADDRNOTAVAIL}
}

func sockaddr(ap netip.AddrPort) (family int, sa unix.Sockaddr) {
	addr := ap.Addr()
	if addr.Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Addr: addr.As4(), Port: int(ap.Port())}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Addr: addr.As16(), Port: int(ap.Port())}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}
