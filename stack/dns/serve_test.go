package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	miekg "github.com/miekg/dns"
)

// packets is a net.PacketConn in memory.
type packets struct {
	in, out chan []byte
	closed  chan struct{}
	once    sync.Once
}

func newPackets() *packets {
	return &packets{in: make(chan []byte), out: make(chan []byte, 16), closed: make(chan struct{})}
}

func (p *packets) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case raw := <-p.in:
		return copy(b, raw), &net.UDPAddr{}, nil
	case <-p.closed:
		return 0, nil, net.ErrClosed
	}
}

func (p *packets) WriteTo(b []byte, _ net.Addr) (int, error) {
	p.out <- slices.Clone(b)
	return len(b), nil
}

func (p *packets) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *packets) LocalAddr() net.Addr              { return &net.UDPAddr{} }
func (p *packets) SetDeadline(time.Time) error      { return nil }
func (p *packets) SetReadDeadline(time.Time) error  { return nil }
func (p *packets) SetWriteDeadline(time.Time) error { return nil }

func TestQueriesOverTheCapAreDroppedAndNamesOfTheSandboxAreNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s := newServer(t, Config{
			Hosts: testHosts, Forward: oneServer, MaxQueries: 2,
			Exchange: func(ctx context.Context, _ string, _ netip.AddrPort, query []byte) ([]byte, error) {
				select {
				case <-release:
					return replyTo(query, miekg.RcodeSuccess), nil
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			},
		})
		conn := newPackets()
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error)
		go func() { served <- s.ServePacket(ctx, conn) }()

		for range 5 {
			raw, _ := question("example.com.", miekg.TypeA).Pack()
			conn.in <- raw
		}
		raw, _ := question("web.", miekg.TypeA).Pack()
		conn.in <- raw
		var r miekg.Msg
		if err := r.Unpack(<-conn.out); err != nil || !slices.Equal(data(&r), []string{"198.18.0.16"}) {
			t.Errorf("web. while others wait: %v, %v", &r, err)
		}
		if got := s.Stats(); got.Dropped != 3 || got.Queries != 6 || got.Answered != 1 || got.Forwarded != 0 {
			t.Errorf("Stats() = %+v, want 3 of 6 dropped", got)
		}
		close(release)
		for range 2 {
			if err := r.Unpack(<-conn.out); err != nil || !slices.Equal(data(&r), []string{"192.0.2.7"}) {
				t.Errorf("a query that had a place: %v, %v", &r, err)
			}
		}
		cancel()
		if err := <-served; err != nil {
			t.Errorf("ServePacket: %v, want nil when its context ends", err)
		}
	})
}

func TestServePacketReportsAConnThatFails(t *testing.T) {
	conn := newPackets()
	conn.Close()
	if err := newServer(t, Config{}).ServePacket(context.Background(), conn); !errors.Is(err, net.ErrClosed) {
		t.Errorf("ServePacket on a closed conn: %v, want net.ErrClosed", err)
	}
}

// pipes is a net.Listener in memory.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (l *pipes) dial() net.Conn {
	ours, theirs := net.Pipe()
	l.conns <- theirs
	return ours
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func TestServeStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out outside
		s := newServer(t, Config{Hosts: testHosts, Forward: oneServer, Exchange: out.exchange, MaxStreams: 2})
		ln := newPipes()
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error)
		go func() { served <- s.ServeStream(ctx, ln) }()

		// Several queries on one connection, answered and forwarded over TCP.
		conn := ln.dial()
		for _, tt := range []struct{ name, want string }{{"web.", "198.18.0.16"}, {"example.com.", "192.0.2.7"}} {
			raw, _ := question(tt.name, miekg.TypeA).Pack()
			if err := writeMessage(conn, raw); err != nil {
				t.Fatal(err)
			}
			reply, err := readMessage(conn, miekg.MaxMsgSize)
			if err != nil {
				t.Fatal(err)
			}
			var r miekg.Msg
			if err := r.Unpack(reply); err != nil || !slices.Equal(data(&r), []string{tt.want}) {
				t.Errorf("%s over TCP: %v, %v, want %s", tt.name, &r, err, tt.want)
			}
		}
		if !slices.Equal(out.asked, []string{"tcp example.com. A"}) {
			t.Errorf("asked outside: %q, want it over TCP", out.asked)
		}

		// A third of at most two is turned away.
		second, third := ln.dial(), ln.dial()
		if _, err := third.Read(make([]byte, 1)); err == nil {
			t.Error("the third of at most two connections was served")
		}

		// Idle for too long, in the middle of a query too.
		begun := time.Now()
		second.Write([]byte{0, 40, 1})
		if _, err := second.Read(make([]byte, 1)); err == nil || time.Since(begun) != DefaultIdleTimeout {
			t.Errorf("an idle connection: %v after %v, want it closed after %v", err, time.Since(begun), DefaultIdleTimeout)
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("an idle connection is still open")
		}

		// A message that is too long is not waited for.
		fourth := ln.dial()
		fourth.Write([]byte{0xff, 0xff})
		if _, err := fourth.Read(make([]byte, 1)); err == nil {
			t.Error("a message that is too long did not close the connection")
		}

		last := ln.dial()
		cancel()
		if err := <-served; err != nil {
			t.Errorf("ServeStream: %v, want nil when its context ends", err)
		}
		if _, err := last.Read(make([]byte, 1)); err == nil {
			t.Error("a connection outlived the server")
		}
		if got := s.Stats(); got.Streams != 4 || got.Turned != 1 || got.Malformed != 1 {
			t.Errorf("Stats() = %+v, want 4 streams, 1 turned away, 1 malformed", got)
		}
	})
}
