package netstack

import (
	"context"
	"errors"
	"io"
	"syscall"
	"testing"

	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

const (
	fin    = packet.FIN
	rst    = packet.RST
	ackFl  = packet.ACK
	finAck = packet.FIN | packet.ACK
	rstAck = packet.RST | packet.ACK
	synAck = packet.SYN | packet.ACK
)

// The beginnings that most of the paths below share.
var (
	passive = []string{"CLOSED>SYN-RECEIVED (segment SYN)", "SYN-RECEIVED>ESTABLISHED (segment ACK)"}
	active  = []string{"CLOSED>SYN-SENT (call connect)", "SYN-SENT>ESTABLISHED (segment SYN-ACK)"}
)

// TestPassiveEdges drives the gateway's end of a connection that the guest has
// opened, segment by segment, along every edge.
func TestPassiveEdges(t *testing.T) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, g *rawConn, s *Conn)
		then []string
		end  tcpstate.State
	}{
		{"RST in ESTABLISHED", func(t *testing.T, g *rawConn, s *Conn) {
			g.send(rstAck, "")
			wantReset(t, s)
		}, []string{"ESTABLISHED>CLOSED (segment RST)"}, tcpstate.Closed},
		{"reset in ESTABLISHED", func(t *testing.T, g *rawConn, s *Conn) {
			s.Reset()
			g.expect(rstAck)
		}, []string{"ESTABLISHED>CLOSED (call abort)"}, tcpstate.Closed},
		{"an RST that is not obeyed is not the cause of what follows", func(t *testing.T, g *rawConn, s *Conn) {
			g.seq += 100
			g.send(rstAck, "")
			g.seq -= 100
			g.expect(ackFl) // the challenge
			s.Reset()
			g.expect(rstAck)
		}, []string{"ESTABLISHED>CLOSED (call abort)"}, tcpstate.Closed},
		{"close with unread data in ESTABLISHED", func(t *testing.T, g *rawConn, s *Conn) {
			g.send(ackFl, "unread")
			g.expect(ackFl)
			s.Close()
			g.expect(rstAck)
		}, []string{"ESTABLISHED>CLOSED (call close)"}, tcpstate.Closed},
		{"the guest closes first", func(t *testing.T, g *rawConn, s *Conn) {
			g.send(finAck, "")
			g.expect(ackFl)
			wantEOF(t, s)
			s.Close()
			g.expect(finAck)
			g.send(ackFl, "")
		}, []string{"ESTABLISHED>CLOSE-WAIT (segment FIN)", "CLOSE-WAIT>LAST-ACK (call close)", "LAST-ACK>CLOSED (segment ACK)"}, tcpstate.Closed},
		{"the guest closes first, half-close by shutdown", func(t *testing.T, g *rawConn, s *Conn) {
			g.send(finAck, "")
			g.expect(ackFl)
			s.CloseWrite()
			g.expect(finAck)
			g.send(ackFl, "")
		}, []string{"ESTABLISHED>CLOSE-WAIT (segment FIN)", "CLOSE-WAIT>LAST-ACK (call shutdown)", "LAST-ACK>CLOSED (segment ACK)"}, tcpstate.Closed},
		{"RST in CLOSE-WAIT", func(t *testing.T, g *rawConn, s *Conn) {
			g.send(finAck, "")
			g.expect(ackFl)
			g.send(rstAck, "")
		}, []string{"ESTABLISHED>CLOSE-WAIT (segment FIN)", "CLOSE-WAIT>CLOSED (segment RST)"}, tcpstate.Closed},
		{"reset in CLOSE-WAIT", func(t *testing.T, g *rawConn, s *Conn) {
			g.send(finAck, "")
			g.expect(ackFl)
			wantEOF(t, s)
			s.Reset()
			g.expect(rstAck)
		}, []string{"ESTABLISHED>CLOSE-WAIT (segment FIN)", "CLOSE-WAIT>CLOSED (call abort)"}, tcpstate.Closed},
		{"close with unread data in CLOSE-WAIT", func(t *testing.T, g *rawConn, s *Conn) {
			g.send(finAck, "unread")
			g.expect(ackFl)
			s.Close()
			g.expect(rstAck)
		}, []string{"ESTABLISHED>CLOSE-WAIT (segment FIN)", "CLOSE-WAIT>CLOSED (call close)"}, tcpstate.Closed},
		{"RST in LAST-ACK", func(t *testing.T, g *rawConn, s *Conn) {
			g.send(finAck, "")
			g.expect(ackFl)
			wantEOF(t, s)
			s.Close()
			g.expect(finAck)
			g.send(rst, "")
		}, []string{"ESTABLISHED>CLOSE-WAIT (segment FIN)", "CLOSE-WAIT>LAST-ACK (call close)", "LAST-ACK>CLOSED (segment RST)"}, tcpstate.Closed},
		{"the gateway closes first", func(t *testing.T, g *rawConn, s *Conn) {
			s.CloseWrite()
			g.expect(finAck)
			g.send(ackFl, "")
			g.send(finAck, "")
			g.expect(ackFl)
		}, []string{"ESTABLISHED>FIN-WAIT-1 (call shutdown)", "FIN-WAIT-1>FIN-WAIT-2 (segment ACK)", "FIN-WAIT-2>TIME-WAIT (segment FIN)"}, tcpstate.TimeWait},
		{"the gateway closes first, the guest in one segment", func(t *testing.T, g *rawConn, s *Conn) {
			s.Close()
			g.expect(finAck)
			g.send(finAck, "")
			g.expect(ackFl)
		}, []string{"ESTABLISHED>FIN-WAIT-1 (call close)", "FIN-WAIT-1>TIME-WAIT (segment FIN-ACK)"}, tcpstate.TimeWait},
		{"simultaneous close", func(t *testing.T, g *rawConn, s *Conn) {
			s.CloseWrite()
			before := g.ack
			g.expect(finAck)
			after := g.ack
			g.ack = before
			g.send(finAck, "") // sent before our FIN arrived
			g.ack = after
			g.expect(ackFl)
			g.send(ackFl, "")
		}, []string{"ESTABLISHED>FIN-WAIT-1 (call shutdown)", "FIN-WAIT-1>CLOSING (segment FIN)", "CLOSING>TIME-WAIT (segment ACK)"}, tcpstate.TimeWait},
		{"RST in CLOSING", func(t *testing.T, g *rawConn, s *Conn) {
			s.CloseWrite()
			before := g.ack
			g.expect(finAck)
			g.ack = before
			g.send(finAck, "")
			g.expect(ackFl)
			g.send(rst, "")
		}, []string{"ESTABLISHED>FIN-WAIT-1 (call shutdown)", "FIN-WAIT-1>CLOSING (segment FIN)", "CLOSING>CLOSED (segment RST)"}, tcpstate.Closed},
		{"RST in FIN-WAIT-1", func(t *testing.T, g *rawConn, s *Conn) {
			s.CloseWrite()
			g.expect(finAck)
			g.send(rst, "")
		}, []string{"ESTABLISHED>FIN-WAIT-1 (call shutdown)", "FIN-WAIT-1>CLOSED (segment RST)"}, tcpstate.Closed},
		{"RST in FIN-WAIT-2", func(t *testing.T, g *rawConn, s *Conn) {
			s.CloseWrite()
			g.expect(finAck)
			g.send(ackFl, "")
			g.send(rst, "")
			wantReset(t, s)
		}, []string{"ESTABLISHED>FIN-WAIT-1 (call shutdown)", "FIN-WAIT-1>FIN-WAIT-2 (segment ACK)", "FIN-WAIT-2>CLOSED (segment RST)"}, tcpstate.Closed},
		{"reset in FIN-WAIT-2", func(t *testing.T, g *rawConn, s *Conn) {
			s.CloseWrite()
			g.expect(finAck)
			g.send(ackFl, "")
			g.g.log.waitFor(t, s.ID(), tcpstate.FinWait2)
			s.Reset()
			g.expect(rstAck)
		}, []string{"ESTABLISHED>FIN-WAIT-1 (call shutdown)", "FIN-WAIT-1>FIN-WAIT-2 (segment ACK)", "FIN-WAIT-2>CLOSED (call abort)"}, tcpstate.Closed},
		{"expired in FIN-WAIT-2", func(t *testing.T, g *rawConn, s *Conn) {
			s.CloseWrite()
			g.expect(finAck)
			g.send(ackFl, "")
			g.g.log.waitFor(t, s.ID(), tcpstate.FinWait2)
			s.Expire()
			g.expect(rstAck)
		}, []string{"ESTABLISHED>FIN-WAIT-1 (call shutdown)", "FIN-WAIT-1>FIN-WAIT-2 (segment ACK)", "FIN-WAIT-2>CLOSED (policy half-close-timeout)"}, tcpstate.Closed},
		{"reset by request", func(t *testing.T, g *rawConn, s *Conn) {
			s.ResetAsked()
			g.expect(rstAck)
		}, []string{"ESTABLISHED>CLOSED (policy conn rst)"}, tcpstate.Closed},
		{"closed by request", func(t *testing.T, g *rawConn, s *Conn) {
			s.CloseWriteAsked()
			g.expect(finAck)
			g.send(ackFl, "")
			g.g.log.waitFor(t, s.ID(), tcpstate.FinWait2)
			s.ResetAsked()
			g.expect(rstAck)
		}, []string{"ESTABLISHED>FIN-WAIT-1 (policy conn close)", "FIN-WAIT-1>FIN-WAIT-2 (segment ACK)", "FIN-WAIT-2>CLOSED (policy conn rst)"}, tcpstate.Closed},
		{"close with unread data in FIN-WAIT-2", func(t *testing.T, g *rawConn, s *Conn) {
			s.CloseWrite()
			g.expect(finAck)
			g.send(ackFl, "unread")
			g.expect(ackFl)
			g.g.log.waitFor(t, s.ID(), tcpstate.FinWait2)
			s.Close()
			g.expect(rstAck)
		}, []string{"ESTABLISHED>FIN-WAIT-1 (call shutdown)", "FIN-WAIT-1>FIN-WAIT-2 (segment ACK)", "FIN-WAIT-2>CLOSED (call close)"}, tcpstate.Closed},
		{"data after close in FIN-WAIT-2", func(t *testing.T, g *rawConn, s *Conn) {
			s.Close()
			g.expect(finAck)
			g.send(ackFl, "")
			g.g.log.waitFor(t, s.ID(), tcpstate.FinWait2)
			g.send(ackFl, "nobody reads this")
			g.expect(rstAck)
		}, []string{"ESTABLISHED>FIN-WAIT-1 (call close)", "FIN-WAIT-1>FIN-WAIT-2 (segment ACK)", "FIN-WAIT-2>CLOSED (segment unacceptable)"}, tcpstate.Closed},
		{"RST in TIME-WAIT is ignored with RFC 1337", func(t *testing.T, g *rawConn, s *Conn) {
			g.g.gateway.SetRFC1337(true)
			s.Close()
			g.expect(finAck)
			g.send(finAck, "")
			g.expect(ackFl)
			g.send(rst, "")
			g.seq--
			g.send(finAck, "") // is still answered
			g.expect(ackFl)
		}, []string{"ESTABLISHED>FIN-WAIT-1 (call close)", "FIN-WAIT-1>TIME-WAIT (segment FIN-ACK)"}, tcpstate.TimeWait},
		{"RST in TIME-WAIT", func(t *testing.T, g *rawConn, s *Conn) {
			s.Close()
			g.expect(finAck)
			g.send(finAck, "")
			g.expect(ackFl)
			g.seq++
			g.send(rst, "") // not what is expected: ignored
			g.seq -= 2
			g.send(finAck, "")
			g.expect(ackFl)
			g.send(rst, "")
		}, []string{"ESTABLISHED>FIN-WAIT-1 (call close)", "FIN-WAIT-1>TIME-WAIT (segment FIN-ACK)", "TIME-WAIT>CLOSED (segment RST)"}, tcpstate.Closed},
		{"RST in TIME-WAIT, with bytes that nobody has read", func(t *testing.T, g *rawConn, s *Conn) {
			s.CloseWrite()
			g.expect(finAck)
			g.send(finAck, "the last words")
			g.expect(ackFl)
			g.g.log.waitFor(t, s.ID(), tcpstate.TimeWait)
			g.send(rst, "")
			g.g.ping(t)
			if got, err := io.ReadAll(s); err != nil || string(got) != "the last words" {
				t.Errorf("read %q, %v", got, err)
			}
			s.Close()
		}, []string{"ESTABLISHED>FIN-WAIT-1 (call shutdown)", "FIN-WAIT-1>TIME-WAIT (segment FIN-ACK)", "TIME-WAIT>CLOSED (segment RST)"}, tcpstate.Closed},
		{"a gap is filled in front of a FIN, and the filler acknowledges ours", func(t *testing.T, g *rawConn, s *Conn) {
			// Two states in one segment: the one case in which only a
			// notification shows the first.
			s.CloseWrite()
			before := g.ack
			g.expect(finAck)
			after := g.ack
			g.seq += 5
			g.ack = before
			g.send(finAck, "world")
			g.expect(ackFl)
			g.seq -= 11
			g.ack = after
			g.send(ackFl, "hello")
			g.expect(ackFl)
			if got, err := io.ReadAll(s); err != nil || string(got) != "helloworld" {
				t.Errorf("read %q, %v", got, err)
			}
		}, []string{"ESTABLISHED>FIN-WAIT-1 (call shutdown)", "FIN-WAIT-1>FIN-WAIT-2 (segment ACK)", "FIN-WAIT-2>TIME-WAIT (segment FIN)"}, tcpstate.TimeWait},
		{"the stack is closed", func(t *testing.T, g *rawConn, s *Conn) {
			g.g.gateway.Close()
		}, []string{"ESTABLISHED>CLOSED (policy stopped)"}, tcpstate.Closed},
		{"the stack is closed in TIME-WAIT", func(t *testing.T, g *rawConn, s *Conn) {
			s.Close()
			g.expect(finAck)
			g.send(finAck, "")
			g.expect(ackFl)
			g.g.log.waitFor(t, s.ID(), tcpstate.TimeWait)
			g.g.gateway.Close()
		}, []string{"ESTABLISHED>FIN-WAIT-1 (call close)", "FIN-WAIT-1>TIME-WAIT (segment FIN-ACK)", "TIME-WAIT>CLOSED (policy stopped)"}, tcpstate.Closed},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := newRawGuest(t).conn(40000)
			s := g.establish()
			c.run(t, g, s)
			wantPath(t, "the gateway", g.g.log.waitFor(t, s.ID(), c.end), append(append([]string(nil), passive...), c.then...)...)
			if c.end == tcpstate.Closed {
				eventually(t, "it was forgotten", func() bool { return g.g.gateway.Stats().Tracked == 0 })
			}
		})
	}
}

func wantReset(t *testing.T, s *Conn) {
	t.Helper()
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Read = %v, want ECONNRESET", err)
	}
}

func wantEOF(t *testing.T, s *Conn) {
	t.Helper()
	if _, err := s.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("Read = %v, want EOF", err)
	}
}

// TestHandshakeEdges drives handshakes of the guest that do not succeed.
func TestHandshakeEdges(t *testing.T) {
	for _, c := range []struct {
		name string
		run  func(g *rawConn)
		then string
		err  error
	}{
		{"RST", func(g *rawConn) { g.send(rst, "") }, "SYN-RECEIVED>CLOSED (segment RST)", syscall.ECONNREFUSED},
		{"an RST outside the window, then one inside", func(g *rawConn) {
			g.seq -= 1000
			g.send(rst, "")
			g.seq += 1000
			g.send(rst, "")
		}, "SYN-RECEIVED>CLOSED (segment RST)", syscall.ECONNREFUSED},
		{"another SYN", func(g *rawConn) {
			g.seq += 1000
			g.syn()
			g.expect(rstAck)
		}, "SYN-RECEIVED>CLOSED (segment unacceptable)", syscall.ENOTCONN},
		{"the stack is closed", func(g *rawConn) { g.g.gateway.Close() }, "SYN-RECEIVED>CLOSED (policy stopped)", syscall.ECONNRESET},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := newRawGuest(t).conn(40000)
			g.syn()
			req := g.g.request()
			done := accept(req)
			g.expect(synAck)
			c.run(g)
			if err := <-done; !errors.Is(err, c.err) {
				t.Errorf("Accept = %v, want %v", err, c.err)
			}
			wantPath(t, "the gateway", g.g.log.waitFor(t, req.ID(), tcpstate.Closed), passive[0], c.then)
			if st := g.g.gateway.Stats(); st.HalfOpen != 0 || st.Tracked != 0 || st.Pending != 0 {
				t.Errorf("left over: %+v", st)
			}
		})
	}
}

// TestActiveEdges drives connections that the gateway opens to the guest.
func TestActiveEdges(t *testing.T) {
	for _, c := range []struct {
		name string
		run  func(g *rawConn, cancel context.CancelFunc)
		path []string
		end  tcpstate.State
		err  error
	}{
		{"accepted", func(g *rawConn, _ context.CancelFunc) {
			g.send(synAck, "")
			g.expect(ackFl)
		}, active, tcpstate.Established, nil},
		{"refused", func(g *rawConn, _ context.CancelFunc) {
			g.seq = 0
			g.send(rstAck, "")
		}, []string{active[0], "SYN-SENT>CLOSED (segment RST)"}, tcpstate.Closed, syscall.ECONNREFUSED},
		{"an RST that acknowledges nothing of ours, then abandoned", func(g *rawConn, cancel context.CancelFunc) {
			g.ack += 77
			g.send(rstAck, "")
			g.ack -= 77
			g.send(ackFl, "") // neither SYN nor RST: passed over
			cancel()
		}, []string{active[0], "SYN-SENT>CLOSED (call abort)"}, tcpstate.Closed, context.Canceled},
		{
			"abandoned", func(_ *rawConn, cancel context.CancelFunc) { cancel() },
			[]string{active[0], "SYN-SENT>CLOSED (call abort)"},
			tcpstate.Closed, context.Canceled,
		},
		{"port unreachable", func(g *rawConn, _ context.CancelFunc) {
			syn := packet.Build{Src: g.dst, Dst: g.src, Flags: packet.SYN, Seq: g.ack - 1}.Bytes()
			if err := g.g.Send(packet.Unreachable(nil, syn, packet.PortUnreachable, guestAddr)); err != nil {
				g.g.t.Fatal(err)
			}
		}, []string{active[0], "SYN-SENT>CLOSED (segment ICMP)"}, tcpstate.Closed, syscall.ECONNREFUSED},
		{"simultaneous open", func(g *rawConn, _ context.CancelFunc) {
			g.syn()
			g.expect(synAck)
			g.send(ackFl, "")
		}, []string{active[0], "SYN-SENT>SYN-RECEIVED (segment SYN)", "SYN-RECEIVED>ESTABLISHED (segment ACK)"}, tcpstate.Established, nil},
		{"RST in a simultaneous open", func(g *rawConn, _ context.CancelFunc) {
			g.syn()
			g.expect(synAck)
			g.send(rst, "")
		}, []string{active[0], "SYN-SENT>SYN-RECEIVED (segment SYN)", "SYN-RECEIVED>CLOSED (segment RST)"}, tcpstate.Closed, syscall.ECONNREFUSED},
		{
			"the stack is closed", func(g *rawConn, _ context.CancelFunc) { g.g.gateway.Close() },
			[]string{active[0], "SYN-SENT>CLOSED (policy stopped)"},
			tcpstate.Closed, nil,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := newRawGuest(t)
			ctx, cancel := context.WithCancel(g.ctx)
			defer cancel()
			conn, errs, _ := g.dial(ctx, 8080)
			id := g.log.newest()
			c.run(conn, cancel)
			wantPath(t, "the gateway", g.log.waitFor(t, id, c.end), c.path...)
			err := <-errs
			if c.err != nil && !errors.Is(err, c.err) {
				t.Errorf("Dial = %v, want %v", err, c.err)
			}
			if c.end == tcpstate.Established && err != nil {
				t.Errorf("Dial = %v", err)
			}
			if c.end == tcpstate.Closed && (err == nil || g.gateway.Stats().Tracked != 0) {
				t.Errorf("Dial = %v, and %d endpoints are still tracked", err, g.gateway.Stats().Tracked)
			}
		})
	}
}
