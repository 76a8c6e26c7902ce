package upstream

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// reader is the reading half of a Conn. The functions that raw calls are made
// once, so that a read allocates nothing; they take their argument and leave
// their result in the fields under mu.
type reader struct {
	read, fionread func(fd uintptr)
	readable       func(fd uintptr) bool

	mu   sync.Mutex
	p    []byte
	n    int
	err  error
	last error // what ended the stream; every later read returns it
}

func (r *reader) prepare() {
	r.read = func(fd uintptr) { r.n, r.err = ignoringEINTR(func() (int, error) { return unix.Read(int(fd), r.p) }) }
	r.fionread = func(fd uintptr) { r.n, r.err = unix.IoctlGetInt(int(fd), unix.SIOCINQ) }
	r.readable = func(fd uintptr) bool { return ready(fd, unix.POLLIN) }
}

// TryRead implements relay.TryReader. It may read less than Buffered said even
// if p has room: a read ends at an urgent byte and goes on behind it.
func (c *Conn) TryRead(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	r := &c.in
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last != nil {
		return 0, r.last
	}
	r.p = p
	err := c.raw.Control(r.read)
	r.p = nil
	if err == nil {
		err = r.err
	}
	switch {
	case err == unix.EAGAIN:
		return 0, nil
	case err != nil:
		c.out.note(err)
		c.host.resets.fire(c)
		c.failedWith(err)
		r.last = c.failed("read", err)
		return 0, r.last
	case r.n == 0:
		r.last = c.end()
		return 0, r.last
	}
	return r.n, nil
}

// end judges the end of the stream. A FIN looks like an error that the kernel
// has told somebody else already, except that EPIPE is told only of an RST
// that came after the FIN, or of a CloseWrite of our own.
func (c *Conn) end() error {
	if err := c.out.noted(); err != nil && !errors.Is(err, syscall.EPIPE) {
		c.failedWith(err)
		return c.failed("read", err)
	}
	c.look(func(l *leg) { l.finIn = true })
	return io.EOF
}

// Buffered implements relay.TryReader.
func (c *Conn) Buffered() (int, error) {
	r := &c.in
	r.mu.Lock()
	defer r.mu.Unlock()
	err := c.raw.Control(r.fionread)
	if err == nil {
		err = r.err
	}
	if err != nil {
		return 0, c.failed("read", err)
	}
	return r.n, nil
}

// WaitRead implements relay.TryReader.
func (c *Conn) WaitRead() error {
	err := c.raw.Read(c.in.readable)
	if err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		return c.interrupted()
	}
	return c.failed("read", err)
}

// Interrupt implements relay.Interrupter: a deadline that has passed ends the wait.
func (c *Conn) Interrupt() { _ = c.file.SetReadDeadline(time.Unix(1, 0)) }

// interrupted ends a wait, once, unless there is something to read.
func (c *Conn) interrupted() error {
	if n, err := c.Buffered(); n > 0 || err != nil {
		return err
	}
	_ = c.file.SetReadDeadline(time.Time{})
	return c.failed("read", os.ErrDeadlineExceeded)
}

// ready reports whether fd is ready for events or has failed. The poller may
// have forgotten what happened before a wait began, so each wait asks first.
func ready(fd uintptr, events int16) bool {
	fds := [1]unix.PollFd{{Fd: int32(fd), Events: events}}
	n, err := unix.Poll(fds[:], 0)
	return n > 0 || err != nil
}

func ignoringEINTR(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != unix.EINTR {
			return n, err
		}
	}
}
