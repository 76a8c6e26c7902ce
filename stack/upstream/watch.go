package upstream

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// watcher tells of resets of connections that nobody reads or writes. It is
// one epoll(7) instance for all connections of a Host, which asks for nothing
// but errors, and one goroutine that waits for it in the runtime's poller.
// Both exist from the first connection that is watched.
//
// A connection enters when it is first watched and leaves when it is closed.
type watcher struct {
	mu     sync.Mutex
	file   *os.File // the epoll instance; nil until it is needed
	ended  chan struct{}
	closed bool
	conns  map[uint64]*Conn
	next   uint64
}

// watch is what the watcher keeps in a Conn.
type watch struct {
	token atomic.Uint64 // names it in the epoll instance; zero: not watched yet

	// Guarded by watcher.mu. The key is what tells two calls apart.
	calls map[*func(error)]struct{}
}

// AfterReset implements relay.Watcher.
func (c *Conn) AfterReset(f func(error)) (stop func() bool) {
	w := &c.host.resets
	key := &f
	if err := w.add(c, key); err != nil {
		// It can no longer be asked whether the connection has failed, so it
		// is given up as if it had.
		go f(err)
		return func() bool { return false }
	}
	if err := c.out.noted(); err != nil {
		w.fire(c)
	}
	return func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		_, waits := c.watch.calls[key]
		delete(c.watch.calls, key)
		return waits
	}
}

// add has c watched and remembers the call. A Conn or watcher that is closed
// remembers nothing.
func (w *watcher) add(c *Conn, key *func(error)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || c.closed.Load() {
		return nil
	}
	if err := w.startLocked(); err != nil {
		return fmt.Errorf("upstream: watch %v: %w", c.remote, shortage(err))
	}
	if c.watch.calls == nil {
		c.watch.calls = make(map[*func(error)]struct{})
	}
	c.watch.calls[key] = struct{}{}
	if c.watch.token.Load() != 0 {
		return nil
	}
	w.next++
	token := w.next
	c.watch.token.Store(token)
	w.conns[token] = c
	err := w.enterLocked(c, token)
	if err != nil || c.closed.Load() { // Close has not seen the token
		w.forgetLocked(c)
	}
	if c.closed.Load() {
		return nil
	}
	return err
}

// enterLocked puts c into the epoll instance. Errors are reported without
// being asked for; edge-triggered, each is reported once.
func (w *watcher) enterLocked(c *Conn, token uint64) error {
	return c.control("watch", func(fd int) error {
		event := unix.EpollEvent{Events: unix.EPOLLET, Fd: int32(token), Pad: int32(token >> 32)}
		raw, err := w.file.SyscallConn()
		if err != nil {
			return err
		}
		cerr := raw.Control(func(epfd uintptr) {
			err = unix.EpollCtl(int(epfd), unix.EPOLL_CTL_ADD, fd, &event)
		})
		if err == nil {
			err = cerr
		}
		return err
	})
}

func (w *watcher) startLocked() error {
	if w.file != nil {
		return nil
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that the poller takes it
		unix.Close(fd)
		return err
	}
	w.file = os.NewFile(uintptr(fd), "epoll")
	w.conns = make(map[uint64]*Conn)
	w.ended = make(chan struct{})
	go watchResets(w, w.file, w.ended)
	return nil
}

// watchResets tells of resets until the epoll instance is closed.
func watchResets(w *watcher, epoll *os.File, ended chan<- struct{}) {
	defer close(ended)
	raw, err := epoll.SyscallConn()
	if err != nil {
		return
	}
	events := make([]unix.EpollEvent, 64)
	_ = raw.Read(func(fd uintptr) bool {
		for {
			n, err := unix.EpollWait(int(fd), events, 0)
			if err != nil && err != unix.EINTR {
				return true
			}
			if n == 0 {
				return false
			}
			for _, e := range events[:max(0, n)] {
				w.reported(uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32)
			}
		}
	})
}

// reported is told that the connection of a token has failed, or has sent and
// got FIN, which is reported the same way.
func (w *watcher) reported(token uint64) {
	w.mu.Lock()
	c := w.conns[token]
	w.mu.Unlock()
	if c == nil {
		return
	}
	var failure error
	_ = c.raw.Control(func(fd uintptr) { failure = c.out.takeError(fd) })
	if failure != nil {
		w.fire(c)
		c.failedWith(failure)
	}
}

// fire makes the calls that c's failure is awaited by.
func (w *watcher) fire(c *Conn) {
	if c.watch.token.Load() == 0 {
		return
	}
	failure := c.out.noted()
	w.mu.Lock()
	defer w.mu.Unlock()
	for f := range c.watch.calls {
		go (*f)(failure)
	}
	c.watch.calls = nil
}

// forget drops what is known of a connection that is being closed.
func (w *watcher) forget(c *Conn) {
	if c.watch.token.Load() == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forgetLocked(c)
}

func (w *watcher) forgetLocked(c *Conn) {
	delete(w.conns, c.watch.token.Load())
	c.watch.calls = nil
}

// close ends the goroutine and waits for it.
func (w *watcher) close() error {
	w.mu.Lock()
	w.closed = true
	file, ended := w.file, w.ended
	w.file, w.conns = nil, nil
	w.mu.Unlock()
	if file == nil {
		return nil
	}
	err := file.Close()
	<-ended
	return err
}
