package netstack

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"tcpbox/stack/tcpstate"
)

// Conn is a connection with the guest: a net.Conn whose errors are errnos
// (syscall.ECONNRESET for an RST), with a relay's CloseWrite and Reset, and
// with WriteTo and ReadFrom that move bytes without a buffer in between.
//
// One goroutine may read while another writes; the closing methods may be
// called at any time.
type Conn struct {
	stack *Stack
	ep    *tcp.Endpoint
	rec   *record

	readable, writable wakeup
	readMu, writeMu    sync.Mutex
	readBy, writeBy    deadline
	interrupted        atomic.Bool // the next wait for bytes ends at once
	closed             atomic.Bool
}

var _ net.Conn = (*Conn)(nil)

// A wakeup is a queue entry that remembers one event until it is waited for.
type wakeup struct {
	waiter.Entry
	ch chan struct{}
}

func (w *wakeup) register(wq *waiter.Queue, mask waiter.EventMask) {
	w.ch = make(chan struct{}, 1)
	w.Init(w, mask)
	wq.EventRegister(&w.Entry)
}

// NotifyEvent implements waiter.EventListener; it is called under the
// endpoint's lock.
func (w *wakeup) NotifyEvent(waiter.EventMask) {
	select {
	case w.ch <- struct{}{}:
	default:
	}
}

func newConn(s *Stack, ep *tcp.Endpoint, wq *waiter.Queue, rec *record) *Conn {
	c := &Conn{stack: s, ep: ep, rec: rec}
	c.readable.register(wq, waiter.ReadableEvents|waiter.EventErr|waiter.EventHUp|waiter.EventRdHUp)
	c.writable.register(wq, waiter.WritableEvents|waiter.EventErr|waiter.EventHUp)
	// Nagle's algorithm would wait for an ACK that the sender of the bytes, on
	// the other side of the relay, has long seen.
	ep.SocketOptions().SetDelayOption(false)
	// It fails for none that is connected, and one that has ended needs it not.
	_ = s.live.setOn(ep)
	return c
}

// ID is the connection's number.
func (c *Conn) ID() tcpstate.Conn { return c.rec.id }

// LocalAddr is the stack's end: where the guest connected to.
func (c *Conn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.rec.local) }

// RemoteAddr is the guest's end.
func (c *Conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.rec.remote) }

// Local and Remote are the same as values.
func (c *Conn) Local() netip.AddrPort { return c.rec.local }

// Remote is the guest's end.
func (c *Conn) Remote() netip.AddrPort { return c.rec.remote }

// sliceWriter lets gVisor write what it read into a slice.
type sliceWriter struct {
	p []byte
	n int
}

func (w *sliceWriter) Write(p []byte) (int, error) {
	n := copy(w.p[w.n:], p)
	w.n += n
	if n < len(p) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

// Read implements net.Conn. io.EOF is the guest's FIN, ECONNRESET its RST.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.readMu.Lock()
	defer c.readMu.Unlock()
	for {
		if c.closed.Load() {
			return 0, net.ErrClosed
		}
		if c.readBy.passed() {
			return 0, os.ErrDeadlineExceeded
		}
		w := sliceWriter{p: p}
		_, err := c.ep.Read(&w, tcpip.ReadOptions{})
		if w.n > 0 {
			return w.n, nil
		}
		if _, block := err.(*tcpip.ErrWouldBlock); !block {
			return 0, errnoOf(err)
		}
		if err := c.waitReadable(); err != nil {
			return 0, err
		}
	}
}

// waitReadable waits until there may be something to read; nothing was just now.
func (c *Conn) waitReadable() error {
	if c.interrupted.Load() && c.interrupted.Swap(false) {
		return os.ErrDeadlineExceeded
	}
	return c.wait(c.readable.ch, &c.readBy)
}

// Buffered implements relay.Interrupter.
func (c *Conn) Buffered() (int, error) {
	n, err := c.ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption)
	if err != nil {
		return 0, errnoOf(err)
	}
	return n, nil
}

// Interrupt implements relay.Interrupter.
func (c *Conn) Interrupt() {
	c.interrupted.Store(true)
	c.readable.NotifyEvent(0)
}

// Write implements net.Conn. It returns when all of p is in the send buffer,
// or with EPIPE after CloseWrite, or ECONNRESET.
func (c *Conn) Write(p []byte) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	return c.writeLocked(p, nil)
}

// writeLocked writes all of p. src, where the bytes come from, is told when
// they have to wait.
func (c *Conn) writeLocked(p []byte, src any) (int, error) {
	done := 0
	for done < len(p) {
		if c.closed.Load() {
			return done, net.ErrClosed
		}
		if c.writeBy.passed() {
			return done, os.ErrDeadlineExceeded
		}
		var r bytes.Reader
		r.Reset(p[done:])
		n, err := c.ep.Write(&r, tcpip.WriteOptions{})
		done += int(n)
		if err == nil {
			continue
		}
		if _, block := err.(*tcpip.ErrWouldBlock); !block {
			return done, errnoOf(err)
		}
		if err := c.waitForRoom(src); err != nil {
			return done, err
		}
	}
	return done, nil
}

// wait waits for an event or a deadline.
func (c *Conn) wait(event <-chan struct{}, by *deadline) error {
	select {
	case <-event:
		return nil
	case <-by.wait():
		return os.ErrDeadlineExceeded
	}
}

// CloseWrite sends FIN after all that was written. It is safe to call twice.
func (c *Conn) CloseWrite() error {
	if c.closed.Load() {
		return net.ErrClosed
	}
	r := c.rec
	r.call.CompareAndSwap(uint32(callNone), uint32(callShutdown))
	err := c.ep.Shutdown(tcpip.ShutdownWrite)
	c.stack.tracker.observe(r, viaCall)
	if err != nil {
		return errnoOf(err)
	}
	return nil
}

// Close closes both directions: FIN after all that was written, or RST if the
// guest has sent bytes that nobody has read (RFC 2525, section 2.17). It is
// safe to call twice.
func (c *Conn) Close() error {
	if !c.closed.CompareAndSwap(false, true) {
		return nil
	}
	c.release()
	return nil
}

// release gives the endpoint up.
func (c *Conn) release() {
	r := c.rec
	r.call.Store(uint32(callClose))
	r.inCall.Store(uint32(callClose))
	r.releasedAt.Store(c.stack.clock.Now().UnixNano())
	r.answered.Store(timeouts(c.ep))
	r.released.Store(true)
	if c.stack.orphans.reset.Load() {
		c.ep.SocketOptions().SetLinger(tcpip.LingerOption{Enabled: true})
	}
	c.ep.Close()
	c.stack.tracker.observe(r, viaCall)
	r.inCall.Store(uint32(callNone))
	c.stack.orphan(r)
	if why := ending(r.atRelease.Load()); why != endNone {
		c.stack.carryOut(r, why)
	}
	c.stack.reopenParked(r)
	c.wake()
}

// Reset sends RST and releases the connection. After Close it does nothing.
func (c *Conn) Reset() error { return c.reset(endNone) }

// Expire is Reset, and says in the log that a half-close has lasted too long.
func (c *Conn) Expire() error { return c.reset(endHalfClose) }

// ResetAsked implements relay.Asked: it is Reset, and the log says who asked.
func (c *Conn) ResetAsked() error { return c.reset(endConnReset) }

// CloseWriteAsked implements relay.Asked: it is CloseWrite, and the log says who
// asked.
func (c *Conn) CloseWriteAsked() error {
	c.rec.closeAsked.Store(true)
	return c.CloseWrite()
}

func (c *Conn) reset(why ending) error {
	if !c.closed.CompareAndSwap(false, true) {
		return nil
	}
	if c.rec.state() == tcpstate.TimeWait {
		// All has been said; an RST would only end the guest's LAST-ACK.
		c.release()
		return nil
	}
	c.rec.released.Store(true)
	if why != endNone {
		c.rec.policy.CompareAndSwap(uint32(endNone), uint32(why))
	}
	c.rec.abort(c.stack.tracker, c.ep)
	c.wake()
	return nil
}

// abort ends the endpoint with an RST, or in SYN-SENT without a segment.
func (r *record) abort(t *tracker, ep *tcp.Endpoint) {
	r.call.Store(uint32(callAbort))
	r.inCall.Store(uint32(callAbort))
	ep.Abort()
	t.observe(r, viaCall)
	r.inCall.Store(uint32(callNone))
}

// AfterReset implements relay.Watcher.
func (c *Conn) AfterReset(f func(error)) (stop func() bool) {
	r := c.rec
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failure != nil {
		go f(r.failure)
		return func() bool { return false }
	}
	if r.watchers == nil {
		r.watchers = make(map[*func(error)]struct{})
	}
	r.watchers[&f] = struct{}{}
	return func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		_, there := r.watchers[&f]
		delete(r.watchers, &f)
		return there
	}
}

// failLocked tells those who watch that the endpoint has failed, unless its
// owner has ended it.
func (r *record) failLocked(why tcpstate.Cause) {
	if r.released.Load() {
		return
	}
	r.failure = syscall.ECONNRESET
	if why.Kind == tcpstate.ByTimer {
		r.failure = syscall.ETIMEDOUT
	}
	for f := range r.watchers {
		go (*f)(r.failure)
	}
	r.watchers = nil
}

// wake lets a blocked Read or Write see that the connection is closed.
func (c *Conn) wake() {
	c.readable.NotifyEvent(0)
	c.writable.NotifyEvent(0)
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	c.readBy.set(t)
	c.writeBy.set(t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.readBy.set(t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.writeBy.set(t)
	return nil
}
