package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox/stack/sim"
	"tcpbox/stack/tcpstate"
)

// begin makes a call that waits for segments, and returns when it waits: when it
// has sent something, or has returned.
func (p *player) begin(ctx context.Context, end *simEnd, call func() (*sim.Conn, error)) error {
	before := len(p.net.Held(end.leg))
	c := &simCall{done: make(chan struct{})}
	end.call = c
	go func() {
		defer close(c.done)
		c.conn, c.err = call()
	}()
	for len(p.net.Held(end.leg)) == before && !c.returned() {
		if err := pause(ctx); err != nil {
			return err
		}
	}
	return nil
}

// pause lets other goroutines go on for a moment.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(50 * time.Microsecond):
		return nil
	}
}

// settle returns when the hosts have settled and the calls have returned that are
// going to without another segment: a program is never late.
func (p *player) settle(ctx context.Context) error {
	p.net.Settle()
	for leg, end := range p.ends {
		if end.call == nil || end.call.returned() {
			continue
		}
		if st := p.state(leg); st == tcpstate.SynSent || st == tcpstate.SynReceived {
			continue
		}
		select {
		case <-end.call.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	p.net.Settle()
	return nil
}

func (p *player) connectGives(ctx context.Context, end *simEnd, expected string) error {
	if end.call == nil {
		return fmt.Errorf("nobody on the %v has called connect", end.leg)
	}
	if err := p.settle(ctx); err != nil {
		return err
	}
	measured := "nothing"
	if end.call.returned() {
		measured = resultOf(end.call.err)
	}
	p.check("connect gives "+expected, "connect gives "+measured)
	return nil
}

// resultOf is what a call came to, in one word.
func resultOf(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, io.EOF):
		return "EOF"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "nothing"
	case errors.As(err, &errno) && unix.ErrnoName(errno) != "":
		return unix.ErrnoName(errno)
	}
	return strconv.Quote(err.Error())
}

// request returns the connection that the other end asks for.
func (p *player) request(ctx context.Context, end *simEnd) (*sim.Request, error) {
	for {
		if end.host.Asked() == 0 {
			return nil, p.stop(fmt.Sprintf("somebody asks the %v for a connection", end.leg), "nobody does")
		}
		// One that has been given up just now never comes.
		moment, cancel := context.WithTimeout(ctx, requestTime)
		r, err := end.host.Request(moment)
		cancel()
		if err == nil || ctx.Err() != nil {
			return r, err
		}
	}
}

// requestTime is after how long, in real time, it is asked again whether there is
// a request.
const requestTime = 100 * time.Millisecond

// answer ends the request of the other end.
func (p *player) answer(ctx context.Context, end *simEnd, kind simKind) error {
	r, err := p.request(ctx, end)
	if err != nil {
		return err
	}
	switch kind {
	case simRefuse:
		r.Reset()
	case simIgnore:
		r.Drop()
	default:
		return p.begin(ctx, end, r.Accept)
	}
	return p.settle(ctx)
}

// conn returns an end's connection.
func (p *player) conn(ctx context.Context, end *simEnd) (*sim.Conn, error) {
	if err := p.settle(ctx); err != nil {
		return nil, err
	}
	switch {
	case end.call == nil || !end.call.returned():
		return nil, p.stop(fmt.Sprintf("the %v has a connection", end.leg), "it is in "+p.state(end.leg).String())
	case end.call.conn == nil:
		return nil, p.stop(fmt.Sprintf("the %v has a connection", end.leg), "its call gave "+resultOf(end.call.err))
	}
	return end.call.conn, nil
}

// write writes; the script says ok by saying nothing.
func (p *player) write(ctx context.Context, end *simEnd, s *simStep) error {
	c, err := p.conn(ctx, end)
	if err != nil {
		return err
	}
	data := []byte(s.text)
	if s.text == "" {
		data = make([]byte, s.n)
		for i := range data {
			data[i] = 'a' + byte(i%26)
		}
	}
	// What does not fit into the buffer would wait for the other end.
	if err := c.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return err
	}
	n, err := c.Write(data)
	want := s.result
	if want == "" {
		want = "ok"
	}
	if got := resultOf(err); got != want {
		p.miss("write gives "+want, fmt.Sprintf("%s after %d bytes", got, n))
	}
	return p.settle(ctx)
}

// writeTime bounds a write that finds no room, in real time.
const writeTime = 2 * time.Second

// read reads all that there is, and what comes behind it if that is asked.
func (p *player) read(ctx context.Context, end *simEnd, s *simStep) error {
	c, err := p.conn(ctx, end)
	if err != nil {
		return err
	}
	p.net.Settle()
	var got []byte
	buf := make([]byte, 1<<16)
	for {
		c.Interrupt() // where there is nothing it does not wait
		n, err := c.Read(buf)
		got = append(got, buf[:n]...)
		end.bytes += n
		if n > 0 && (s.result == "" && len(got) < len(s.text)) {
			continue
		}
		switch {
		case s.text != "" && len(got) > 0:
			p.check("it reads "+strconv.Quote(s.text), "it reads "+strconv.Quote(string(got)))
		case s.result == "ok" && n > 0:
			continue
		case s.result == "ok" && len(got) > 0:
		default:
			want := s.result
			if s.text != "" {
				want = strconv.Quote(s.text)
			}
			measured := resultOf(err)
			if len(got) > 0 {
				measured = strconv.Quote(string(got))
			}
			p.check("read gives "+want, "read gives "+measured)
		}
		return p.settle(ctx) // the window may have opened
	}
}

func (p *player) end(ctx context.Context, end *simEnd, kind simKind) error {
	c, err := p.conn(ctx, end)
	if err != nil {
		return err
	}
	switch kind {
	case simShutdown:
		err = c.CloseWrite()
	case simReset:
		err = c.Reset()
	default:
		err = c.Close()
	}
	if err != nil {
		p.miss("the call succeeds", resultOf(err))
	}
	return p.settle(ctx)
}
