package upstream

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// writer is the writing half of a Conn; see reader.
type writer struct {
	send     func(fd uintptr)
	writable func(fd uintptr) bool

	mu  sync.Mutex
	p   []byte
	n   int
	err error

	// failure is the first error that the kernel told of the connection. The
	// kernel tells each of them once; whoever reads after that is told the end
	// of the stream, which must not be taken for FIN.
	failure error
	told    bool // a writer knows of it
}

func (w *writer) prepare() {
	w.send = func(fd uintptr) { w.n, w.err = ignoringEINTR(func() (int, error) { return send(fd, w.p) }) }
	w.writable = func(fd uintptr) bool { return ready(fd, unix.POLLOUT) }
}

// TryWrite implements relay.TryWriter.
func (c *Conn) TryWrite(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := c.out.try(c, p)
	if err == nil || err == unix.EAGAIN {
		return n, nil
	}
	c.host.resets.fire(c)
	c.failedWith(err)
	return 0, c.failed("write", err)
}

func (w *writer) try(c *Conn, p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.p = p
	err := c.raw.Control(w.send)
	w.p = nil
	if err == nil {
		err = w.err
	}
	if err == nil {
		return w.n, nil
	}
	if err == unix.EAGAIN {
		return 0, err
	}
	if w.failure == nil {
		w.failure = err
	}
	if err == unix.EPIPE && !w.told {
		err = w.failure // EPIPE is all that is left when another was told first
	}
	w.told = true
	return 0, err
}

// WaitWrite implements relay.TryWriter.
func (c *Conn) WaitWrite() error { return c.failed("write", c.raw.Write(c.out.writable)) }

// note remembers the first error that the kernel told.
func (w *writer) note(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failure == nil {
		w.failure = err
	}
}

func (w *writer) noted() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failure
}

// takeError asks the kernel for the connection's error and remembers it. It
// returns the first one, nil if the connection has not failed.
func (w *writer) takeError(fd uintptr) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && errno != 0 {
		err = unix.Errno(errno)
	}
	if w.failure == nil {
		w.failure = err
	}
	return w.failure
}

// send is send(2) without waiting and without the signal SIGPIPE. It takes no
// address, so it allocates nothing.
func send(fd uintptr, p []byte) (int, error) {
	n, _, errno := unix.Syscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)),
		unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
