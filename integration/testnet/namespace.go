package testnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is one network namespace. Its methods may be called concurrently.
type Namespace struct {
	net  *Net
	name string
	file *os.File        // keeps the namespace alive
	nl   *netlink.Handle // its socket lives in the namespace
}

func (n *Net) newNamespace(t testing.TB, name string) *Namespace {
	t.Helper()
	var file *os.File
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("create a network namespace: %w", err)
		}
		var err error
		file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		t.Fatalf("testnet: %v", err)
	}
	return n.adopt(t, name, file)
}

// Another makes one more namespace, which has nothing but a lo that is down, and
// lives until t ends or Close is called.
func (n *Net) Another(t testing.TB, name string) *Namespace {
	t.Helper()
	return n.newNamespace(t, name)
}

// Close lets the namespace go, and with it all that is in it, unless a process or a
// descriptor keeps it. It is safe to call twice.
func (ns *Namespace) Close() { ns.close() }

// Path is where processes find the namespace until Close.
func (ns *Namespace) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.fd()) }

// Netlink configures the namespace's devices, addresses and routes.
func (ns *Namespace) Netlink() *netlink.Handle { return ns.nl }

// Of returns the network namespace of the process pid, until t ends.
func (n *Net) Of(t testing.TB, pid int) *Namespace {
	t.Helper()
	file, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		t.Fatalf("testnet: %v", err)
	}
	return n.adopt(t, fmt.Sprintf("pid %d", pid), file)
}

// adopt takes over file. The namespace is let go when t ends.
func (n *Net) adopt(t testing.TB, name string, file *os.File) *Namespace {
	t.Helper()
	nl, err := netlink.NewHandleAt(vnetns.NsHandle(file.Fd()))
	if err != nil {
		file.Close()
		t.Fatalf("testnet: %s: %v", name, err)
	}
	ns := &Namespace{net: n, name: name, file: file, nl: nl}
	t.Cleanup(ns.close)
	return ns
}

// close lets the namespace go. It is safe to call twice.
func (ns *Namespace) close() {
	ns.nl.Close()
	ns.file.Close()
}

func (ns *Namespace) fd() int { return int(ns.file.Fd()) }

// Inode identifies the namespace, as in /proc/PID/ns/net.
func (ns *Namespace) Inode() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(ns.fd(), &st); err != nil {
		return 0, err
	}
	return st.Ino, nil
}

// Do calls f on a thread that is inside the namespace meanwhile. Sockets that f
// makes belong to the namespace wherever they are used later. f must neither
// start a process nor end the test.
func (ns *Namespace) Do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(ns.fd(), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter %s: %w", ns.name, err)
		}
		return f()
	})
}

// onThread calls f, which may move its thread to another network namespace, and
// brings the thread back. The thread must not end instead: the processes that
// it once started would get their parent-death signal.
func onThread(f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	defer func() {
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			panic(fmt.Sprintf("testnet: leave a network namespace: %v", err))
		}
		runtime.UnlockOSThread()
	}()
	return f()
}

// SetSysctl writes the sysctl at a path such as "net/ipv4/ip_forward".
func (ns *Namespace) SetSysctl(path, value string) error {
	return ns.Do(func() error { return os.WriteFile("/proc/sys/"+path, []byte(value), 0) })
}

// Listen listens on an address of the namespace until t ends. network is
// "tcp", "tcp4" or "tcp6".
func (ns *Namespace) Listen(t testing.TB, network string, addr netip.AddrPort) *net.TCPListener {
	t.Helper()
	var l net.Listener
	err := ns.Do(func() error {
		var err error
		l, err = net.Listen(network, addr.String())
		return err
	})
	if err != nil {
		t.Fatalf("testnet: %s: %v", ns.name, err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

// ListenUDP opens a UDP socket on an address of the namespace until t ends.
func (ns *Namespace) ListenUDP(t testing.TB, addr netip.AddrPort) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	err := ns.Do(func() error {
		var err error
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
		return err
	})
	if err != nil {
		t.Fatalf("testnet: %s: %v", ns.name, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// DialTCP connects from the namespace to dst. The zero src lets the kernel
// choose; a src with an address and a port is bound with SO_REUSEADDR. Errors
// are errnos, wrapped. The caller closes the connection.
func (ns *Namespace) DialTCP(ctx context.Context, src, dst netip.AddrPort) (*net.TCPConn, error) {
	s, err := ns.StartDial(src, dst)
	if err != nil {
		return nil, err
	}
	return s.Wait(ctx)
}

// Dialling is a connection attempt under way.
type Dialling struct{ file *os.File }

// StartDial sends the SYN of a connection as DialTCP does and returns without
// waiting for an answer. The caller calls Wait or Close.
func (ns *Namespace) StartDial(src, dst netip.AddrPort) (*Dialling, error) {
	family := unix.AF_INET
	if dst.Addr().Is6() {
		family = unix.AF_INET6
	}
	var fd int
	err := ns.Do(func() error {
		var err error
		fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return os.NewSyscallError("socket", err)
	})
	if err != nil {
		return nil, err
	}
	if src.IsValid() {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		if err == nil {
			err = unix.Bind(fd, sockaddr(src))
		}
		if err != nil {
			unix.Close(fd)
			return nil, os.NewSyscallError("bind", err)
		}
	}
	if err := unix.Connect(fd, sockaddr(dst)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	return &Dialling{os.NewFile(uintptr(fd), "dial "+dst.String())}, nil
}

// Local returns the address that the attempt comes from.
func (d *Dialling) Local() (netip.AddrPort, error) {
	raw, err := d.file.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	var sa unix.Sockaddr
	var callErr error
	if err := raw.Control(func(fd uintptr) { sa, callErr = unix.Getsockname(int(fd)) }); err != nil {
		return netip.AddrPort{}, err
	}
	if callErr != nil {
		return netip.AddrPort{}, callErr
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)), nil
	}
	return netip.AddrPort{}, fmt.Errorf("testnet: socket of family %T", sa)
}

// Close gives the attempt up.
func (d *Dialling) Close() error { return d.file.Close() }

// Wait returns the connection once the handshake is complete. It uses the
// attempt up.
func (d *Dialling) Wait(ctx context.Context) (*net.TCPConn, error) {
	defer d.file.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, Patience, fmt.Errorf("no answer after %v", Patience))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = d.file.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := d.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	var connectErr error
	err = raw.Write(func(fd uintptr) bool {
		pfd := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if n, _ := unix.Poll(pfd, 0); n == 0 {
			return false
		}
		errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			connectErr = os.NewSyscallError("getsockopt", err)
		case errno != 0:
			connectErr = os.NewSyscallError("connect", unix.Errno(errno))
		}
		return true
	})
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err = errors.Join(err, connectErr); err != nil {
		return nil, err
	}
	c, err := net.FileConn(d.file)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
