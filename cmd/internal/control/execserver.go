package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"tcpbox"
)

const (
	// maxExecs bounds the commands that run by way of one sandbox's socket.
	maxExecs = 256

	// killAfter is how long a command may live on after it was hung up.
	killAfter = 5 * time.Second
)

// execs are the connections that have become something else than HTTP: those
// that run a command.
type execs struct {
	mu     sync.Mutex
	closed bool
	conns  map[*net.UnixConn]struct{}
	all    sync.WaitGroup
}

// enter takes a connection in, unless there are too many.
func (e *execs) enter(c *net.UnixConn) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed:
		return tcpbox.ErrEnded
	case len(e.conns) >= maxExecs:
		return fmt.Errorf("%d commands run already", maxExecs)
	}
	if e.conns == nil {
		e.conns = map[*net.UnixConn]struct{}{}
	}
	e.conns[c] = struct{}{}
	e.all.Add(1)
	return nil
}

func (e *execs) leave(c *net.UnixConn) {
	e.mu.Lock()
	delete(e.conns, c)
	e.mu.Unlock()
	e.all.Done()
}

// close ends all: it is to them as if their clients were gone. They still tell
// how their commands have ended.
func (e *execs) close() {
	e.mu.Lock()
	e.closed = true
	for c := range e.conns {
		_ = c.CloseRead()
	}
	e.mu.Unlock()
	e.all.Wait()
}

// exec answers POST /v1/exec, up to the 101.
func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), upgradeTo) {
		w.Header().Set("Upgrade", upgradeTo)
		w.Header().Set("Connection", "Upgrade")
		refuse(w, http.StatusUpgradeRequired, errors.New("this request becomes another protocol"), "Upgrade: "+upgradeTo)
		return
	}
	var req ExecRequest
	err := read(r, &req)
	if err == nil {
		err = req.check()
	}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		refuse(w, http.StatusRequestEntityTooLarge, fmt.Errorf("arguments and environment are larger than %d bytes", tooLarge.Limit), "pass a file")
		return
	case err != nil:
		refuse(w, http.StatusBadRequest, err, `the body is {"args": ["sh", "-c", "…"], …}`)
		return
	}
	_, _ = io.Copy(io.Discard, r.Body) // what follows is no more than space
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		refuse(w, http.StatusInternalServerError, err, "")
		return
	}
	defer conn.Close()
	c, ok := conn.(*net.UnixConn)
	if !ok || buffered.Reader.Buffered() > 0 { // it has not waited for the answer
		return
	}
	if err := s.execs.enter(c); err != nil {
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: application/json\r\n\r\n{\"v\":%d,\"error\":%q}\n", Version, err)
		return
	}
	defer s.execs.leave(c)
	_ = c.SetDeadline(time.Now().Add(readTimeout))
	if _, err := fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", upgradeTo); err != nil {
		return
	}
	s.serveExec(&stream{conn: c}, req.config())
}

// serveExec is what follows the 101.
func (s *Server) serveExec(st *stream, cfg tcpbox.ExecConfig) {
	var first ExecMessage
	err := st.receive(&first)
	files := asFiles(st.take())
	defer files.close()
	want := 3
	if cfg.Terminal {
		want = 0
	}
	switch {
	case err != nil:
		return
	case first.Op != opStart || len(files) != want:
		_ = st.send(failed(fmt.Errorf("%q with %d descriptors instead of start with %d", first.Op, len(files), want)))
		return
	}
	if !cfg.Terminal {
		cfg.Stdin, cfg.Stdout, cfg.Stderr = files[0], files[1], files[2]
	}
	_ = st.conn.SetDeadline(time.Time{})

	ctx, cancel := context.WithCancel(context.Background())
	e := &execution{st: st, signals: make(chan syscall.Signal, 16), over: make(chan struct{}), gone: cancel}
	var reading sync.WaitGroup
	reading.Go(e.read)
	defer reading.Wait()
	defer func() {
		close(e.over)
		_ = st.conn.CloseRead()
	}()
	cmd, err := s.box.Exec(ctx, cfg)
	files.close()
	if err != nil {
		_ = st.send(failed(err))
		return
	}
	e.begun(cmd)
	e.serve(ctx, cmd)
}

// execution is a command that a client has asked for.
type execution struct {
	st      *stream
	signals chan syscall.Signal
	over    chan struct{} // closed when nobody takes signals any more
	gone    func()        // called when the client is
}

// read takes in what the client sends, until it is gone or there is no use in
// it any more.
func (e *execution) read() {
	defer e.gone()
	for {
		var m ExecMessage
		err := e.st.receive(&m)
		closeAll(e.st.take())
		if err != nil || m.Op != opSignal || m.Signal < 1 || m.Signal > 64 {
			return
		}
		select {
		case e.signals <- syscall.Signal(m.Signal):
		case <-e.over:
			return
		}
	}
}

// begun tells the client, and gives it the terminal: when it is gone, nobody
// has that end, and the kernel hangs the command up.
func (e *execution) begun(cmd *tcpbox.Command) {
	started := ExecMessage{Op: opStarted, PID: cmd.PID()}
	terminal := cmd.Terminal()
	if terminal == nil {
		_ = e.st.send(started) // an error: read sees it too
		return
	}
	defer terminal.Close()
	if raw, err := terminal.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = e.st.send(started, int(fd)) })
	}
}

// serve passes signals on until the command has ended, and says how. ctx ends
// with the client.
func (e *execution) serve(ctx context.Context, cmd *tcpbox.Command) {
	gone := ctx.Done()
	kill := time.NewTimer(0)
	kill.Stop()
	defer kill.Stop()
	for {
		select {
		case sig := <-e.signals:
			_ = cmd.Signal(sig) // an error: it has ended
		case <-gone:
			gone = nil
			_ = cmd.Signal(syscall.SIGHUP)
			kill.Reset(killAfter)
		case <-kill.C:
			_ = cmd.Signal(syscall.SIGKILL)
		case <-cmd.Done():
			status, err := cmd.Wait()
			_ = e.st.send(ExecMessage{Op: opEnded, Code: status.Code, Signal: int(status.Signal), SandboxEnded: err != nil})
			return
		}
	}
}

// failed says why a command has not begun.
func failed(err error) ExecMessage {
	const most = 1 << 10 // an argument that the text names may be long
	m := ExecMessage{Op: opFailed, Status: 125, Error: err.Error()}
	if len(m.Error) > most {
		m.Error = strings.ToValidUTF8(m.Error[:most], "") + "…"
	}
	var launch *tcpbox.LaunchError
	var exec *tcpbox.ExecError
	switch {
	case errors.As(err, &exec):
		m.Status = exec.Status()
	case errors.As(err, &launch):
		m.Hint = launch.Hint
		if launch.Op == tcpbox.OpConfiguration {
			m.Status = 2
		}
	}
	return m
}

// files are descriptors that a client has passed.
type files []*os.File

func asFiles(fds []int) (all files) {
	for _, fd := range fds {
		all = append(all, os.NewFile(uintptr(fd), "passed"))
	}
	return all
}

// close may be called twice.
func (f files) close() {
	for _, file := range f {
		_ = file.Close()
	}
}
