package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrEnded is matched by errors about a sandbox that has ended.
var ErrEnded = errors.New("the sandbox has ended")

// Exec is a further command to be started in a sandbox.
type Exec struct {
	// Args is the program and its arguments. A name without a slash is looked
	// for in the command's PATH.
	Args []string

	// Env are variables, as in os.Environ, that are set beside those of the
	// guest; the last of a name wins.
	Env []string

	// Dir is the working directory, an absolute path. Empty means the guest's.
	Dir string

	// Stdin, Stdout and Stderr are the command's descriptors 0, 1 and 2. It
	// gets copies. Nil means /dev/null. With Terminal they are left out.
	Stdin, Stdout, Stderr *os.File

	// Terminal gives the command a terminal of its own, made in the sandbox,
	// as descriptors 0, 1 and 2 and as its controlling terminal. Command.
	// Terminal is the other end.
	Terminal bool

	// Rows and Cols are the size of the terminal; zero is unknown.
	Rows, Cols uint16
}

// Command is a command that was started by Sandbox.Exec. Its methods may be
// called concurrently. What it holds is let go of when it ends, but for the
// terminal.
type Command struct {
	s        *Sandbox
	id       uint64
	terminal *os.File
	done     chan struct{} // closed when it has ended

	mu     sync.Mutex
	pid    int
	pidfd  int // -1 if there is none, or none any more
	over   bool
	status Status
	err    error
}

// Exec starts a command beside the guest, and returns once it runs. It is
// confined as the guest is, with ids mapped as the guest's are, in a session of
// its own, with no signal ignored. It ends with the sandbox at the latest.
//
// ctx bounds the starting only. An error may match *ExecError, ErrEnded, or
// *Error with Op OpConfiguration.
func (s *Sandbox) Exec(ctx context.Context, e Exec) (*Command, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	fds, done, err := e.files()
	if err != nil {
		return nil, &Error{Op: "exec", Err: err, Hint: resourceHint(err)}
	}
	defer done()
	c := &Command{s: s, done: make(chan struct{}), pidfd: -1}
	a, err := s.beginCommand(ctx, c, fds)
	if err == nil {
		err = a.m.Fault.err()
	}
	want := 1
	if e.Terminal {
		want = 2
	}
	if err == nil && len(a.fds) != want {
		err = &Error{Op: "exec", Err: errors.New("init sent other descriptors than asked for")}
	}
	if err != nil {
		closeAll(a.fds)
		s.mu.Lock()
		delete(s.commands, c.id)
		s.mu.Unlock()
		return nil, err
	}
	if e.Terminal {
		_ = unix.SetNonblock(a.fds[1], true) // so that deadlines work
		c.terminal = os.NewFile(uintptr(a.fds[1]), "terminal")
	}
	c.began(a.fds[0])
	return c, nil
}

// check reports everything that is wrong with e, as far as init need not be
// asked.
func (e Exec) check() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, &Error{Op: OpConfiguration, Err: fmt.Errorf(format, args...)})
	}
	if len(e.Args) == 0 || e.Args[0] == "" {
		bad("no program to run")
	}
	size := 0
	for what, list := range map[string][]string{"argument": e.Args, "environment variable": e.Env} {
		for _, v := range list {
			size += len(v) + 1
			if strings.ContainsRune(v, 0) {
				bad("%s %q holds a zero byte", what, v)
			}
		}
	}
	if size > maxExecBytes {
		bad("arguments and environment of %d bytes are more than any kernel executes", size)
	}
	if e.Dir != "" && !filepath.IsAbs(e.Dir) || strings.ContainsRune(e.Dir, 0) || len(e.Dir) > unix.PathMax {
		bad("working directory %.200q is not an absolute path", e.Dir)
	}
	if e.Terminal && (e.Stdin != nil || e.Stdout != nil || e.Stderr != nil) {
		bad("a command with a terminal takes no other descriptors")
	}
	return errors.Join(errs...)
}

// maxExecBytes is what the kernel takes at most of arguments and environment:
// three quarters of 8 MiB (execve(2)).
const maxExecBytes = 6 << 20

// files are the descriptors that init is sent with a request to exec. done
// closes those that are nobody else's.
func (e Exec) files() (fds []int, done func(), err error) {
	data, err := json.Marshal(execSpec{
		Terminal: e.Terminal, Rows: e.Rows, Cols: e.Cols,
		program: program{Args: bytesOf(e.Args), Env: bytesOf(e.Env), Dir: []byte(e.Dir)},
	})
	if err != nil {
		return nil, nil, err
	}
	var ours []*os.File
	done = func() {
		for _, f := range ours {
			f.Close()
		}
	}
	add := func(f *os.File, err error) error {
		if err != nil {
			return err
		}
		ours = append(ours, f)
		fds = append(fds, int(f.Fd()))
		return nil
	}
	err = add(memoryFile("tcpbox-exec", data))
	for i, f := range []*os.File{e.Stdin, e.Stdout, e.Stderr} {
		switch {
		case err != nil || e.Terminal:
		case f == nil:
			err = add(os.OpenFile(os.DevNull, os.O_RDWR, 0))
		default:
			var dup int
			if dup, err = duplicate(f); err == nil {
				err = add(os.NewFile(uintptr(dup), fmt.Sprint(i)), nil)
			}
		}
	}
	if err != nil {
		done()
	}
	return fds, done, err
}

// duplicate copies a file's descriptor. Fd would make the file blocking, for
// its owner too.
func duplicate(f *os.File) (fd int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	var dupErr error
	err = raw.Control(func(p uintptr) { fd, dupErr = unix.FcntlInt(p, unix.F_DUPFD_CLOEXEC, 3) })
	return fd, errors.Join(err, dupErr)
}

// beginCommand has init start a command.
func (s *Sandbox) beginCommand(ctx context.Context, c *Command, fds []int) (answer, error) {
	ended := &Error{Op: "exec", Err: ErrEnded}
	w := make(chan answer, 1)
	id, err := s.ask(message{Op: opExec}, w, func(id uint64) { c.id = id; s.commands[id] = c }, fds...)
	if err != nil {
		if errors.Is(err, os.ErrClosed) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
			err = ended
		}
		return answer{}, err
	}
	select {
	case a, ok := <-w:
		if !ok {
			return answer{}, ended
		}
		return a, nil
	case <-ctx.Done():
		s.abandon(id, w)
		return answer{}, &Error{Op: "exec", Err: context.Cause(ctx)}
	}
}

// abandon has init kill a command that is being started, whether or not it has
// replied.
func (s *Sandbox) abandon(id uint64, w <-chan answer) {
	s.mu.Lock()
	if s.waiting[id] != nil {
		s.waiting[id] = nil // dispatch kills what comes
	}
	s.mu.Unlock()
	_ = s.ch.send(message{Op: opAbandon, Ints: []int{int(id)}}) // an error: all has ended
	select {
	case a, ok := <-w:
		if ok && len(a.fds) > 0 {
			_ = unix.PidfdSendSignal(a.fds[0], unix.SIGKILL, nil, 0)
		}
		closeAll(a.fds)
	default:
	}
}

// began is told the process descriptor, which may come after the end.
func (c *Command) began(pidfd int) {
	pid := pidOf(pidfd)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pid = pid
	if c.over {
		unix.Close(pidfd)
		return
	}
	c.pidfd = pidfd
}

// end is told how it ended. The first word counts.
func (c *Command) end(status Status, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	c.over, c.status, c.err = true, status, err
	if c.pidfd >= 0 {
		unix.Close(c.pidfd)
		c.pidfd = -1
	}
	close(c.done)
}

// PID is the command's process id, as the caller sees it; 0 where /proc does
// not tell.
func (c *Command) PID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pid
}

// Terminal is the other end of the command's terminal: what is written to it is
// typed. It is the caller's to close, which hangs the command up. Nil without
// Exec.Terminal. Deadlines work. Reading fails with EIO when nobody has the
// command's end open.
func (c *Command) Terminal() *os.File { return c.terminal }

// Resize sets the size of the command's terminal.
func (c *Command) Resize(rows, cols uint16) error {
	if c.terminal == nil {
		return &Error{Op: "resize the terminal", Err: unix.ENOTTY}
	}
	raw, err := c.terminal.SyscallConn()
	if err == nil {
		ctlErr := raw.Control(func(fd uintptr) {
			err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
		})
		err = errors.Join(ctlErr, err)
	}
	if err != nil {
		return &Error{Op: "resize the terminal", Err: err}
	}
	return nil
}

// Signal sends a signal to the command itself. An error that matches
// os.ErrProcessDone says that it is too late.
func (c *Command) Signal(sig syscall.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pidfd < 0 {
		return &Error{Op: "signal", Err: os.ErrProcessDone}
	}
	return sendByPidfd(c.pidfd, sig)
}

// Done is closed when the command has ended.
func (c *Command) Done() <-chan struct{} { return c.done }

// Wait waits until the command has ended, and returns how. An error that
// matches ErrEnded says that the sandbox ended, which has killed it. Wait may
// be called any number of times.
func (c *Command) Wait() (Status, error) {
	<-c.done
	if c.err != nil {
		<-c.s.init.done // and with it the command
	}
	return c.status, c.err
}
