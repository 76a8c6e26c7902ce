package tun

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
	"golang.org/x/sys/unix"

	"tcpbox/tun/packet"
)

// The tests of this file drive real devices, each in a network namespace of
// its own, which no other traffic can reach.

// needTUN skips a test that cannot make a device here, and fails it where the
// environment promised that it could.
func needTUN(t testing.TB) {
	t.Helper()
	var why string
	if os.Geteuid() != 0 {
		why = "making network namespaces needs root"
	} else if _, err := os.Stat(Path); err != nil {
		why = err.Error()
	}
	switch {
	case why == "":
	case os.Getenv("CI") == "true":
		t.Fatal(why)
	default:
		t.Skip(why)
	}
}

// space is a network namespace held by one thread.
type space struct {
	t    testing.TB
	todo chan func()
	dead chan struct{} // its goroutine has ended
}

// newSpace makes a namespace with its loopback up. It lives until end, or the
// end of the test.
func newSpace(t testing.TB) *space {
	t.Helper()
	s := &space{t: t, todo: make(chan func()), dead: make(chan struct{})}
	started := make(chan error, 1)
	go s.hold(started)
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.end)
	s.do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return s
}

// hold runs what it is given in the namespace, until end. It never unlocks its
// thread, so that the thread dies with it and lets go of the namespace. The
// process's first thread cannot die, so it only stays out of the way.
func (s *space) hold(started chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		defer runtime.UnlockOSThread()
		again := make(chan struct{})
		go func() {
			defer close(again)
			s.hold(started)
		}()
		<-again
		return
	}
	defer close(s.dead)
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		started <- fmt.Errorf("unshare: %w", err)
		return
	}
	started <- nil
	for f := range s.todo {
		f()
	}
}

func (s *space) end() {
	select {
	case <-s.dead:
	default:
		close(s.todo)
		<-s.dead
	}
}

// do runs f in the namespace.
func (s *space) do(f func() error) {
	s.t.Helper()
	err := make(chan error, 1)
	s.todo <- func() { err <- f() }
	if err := <-err; err != nil {
		s.t.Fatal(err)
	}
}

// open makes a device in the namespace, with the addresses of a guest.
func (s *space) open(mtu int) Device {
	s.t.Helper()
	var dev Device
	s.do(func() error {
		fd, name, err := Open(Options{})
		if err != nil {
			return err
		}
		if dev, err = New(fd, name, mtu); err != nil {
			return err
		}
		return configure(name, mtu)
	})
	s.t.Cleanup(func() { dev.Close() })
	return dev
}

func configure(name string, mtu int) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetMTU(link, mtu); err != nil {
		return err
	}
	for _, cidr := range []string{"198.18.0.2/24", "fd74:6370:626f:78::2/64"} {
		addr, err := netlink.ParseAddr(cidr)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(link, addr); err != nil {
			return err
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	return awaitIPv6(net.ParseIP("fd74:6370:626f:78::2"))
}

// awaitIPv6 returns when the kernel takes packets to its address addr. It
// makes the route for them in a work queue, some time after the address was
// added, also without duplicate address detection; until then they are lost.
func awaitIPv6(addr net.IP) error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		routes, err := netlink.RouteGet(addr)
		if err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no local route to %v: %v, %w", addr, routes, err)
		}
	}
}

// readUntil reads until match, or fails after what is far longer than it takes.
func readUntil(t testing.TB, dev Device, what string, match func(b []byte, p *packet.Packet, h Offload) bool) {
	t.Helper()
	guard := time.AfterFunc(time.Minute, func() { dev.Close() })
	defer guard.Stop()
	buf := make([]byte, MaxPacket)
	for {
		n, h, err := dev.Read(buf)
		if err != nil {
			t.Fatalf("waiting for %s: %v", what, err)
		}
		p, err := packet.Parse(buf[:n])
		if err != nil {
			t.Fatalf("waiting for %s: the kernel sent %x: %v", what, buf[:n], err)
		}
		if !p.VerifyIP(buf[:n]) {
			t.Errorf("IP checksum of %v is wrong", &p)
		}
		if match(buf[:n], &p, h) {
			return
		}
	}
}

func writePacket(t testing.TB, dev Device, b packet.Build) {
	t.Helper()
	if err := dev.Write([][]byte{b.Bytes()}, Offload{}); err != nil {
		t.Fatal(err)
	}
}

func TestKernelOpen(t *testing.T) {
	needTUN(t)
	s := newSpace(t)
	s.do(func() error {
		fd, name, err := Open(Options{Name: "box%d"})
		if err != nil || name != "box0" {
			return fmt.Errorf("Open = %q, %w, want box0", name, err)
		}
		defer unix.Close(fd)
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
			t.Errorf("the descriptor blocks: %#x, %v", flags, err)
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("the descriptor survives exec: %#x, %v", flags, err)
		}
		for _, taken := range []string{"box0", "lo"} {
			_, _, err := Open(Options{Name: taken})
			var oe *OpenError
			if !errors.As(err, &oe) || !errors.Is(err, unix.EBUSY) || oe.Hint() == "" {
				t.Errorf("Open of %q, which is taken = %v, want EBUSY and a hint", taken, err)
			}
		}
		return nil
	})
}

// TestKernelPersist: a persistent device outlives its descriptor, another
// does not.
func TestKernelPersist(t *testing.T) {
	needTUN(t)
	for _, persist := range []bool{false, true} {
		s := newSpace(t)
		s.do(func() error {
			fd, name, err := Open(Options{Persist: persist})
			if err != nil {
				return err
			}
			if err := unix.Close(fd); err != nil {
				return err
			}
			_, err = netlink.LinkByName(name)
			if exists := err == nil; exists != persist {
				t.Errorf("persist %v: after closing the device exists: %v (%v)", persist, exists, err)
			}
			return nil
		})
	}
}

func TestKernelNew(t *testing.T) {
	needTUN(t)
	s := newSpace(t)
	s.do(func() error {
		fd, name, err := Open(Options{})
		if err != nil {
			return err
		}
		dev, err := New(fd, "", 0)
		if err != nil {
			return err
		}
		if dev.Name() != name || dev.MTU() != 1500 {
			t.Errorf("New = %q with MTU %d, want %q with 1500", dev.Name(), dev.MTU(), name)
		}
		return dev.Close()
	})
	s.do(func() error { // devices that are not as Open makes them
		for name, prepare := range map[string]func(fd int) error{
			"not attached": func(int) error { return nil },
			"without a virtio header": func(fd int) error {
				ifr, err := unix.NewIfreq("plain0")
				if err != nil {
					return err
				}
				ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
				return unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
			},
			"with a header of 12 bytes": func(fd int) error {
				ifr, err := unix.NewIfreq("long0")
				if err != nil {
					return err
				}
				ifr.SetUint16(Flags)
				if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
					return err
				}
				return unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, 12)
			},
		} {
			fd, err := openRetry(Path)
			if err != nil {
				return err
			}
			if err := prepare(fd); err != nil {
				return err
			}
			if dev, err := New(fd, "x", 0); err == nil {
				t.Errorf("New of a device %s = %v, want an error", name, dev)
			}
		}
		return nil
	})
}

// TestKernelUDP: a datagram of the kernel arrives with its checksum left to be
// completed, and the answer reaches the socket.
func TestKernelUDP(t *testing.T) {
	needTUN(t)
	s := newSpace(t)
	dev := s.open(1500)
	for _, to := range []netip.AddrPort{gate4, gate6} {
		var conn net.Conn
		s.do(func() (err error) {
			conn, err = net.Dial("udp", to.String())
			return err
		})
		defer conn.Close()
		if _, err := conn.Write([]byte("question")); err != nil {
			t.Fatal(err)
		}
		var answer packet.Build
		readUntil(t, dev, "the datagram", func(b []byte, p *packet.Packet, h Offload) bool {
			if p.Proto != packet.UDP || string(p.Payload(b)) != "question" {
				return false
			}
			if h.NeedsCsum {
				if err := packet.Complete(b, int(h.CsumStart), int(h.CsumOffset)); err != nil {
					t.Error(err)
				}
			}
			if !p.VerifyTransport(b) {
				t.Errorf("%v with %+v does not verify", p, h)
			}
			answer = packet.Build{Src: p.Dst, Dst: p.Src, Proto: packet.UDP, Payload: []byte("answer")}
			return true
		})
		writePacket(t, dev, answer)
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		if n, err := conn.Read(buf); err != nil || string(buf[:n]) != "answer" {
			t.Errorf("the socket to %v reads %q, %v", to, buf[:n], err)
		}
	}
}

// TestKernelICMP: what the packet builders say, a program's connect is told.
func TestKernelICMP(t *testing.T) {
	needTUN(t)
	s := newSpace(t)
	dev := s.open(1500)
	for _, row := range []struct {
		to     netip.AddrPort
		answer func(b []byte, p *packet.Packet) []byte
		want   error
	}{
		{gate4, unreachable(packet.NoRoute), unix.ENETUNREACH},
		{gate4, unreachable(packet.HostUnreachable), unix.EHOSTUNREACH},
		{gate4, unreachable(packet.PortUnreachable), unix.ECONNREFUSED},
		{gate4, unreachable(packet.Prohibited), unix.EHOSTUNREACH},
		{gate4, func(b []byte, _ *packet.Packet) []byte { return packet.Reset(nil, b) }, unix.ECONNREFUSED},
		{gate6, unreachable(packet.NoRoute), unix.ENETUNREACH},
		{gate6, unreachable(packet.HostUnreachable), unix.EHOSTUNREACH},
		{gate6, unreachable(packet.PortUnreachable), unix.ECONNREFUSED},
		{gate6, unreachable(packet.Prohibited), unix.EACCES},
		{gate6, func(b []byte, _ *packet.Packet) []byte { return packet.Reset(nil, b) }, unix.ECONNREFUSED},
	} {
		ended := make(chan error, 1)
		go s.do(func() error {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", row.to.String())
			if err == nil {
				conn.Close()
			}
			ended <- err
			return nil
		})
		readUntil(t, dev, "the SYN", func(b []byte, p *packet.Packet, _ Offload) bool {
			if p.Proto != packet.TCP || p.TCP.Flags&packet.SYN == 0 || p.Dst != row.to {
				return false
			}
			if err := dev.Write([][]byte{row.answer(b, p)}, Offload{}); err != nil {
				t.Error(err)
			}
			return true
		})
		if err := <-ended; !errors.Is(err, row.want) {
			t.Errorf("connect to %v = %v, want %v", row.to, err, row.want)
		}
	}
}

func unreachable(kind packet.Kind) func([]byte, *packet.Packet) []byte {
	return func(b []byte, p *packet.Packet) []byte {
		return packet.Unreachable(nil, b, kind, p.Dst.Addr())
	}
}
