package upstream

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Listener is a TCP port of the host that listens only at times. It has its
// port from Bind to Close.
//
//	Bind ──▶ held ──Open──▶ listening ──Shut──▶ held … Close
//
// While it is held nobody else can take the port, and who connects is refused.
// Shut resets what nobody has accepted; what has been accepted lives on.
//
// The kernel lets a socket listen again while connections of its port live only
// if both say SO_REUSEADDR, and keeps others from the port only if one of them
// does not. So the option is on while the port listens, when nobody can take it
// anyway, and off while it is held.
type Listener struct {
	host   *Host
	file   *os.File
	raw    syscall.RawConn
	addr   netip.AddrPort
	closed atomic.Bool

	mu   sync.Mutex
	open bool
}

// backlog is how many connections wait for Accept; the kernel makes it no more
// than net.core.somaxconn.
const backlog = 4096

// Bind takes a TCP port of the host. Port zero takes one that is free. The error
// is an errno: EADDRINUSE, EADDRNOTAVAIL if the host has no such address, EACCES
// for a port that only root may have.
func (h *Host) Bind(addr netip.AddrPort) (*Listener, error) {
	fd, at, err := h.bindPort(unix.SOCK_STREAM, unix.IPPROTO_TCP, addr)
	if err != nil {
		return nil, fmt.Errorf("upstream: bind %v: %w", addr, err)
	}
	l := &Listener{host: h, file: os.NewFile(uintptr(fd), "listener"), addr: at}
	l.raw, _ = l.file.SyscallConn() // fails only for a nil file
	h.knobs.enrolListener(l)
	return l, nil
}

// bindPort makes a socket that has a port, and holds it against everybody. A
// port that the kernel chose itself it would choose anew each time the socket
// begins to listen, so a second socket asks for it by its number.
func (h *Host) bindPort(typ, proto int, addr netip.AddrPort) (fd int, at netip.AddrPort, err error) {
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	chosen := -1
	if addr.Port() == 0 {
		if chosen, addr, err = h.bindOne(typ, proto, addr, false); err != nil {
			return -1, addr, err
		}
		defer unix.Close(chosen)
		if err := reuseAddr(chosen, true); err != nil {
			return -1, addr, err
		}
	}
	// Connections of an earlier listener may live on a port of TCP. A port of
	// UDP is shared by all that say so, which is not meant here.
	fd, at, err = h.bindOne(typ, proto, addr, typ == unix.SOCK_STREAM || chosen >= 0)
	if err != nil {
		return -1, at, err
	}
	if err := reuseAddr(fd, false); err != nil {
		unix.Close(fd)
		return -1, at, err
	}
	return fd, at, nil
}

func (h *Host) bindOne(typ, proto int, addr netip.AddrPort, reuse bool) (int, netip.AddrPort, error) {
	family, sa := sockaddr(addr)
	fd, err := h.socket(family, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return -1, addr, socketError(err)
	}
	if err = reuseAddr(fd, reuse); err == nil && family == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	var name unix.Sockaddr
	if err == nil {
		name, err = unix.Getsockname(fd)
	}
	if err != nil {
		unix.Close(fd)
		return -1, addr, shortage(err)
	}
	return fd, addrPort(name), nil
}

func reuseAddr(fd int, on bool) error {
	n := 0
	if on {
		n = 1
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, n)
}

// Addr is the address and port that it has.
func (l *Listener) Addr() netip.AddrPort { return l.addr }

// Open begins to listen, unless it does already.
func (l *Listener) Open() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open {
		return nil
	}
	err := l.control("listen on", func(fd int) error {
		// What is accepted has the options of the listener.
		if err := l.host.knobs.prepareListener(fd); err != nil {
			return err
		}
		if err := reuseAddr(fd, true); err != nil {
			return err
		}
		err := unix.Listen(fd, backlog)
		if err != nil {
			_ = reuseAddr(fd, false)
		}
		return err
	})
	l.open = err == nil
	return err
}

// Shut ends the listening, unless that has ended, and resets the connections
// that nobody has accepted.
func (l *Listener) Shut() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.open {
		return nil
	}
	err := l.control("stop listening on", func(fd int) error {
		if err := reuseAddr(fd, false); err != nil {
			return err
		}
		return unix.Shutdown(fd, unix.SHUT_RD)
	})
	l.open = err != nil
	return err
}

// Accept waits for a connection. It goes on waiting while the port does not
// listen, and for as long as the host has no descriptor left. After Close it
// returns net.ErrClosed.
func (l *Listener) Accept() (*Conn, error) {
	for {
		c, err := l.accept()
		var short *ShortageError
		switch {
		case err == nil:
			return c, nil
		case l.closed.Load():
			return nil, net.ErrClosed
		case errors.As(err, &short):
			// The connection stays in the queue, and another may end.
			time.Sleep(acceptPause)
		case errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.ENOTCONN):
			// It had ended already.
		default:
			return nil, fmt.Errorf("upstream: accept on %v: %w", l.addr, err)
		}
	}
}

// acceptPause is how long a host that is short of something gets.
const acceptPause = 20 * time.Millisecond

func (l *Listener) accept() (*Conn, error) {
	if l.host.tooMany() {
		return nil, ErrTooManyConns
	}
	var fd int
	var from unix.Sockaddr
	var err error
	rerr := l.raw.Read(func(s uintptr) bool {
		for {
			fd, from, err = unix.Accept4(int(s), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			if err != unix.EINTR {
				break
			}
		}
		// EINVAL: it does not listen. When it does, the first connection wakes
		// the poller.
		return err != unix.EAGAIN && err != unix.EINVAL
	})
	if rerr != nil {
		return nil, rerr
	}
	if err != nil {
		return nil, shortage(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	c := newConn(l.host, os.NewFile(uintptr(fd), "tcp"))
	c.local, c.remote = addrPort(name), addrPort(from)
	l.host.open.Add(1)
	l.host.knobs.enrol(c, nil) // it may have waited since before a change
	return c, nil
}

// tooMany reports whether no connection may be added.
func (h *Host) tooMany() bool {
	most := int64(h.MaxConns)
	if most == 0 {
		most = DefaultMaxConns
	}
	return h.open.Load() >= most
}

// Close gives the port up. What has been accepted lives on. It is safe to call
// twice.
func (l *Listener) Close() error {
	if !l.closed.CompareAndSwap(false, true) {
		return nil
	}
	l.host.knobs.dismissListener(l)
	return l.file.Close()
}

func (l *Listener) control(op string, f func(fd int) error) error {
	var err error
	if cerr := l.raw.Control(func(fd uintptr) { err = f(int(fd)) }); err == nil {
		err = cerr
	}
	if l.closed.Load() && err != nil {
		return net.ErrClosed
	}
	if err != nil {
		return fmt.Errorf("upstream: %s %v: %w", op, l.addr, err)
	}
	return nil
}
