package netstack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"tcpbox/stack/relay"
	"tcpbox/stack/relay/relaytest"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

var (
	_ relay.Conn    = (*Conn)(nil)
	_ relay.Watcher = (*Conn)(nil)

	_ relay.Interrupter = (*Conn)(nil)
	_ relay.Asked       = (*Conn)(nil)

	_ io.WriterTo   = (*Conn)(nil)
	_ io.ReaderFrom = (*Conn)(nil)
)

func TestConnIsANetConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		p := newPair(t)
		client, server := p.connect(t)
		return client, server, func() {
			client.Close()
			server.Close()
		}, nil
	})
}

// TestConnErrors: what a caller sees, and when.
func TestConnErrors(t *testing.T) {
	is := func(want error) func(error) bool {
		return func(err error) bool { return errors.Is(err, want) || err == want }
	}
	buf := make([]byte, 10)
	read := func(c *Conn) error { _, err := c.Read(buf); return err }
	write := func(c *Conn) error { _, err := c.Write(buf); return err }
	for _, c := range []struct {
		name string
		do   func(t *testing.T, p *pair, client, server *Conn) error
		want func(error) bool
	}{
		{"read after the peer's FIN", func(_ *testing.T, _ *pair, client, server *Conn) error {
			client.CloseWrite()
			return read(server)
		}, is(io.EOF)},
		{"write after CloseWrite", func(_ *testing.T, _ *pair, client, _ *Conn) error {
			client.CloseWrite()
			return write(client)
		}, is(syscall.EPIPE)},
		{"read after the peer's RST", func(_ *testing.T, _ *pair, client, server *Conn) error {
			client.Reset()
			return read(server)
		}, is(syscall.ECONNRESET)},
		{"write after the peer's RST", func(t *testing.T, p *pair, client, server *Conn) error {
			client.Reset()
			p.gatewayLog.waitFor(t, server.ID(), tcpstate.Closed)
			return write(server)
		}, func(err error) bool { return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) }},
		{"CloseWrite after the peer's RST", func(t *testing.T, p *pair, client, server *Conn) error {
			client.Reset()
			p.gatewayLog.waitFor(t, server.ID(), tcpstate.Closed)
			return server.CloseWrite()
		}, is(syscall.ENOTCONN)},
		{"read after Close", func(_ *testing.T, _ *pair, client, _ *Conn) error { client.Close(); return read(client) }, is(net.ErrClosed)},
		{"write after Close", func(_ *testing.T, _ *pair, client, _ *Conn) error { client.Close(); return write(client) }, is(net.ErrClosed)},
		{"CloseWrite after Close", func(_ *testing.T, _ *pair, client, _ *Conn) error { client.Close(); return client.CloseWrite() }, is(net.ErrClosed)},
		{"Close twice", func(_ *testing.T, _ *pair, client, _ *Conn) error { client.Close(); return client.Close() }, is(nil)},
		{"Reset after Close", func(_ *testing.T, _ *pair, client, server *Conn) error {
			client.Close()
			client.Reset()
			return read(server)
		}, is(io.EOF)},
		{"read after Reset", func(_ *testing.T, _ *pair, client, _ *Conn) error { client.Reset(); return read(client) }, is(net.ErrClosed)},
		{"CloseWrite twice", func(_ *testing.T, _ *pair, client, _ *Conn) error { client.CloseWrite(); return client.CloseWrite() }, is(nil)},
		{"a read that Close ends", func(_ *testing.T, _ *pair, client, _ *Conn) error {
			ch := make(chan error, 1)
			go func() { ch <- read(client) }()
			client.Close()
			return <-ch
		}, func(err error) bool { return err != nil }},
		{"read behind a deadline", func(_ *testing.T, _ *pair, client, _ *Conn) error {
			client.SetReadDeadline(time.Now().Add(-time.Second))
			return read(client)
		}, is(os.ErrDeadlineExceeded)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			client, server := p.connect(t)
			if err := c.do(t, p, client, server); !c.want(err) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestBytesBeforeRST: what came before an RST is read before it is told.
func TestBytesBeforeRST(t *testing.T) {
	g := newRawGuest(t).conn(1000)
	s := g.establish()
	g.send(ackFl, "hello")
	g.send(rstAck, "")
	g.g.log.waitFor(t, s.ID(), tcpstate.Closed)
	buf := make([]byte, 10)
	if n, err := s.Read(buf); string(buf[:n]) != "hello" || err != nil {
		t.Errorf("Read = %q, %v", buf[:n], err)
	}
	wantReset(t, s)
}

// TestInterrupt ends waits for bytes, once each, and only where there is nothing to
// read.
func TestInterrupt(t *testing.T) {
	p := newPair(t)
	client, server := p.connect(t)
	interrupted := func(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
	buf := make([]byte, 10)
	for what, read := range map[string]func() error{
		"Read":    func() error { _, err := server.Read(buf); return err },
		"WriteTo": func() error { _, err := server.WriteTo(io.Discard); return err },
		"WriteTo, into what tries": func() error {
			a, _ := relaytest.Pipe(0)
			_, err := server.WriteTo(a)
			return err
		},
	} {
		waits := make(chan error, 1)
		go func() { waits <- read() }()
		server.Interrupt()
		if err := <-waits; !interrupted(err) {
			t.Errorf("%s = %v", what, err)
		}
	}
	client.Write([]byte("bytes"))
	eventually(t, "the bytes arrived", func() bool { n, err := server.Buffered(); return n == 5 && err == nil })
	server.Interrupt()
	if n, err := server.Read(buf); string(buf[:n]) != "bytes" || err != nil {
		t.Errorf("Read = %q, %v", buf[:n], err)
	}
	if _, err := server.Read(buf); !interrupted(err) {
		t.Errorf("Read = %v", err)
	}
	client.CloseWrite()
	if _, err := server.Read(buf); err != io.EOF {
		t.Errorf("Read = %v", err)
	}
}

// TestUrgentData: urgent bytes are bytes.
func TestUrgentData(t *testing.T) {
	g := newRawGuest(t).conn(1000)
	s := g.establish()
	b := g.build(ackFl|packet.URG, "urgent")
	b.Urgent = 3
	g.g.send(b)
	buf := make([]byte, 10)
	if n, err := s.Read(buf); string(buf[:n]) != "urgent" || err != nil {
		t.Errorf("Read = %q, %v", buf[:n], err)
	}
}

func TestAfterReset(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(t *testing.T, p *pair, client, server *Conn)
		want error // nil: not called
	}{
		{"RST", func(_ *testing.T, _ *pair, client, _ *Conn) { client.Reset() }, syscall.ECONNRESET},
		{"RST after FIN", func(t *testing.T, p *pair, client, server *Conn) {
			client.CloseWrite()
			p.gatewayLog.waitFor(t, server.ID(), tcpstate.CloseWait)
			client.Reset()
		}, syscall.ECONNRESET},
		{"RST while half-closed", func(t *testing.T, p *pair, client, server *Conn) {
			server.CloseWrite()
			p.gatewayLog.waitFor(t, server.ID(), tcpstate.FinWait2)
			client.Reset()
		}, syscall.ECONNRESET},
		{"the stack is closed", func(_ *testing.T, p *pair, _, _ *Conn) { p.gateway.Close() }, syscall.ECONNRESET},
		{"FIN", func(t *testing.T, p *pair, client, server *Conn) {
			client.CloseWrite()
			p.gatewayLog.waitFor(t, server.ID(), tcpstate.CloseWait)
		}, nil},
		{"FIN both ways", func(t *testing.T, p *pair, client, server *Conn) {
			client.Close()
			p.gatewayLog.waitFor(t, server.ID(), tcpstate.CloseWait)
			server.CloseWrite()
			p.gatewayLog.waitFor(t, server.ID(), tcpstate.Closed)
		}, nil},
		{"own Close", func(_ *testing.T, _ *pair, _, server *Conn) { server.Close() }, nil},
		{"own Close with unread data", func(_ *testing.T, _ *pair, client, server *Conn) {
			client.Write([]byte("unread"))
			eventually(t, "the bytes arrived", func() bool { return len(server.readable.ch) > 0 })
			server.Close()
		}, nil},
		{"own Reset", func(_ *testing.T, _ *pair, _, server *Conn) { server.Reset() }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			client, server := p.connect(t)
			told := make(chan error, 2)
			server.AfterReset(func(err error) { told <- err })
			stopped := server.AfterReset(func(error) { t.Error("called though it was stopped") })
			if !stopped() || stopped() {
				t.Error("stop = false, or true twice")
			}
			c.do(t, p, client, server)
			if c.want == nil {
				client.Reset()
				server.Close()
				p.gatewayLog.waitPast(t, server.ID(), tcpstate.Established)
				if len(told) != 0 {
					t.Errorf("told of %v", <-told)
				}
				return
			}
			if err := <-told; err != c.want {
				t.Errorf("told of %v, want %v", err, c.want)
			}
			stop := server.AfterReset(func(err error) { told <- err }) // at once
			if err := <-told; err != c.want || stop() {
				t.Errorf("afterwards told of %v, want %v", err, c.want)
			}
		})
	}
}

// sum writes n pseudo-random bytes to w and returns their checksum.
func sum(w io.Writer, seed uint64, n int) ([32]byte, error) {
	h := sha256.New()
	src := rand.NewChaCha8([32]byte{byte(seed)})
	_, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(w, h)}, io.LimitReader(src, int64(n)), make([]byte, 100_000))
	return [32]byte(h.Sum(nil)), err
}

// exchange sends n bytes each way between two ends at once, half-closes, and
// compares the checksums.
func exchange(t *testing.T, a, b relay.Conn, n int) {
	t.Helper()
	type result struct {
		sum [32]byte
		n   int64
		err error
	}
	send := func(c relay.Conn, seed uint64) <-chan result {
		ch := make(chan result, 1)
		go func() {
			s, err := sum(struct{ io.Writer }{c}, seed, n)
			ch <- result{s, int64(n), errors.Join(err, c.CloseWrite())}
		}()
		return ch
	}
	receive := func(c relay.Conn) <-chan result {
		ch := make(chan result, 1)
		go func() {
			h := sha256.New()
			m, err := io.Copy(h, struct{ io.Reader }{c})
			ch <- result{[32]byte(h.Sum(nil)), m, err}
		}()
		return ch
	}
	sa, sb, ra, rb := send(a, 1), send(b, 2), receive(a), receive(b)
	for what, chs := range map[string][2]<-chan result{"a to b": {sa, rb}, "b to a": {sb, ra}} {
		sent, received := <-chs[0], <-chs[1]
		if sent.err != nil || received.err != nil || sent.sum != received.sum {
			t.Errorf("%s: %d bytes sent (%v) and %d received (%v), the same: %v",
				what, sent.n, sent.err, received.n, received.err, sent.sum == received.sum)
		}
	}
}

// join joins two connections, and returns a function that waits for the end.
func join(t *testing.T, guest, upstream relay.Conn) (wait func() relay.Result) {
	ch := make(chan relay.Result, 1)
	go func() { ch <- relay.Join(context.Background(), guest, upstream, relay.Options{}) }()
	return func() relay.Result {
		t.Helper()
		select {
		case r := <-ch:
			return r
		case <-time.After(testTimeout):
			t.Fatal("the join never ended")
			return relay.Result{}
		}
	}
}

// TestRelay moves bytes both ways through relay.Join: by WriteTo and ReadFrom
// where the other side can do without waiting, through a buffer where not.
func TestRelay(t *testing.T) {
	const mib = 1 << 20
	large := 64 * mib
	if raceEnabled {
		large = 8 * mib
	}
	for _, c := range []struct {
		name   string
		size   int
		window int // of the upstream; 0: another stack
		plain  bool
	}{
		{"64 MiB, to another stack", large, 0, false},
		{"64 MiB, to an upstream with a large window", large, mib, false},
		{"4 MiB, to an upstream with a window of 1000 bytes", 4 * mib, 1000, false},
		{"100 kB, to an upstream with a window of 7 bytes", 100_000, 7, false},
		{"1 MiB, to an upstream that only reads and writes", mib, 5000, true},
		{"one byte", 1, 1, false},
		{"nothing", 0, 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPair(t)
			client, server := p.connect(t)
			var far, upstream relay.Conn
			if c.window == 0 {
				q := newPair(t)
				far, upstream = q.connect(t)
			} else {
				far, upstream = relaytest.Pipe(c.window)
			}
			if c.plain {
				upstream = struct{ relay.Conn }{upstream}
			}
			wait := join(t, server, upstream)
			exchange(t, client, far, c.size)
			r := wait()
			if r.Err != nil || r.End != relay.ByFIN || r.Outbound != int64(c.size) || r.Inbound != int64(c.size) {
				t.Errorf("Join = %+v, want %d bytes each way and FINs", r, c.size)
			}
			client.Close()
			far.Close()
		})
	}
}

// TestRelayEnds: FIN stays FIN and RST stays RST, in every situation.
func TestRelayEnds(t *testing.T) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, client *Conn, far *relaytest.Conn)
		end  relay.End
	}{
		{"the guest resets", func(t *testing.T, client *Conn, far *relaytest.Conn) {
			client.Reset()
			if _, err := far.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the upstream read %v", err)
			}
		}, relay.ByRST},
		{"the upstream resets", func(t *testing.T, client *Conn, far *relaytest.Conn) {
			far.Reset()
			wantReset(t, client)
		}, relay.ByRST},
		{"the guest resets after its FIN", func(t *testing.T, client *Conn, far *relaytest.Conn) {
			client.CloseWrite()
			if _, err := far.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("the upstream read %v", err)
			}
			client.Reset()
			eventually(t, "the upstream was reset", func() bool {
				_, err := far.Write([]byte("x"))
				return err != nil
			})
		}, relay.ByRST},
		{"the guest resets while the upstream's window is closed", func(t *testing.T, client *Conn, far *relaytest.Conn) {
			client.Write(make([]byte, 200_000)) // more than the window takes
			client.Reset()
			eventually(t, "the upstream was reset", func() bool {
				_, err := far.TryWrite(nil)
				return err != nil
			})
		}, relay.ByRST},
		{"the upstream resets while the guest's window is closed", func(t *testing.T, client *Conn, far *relaytest.Conn) {
			buf := make([]byte, 100_000)
			for range 200 {
				if n, _ := far.TryWrite(buf); n == 0 {
					time.Sleep(time.Millisecond)
				}
			}
			far.Reset()
			eventually(t, "the guest was reset", func() bool { return client.rec.state() == tcpstate.Closed })
		}, relay.ByRST},
		{"half-close, and an answer", func(t *testing.T, client *Conn, far *relaytest.Conn) {
			client.Write([]byte("question"))
			client.CloseWrite()
			if got, err := io.ReadAll(far); string(got) != "question" || err != nil {
				t.Errorf("the upstream read %q, %v", got, err)
			}
			far.Write([]byte("answer"))
			far.Close()
			if got, err := io.ReadAll(client); string(got) != "answer" || err != nil {
				t.Errorf("the guest read %q, %v", got, err)
			}
			client.Close()
		}, relay.ByFIN},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			client, server := p.connect(t)
			far, upstream := relaytest.Pipe(50_000)
			wait := join(t, server, upstream)
			c.run(t, client, far)
			if r := wait(); r.End != c.end {
				t.Errorf("Join = %+v, want the end %v", r, c.end)
			}
			client.Close()
			far.Close()
		})
	}
}

// TestClosedWindow: a reader that stops stops the writer, and nothing is lost.
func TestClosedWindow(t *testing.T) {
	p := newPair(t)
	client, server := p.connect(t)
	var sent bytes.Buffer
	client.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	chunk := make([]byte, 100_000)
	rng := rand.NewChaCha8([32]byte{})
	for {
		rng.Read(chunk)
		n, err := client.Write(chunk)
		sent.Write(chunk[:n])
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			break
		}
		if sent.Len() > 64<<20 {
			t.Fatal("the window never closed")
		}
	}
	client.SetWriteDeadline(time.Time{})
	go func() {
		client.Write([]byte("the end"))
		client.CloseWrite()
	}()
	sent.WriteString("the end")
	got, err := io.ReadAll(server)
	if err != nil || !bytes.Equal(got, sent.Bytes()) {
		t.Errorf("%d bytes of %d came, %v", len(got), sent.Len(), err)
	}
}

// failingWriter takes some bytes and then fails, or blocks and then fails.
type failingWriter struct {
	takes int
	err   error
	waits error
}

func (w *failingWriter) TryWrite(p []byte) (int, error) {
	n := min(len(p), w.takes)
	w.takes -= n
	if n < len(p) {
		return n, w.err
	}
	return n, nil
}

func (w *failingWriter) WaitWrite() error            { return w.waits }
func (w *failingWriter) Write(p []byte) (int, error) { return w.TryWrite(p) }

// TestWriteToPartial: what a writer has not taken stays to be read.
func TestWriteToPartial(t *testing.T) {
	boom := errors.New("boom")
	for _, w := range []*failingWriter{{takes: 7, err: boom}, {takes: 7, waits: boom}, {takes: 0, err: boom}} {
		p := newPair(t)
		client, server := p.connect(t)
		client.Write([]byte("0123456789"))
		eventually(t, "the bytes arrived", func() bool { return len(server.readable.ch) > 0 })
		takes := w.takes
		n, err := server.WriteTo(w)
		if n != int64(takes) || err != boom {
			t.Errorf("WriteTo = %d, %v, want %d, boom", n, err, takes)
		}
		buf := make([]byte, 20)
		if n, err := server.Read(buf); string(buf[:n]) != "0123456789"[takes:] || err != nil {
			t.Errorf("then Read = %q, %v", buf[:n], err)
		}
	}
}

// liar is a reader that promises more than it has.
type liar struct {
	has, says int
	err       error
}

func (r *liar) Buffered() (int, error) { return r.says, nil }
func (r *liar) TryRead(p []byte) (int, error) {
	if r.has == 0 {
		return 0, r.err
	}
	n := min(len(p), r.has)
	r.has -= n
	return n, nil
}
func (r *liar) WaitRead() error            { return nil }
func (r *liar) Read(p []byte) (int, error) { return r.TryRead(p) }

// TestReadFromShort: a source that ends before what it promised is an error,
// never a silent end, and never spins.
func TestReadFromShort(t *testing.T) {
	boom := errors.New("boom")
	for _, c := range []struct {
		r    *liar
		want error
	}{
		{&liar{has: 50_000, says: 100_000, err: io.EOF}, io.ErrUnexpectedEOF},
		{&liar{has: 50_000, says: 100_000, err: boom}, boom},
		{&liar{has: 10, says: 0, err: io.EOF}, nil},
		{&liar{has: 16 << 10, says: 0, err: io.EOF}, nil},
	} {
		p := newPair(t)
		client, _ := p.connect(t)
		if _, err := client.ReadFrom(c.r); err != c.want {
			t.Errorf("ReadFrom = %v, want %v", err, c.want)
		}
	}
}
