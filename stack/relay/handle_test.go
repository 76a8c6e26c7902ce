package relay_test

import (
	"context"
	"errors"
	"io"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"tcpbox/stack/relay"
	"tcpbox/stack/relay/relaytest"
)

// asks calls a method of the stage's Handle and fails the test unless it returns
// want.
func (s *stage) asks(call func(*relay.Handle) error, want error) {
	s.t.Helper()
	synctest.Wait() // the join has begun
	if err := call(&s.handle); err != want {
		s.t.Errorf("the handle says %v, want %v", err, want)
	}
}

// got is what c has and nobody has read.
func (s *stage) got(c *relaytest.Conn) int {
	n, err := c.Buffered()
	if err != nil {
		s.t.Errorf("Buffered: %v", err)
	}
	return n
}

func TestHandleReset(t *testing.T) {
	asked := relay.Result{End: relay.ByRST, FirstBy: relay.ByRST}
	for _, row := range []struct {
		name string
		play func(s *stage)
	}{
		{"of an idle connection", func(*stage) {}},
		{"while both windows are closed", func(s *stage) {
			s.fill(s.client)
			s.fill(s.server)
		}},
		{"of a frozen connection", func(s *stage) {
			s.asks((*relay.Handle).Freeze, nil)
			s.send(s.client, "held")
		}},
		{"of one that is being closed, and an end takes nothing", func(s *stage) {
			s.fill(s.client)
			s.asks((*relay.Handle).Close, nil)
			s.closed = true
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			joined(t, relay.Options{}, func(s *stage) {
				row.play(s)
				s.asks((*relay.Handle).Reset, nil)
				r := s.wait()
				if r.End != asked.End && r.First != relay.Neither || r.By != relay.Neither || !errors.Is(r.Err, relay.ErrReset) {
					s.t.Errorf("Join = %v (by %v)", r, r.By)
				}
				if !s.guest.State().WasReset || !s.up.State().WasReset {
					s.t.Error("want both ends reset")
				}
				s.within(0)
				for _, call := range []func(*relay.Handle) error{(*relay.Handle).Reset, (*relay.Handle).Close, (*relay.Handle).Freeze, (*relay.Handle).Thaw} {
					s.asks(call, relay.ErrNotJoined)
				}
				for _, c := range []*relaytest.Conn{s.client, s.server} {
					_, err := io.Copy(io.Discard, c)
					if fin := s.closed && err == nil; !fin && !errors.Is(err, syscall.ECONNRESET) {
						s.t.Errorf("an end reads %v, want ECONNRESET", err)
					}
				}
			})
		})
	}
}

// Nobody has closed before: the result says so, and how it was closed then.
func TestHandleResult(t *testing.T) {
	joined(t, relay.Options{}, func(s *stage) {
		s.asks((*relay.Handle).Reset, nil)
		if r := s.wait(); r.First != relay.Neither || r.FirstBy != relay.ByRST || r.End != relay.ByRST {
			s.t.Errorf("Join = %v (by %v)", r, r.FirstBy)
		}
	})
	joined(t, relay.Options{}, func(s *stage) {
		s.asks((*relay.Handle).Close, nil)
		s.client.Close()
		s.server.Close()
		if r := s.wait(); r.First != relay.Neither || r.FirstBy != relay.ByFIN || r.End != relay.ByFIN || r.Err != nil {
			s.t.Errorf("Join = %v (by %v)", r, r.FirstBy)
		}
	})
	joined(t, relay.Options{}, func(s *stage) {
		s.server.CloseWrite()
		s.reads(s.client, "", nil)
		s.asks((*relay.Handle).Close, nil)
		s.reads(s.server, "", nil)
		s.client.Close()
		if r := s.wait(); r.First != relay.Upstream || r.FirstBy != relay.ByFIN {
			s.t.Errorf("Join = %v (by %v)", r, r.FirstBy)
		}
	})
}

func TestHandleClose(t *testing.T) {
	t.Run("FIN to both ends, which close", func(t *testing.T) {
		joined(t, relay.Options{}, func(s *stage) {
			s.send(s.client, "question")
			s.send(s.server, "answer")
			synctest.Wait()
			s.asks((*relay.Handle).Close, nil)
			s.asks((*relay.Handle).Close, nil)
			s.asks((*relay.Handle).Thaw, nil)
			s.reads(s.server, "question", nil)
			s.reads(s.client, "answer", nil)
			s.asks((*relay.Handle).Freeze, relay.ErrClosing)
			s.client.Close()
			s.server.Close()
			s.wait()
			s.within(0)
			if s.guest.State().WasReset || s.up.State().WasReset {
				s.t.Error("an end was reset")
			}
		})
	})
	t.Run("what is buffered is delivered", func(t *testing.T) {
		joined(t, relay.Options{}, func(s *stage) {
			// A full window lies on either side of the join, each way.
			s.fill(s.client)
			s.fill(s.server)
			wait := func(c, far *relaytest.Conn) int { return s.got(c) + s.got(far) }
			out, in := wait(s.server, s.guest), wait(s.client, s.up)
			s.asks((*relay.Handle).Close, nil)
			for c, least := range map[*relaytest.Conn]int{s.server: out, s.client: in} {
				if p, err := io.ReadAll(c); len(p) < least || err != nil {
					s.t.Errorf("an end read %d bytes, %v; want at least %d, and FIN", len(p), err, least)
				}
			}
			// The ends go on sending. Both have had their FIN.
			synctest.Wait()
			s.client.Close()
			s.server.Close()
			s.wait()
		})
	})
	t.Run("of a frozen connection", func(t *testing.T) {
		joined(t, relay.Options{}, func(s *stage) {
			s.asks((*relay.Handle).Freeze, nil)
			s.send(s.client, "held")
			s.asks((*relay.Handle).Close, nil)
			s.reads(s.server, "held", nil)
			s.reads(s.client, "", nil)
			s.client.Close()
			s.server.Close()
			s.wait()
			s.within(0)
		})
	})
	t.Run("ends that never close", func(t *testing.T) {
		joined(t, relay.Options{}, func(s *stage) {
			s.asks((*relay.Handle).Close, nil)
			s.reads(s.client, "", nil)
			s.reads(s.server, "", nil)
			s.send(s.client, "late") // thrown away
			if r := s.wait(); r.End != relay.ByFIN || s.guest.State().WasReset || s.up.State().WasReset {
				s.t.Errorf("Join = %v, reset %v and %v", r, s.guest.State().WasReset, s.up.State().WasReset)
			}
			if took := time.Since(s.start); took != 5*time.Second {
				s.t.Errorf("took %v, want 5s", took)
			}
			if _, err := s.client.Write([]byte("later")); err == nil {
				_, err = s.client.Write([]byte("later"))
				if err == nil {
					s.t.Error("an end writes to a connection that is closed")
				}
			}
		})
	})
	t.Run("an RST of one end is not for the other", func(t *testing.T) {
		joined(t, relay.Options{}, func(s *stage) {
			s.fill(s.client)
			s.asks((*relay.Handle).Close, nil)
			s.client.Reset()
			synctest.Wait()
			if p, err := io.ReadAll(s.server); len(p) < window || err != nil {
				s.t.Errorf("the server read %d bytes, %v; want a window, and FIN", len(p), err)
			}
			s.server.Close()
			s.wait()
		})
	})
	t.Run("the context ends", func(t *testing.T) {
		joined(t, relay.Options{}, func(s *stage) {
			s.asks((*relay.Handle).Close, nil)
			synctest.Wait()
			s.cancel(context.Canceled)
			s.wait()
			s.within(0)
		})
	})
	t.Run("a Conn on which no wait can be ended", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, guest := relaytest.Pipe(0)
			up, _ := relaytest.Pipe(0)
			var h relay.Handle
			done := make(chan relay.Result)
			go func() {
				done <- relay.Join(t.Context(), unwatched{guest}, unwatched{up}, relay.Options{Handle: &h})
			}()
			synctest.Wait()
			if err := h.Close(); err == nil || errors.Is(err, relay.ErrNotJoined) {
				t.Errorf("Close = %v", err)
			}
			client.Reset()
			<-done
		})
	})
}

func TestFreeze(t *testing.T) {
	t.Run("no byte moves, and none is lost", func(t *testing.T) {
		joined(t, relay.Options{}, func(s *stage) {
			s.asks((*relay.Handle).Freeze, nil)
			s.asks((*relay.Handle).Freeze, nil)
			if !s.handle.Frozen() {
				s.t.Error("Frozen() = false")
			}
			s.send(s.client, "question")
			s.send(s.server, "answer")
			s.client.CloseWrite()
			s.server.CloseWrite()
			time.Sleep(time.Hour)
			if n, m := s.got(s.server), s.got(s.client); n+m != 0 {
				s.t.Errorf("%d and %d bytes have moved", n, m)
			}
			if s.up.State().FinSent || s.guest.State().FinSent {
				s.t.Error("a FIN was passed on")
			}
			s.asks((*relay.Handle).Thaw, nil)
			if s.handle.Frozen() {
				s.t.Error("Frozen() = true")
			}
			s.reads(s.server, "question", nil)
			s.reads(s.client, "answer", nil)
			if r := s.wait(); r.End != relay.ByFIN || r.Outbound != 8 || r.Inbound != 6 {
				s.t.Errorf("Join = %v", r)
			}
		})
	})
	t.Run("in the middle of a stream, again and again", func(t *testing.T) {
		joined(t, relay.Options{}, func(s *stage) {
			const size = 50 * window
			go func() {
				s.client.Write(pattern(size))
				s.client.CloseWrite()
			}()
			go func() {
				s.server.Write(pattern(size))
				s.server.CloseWrite()
			}()
			// Both windows fill up.
			synctest.Wait()
			s.asks((*relay.Handle).Freeze, nil)
			read := func(c *relaytest.Conn, p []byte) []byte {
				buf := make([]byte, window)
				n, err := c.TryRead(buf)
				if err != nil && err != io.EOF {
					s.t.Errorf("read: %v", err)
				}
				return append(p, buf[:n]...)
			}
			var out, in []byte
			for range 30 {
				// A write that was under way is completed, which is one buffer.
				for range 2 + 32<<10/window {
					out, in = read(s.server, out), read(s.client, in)
					synctest.Wait()
				}
				if n, m := s.got(s.server), s.got(s.client); n+m != 0 {
					s.t.Fatalf("%d and %d bytes came while it was frozen", n, m)
				}
				s.handle.Thaw()
				s.handle.Thaw()
				synctest.Wait()
				s.handle.Freeze()
			}
			s.handle.Thaw()
			rest, err := io.ReadAll(s.server)
			more, err2 := io.ReadAll(s.client)
			out, in = append(out, rest...), append(in, more...)
			if string(out) != string(pattern(size)) || string(in) != string(pattern(size)) || err != nil || err2 != nil {
				s.t.Errorf("%d and %d bytes came, %v, %v: not those that were sent", len(out), len(in), err, err2)
			}
			s.wait()
		})
	})
	for _, row := range []struct {
		name string
		end  func(s *stage)
		want relay.Result
		err  error
	}{
		{
			"RST of the guest", func(s *stage) { s.client.Reset() },
			relay.Result{First: relay.Guest, By: relay.Guest, End: relay.ByRST},
			syscall.ECONNRESET,
		},
		{
			"RST of the server", func(s *stage) { s.server.Reset() },
			relay.Result{First: relay.Upstream, By: relay.Upstream, End: relay.ByRST},
			syscall.ECONNRESET,
		},
		{
			"an error of the upstream's", func(s *stage) { s.up.Fail(syscall.ETIMEDOUT) },
			relay.Result{By: relay.Upstream, End: relay.ByError},
			syscall.ETIMEDOUT,
		},
		{
			"the end of the context", func(s *stage) { s.cancel(context.Canceled) },
			relay.Result{End: relay.ByError},
			context.Canceled,
		},
	} {
		ends := func(t *testing.T, before func(*stage)) {
			joined(t, relay.Options{}, func(s *stage) {
				before(s)
				s.asks((*relay.Handle).Freeze, nil)
				synctest.Wait()
				row.end(s)
				s.want(s.wait(), row.want, row.err)
				s.within(0)
				if s.handle.Frozen() {
					s.t.Error("Frozen() = true after the end")
				}
			})
		}
		t.Run(row.name+" ends an idle one", func(t *testing.T) { ends(t, func(*stage) {}) })
		t.Run(row.name+" ends one with bytes held", func(t *testing.T) {
			ends(t, func(s *stage) {
				s.asks((*relay.Handle).Freeze, nil)
				s.send(s.client, "held")
				s.send(s.server, "held")
				synctest.Wait()
			})
		})
		t.Run(row.name+" ends one with full windows", func(t *testing.T) {
			ends(t, func(s *stage) {
				s.fill(s.client)
				s.fill(s.server)
			})
		})
	}
	t.Run("the half-close timeout ends it", func(t *testing.T) {
		joined(t, relay.Options{HalfCloseTimeout: 30 * time.Second}, func(s *stage) {
			s.client.CloseWrite()
			s.reads(s.server, "", nil)
			s.asks((*relay.Handle).Freeze, nil)
			s.send(s.server, "held")
			s.want(s.wait(), relay.Result{First: relay.Guest, End: relay.ByTimeout}, relay.ErrHalfCloseTimeout)
			s.within(30 * time.Second)
		})
	})
}

// pattern is n bytes of which none is in the place of another.
func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return p
}

// A Conn that asks is told when its end was asked for.
func TestAsked(t *testing.T) {
	for name, call := range map[string]func(*relay.Handle) error{"rst": (*relay.Handle).Reset, "fin": (*relay.Handle).Close} {
		synctest.Test(t, func(t *testing.T) {
			client, guest := relaytest.Pipe(0)
			up, server := relaytest.Pipe(0)
			asks := &asker{Conn: guest}
			var h relay.Handle
			done := make(chan relay.Result, 1)
			go func() { done <- relay.Join(t.Context(), asks, up, relay.Options{Handle: &h}) }()
			synctest.Wait()
			if err := call(&h); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			synctest.Wait()
			client.Close()
			server.Close()
			<-done
			if asks.asked != name {
				t.Errorf("asked = %q, want %q", asks.asked, name)
			}
		})
	}
}

type asker struct {
	*relaytest.Conn
	asked string
}

func (a *asker) ResetAsked() error {
	a.asked += "rst"
	return a.Reset()
}

func (a *asker) CloseWriteAsked() error {
	a.asked += "fin"
	return a.CloseWrite()
}
