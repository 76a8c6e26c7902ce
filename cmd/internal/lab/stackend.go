package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox"
)

// stackEnd does the steps of the stack: it opens connections to the guest, and
// plays hosts.
type stackEnd struct {
	box       *tcpbox.Sandbox
	listeners map[string]net.Listener // by Listen.At
	kept      map[string][]tcpbox.Conn

	mu    sync.Mutex
	leaks []net.Conn // which nobody closes before the sandbox ends
}

func newStackEnd(box *tcpbox.Sandbox) *stackEnd {
	return &stackEnd{box: box, listeners: make(map[string]net.Listener), kept: make(map[string][]tcpbox.Conn)}
}

// do does a step that the stack can do.
func (e *stackEnd) do(ctx context.Context, s *Step) (Figures, error) {
	switch {
	case s.Connect != nil:
		return e.connect(ctx, s.Connect)
	case s.Listen != nil:
		return Figures{}, e.listen(s.Listen)
	case s.Accept != nil:
		return e.accept(s.Name, s.Accept)
	case s.Open != nil:
		return e.open(ctx, s.Name, s.Open)
	case s.Act != nil:
		return e.act(s.Act)
	}
	return nil, fmt.Errorf("the stack cannot do %q", s.kinds())
}

// errnoOf is the name of what a call of the stack failed with.
func errnoOf(err error) (string, bool) {
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		return errnoName(errno), true
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errnoName(unix.EAGAIN), true
	}
	return "", false
}

func (e *stackEnd) dial(ctx context.Context, to string, within time.Duration) (tcpbox.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	conn, err := e.box.Dial(ctx, "tcp4", to)
	if err != nil {
		return nil, err
	}
	c, ok := conn.(tcpbox.Conn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("a connection of the stack is a %T", conn), conn.Close())
	}
	return c, nil
}

// connect makes connections to the guest, one after the other, and ends each.
func (e *stackEnd) connect(ctx context.Context, c *Connect) (Figures, error) {
	f := Figures{}
	for i := range c.Times {
		conn, err := e.dial(ctx, c.To, patience)
		if err == nil {
			if err := endConn(conn, c); err != nil {
				return f, fmt.Errorf("connection %d to %s: %w", i+1, c.To, err)
			}
			f["ok"]++
			continue
		}
		name, ok := errnoOf(err)
		if !ok {
			return f, fmt.Errorf("connection %d to %s: %w", i+1, c.To, err)
		}
		f[name]++
		if f["first-failure"] == 0 {
			f["first-failure"] = i + 1
		}
	}
	return f, nil
}

// endConn ends a connection of the stack as a client does.
func endConn(conn tcpbox.Conn, c *Connect) (err error) {
	defer func() {
		if closeErr := conn.Close(); err == nil && closeErr != nil && !errors.Is(closeErr, net.ErrClosed) {
			err = closeErr
		}
	}()
	if _, err := io.WriteString(conn, c.Say); err != nil {
		return err
	}
	switch c.Close {
	case ClientClose:
		return nil
	case ClientReset:
		return conn.Reset()
	case ClientShutdown:
		if err := conn.CloseWrite(); err != nil {
			return err
		}
	}
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, conn)
	return err
}

func (e *stackEnd) listen(l *Listen) error {
	ln, err := e.box.Listen(l.At)
	if err != nil {
		return err
	}
	e.listeners[l.At] = ln
	if l.Then != "" {
		go e.serve(ln, l.Then) // until the sandbox ends
	}
	return nil
}

func (e *stackEnd) serve(ln net.Listener, then Then) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			if then == ThenReadEnd || then == ThenLeak {
				_, _ = io.Copy(io.Discard, conn)
			}
			if then == ThenHold || then == ThenLeak {
				e.mu.Lock()
				defer e.mu.Unlock()
				e.leaks = append(e.leaks, conn)
				return
			}
			_ = conn.Close()
		}()
	}
}

func (e *stackEnd) accept(name string, a *Accept) (Figures, error) {
	ln, ok := e.listeners[a.At]
	if !ok {
		return nil, fmt.Errorf("the stack does not listen on %q", a.At)
	}
	f := Figures{}
	for range a.Times {
		conn, err := ln.Accept()
		if err != nil {
			return f, err
		}
		c, ok := conn.(tcpbox.Conn)
		if !ok {
			return f, fmt.Errorf("a connection of the stack is a %T", conn)
		}
		e.kept[name] = append(e.kept[name], c)
		f["ok"]++
	}
	return f, nil
}

func (e *stackEnd) open(ctx context.Context, name string, o *Open) (Figures, error) {
	within := patience
	if o.Within > 0 {
		within = ms(o.Within)
	}
	var (
		mu    sync.Mutex
		f     = Figures{}
		fault error
		group sync.WaitGroup
	)
	one := func() {
		conn, err := e.dial(ctx, o.To, within)
		mu.Lock()
		defer mu.Unlock()
		switch errno, ok := errnoOf(err); {
		case err == nil:
			f["ok"]++
			e.kept[name] = append(e.kept[name], conn)
		case o.Within > 0 && errors.Is(err, context.DeadlineExceeded):
			f["pending"]++
		case ok:
			f[errno]++
		default:
			fault = errors.Join(fault, err)
		}
	}
	for range o.Times {
		if o.AtOnce {
			group.Go(one)
		} else {
			one()
		}
	}
	group.Wait()
	return f, fault
}

func (e *stackEnd) act(a *Act) (Figures, error) {
	conns, ok := e.kept[a.On]
	if !ok {
		return nil, fmt.Errorf("the stack has no connections of a step %q", a.On)
	}
	if a.Only > 0 {
		conns = conns[:min(a.Only, len(conns))]
	}
	f := Figures{}
	for _, conn := range conns {
		n, err := actOnConn(conn, a)
		if n > 0 && (a.Do == DoFill || a.Do == DoRead) {
			f["bytes"] += n
		}
		name, ok := errnoOf(err)
		switch {
		case err == nil:
			f["ok"]++
		case ok:
			f[name]++
		default:
			return f, err
		}
	}
	if a.Do == DoClose || a.Do == DoReset {
		e.kept[a.On] = e.kept[a.On][len(conns):]
	}
	return f, nil
}

func actOnConn(conn tcpbox.Conn, a *Act) (n int, err error) {
	end := time.Now().Add(patience)
	switch a.Do {
	case DoShutdown:
		return 0, conn.CloseWrite()
	case DoClose:
		return 0, conn.Close()
	case DoReset:
		return 0, conn.Reset()
	case DoWrite:
		if err := conn.SetWriteDeadline(end); err != nil {
			return 0, err
		}
		_, err := conn.Write(make([]byte, a.Bytes))
		return 0, err
	case DoFill:
		return fillConn(conn)
	}
	if err := conn.SetReadDeadline(end); err != nil {
		return 0, err
	}
	if a.Do == DoRead {
		return io.ReadFull(conn, make([]byte, a.Bytes))
	}
	_, err = io.Copy(io.Discard, conn)
	return 0, err
}

// fillConn writes until the stack takes no more.
func fillConn(conn net.Conn) (total int, err error) {
	buf := make([]byte, 64<<10)
	for {
		if err := conn.SetWriteDeadline(time.Now().Add(ms(fullAfter))); err != nil {
			return total, err
		}
		n, err := conn.Write(buf)
		total += n
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}
