// Package relaytest has connections in memory that behave as TCP's do at their
// ends: a window, FIN after the bytes, RST, half-close. They are relay.Conns
// for tests of whatever joins, wraps or serves connections. Begin with Pipe.
package relaytest

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// Pipe returns the two ends of a connection. Each direction holds at most
// window bytes that have not been read; zero means 64 KiB.
func Pipe(window int) (a, b *Conn) {
	if window <= 0 {
		window = 64 << 10
	}
	p := &pipe{window: window}
	p.changed.L = &p.mu
	a, b = &Conn{p: p}, &Conn{p: p}
	a.peer, b.peer = b, a
	return a, b
}

// pipe is what both ends share.
type pipe struct {
	window  int
	mu      sync.Mutex
	changed sync.Cond
}

// Conn is one end of a Pipe. It implements relay.Conn, relay.Watcher,
// relay.Interrupter, relay.TryReader and relay.TryWriter; Plain hides the last two, and Direct
// makes of them what the embedded stack has.
type Conn struct {
	p    *pipe
	peer *Conn

	// Guarded by p.mu.
	in       []byte // bytes that came and were not read
	fin      bool   // the peer's FIN came
	failure  error  // the peer's RST came
	finSent  bool
	closed   bool // by Close or Reset
	resets   int  // how often Reset did something
	watchers map[*func(error)]struct{}

	interrupted bool
}

// Read waits for bytes; they are read before the peer's FIN or RST is told.
func (c *Conn) Read(b []byte) (int, error) {
	for {
		n, err := c.TryRead(b)
		if n > 0 || err != nil || len(b) == 0 {
			return n, err
		}
		if err := c.WaitRead(); err != nil {
			return 0, err
		}
	}
}

// Write waits until all of b fits into the window.
func (c *Conn) Write(b []byte) (int, error) {
	written := 0
	for {
		n, err := c.TryWrite(b[written:])
		written += n
		if err != nil || written == len(b) {
			return written, err
		}
		if err := c.WaitWrite(); err != nil {
			return written, err
		}
	}
}

// Buffered implements relay.TryReader.
func (c *Conn) Buffered() (int, error) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	return len(c.in), nil
}

// TryRead implements relay.TryReader.
func (c *Conn) TryRead(b []byte) (int, error) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	switch {
	case c.closed:
		return 0, net.ErrClosed
	case len(c.in) > 0:
		n := copy(b, c.in)
		c.in = c.in[n:]
		c.p.changed.Broadcast()
		return n, nil
	case c.fin:
		return 0, io.EOF
	case c.failure != nil:
		return 0, c.failure
	}
	return 0, nil
}

// WaitRead implements relay.TryReader.
func (c *Conn) WaitRead() error {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	for {
		switch {
		case c.closed:
			return net.ErrClosed
		case len(c.in) > 0, c.fin, c.failure != nil:
			return nil
		case c.interrupted:
			c.interrupted = false
			return os.ErrDeadlineExceeded
		}
		c.p.changed.Wait()
	}
}

// Interrupt implements relay.Interrupter.
func (c *Conn) Interrupt() {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	c.interrupted = true
	c.p.changed.Broadcast()
}

// TryWrite implements relay.TryWriter. Bytes for a peer that has closed are
// answered by an RST, which this or a later call tells.
func (c *Conn) TryWrite(b []byte) (int, error) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	switch {
	case c.closed:
		return 0, net.ErrClosed
	case c.failure != nil:
		return 0, c.failure
	case c.finSent:
		return 0, syscall.EPIPE
	case c.peer.closed:
		c.failLocked(syscall.EPIPE)
		return 0, c.failure
	}
	n := min(len(b), c.p.window-len(c.peer.in))
	c.peer.in = append(c.peer.in, b[:n]...)
	c.p.changed.Broadcast()
	return n, nil
}

// WaitWrite implements relay.TryWriter.
func (c *Conn) WaitWrite() error {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	for {
		switch {
		case c.closed:
			return net.ErrClosed
		case c.failure != nil:
			return c.failure
		case c.peer.closed, len(c.peer.in) < c.p.window:
			return nil
		}
		c.p.changed.Wait()
	}
}

// CloseWrite sends FIN.
func (c *Conn) CloseWrite() error {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	if c.failure != nil {
		return syscall.ENOTCONN
	}
	c.finLocked()
	return nil
}

// Close sends FIN, or RST if there are bytes that nobody has read (RFC 2525,
// section 2.17).
func (c *Conn) Close() error {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	if c.closed {
		return nil
	}
	if len(c.in) > 0 {
		c.peer.failLocked(syscall.ECONNRESET)
	} else if c.failure == nil {
		c.finLocked()
	}
	c.closeLocked()
	return nil
}

// Reset sends RST.
func (c *Conn) Reset() error {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	if c.closed {
		return nil
	}
	c.resets++
	c.peer.failLocked(syscall.ECONNRESET)
	c.closeLocked()
	return nil
}

// Fail lets the connection fail with err at this end, as a timer does.
func (c *Conn) Fail(err error) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	c.failLocked(err)
}

// AfterReset implements relay.Watcher.
func (c *Conn) AfterReset(f func(error)) (stop func() bool) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	if c.failure != nil {
		go f(c.failure)
		return func() bool { return false }
	}
	if c.watchers == nil {
		c.watchers = make(map[*func(error)]struct{})
	}
	key := &f
	c.watchers[key] = struct{}{}
	return func() bool {
		c.p.mu.Lock()
		defer c.p.mu.Unlock()
		_, waits := c.watchers[key]
		delete(c.watchers, key)
		return waits
	}
}

// State tells what has become of this end.
func (c *Conn) State() State {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	return State{FinSent: c.finSent, Closed: c.closed, WasReset: c.resets > 0, Watchers: len(c.watchers)}
}

// State is what has become of one end of a Pipe.
type State struct {
	FinSent  bool // by CloseWrite or Close
	Closed   bool // by Close or Reset
	WasReset bool // by Reset
	Watchers int  // calls of AfterReset that have been neither stopped nor answered
}

func (c *Conn) finLocked() {
	c.finSent = true
	c.peer.fin = true
	c.p.changed.Broadcast()
}

func (c *Conn) closeLocked() {
	c.closed = true
	c.in, c.watchers = nil, nil
	c.p.changed.Broadcast()
}

// failLocked lets this end fail, which does nothing if it is gone already.
func (c *Conn) failLocked(err error) {
	if c.closed || c.failure != nil || c.fin && c.finSent {
		return
	}
	c.failure = err
	for f := range c.watchers {
		go (*f)(err)
	}
	c.watchers = nil
	c.p.changed.Broadcast()
}
