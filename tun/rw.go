package tun

import (
	"errors"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reader holds what one readv needs. One goroutine at a time uses it.
type reader struct {
	hdr  vnetHdr
	iov  [2]unix.Iovec
	n    int
	err  error
	wait bool // the device had nothing when it was asked before
	try  func(fd uintptr) bool
	look func(fd uintptr)
}

func (r *reader) init() {
	r.iov[0].Base = &r.hdr[0]
	r.iov[0].SetLen(len(r.hdr))
	r.try = r.readv
	r.look = func(fd uintptr) {
		if dying(int(fd)) {
			r.err = ErrGone
		}
	}
}

// read reads the header into r.hdr and the packet into buf, and returns the
// length of both together.
func (r *reader) read(rc syscall.RawConn, buf []byte) (int, error) {
	r.iov[1].Base = &buf[0]
	r.iov[1].SetLen(len(buf))
	r.n, r.err, r.wait = 0, nil, false
	err := rc.Read(r.try)
	r.iov[1].Base = nil
	if err != nil {
		// The netpoller takes a dying device, of which it hears an error and
		// nothing else, for one that cannot be polled.
		if rc.Control(r.look) == nil && r.err != nil {
			return 0, r.err
		}
		return 0, err
	}
	return r.n, r.err
}

// readv is called by the netpoller until it returns true.
func (r *reader) readv(fd uintptr) bool {
	for {
		n, _, errno := unix.Syscall(unix.SYS_READV, fd, uintptr(unsafe.Pointer(&r.iov)), uintptr(len(r.iov)))
		switch errno {
		case 0:
			r.n = int(n)
			if n == 0 {
				r.err = ErrGone // a TUN has no end of file; never spin on one
			}
			return true
		case unix.EINTR:
		case unix.EAGAIN:
			// Woken for nothing. The driver wakes its readers a moment before
			// it lets go of a dying device, and never again: who asks in that
			// moment is told EAGAIN. The netpoller is edge-triggered, so going
			// back to it could mean to wait for ever; poll(2) tells.
			if r.wait && dying(int(fd)) {
				r.err = ErrGone
				return true
			}
			r.wait = true
			return false
		default:
			r.err = errno
			return true
		}
	}
}

// dying reports whether the device behind fd is being unregistered.
func dying(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, 0)
	return err == nil && n > 0 && p[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0
}

// maxPieces is how many pieces of a packet go to the kernel as they are; it
// takes 1024 (UIO_MAXIOV), and the header is one of them.
const maxPieces = 1023

var (
	errTooLong = errors.New("packet is longer than MaxPacket")
	errEmpty   = errors.New("packet is empty")
)

// writer holds what one writev needs. Writers are pooled.
type writer struct {
	hdr vnetHdr
	iov []unix.Iovec
	err error
	do  func(fd uintptr)
}

func newWriter() *writer {
	w := &writer{iov: make([]unix.Iovec, 1, 16)}
	w.iov[0].Base = &w.hdr[0]
	w.iov[0].SetLen(len(w.hdr))
	w.do = w.writev
	return w
}

func (w *writer) write(rc syscall.RawConn, bufs [][]byte, h Offload) error {
	if len(bufs) > maxPieces {
		var whole []byte
		for _, b := range bufs {
			whole = append(whole, b...)
		}
		bufs = [][]byte{whole}
	}
	w.iov = w.iov[:1]
	n := 0
	for _, b := range bufs {
		if len(b) == 0 {
			continue
		}
		n += len(b)
		v := unix.Iovec{Base: &b[0]}
		v.SetLen(len(b))
		w.iov = append(w.iov, v)
	}
	err := w.check(n, h)
	if err == nil {
		// Control, not Write: it takes no lock, so that writers do not wait
		// for each other; a TUN never needs to be waited for.
		if err = rc.Control(w.do); err == nil {
			err = w.err
		}
	}
	clear(w.iov[1:]) // keep nothing of bufs
	return err
}

func (w *writer) check(n int, h Offload) error {
	switch {
	case n == 0:
		return errEmpty
	case n > MaxPacket:
		return errTooLong
	}
	return w.hdr.encode(h, n)
}

func (w *writer) writev(fd uintptr) {
	for {
		_, _, errno := unix.Syscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&w.iov[0])), uintptr(len(w.iov)))
		runtime.KeepAlive(w)
		switch errno {
		case 0:
			w.err = nil
		case unix.EINTR:
			continue
		default:
			w.err = errno
		}
		return
	}
}
