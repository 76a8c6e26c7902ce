package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Own is a network namespace of its own that lives in one locked thread of
// this process, and ends with it. It needs CAP_SYS_ADMIN. It is the uplink of
// tests, and serves wherever no process is to live in the namespace.
type Own struct {
	work chan func()
	done chan struct{} // closed when the thread is gone

	mu     sync.RWMutex
	closed bool
}

// New makes a namespace. Its lo is down, and it has no other interface.
func New() (*Own, error) {
	o := &Own{work: make(chan func()), done: make(chan struct{})}
	started := make(chan error, 1)
	go o.live(started)
	if err := <-started; err != nil {
		<-o.done
		return nil, fmt.Errorf("netns: new: %w", err)
	}
	return o, nil
}

// live is the namespace's thread. It is never unlocked, so the runtime ends
// the thread with the goroutine.
func (o *Own) live(started chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The main thread stays when its goroutine ends. Held here, it is not the
		// one that the next goroutine gets.
		elsewhere := make(chan error, 1)
		go o.live(elsewhere)
		started <- <-elsewhere
		runtime.UnlockOSThread()
		return
	}
	defer close(o.done)
	err := unix.Unshare(unix.CLONE_NEWNET)
	started <- err
	if err != nil {
		return
	}
	for f := range o.work {
		f()
	}
}

// Do calls f on the namespace's thread and returns its error. Sockets that f
// makes belong to the namespace, whoever uses them later; goroutines that f
// starts do not run in it. Calls are carried out one at a time, and f must not
// call Do.
func (o *Own) Do(f func() error) error {
	o.mu.RLock()
	defer o.mu.RUnlock()
	if o.closed {
		return fmt.Errorf("netns: %w", os.ErrClosed)
	}
	result := make(chan error, 1)
	o.work <- func() { result <- f() }
	return <-result
}

// Socket implements NS.
func (o *Own) Socket(domain, typ, proto int) (*os.File, error) {
	var file *os.File
	err := o.Do(func() (err error) {
		file, err = Socket(domain, typ, proto)
		return err
	})
	return file, err
}

// Socket makes a socket in the namespace of the calling thread. It is
// non-blocking and close-on-exec.
func Socket(domain, typ, proto int) (*os.File, error) {
	fd, err := unix.Socket(domain, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil, fmt.Errorf("netns: socket: %w", err)
	}
	return os.NewFile(uintptr(fd), "socket"), nil
}

// Sysctl implements NS.
func (o *Own) Sysctl(name string) (string, error) {
	var value string
	err := o.atProcSys(func(dir int) (err error) {
		value, err = ReadSysctl(dir, name)
		return err
	})
	return value, err
}

// SetSysctl implements NS.
func (o *Own) SetSysctl(name, value string) error {
	return o.atProcSys(func(dir int) error { return WriteSysctl(dir, name, value) })
}

// atProcSys runs f in the namespace. The net directory of /proc/sys shows the
// namespace of the calling thread.
func (o *Own) atProcSys(f func(dir int) error) error {
	return o.Do(func() error {
		dir, err := unix.Open("/proc/sys", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("netns: open /proc/sys: %w", err)
		}
		defer unix.Close(dir)
		return f(dir)
	})
}

// errProcNet is what ProcNet says to a name with a path in it.
var errProcNet = errors.New("not the name of a file in /proc/net")

// CheckProcNet refuses names that lead out of /proc/net.
func CheckProcNet(name string) error {
	for _, part := range strings.Split(name, "/") {
		if part == "" || part == "." || part == ".." || strings.ContainsRune(part, 0) {
			return fmt.Errorf("netns: %q: %w", name, errProcNet)
		}
	}
	return nil
}

// ProcNet implements NS.
func (o *Own) ProcNet(name string) ([]byte, error) {
	if err := CheckProcNet(name); err != nil {
		return nil, err
	}
	var data []byte
	err := o.Do(func() (err error) {
		data, err = os.ReadFile("/proc/thread-self/net/" + name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("netns: %w", err)
	}
	return data, nil
}

// Close ends the namespace, unless an open socket of it pins it, and returns
// when its thread takes no more work. It is safe to call twice.
func (o *Own) Close() error {
	o.mu.Lock()
	if !o.closed {
		o.closed = true
		close(o.work)
	}
	o.mu.Unlock()
	<-o.done
	return nil
}

var _ NS = (*Own)(nil)
