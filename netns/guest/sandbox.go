package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"tcpbox/netns"
	"tcpbox/tun"
)

// Sandbox is one set of namespaces and the guest in it. Its methods may be
// called concurrently.
type Sandbox struct {
	log    *slog.Logger
	init   *initProcess
	ch     *channel
	device tun.Device

	readerDone chan struct{} // closed when init sends nothing more
	events     chan message  // stops and continuations, for ForwardSignals

	mu       sync.Mutex
	lastID   uint64
	waiting  map[uint64]chan<- answer // nil once init is gone; a nil channel: nobody waits any more
	commands map[uint64]*Command      // those that have not ended
	status   *Status                  // nil until the guest has exited
	guestPID int
	pidfd    int  // of the guest, or -1
	front    bool // this process's group was in the foreground when Start was called

	lingering chan struct{} // closed when the guest has exited, and others have not
	started   chan struct{} // closed when Start knows the guest's pid, or never will
	startOnce sync.Once
	closeOnce sync.Once
}

// answer is what init replied to a request.
type answer struct {
	m   message
	fds []int
}

// New makes the namespaces of a sandbox, its device and its mounts. The
// program has not started. ctx bounds the making only. If New fails, nothing
// is left of what it made. Its errors match *Error, with a hint where there is
// a next step.
func New(ctx context.Context, c Config) (*Sandbox, error) {
	caller := newCaller()
	if err := c.check(caller.privileged, caller.uid, caller.gid); err != nil {
		return nil, err
	}
	log := c.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if c.Link.Name == "" {
		c.Link.Name = tun.DefaultName
	}
	proc, ch, err := launch(caller, c)
	if err != nil {
		return nil, err
	}
	s := &Sandbox{
		log:        log,
		init:       proc,
		ch:         ch,
		readerDone: make(chan struct{}),
		events:     make(chan message, 16),
		waiting:    map[uint64]chan<- answer{},
		commands:   map[uint64]*Command{},
		lingering:  make(chan struct{}),
		started:    make(chan struct{}),
		pidfd:      -1,
	}
	fd, name, err := s.ready(ctx)
	if err == nil {
		s.device, err = tun.New(fd, name, c.Link.MTU)
	}
	if err != nil {
		proc.kill()
		<-proc.done
		ch.close()
		return nil, err
	}
	go s.read()
	return s, nil
}

// ready waits for init to have done its work, and returns the device.
func (s *Sandbox) ready(ctx context.Context) (fd int, name string, err error) {
	stop := context.AfterFunc(ctx, s.init.kill)
	defer stop()
	m, fds, err := s.ch.receive()
	switch {
	case ctx.Err() != nil:
		closeAll(fds)
		return -1, "", &Error{Op: "start", Err: context.Cause(ctx)}
	case errors.Is(err, io.EOF):
		return -1, "", &Error{
			Op: "start", Err: ErrInitDied,
			Hint: "the program that uses package guest must call its Init first in main",
		}
	case err != nil:
		return -1, "", &Error{Op: "start", Err: err}
	case m.Fault != nil:
		closeAll(fds)
		return -1, "", m.Fault.err()
	case m.Op != opReady || len(fds) != 1:
		closeAll(fds)
		return -1, "", &Error{Op: "start", Err: fmt.Errorf("init sent %q", m.Op)}
	}
	if m.Value != "" {
		s.log.Warn("some of the sandbox is made in another way than usual", "why", m.Value)
	}
	return fds[0], m.Name, nil
}

// read takes in what init sends, until it is gone.
func (s *Sandbox) read() {
	defer close(s.readerDone)
	defer s.ch.close()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, w := range s.waiting {
			if w != nil {
				close(w)
			}
		}
		s.waiting = nil
		for id, c := range s.commands {
			delete(s.commands, id)
			c.end(Status{Signal: syscall.SIGKILL}, &Error{Op: "wait", Err: ErrEnded})
		}
		close(s.events)
	}()
	for {
		m, fds, err := s.ch.receive()
		if err != nil {
			return
		}
		s.dispatch(m, fds)
	}
}

func (s *Sandbox) dispatch(m message, fds []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch w, asked := s.waiting[m.ID]; {
	case w != nil:
		delete(s.waiting, m.ID)
		if m.Fault != nil && len(fds) > 0 { // some are missing: a command that nobody could wait for
			_ = unix.PidfdSendSignal(fds[0], unix.SIGKILL, nil, 0)
			closeAll(fds)
			fds = nil
		}
		w <- answer{m, fds}
		return
	case asked: // for a command that was given up
		delete(s.waiting, m.ID)
		if len(fds) > 0 {
			_ = unix.PidfdSendSignal(fds[0], unix.SIGKILL, nil, 0)
		}
	case m.Op == opEnded && len(m.Ints) == 3:
		id := uint64(m.Ints[0])
		if c := s.commands[id]; c != nil {
			delete(s.commands, id)
			c.end(Status{Code: m.Ints[1], Signal: syscall.Signal(m.Ints[2])}, nil)
		}
	case m.Op == opExited && len(m.Ints) == 2:
		s.status = &Status{Code: m.Ints[0], Signal: syscall.Signal(m.Ints[1])}
	case m.Op == opStopped || m.Op == opContinued || m.Op == opLingers:
		if m.Op == opLingers {
			close(s.lingering)
		}
		select {
		case s.events <- m:
		default: // nobody forwards signals
		}
	}
	closeAll(fds)
}

// call sends a request to init and waits for the reply. The descriptors are
// the caller's.
func (s *Sandbox) call(m message) (message, []int, error) {
	w := make(chan answer, 1)
	if _, err := s.ask(m, w, nil); err != nil {
		return message{}, nil, err
	}
	a, ok := <-w
	if !ok {
		return message{}, nil, errUnanswered
	}
	return a.m, a.fds, a.m.Fault.err()
}

// errUnanswered is that init died with a request in its hands: it may have
// carried it out.
var errUnanswered = fmt.Errorf("%w before it answered", os.ErrClosed)

// ask sends a request to init. The reply goes to w, which must have room for
// it, and is closed if init dies without one. note, unless nil, is told the
// request's ID before it is sent, with s.mu held.
func (s *Sandbox) ask(m message, w chan<- answer, note func(id uint64), fds ...int) (id uint64, err error) {
	s.mu.Lock()
	if s.waiting == nil {
		s.mu.Unlock()
		return 0, os.ErrClosed
	}
	s.lastID++
	m.ID = s.lastID
	s.waiting[m.ID] = w
	if note != nil {
		note(m.ID)
	}
	s.mu.Unlock()
	if err := s.ch.send(m, fds...); err != nil {
		s.mu.Lock()
		delete(s.waiting, m.ID)
		s.mu.Unlock()
		if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
			err = os.ErrClosed // init is dead, and the reader will hear of it
		}
		return 0, err
	}
	return m.ID, nil
}

// Device is the sandbox's end of the wire. Whoever terminates its traffic may
// close it; Close closes it too.
func (s *Sandbox) Device() tun.Device { return s.device }

// Start executes the guest's program and returns once it runs. An error that
// matches *ExecError says that the program could not be executed; the sandbox
// is of no more use then but to be closed.
func (s *Sandbox) Start() error {
	defer s.startOnce.Do(func() { close(s.started) })
	front := inFront() // a shell as the guest soon is there itself
	s.mu.Lock()
	s.front = front
	s.mu.Unlock()
	_, fds, err := s.call(message{Op: opStart})
	if errors.Is(err, os.ErrClosed) {
		err = &Error{Op: "start", Err: ErrInitDied, Hint: initDiedHint}
	}
	if err != nil {
		closeAll(fds)
		return err
	}
	if len(fds) != 1 {
		closeAll(fds)
		return &Error{Op: "start", Err: errors.New("init sent no process descriptor")}
	}
	pid := pidOf(fds[0])
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pidfd, s.guestPID = fds[0], pid
	return nil
}

// Wait waits until the guest has exited and all that it left behind is gone:
// killed, unless Config.Linger is set. It returns how the guest ended. If init died before it could tell, the error
// matches ErrInitDied. Wait may be called any number of times.
func (s *Sandbox) Wait() (Status, error) {
	<-s.readerDone
	<-s.init.done
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status == nil {
		return Status{}, &Error{Op: "wait", Err: fmt.Errorf("%w (%v)", ErrInitDied, s.init.state()), Hint: initDiedHint}
	}
	return *s.status, nil
}

// Done is closed when all that was in the sandbox is gone.
func (s *Sandbox) Done() <-chan struct{} { return s.init.done }

// Signal sends a signal to the guest, from wherever the guest may have had it
// already. An error that matches os.ErrProcessDone says that it is too late.
func (s *Sandbox) Signal(sig syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pidfd < 0 {
		return &Error{Op: "signal", Err: os.ErrProcessDone}
	}
	return sendByPidfd(s.pidfd, sig)
}

func sendByPidfd(pidfd int, sig syscall.Signal) error {
	switch err := unix.PidfdSendSignal(pidfd, sig, nil, 0); err {
	case nil:
		return nil
	case unix.ESRCH:
		return &Error{Op: "signal", Err: os.ErrProcessDone}
	default:
		return &Error{Op: "signal", Err: err}
	}
}

// SignalAll sends a signal to every process in the sandbox but init. It
// succeeds also if they all end by it before init can say so. An error that
// matches os.ErrProcessDone says that it is too late.
func (s *Sandbox) SignalAll(sig syscall.Signal) error {
	_, fds, err := s.call(message{Op: opSignalAll, Ints: []int{int(sig)}})
	closeAll(fds)
	switch {
	case errors.Is(err, errUnanswered):
		return nil
	case errors.Is(err, os.ErrClosed):
		return &Error{Op: "signal", Err: os.ErrProcessDone}
	}
	return err
}

// Lingering is closed when the guest has exited while other processes live on.
// That is only so with Config.Linger, and not where none was left behind.
func (s *Sandbox) Lingering() <-chan struct{} { return s.lingering }

// Pids returns the process ids of init and of the guest, as the caller sees
// them. The guest's is 0 before Start, or where /proc does not tell.
func (s *Sandbox) Pids() (init, guest int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.init.pid, s.guestPID
}

// Close kills everything in the sandbox, waits for it, and closes the device.
// It is safe to call twice, and before or after Wait. It always returns nil.
func (s *Sandbox) Close() error {
	s.closeOnce.Do(func() {
		s.init.kill()
		<-s.init.done
		<-s.readerDone
		s.device.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.pidfd >= 0 {
			unix.Close(s.pidfd)
			s.pidfd = -1
		}
	})
	<-s.init.done
	return nil
}

// NS is the way into the sandbox's network namespace. Its Close does nothing.
func (s *Sandbox) NS() netns.NS { return nsOfInit{s} }
