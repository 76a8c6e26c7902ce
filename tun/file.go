package tun

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// New makes a Device of an open TUN descriptor, such as Open returns, also one
// that was opened by another process or in another namespace. It takes the
// descriptor over: on error too it is closed. An empty name is read from the
// device; mtu is believed, and zero means 1500.
//
// The Device implements Counter.
func New(fd int, name string, mtu int) (Device, error) {
	actual, err := inspect(fd)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("tun: use descriptor %d: %w", fd, err)
	}
	if name == "" {
		name = actual
	}
	if mtu == 0 {
		mtu = 1500
	}
	return newFile(fd, name, mtu)
}

// inspect asks the driver whether fd is a device such as Open makes.
func inspect(fd int) (name string, err error) {
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return "", err
	}
	if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr); err != nil {
		switch err {
		case unix.EBADFD:
			return "", ErrGone // or never attached
		case unix.ENOTTY, unix.EINVAL:
			return "", errors.New("not a TUN device")
		}
		return "", err
	}
	const kind = unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR
	if got := ifr.Uint16(); got&kind != kind {
		return "", fmt.Errorf("flags %#x, want %#x set", got, kind)
	}
	var size int32
	if err := ioctl(fd, unix.TUNGETVNETHDRSZ, uintptr(unsafe.Pointer(&size))); err != nil {
		return "", err
	}
	if size != VnetHdrLen {
		return "", fmt.Errorf("a virtio header of %d bytes, want %d", size, VnetHdrLen)
	}
	return ifr.Name(), nil
}

// Counter is implemented by a Device that counts what it could not carry.
type Counter interface {
	Stats() Stats
}

// Stats counts packets since the device was opened.
type Stats struct {
	// ReadSkipped were thrown away by Read: cut short, or with offloads that
	// nobody asked for.
	ReadSkipped uint64
	// WriteDropped were thrown away by Write: the interface was down, or the
	// kernel was short of memory.
	WriteDropped uint64
}

// file is a Device on a descriptor of the tun driver. Neither Read nor Write
// allocates: what a system call needs lies in the file and in pooled writers,
// and the closures over it are made once.
type file struct {
	name string
	mtu  int
	f    *os.File
	rc   syscall.RawConn

	r       reader
	writers sync.Pool // of *writer

	closing   atomic.Bool
	closeOnce sync.Once
	closeErr  error

	skipped, dropped atomic.Uint64
}

func newFile(fd int, name string, mtu int) (*file, error) {
	fail := func(err error) (*file, error) {
		unix.Close(fd)
		return nil, fmt.Errorf("tun: use descriptor %d: %w", fd, err)
	}
	// os.NewFile hands only non-blocking descriptors to the netpoller.
	if err := unix.SetNonblock(fd, true); err != nil {
		return fail(err)
	}
	d := &file{name: name, mtu: mtu, f: os.NewFile(uintptr(fd), Path)}
	if d.f == nil {
		return fail(unix.EBADF)
	}
	rc, err := d.f.SyscallConn()
	if err != nil {
		d.f.Close()
		return nil, fmt.Errorf("tun: use descriptor %d: %w", fd, err)
	}
	d.rc = rc
	d.r.init()
	d.writers.New = func() any { return newWriter() }
	return d, nil
}

func (d *file) MTU() int     { return d.mtu }
func (d *file) Name() string { return d.name }

func (d *file) Stats() Stats {
	return Stats{ReadSkipped: d.skipped.Load(), WriteDropped: d.dropped.Load()}
}

// SetReadDeadline implements Deadliner.
func (d *file) SetReadDeadline(t time.Time) error {
	if err := d.f.SetReadDeadline(t); err != nil {
		return d.fail("set a deadline for", err)
	}
	return nil
}

// Close returns when no Read or Write uses the descriptor any more.
func (d *file) Close() error {
	d.closeOnce.Do(func() {
		d.closing.Store(true)
		d.closeErr = d.f.Close()
	})
	return d.closeErr
}

func (d *file) Read(buf []byte) (int, Offload, error) {
	if len(buf) < MaxPacket {
		return 0, Offload{}, d.fail("read", io.ErrShortBuffer)
	}
	for {
		n, err := d.r.read(d.rc, buf)
		if err != nil {
			return 0, Offload{}, d.fail("read", err)
		}
		if n -= VnetHdrLen; n > 0 {
			h, err := d.r.hdr.decode(buf[:n])
			if err == nil {
				return n, h, nil
			}
		}
		d.skipped.Add(1)
	}
}

func (d *file) Write(bufs [][]byte, h Offload) error {
	w := d.writers.Get().(*writer)
	err := w.write(d.rc, bufs, h)
	d.writers.Put(w)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EIO), // the interface is down, as an unplugged wire
		errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM): // the kernel is short of room
		d.dropped.Add(1)
		return nil
	}
	return d.fail("write", err)
}

// fail makes the error for the caller of what ended a read or write.
func (d *file) fail(op string, err error) error {
	switch {
	case d.closing.Load():
		return os.ErrClosed
	case errors.Is(err, ErrGone), errors.Is(err, unix.EBADFD):
		return ErrGone
	}
	return fmt.Errorf("tun: %s %s: %w", op, d.name, err)
}
