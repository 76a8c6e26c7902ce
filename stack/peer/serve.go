package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
)

// MaxConns is how many connections one peer serves at once. It is more than
// Linux's default range of ephemeral ports (28,232), so that a guest can run
// out of ports against one peer. Connections beyond it are reset.
const MaxConns = 32768

// closeWriter sends FIN and goes on reading.
type closeWriter interface{ CloseWrite() error }

// resetter sends RST and releases the connection.
type resetter interface{ Reset() error }

// lingerer is what a host's *net.TCPConn offers in place of Reset: a close
// without lingering discards and sends RST.
type lingerer interface{ SetLinger(seconds int) error }

// ErrNoReset is returned by Serve for a Resetter on a listener whose
// connections cannot send RST.
var ErrNoReset = errors.New("the listener's connections cannot send RST")

// Serve accepts connections from ln and treats each as kind says, until ctx
// ends. Then it closes ln and every connection, waits for all that it started,
// and returns nil. It returns early, with an error, when ln fails, when kind
// never listens, and when a Resetter cannot reset.
//
// Connections have CloseWrite() error and Reset() error, as the embedded
// stack's do; those of a host's TCP listener will do as well.
func Serve(ctx context.Context, kind Kind, ln net.Listener) error {
	switch {
	case !kind.Listens():
		return fmt.Errorf("peer: serve: a peer of kind %s does not listen", kind)
	case kind == HTTP:
		return serveHTTP(ctx, ln)
	}
	s := &server{kind: kind, max: MaxConns, conns: make(map[net.Conn]struct{})}
	return s.serve(ctx, ln)
}

// server serves one listener, for every kind but HTTP.
type server struct {
	kind Kind
	max  int // connections at once
	wg   sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{} // nil once the server has ended
	fault error                 // what ended it before its context did
}

func (s *server) serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer s.wg.Wait()
	defer cancel()

	s.wg.Add(1)
	context.AfterFunc(ctx, func() {
		defer s.wg.Done()
		ln.Close()
		s.closeConns()
	})
	for {
		conn, err := ln.Accept()
		if err != nil {
			return s.outcome(ctx, err)
		}
		if !s.add(conn) {
			_ = reset(conn)
			continue
		}
		s.wg.Add(1)
		go s.serveConn(ctx, conn, cancel)
	}
}

// outcome returns what serve returns when accepting has failed with err.
func (s *server) outcome(ctx context.Context, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.fault != nil:
		return fmt.Errorf("peer: serve: %w", s.fault)
	case ctx.Err() != nil:
		return nil
	}
	return fmt.Errorf("peer: accept: %w", err)
}

// serveConn serves one connection and releases it.
func (s *server) serveConn(ctx context.Context, conn net.Conn, cancel context.CancelFunc) {
	defer s.wg.Done()
	defer s.remove(conn)
	defer conn.Close()
	switch s.kind {
	case Echo:
		echo(conn)
	case Discard:
		_ = discard(conn)
	case Source:
		source(conn)
	case Closer:
		// The deferred Close is all there is to it.
	case Holder:
		hold(ctx, conn)
	case Resetter:
		if err := reset(conn); errors.Is(err, ErrNoReset) {
			s.mu.Lock()
			s.fault = err
			s.mu.Unlock()
			cancel()
		}
	}
}

// add takes conn into the server's care, unless it is full or has ended.
func (s *server) add(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil || len(s.conns) >= s.max {
		return false
	}
	s.conns[conn] = struct{}{}
	return true
}

func (s *server) remove(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
}

// closeConns closes every connection, which ends what is waiting on it.
func (s *server) closeConns() {
	s.mu.Lock()
	conns := s.conns
	s.conns = nil
	s.mu.Unlock()
	for conn := range conns {
		conn.Close()
	}
}

// reset sends RST on conn and releases it. A connection that cannot send RST
// is closed, and the error is ErrNoReset.
func reset(conn net.Conn) error {
	switch c := conn.(type) {
	case resetter:
		return c.Reset()
	case lingerer:
		if err := c.SetLinger(0); err != nil {
			conn.Close()
			return err
		}
		return conn.Close()
	}
	conn.Close()
	return ErrNoReset
}
