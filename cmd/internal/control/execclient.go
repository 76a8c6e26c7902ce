package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox"
)

// ErrLost is matched by the error of Command.Wait when the tcpbox that runs the
// sandbox has died: so has the command.
var ErrLost = errors.New("the tcpbox that runs the sandbox has died, and with it the command")

// Command is a command in a sandbox of another process, as tcpbox.Command is
// one in this process's.
type Command struct {
	st       *stream
	pid      int
	terminal *os.File
	done     chan struct{} // closed when it has ended

	status tcpbox.Status // with err, once done is closed
	err    error
}

// Exec starts a command in the sandbox, as tcpbox.Sandbox.Exec does. It gets
// the descriptors themselves: no byte passes through a tcpbox. When this
// process dies, the command is hung up: it gets HUP, and KILL five seconds
// later.
//
// An error that matches *RemoteError has the exit status that a shell gives.
func (c *Client) Exec(ctx context.Context, cfg tcpbox.ExecConfig) (*Command, error) {
	conn, err := c.upgrade(ctx, newExecRequest(cfg))
	if err != nil {
		return nil, err
	}
	cmd := &Command{st: &stream{conn: conn}, done: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := cmd.start(cfg); err != nil {
		var said *RemoteError
		if !errors.As(err, &said) && ctx.Err() == nil {
			err = c.lost(err)
		}
		conn.Close()
		closeAll(cmd.st.take())
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	go cmd.await()
	return cmd, nil
}

// upgrade makes the request, up to the answer 101.
func (c *Client) upgrade(ctx context.Context, in ExecRequest) (*net.UnixConn, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	if len(body) > maxExecBody {
		return nil, &RemoteError{Exit: 2, Message: fmt.Sprintf("arguments and environment of %d bytes are more than %d", len(body), maxExecBody)}
	}
	dialled, err := c.dial(ctx, "unix", c.socket)
	if err != nil {
		return nil, c.lost(err)
	}
	conn := dialled.(*net.UnixConn)
	_ = conn.SetDeadline(time.Now().Add(requestTimeout))
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://sandbox/v1/exec", bytes.NewReader(body))
	if err != nil {
		conn.Close()
		return nil, c.lost(err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", upgradeTo)
	// The server may have refused before it has read all.
	writeErr := req.Write(conn)
	// Nothing follows the answer until start is sent, so the buffer takes
	// nothing away.
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		conn.Close()
		return nil, c.lost(errors.Join(writeErr, err))
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer conn.Close()
		return nil, failure(resp)
	}
	_ = conn.SetDeadline(time.Time{})
	return conn, nil
}

// start passes the descriptors, and waits for the command to begin.
func (c *Command) start(cfg tcpbox.ExecConfig) error {
	fds, done, err := descriptors(cfg)
	if err != nil {
		return fmt.Errorf("control: %w", err)
	}
	defer done()
	if err := c.st.send(ExecMessage{Op: opStart}, fds...); err != nil {
		return fmt.Errorf("control: %w", err)
	}
	var m ExecMessage
	if err := c.st.receive(&m); err != nil {
		return fmt.Errorf("control: %w", err)
	}
	passed := c.st.take()
	switch {
	case m.Op == opFailed:
		closeAll(passed)
		return &RemoteError{Message: m.Error, Hint: m.Hint, Exit: m.Status}
	case m.Op != opStarted || cfg.Terminal != (len(passed) == 1):
		closeAll(passed)
		return fmt.Errorf("control: the sandbox answered %q with %d descriptors", m.Op, len(passed))
	}
	c.pid = m.PID
	if cfg.Terminal {
		_ = unix.SetNonblock(passed[0], true) // so that deadlines work
		c.terminal = os.NewFile(uintptr(passed[0]), "terminal")
	}
	return nil
}

// descriptors are those that the command gets. done closes what is not cfg's.
// As long as it is not called, cfg's files are not closed.
func descriptors(cfg tcpbox.ExecConfig) (fds []int, done func(), err error) {
	done = func() { closeAll(fds) }
	if cfg.Terminal {
		return nil, done, nil
	}
	for _, f := range []*os.File{cfg.Stdin, cfg.Stdout, cfg.Stderr} {
		fd := -1
		if f == nil {
			fd, err = unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
		} else if raw, rawErr := f.SyscallConn(); rawErr != nil {
			err = rawErr
		} else if ctlErr := raw.Control(func(p uintptr) { fd, err = unix.FcntlInt(p, unix.F_DUPFD_CLOEXEC, 3) }); ctlErr != nil {
			err = ctlErr
		}
		if err != nil {
			done()
			return nil, nil, err
		}
		fds = append(fds, fd)
	}
	return fds, done, nil
}

// await waits for the command's end, or for that of the other process.
func (c *Command) await() {
	defer close(c.done)
	defer c.st.conn.Close()
	var m ExecMessage
	err := c.st.receive(&m)
	closeAll(c.st.take())
	switch {
	case err != nil || m.Op != opEnded:
		c.err = ErrLost
	case m.SandboxEnded:
		c.err = tcpbox.ErrEnded
	}
	c.status = tcpbox.Status{Code: m.Code, Signal: syscall.Signal(m.Signal)}
}

// PID is the command's process id, as the other process sees it.
func (c *Command) PID() int { return c.pid }

// Terminal is the other end of the command's terminal, or nil: see
// tcpbox.Command.
func (c *Command) Terminal() *os.File { return c.terminal }

// Signal sends a signal to the command itself. That it has ended is no error.
func (c *Command) Signal(sig syscall.Signal) error {
	err := c.st.send(ExecMessage{Op: opSignal, Signal: int(sig)})
	select {
	case <-c.done:
		return nil
	default:
		return err
	}
}

// Done is closed when the command has ended.
func (c *Command) Done() <-chan struct{} { return c.done }

// Wait waits until the command has ended, and returns how. An error matches
// tcpbox.ErrEnded or ErrLost.
func (c *Command) Wait() (tcpbox.Status, error) {
	<-c.done
	return c.status, c.err
}

// Close gives the command up, which hangs it up if it has not ended. The
// terminal is not closed. It is safe to call twice.
func (c *Command) Close() error {
	err := c.st.conn.Close()
	<-c.done
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return err
}
