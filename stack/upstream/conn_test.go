package upstream

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tcpbox/stack/relay"
)

var _ interface {
	relay.Conn
	relay.Watcher
	relay.TryReader
	relay.TryWriter
} = (*Conn)(nil)

// pair returns a Conn and its peer, connected over the loopback.
func pair(t testing.TB, h *Host) (*Conn, *net.TCPConn) {
	t.Helper()
	c, peer := connect(t, h)
	t.Cleanup(func() { c.Close(); peer.Close() })
	return c, peer
}

// connect is pair for those who close both ends themselves.
func connect(t testing.TB, h *Host) (*Conn, *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return connectTo(t, h, l.(*net.TCPListener))
}

func connectTo(t testing.TB, h *Host, l *net.TCPListener) (*Conn, *net.TCPConn) {
	t.Helper()
	c, err := dial(t.Context(), h, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	peer, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	return c, peer
}

// reset lets the peer send RST.
func reset(peer *net.TCPConn) {
	peer.SetLinger(0)
	peer.Close()
}

// pollsFailed waits until the kernel knows that c has failed, and asks for
// nothing that would take the error away.
func pollsFailed(t *testing.T, c *Conn) {
	t.Helper()
	eventually(t, "the socket has failed", func() bool {
		fds := make([]unix.PollFd, 1)
		c.control("poll", func(fd int) error {
			fds[0].Fd = int32(fd)
			_, err := unix.Poll(fds, 0)
			return err
		})
		return fds[0].Revents&unix.POLLHUP != 0
	})
}

func TestConn(t *testing.T) {
	for _, row := range []struct {
		name string
		play func(t *testing.T, c *Conn, peer *net.TCPConn)
	}{
		{"FIN of the peer is EOF, and writing goes on", func(t *testing.T, c *Conn, peer *net.TCPConn) {
			io.WriteString(peer, "bye")
			peer.CloseWrite()
			wantRead(t, c, "bye", nil)
			io.WriteString(c, "late")
			c.CloseWrite()
			wantRead(t, peer, "late", nil)
		}},
		{"CloseWrite is FIN, and reading goes on", func(t *testing.T, c *Conn, peer *net.TCPConn) {
			io.WriteString(c, "question")
			c.CloseWrite()
			wantRead(t, peer, "question", nil)
			io.WriteString(peer, "answer")
			peer.Close()
			wantRead(t, c, "answer", nil)
		}},
		{"Close is FIN", func(t *testing.T, c *Conn, peer *net.TCPConn) {
			io.WriteString(c, "all")
			c.Close()
			wantRead(t, peer, "all", nil)
		}},
		{"Close with bytes unread is RST", func(t *testing.T, c *Conn, peer *net.TCPConn) {
			io.WriteString(peer, "never read")
			c.WaitRead()
			c.Close()
			wantRead(t, peer, "", syscall.ECONNRESET)
		}},
		{"Reset is RST", func(t *testing.T, c *Conn, peer *net.TCPConn) {
			c.Reset()
			wantRead(t, peer, "", syscall.ECONNRESET)
		}},
		{"Reset after CloseWrite is RST after FIN", func(t *testing.T, c *Conn, peer *net.TCPConn) {
			c.CloseWrite()
			wantRead(t, peer, "", nil)
			c.Reset()
			eventually(t, "a write of the peer fails", func() bool {
				_, err := peer.Write([]byte("x"))
				return err != nil
			})
		}},
		{"Reset after Close does nothing", func(t *testing.T, c *Conn, peer *net.TCPConn) {
			c.Close()
			c.Reset()
			wantRead(t, peer, "", nil)
		}},
		{"RST of the peer ends reading behind the bytes", func(t *testing.T, c *Conn, peer *net.TCPConn) {
			io.WriteString(peer, "before")
			reset(peer)
			wantRead(t, c, "before", syscall.ECONNRESET)
			wantRead(t, c, "", syscall.ECONNRESET)
		}},
		{"RST of the peer ends writing", func(t *testing.T, c *Conn, peer *net.TCPConn) {
			reset(peer)
			pollsFailed(t, c)
			if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("write: %v, want ECONNRESET", err)
			}
			if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
				t.Errorf("write again: %v, want EPIPE", err)
			}
		}},
		{"RST told to a writer is not FIN to a reader", func(t *testing.T, c *Conn, peer *net.TCPConn) {
			io.WriteString(peer, "before")
			reset(peer)
			pollsFailed(t, c)
			if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("write: %v, want ECONNRESET", err)
			}
			wantRead(t, c, "before", syscall.ECONNRESET)
		}},
		{"RST after FIN is FIN to a reader", func(t *testing.T, c *Conn, peer *net.TCPConn) {
			io.WriteString(peer, "bye")
			peer.CloseWrite()
			wantRead(t, c, "bye", nil)
			reset(peer)
			pollsFailed(t, c)
			if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
				t.Errorf("write: %v, want EPIPE", err)
			}
			wantRead(t, c, "", nil)
		}},
		{"RST after FIN, neither read yet", func(t *testing.T, c *Conn, peer *net.TCPConn) {
			io.WriteString(peer, "bye")
			peer.CloseWrite()
			reset(peer)
			pollsFailed(t, c)
			c.Write([]byte("x"))
			wantRead(t, c, "bye", nil)
		}},
		{"RST is CloseWrite's ENOTCONN", func(t *testing.T, c *Conn, peer *net.TCPConn) {
			reset(peer)
			pollsFailed(t, c)
			if err := c.CloseWrite(); !errors.Is(err, syscall.ENOTCONN) {
				t.Errorf("CloseWrite: %v, want ENOTCONN", err)
			}
		}},
		{"urgent bytes stay in the stream", func(t *testing.T, c *Conn, peer *net.TCPConn) {
			raw, _ := peer.SyscallConn()
			io.WriteString(peer, "abc")
			raw.Write(func(fd uintptr) bool { unix.Sendto(int(fd), []byte("!"), unix.MSG_OOB, nil); return true })
			io.WriteString(peer, "def")
			raw.Write(func(fd uintptr) bool { unix.Sendto(int(fd), []byte("?"), unix.MSG_OOB, nil); return true })
			peer.CloseWrite()
			wantRead(t, c, "abc!def?", nil)
		}},
		{"Buffered tells what TryRead can read", func(t *testing.T, c *Conn, peer *net.TCPConn) {
			if n, err := c.TryRead(make([]byte, 10)); n != 0 || err != nil {
				t.Errorf("TryRead of nothing = %d, %v", n, err)
			}
			if n, err := c.TryRead(nil); n != 0 || err != nil {
				t.Errorf("TryRead into nothing = %d, %v", n, err)
			}
			io.WriteString(peer, "12345")
			c.WaitRead()
			if n, err := c.Buffered(); n != 5 || err != nil {
				t.Errorf("Buffered = %d, %v; want 5", n, err)
			}
			peer.Close()
			wantRead(t, c, "12345", nil)
			if n, err := c.Buffered(); n != 0 || err != nil {
				t.Errorf("Buffered at the end = %d, %v", n, err)
			}
			if n, err := c.TryRead(make([]byte, 10)); n != 0 || err != io.EOF {
				t.Errorf("TryRead at the end = %d, %v", n, err)
			}
		}},
		{"TryWrite stops where it would wait", func(t *testing.T, c *Conn, peer *net.TCPConn) {
			total := fill(t, c)
			go io.Copy(io.Discard, io.LimitReader(peer, int64(total)))
			if err := c.WaitWrite(); err != nil {
				t.Fatal(err)
			}
			if n, err := c.TryWrite([]byte("x")); n != 1 || err != nil {
				t.Errorf("TryWrite after WaitWrite = %d, %v", n, err)
			}
		}},
		{"Close ends a wait", func(t *testing.T, c *Conn, peer *net.TCPConn) {
			fill(t, c)
			waits := make(chan error, 4)
			go func() { waits <- c.WaitRead() }()
			go func() { waits <- c.WaitWrite() }()
			go func() { _, err := c.Read(make([]byte, 1)); waits <- err }()
			go func() { _, err := c.Write(make([]byte, 1)); waits <- err }()
			c.Close()
			for range cap(waits) {
				if err := <-waits; !errors.Is(err, net.ErrClosed) {
					t.Errorf("a wait ended with %v, want net.ErrClosed", err)
				}
			}
			if err := errors.Join(c.Close(), c.Reset()); err != nil {
				t.Errorf("closing again: %v", err)
			}
		}},
		{"AfterReset tells of RST while nobody reads", func(t *testing.T, c *Conn, peer *net.TCPConn) {
			told := make(chan error, 1)
			stop := c.AfterReset(func(err error) { told <- err })
			reset(peer)
			if err := <-told; !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("AfterReset told %v, want ECONNRESET", err)
			}
			if stop() {
				t.Error("stop says that it was in time")
			}
			wantRead(t, c, "", syscall.ECONNRESET)
		}},
		{"AfterReset leaves the error for a writer", func(t *testing.T, c *Conn, peer *net.TCPConn) {
			told := make(chan error, 1)
			c.AfterReset(func(err error) { told <- err })
			reset(peer)
			<-told
			if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("write: %v, want ECONNRESET", err)
			}
			if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
				t.Errorf("write again: %v, want EPIPE", err)
			}
		}},
		{"AfterReset tells of RST behind unread bytes, which stay", func(t *testing.T, c *Conn, peer *net.TCPConn) {
			told := make(chan error, 1)
			io.WriteString(peer, "before")
			reset(peer)
			pollsFailed(t, c)
			c.AfterReset(func(err error) { told <- err })
			if err := <-told; !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("AfterReset told %v, want ECONNRESET", err)
			}
			wantRead(t, c, "before", syscall.ECONNRESET)
		}},
		{"AfterReset tells of RST after FIN, which stays FIN", func(t *testing.T, c *Conn, peer *net.TCPConn) {
			told := make(chan error, 1)
			peer.CloseWrite()
			wantRead(t, c, "", nil)
			c.AfterReset(func(err error) { told <- err })
			reset(peer)
			if err := <-told; !errors.Is(err, syscall.EPIPE) {
				t.Errorf("AfterReset told %v, want EPIPE", err)
			}
			wantRead(t, c, "", nil)
		}},
		{"AfterReset tells of RST that a reader has met", func(t *testing.T, c *Conn, peer *net.TCPConn) {
			reset(peer)
			wantRead(t, c, "", syscall.ECONNRESET)
			told := make(chan error, 1)
			c.AfterReset(func(err error) { told <- err })
			if err := <-told; !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("AfterReset told %v, want ECONNRESET", err)
			}
		}},
		{"AfterReset is silent about FIN and Close", func(t *testing.T, c *Conn, peer *net.TCPConn) {
			c.AfterReset(func(err error) { t.Errorf("told of %v", err) })
			stop := c.AfterReset(func(err error) { t.Errorf("told of %v, after stop", err) })
			if !stop() || stop() {
				t.Error("stop does not tell the truth")
			}
			peer.CloseWrite()
			wantRead(t, c, "", nil)
			c.CloseWrite()
			pollsFailed(t, c) // which means no more than both FINs here
			// A connection that fails later is told of after those that did not.
			other, peer2 := pair(t, c.host)
			told := make(chan error, 1)
			other.AfterReset(func(err error) { told <- err })
			reset(peer2)
			<-told
			c.Close()
			c.AfterReset(func(err error) { t.Errorf("told of %v, after Close", err) })
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := &Host{}
			defer h.Close()
			c, peer := pair(t, h)
			row.play(t, c, peer)
		})
	}
}

func wantRead(t *testing.T, r io.Reader, text string, end error) {
	t.Helper()
	got, err := io.ReadAll(r)
	if string(got) != text || !errors.Is(err, end) {
		t.Errorf("read %q, %v; want %q, %v", got, err, text, end)
	}
}

// fill writes until there is no room, and none will come before the peer
// reads: what has been sent is acknowledged, the rest waits for a window.
func fill(t testing.TB, c *Conn) (total int) {
	t.Helper()
	p := make([]byte, 64<<10)
	for {
		n, err := c.TryWrite(p)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return total
		}
		total += n
		if n < len(p) {
			eventually(t, "what was sent is acknowledged", func() bool {
				return queued(c, unix.SIOCOUTQ) == queued(c, unix.SIOCOUTQNSD)
			})
		}
	}
}

func queued(c *Conn, request uint) (n int) {
	c.control("ioctl", func(fd int) (err error) { n, err = unix.IoctlGetInt(fd, request); return err })
	return n
}

// However the calls of a Conn fall together, none of them touches a descriptor
// that is another's by then.
func TestClosingRaces(t *testing.T) {
	h := &Host{}
	defer h.Close()
	for i := range 200 {
		c, peer := pair(t, h)
		// Whoever gets the Conn's number next must find it untouched.
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { io.Copy(io.Discard, struct{ io.Reader }{c}) })
			wg.Go(func() {
				for {
					if _, err := c.Write(make([]byte, 1000)); err != nil {
						return
					}
				}
			})
		}
		wg.Go(func() { io.Copy(peer, struct{ io.Reader }{peer}) })
		wg.Go(func() { c.AfterReset(func(error) {}) })
		wg.Go(func() { c.CloseWrite() })
		wg.Go(func() {
			if i%2 == 0 {
				c.Close()
			} else {
				c.Reset()
			}
		})
		wg.Go(func() { c.Reset() })
		wg.Go(func() {
			for range 3 {
				c2, peer2 := pair(t, h)
				io.WriteString(c2, "mine")
				c2.CloseWrite()
				if b, err := io.ReadAll(peer2); string(b) != "mine" || err != nil {
					t.Errorf("another connection read %q, %v", b, err)
				}
				peer2.Close()
				c2.Close()
			}
		})
		wg.Go(func() { reset(peer) })
		wg.Wait()
	}
	if st := h.Stats(); st.Conns != 0 {
		t.Errorf("afterwards: %+v", st)
	}
}

func TestTryAllocatesNothing(t *testing.T) {
	h := &Host{}
	c, peer := pair(t, h)
	go io.Copy(peer, peer)
	p, got := bytes.Repeat([]byte("x"), 1000), make([]byte, 1000)
	allocs := testing.AllocsPerRun(500, func() {
		if n, err := c.TryWrite(p); n != len(p) || err != nil {
			t.Fatalf("TryWrite = %d, %v", n, err)
		}
		if err := c.WaitWrite(); err != nil {
			t.Fatal(err)
		}
		for read := 0; read < len(p); {
			if err := c.WaitRead(); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Buffered(); err != nil {
				t.Fatal(err)
			}
			n, err := c.TryRead(got)
			if err != nil {
				t.Fatal(err)
			}
			read += n
		}
	})
	if allocs != 0 {
		t.Errorf("a round trip allocates %v times, want 0", allocs)
	}
}
