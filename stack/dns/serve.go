package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// maxReadErrors is how many reads or accepts may fail in a row before serving
// ends.
const maxReadErrors = 16

// ServePacket answers the queries that come to conn, until ctx ends. Then it
// closes conn, waits for all that it started, and returns nil. It returns
// early, with an error, when conn fails.
func (s *Server) ServePacket(ctx context.Context, conn net.PacketConn) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Add(1)
	context.AfterFunc(ctx, func() {
		defer wg.Done()
		conn.Close()
	})

	buffer := make([]byte, MaxQueryBytes+1)
	failed := 0
	for {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if failed++; failed == maxReadErrors || errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("dns: read: %w", err)
			}
			continue
		}
		failed = 0
		req, reply := s.understand(buffer[:n], "udp")
		if req != nil {
			if reply = s.own(req); reply == nil {
				if !s.begin() {
					s.done(req, Dropped, nil)
					continue
				}
				req.raw = slices.Clone(req.raw)
				wg.Go(func() {
					defer s.end()
					send(conn, s.forward(ctx, req), from)
				})
				continue
			}
		}
		send(conn, reply, from)
	}
}

// send sends reply, if there is one. A reply that is lost is asked for again.
func send(conn net.PacketConn, reply []byte, to net.Addr) {
	if reply != nil {
		_, _ = conn.WriteTo(reply, to)
	}
}

// begin takes a place among the forwarded queries, if there is one.
func (s *Server) begin() bool {
	select {
	case s.waiting <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s *Server) end() { <-s.waiting }

// ServeStream answers the queries that come over TCP connections accepted from
// ln, until ctx ends. Then it closes ln and the connections, waits for all that
// it started, and returns nil. It returns early, with an error, when ln fails.
func (s *Server) ServeStream(ctx context.Context, ln net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Add(1)
	context.AfterFunc(ctx, func() {
		defer wg.Done()
		ln.Close()
	})

	failed := 0
	for {
		conn, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if failed++; failed == maxReadErrors || errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("dns: accept: %w", err)
			}
			continue
		}
		failed = 0
		select {
		case s.streams <- struct{}{}:
			s.accepted.Add(1)
			wg.Go(func() {
				defer func() { <-s.streams }()
				s.serveConn(ctx, conn)
			})
		default:
			s.turned.Add(1)
			conn.Close()
		}
	}
}

// serveConn answers the queries on conn one after the other, until the guest
// closes it, is idle for too long, or sends what is no query.
func (s *Server) serveConn(ctx context.Context, conn net.Conn) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	for {
		if conn.SetDeadline(time.Now().Add(s.cfg.IdleTimeout)) != nil {
			return
		}
		raw, err := readMessage(conn, MaxQueryBytes)
		if err != nil {
			if errors.Is(err, errTooLong) {
				s.malformed.Add(1)
			}
			return
		}
		req, reply := s.understand(raw, "tcp")
		if req != nil {
			if reply = s.own(req); reply == nil {
				if !s.begin() {
					s.done(req, Dropped, nil)
					return
				}
				reply = s.forward(ctx, req)
				s.end()
			}
		}
		if reply == nil {
			return
		}
		if conn.SetDeadline(time.Now().Add(s.cfg.IdleTimeout)) != nil || writeMessage(conn, reply) != nil {
			return
		}
	}
}
