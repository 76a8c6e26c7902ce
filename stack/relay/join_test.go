package relay_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"tcpbox/stack/relay"
	"tcpbox/stack/relay/relaytest"
)

const window = 4096

// drain is the longest that an RST may take on a path that does not say when
// it waits.
const drain = 100 * time.Millisecond

// stage is one joined connection: client and server are the far ends.
type stage struct {
	t              *testing.T
	client, server *relaytest.Conn
	guest, up      *relaytest.Conn
	cancel         context.CancelCauseFunc
	done           chan relay.Result
	start          time.Time
	handle         relay.Handle
	closed         bool // by the handle
}

func (s *stage) wait() relay.Result {
	s.t.Helper()
	r := <-s.done
	for name, c := range map[string]*relaytest.Conn{"guest": s.guest, "upstream": s.up} {
		if st := c.State(); !st.Closed || st.Watchers != 0 {
			s.t.Errorf("%s after Join: %+v, want closed and without watchers", name, st)
		}
	}
	return r
}

// ended waits until Join has returned, and leaves the result to wait.
func (s *stage) ended() { s.done <- <-s.done }

// within fails the test unless no more than d has passed since the stage was set.
func (s *stage) within(d time.Duration) {
	s.t.Helper()
	if took := time.Since(s.start); took > d {
		s.t.Errorf("took %v, want at most %v", took, d)
	}
}

func (s *stage) send(c *relaytest.Conn, text string) {
	s.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		s.t.Errorf("write %q: %v", text, err)
	}
}

// reads fails the test unless c reads text and then the end: nil for FIN.
func (s *stage) reads(c *relaytest.Conn, text string, end error) {
	s.t.Helper()
	got, err := io.ReadAll(c)
	if string(got) != text || !errors.Is(err, end) {
		s.t.Errorf("read %q, %v; want %q, %v", got, err, text, end)
	}
}

func (s *stage) readsPart(c *relaytest.Conn, text string) {
	s.t.Helper()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		s.t.Errorf("read %q, %v; want %q", got, err, text)
	}
}

// fill writes to c until it waits for room, and returns when it does; the
// writer ends when the connection does.
func (s *stage) fill(c *relaytest.Conn) {
	go c.Write(make([]byte, 100*window))
	synctest.Wait()
}

func (s *stage) want(r, want relay.Result, err error) {
	s.t.Helper()
	if r.First != want.First || r.End != want.End || r.By != want.By || !errors.Is(r.Err, err) || (err == nil) != (r.Err == nil) {
		s.t.Errorf("Join = %v (by %v), want %v (by %v) with error %v", r, r.By, want, want.By, err)
	}
}

// joined runs play for each kind of guest and upstream end.
func joined(t *testing.T, o relay.Options, play func(*stage)) {
	for _, g := range kinds {
		for _, u := range kinds {
			t.Run(g.name+" to "+u.name, func(t *testing.T) { joinedAs(t, g, u, o, play) })
		}
	}
}

func joinedAs(t *testing.T, g, u kind, o relay.Options, play func(*stage)) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{t: t, done: make(chan relay.Result, 1), start: time.Now()}
		s.client, s.guest = relaytest.Pipe(window)
		s.up, s.server = relaytest.Pipe(window)
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		s.cancel = cancel
		o.Handle = &s.handle
		go func() { s.done <- relay.Join(ctx, g.make(s.guest), u.make(s.up), o) }()
		play(s)
	})
}

func TestFIN(t *testing.T) {
	t.Run("guest half-closes, then the server replies", func(t *testing.T) {
		joined(t, relay.Options{}, func(s *stage) {
			s.send(s.client, "question")
			s.client.CloseWrite()
			s.reads(s.server, "question", nil)
			time.Sleep(24 * time.Hour) // a half-close may last
			s.send(s.server, "answer")
			s.server.Close()
			s.reads(s.client, "answer", nil)
			r := s.wait()
			s.want(r, relay.Result{First: relay.Guest, End: relay.ByFIN}, nil)
			if r.Outbound != 8 || r.Inbound != 6 {
				t.Errorf("moved %d out, %d in; want 8, 6", r.Outbound, r.Inbound)
			}
			if s.guest.State().WasReset || s.up.State().WasReset {
				t.Error("an end was reset")
			}
		})
	})
	t.Run("server half-closes, then the guest goes on", func(t *testing.T) {
		joined(t, relay.Options{}, func(s *stage) {
			s.send(s.server, "banner")
			s.server.CloseWrite()
			s.reads(s.client, "banner", nil)
			if s.up.State().FinSent {
				t.Error("the upstream got a FIN that the guest had not sent")
			}
			time.Sleep(time.Hour)
			s.send(s.client, "thanks")
			s.client.Close()
			s.reads(s.server, "thanks", nil)
			s.want(s.wait(), relay.Result{First: relay.Upstream, End: relay.ByFIN}, nil)
		})
	})
}

// OnFIN is called for each side, after its FIN has been passed on.
func TestOnFIN(t *testing.T) {
	fins := make(chan relay.Side, 3)
	joinedAs(t, kinds[2], kinds[1], relay.Options{OnFIN: func(from relay.Side) { fins <- from }}, func(s *stage) {
		s.send(s.server, "bytes")
		s.server.CloseWrite()
		s.reads(s.client, "bytes", nil)
		synctest.Wait()
		if len(fins) != 1 || <-fins != relay.Upstream {
			s.t.Error("want one FIN, of the upstream")
		}
		s.client.Close()
		s.wait()
		if len(fins) != 1 || <-fins != relay.Guest {
			s.t.Error("want one FIN more, of the guest")
		}
	})
}

func TestRST(t *testing.T) {
	for _, row := range []struct {
		name    string
		play    func(s *stage)
		first   relay.Side
		by      relay.Side
		err     error
		instant bool // also on a path that does not say when it waits
	}{
		{"of the guest, after bytes", func(s *stage) {
			s.send(s.client, "bytes")
			synctest.Wait()
			s.client.Reset()
			s.reads(s.server, "bytes", syscall.ECONNRESET)
		}, relay.Guest, relay.Guest, syscall.ECONNRESET, true},

		{"of the server, after bytes", func(s *stage) {
			s.send(s.server, "bytes")
			s.server.Reset()
			s.readsPart(s.client, "bytes")
			s.reads(s.client, "", syscall.ECONNRESET)
		}, relay.Upstream, relay.Upstream, syscall.ECONNRESET, true},

		{"of the server, while the guest's window is closed", func(s *stage) {
			s.fill(s.server)
			s.server.Reset()
			s.ended()
			if got, err := io.ReadAll(s.client); !errors.Is(err, syscall.ECONNRESET) || len(got) < window {
				s.t.Errorf("client read %d bytes, %v; want a full window and ECONNRESET", len(got), err)
			}
		}, relay.Upstream, relay.Upstream, syscall.ECONNRESET, false},

		{"of the guest, while the server's window is closed", func(s *stage) {
			s.fill(s.client)
			s.client.Reset()
			s.ended()
			if _, err := io.ReadAll(s.server); !errors.Is(err, syscall.ECONNRESET) {
				s.t.Errorf("server read %v, want ECONNRESET", err)
			}
		}, relay.Guest, relay.Guest, syscall.ECONNRESET, false},

		{"of the server, while both windows are closed", func(s *stage) {
			s.fill(s.server)
			s.fill(s.client)
			s.server.Reset()
			s.ended()
			io.Copy(io.Discard, s.client)
		}, relay.Upstream, relay.Upstream, nil, false},

		{"of the guest, after its FIN", func(s *stage) {
			s.client.CloseWrite()
			s.reads(s.server, "", nil)
			s.client.Reset()
			if _, err := s.server.Write([]byte("x")); err == nil {
				synctest.Wait()
				_, err = s.server.Write([]byte("x"))
				if !errors.Is(err, syscall.ECONNRESET) {
					s.t.Errorf("server write: %v, want ECONNRESET", err)
				}
			}
		}, relay.Guest, relay.Guest, syscall.ECONNRESET, true},

		{"of the server, after its FIN", func(s *stage) {
			s.server.CloseWrite()
			s.reads(s.client, "", nil)
			s.server.Reset()
			synctest.Wait()
			if _, err := s.client.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
				s.t.Errorf("client write: %v, want ECONNRESET", err)
			}
		}, relay.Upstream, relay.Upstream, syscall.ECONNRESET, true},

		{"of the server, after the guest's FIN", func(s *stage) {
			s.client.CloseWrite()
			s.reads(s.server, "", nil)
			s.server.Reset()
			s.reads(s.client, "", syscall.ECONNRESET)
		}, relay.Guest, relay.Upstream, syscall.ECONNRESET, true},

		{"of a server that answers while the guest still sends", func(s *stage) {
			s.fill(s.client)
			s.send(s.server, "413 too large")
			s.server.Reset()
			s.readsPart(s.client, "413 too large")
			s.reads(s.client, "", syscall.ECONNRESET)
		}, relay.Upstream, relay.Upstream, syscall.ECONNRESET, true},

		{"met by a write to a server that has closed", func(s *stage) {
			s.send(s.server, "bye")
			s.server.Close()
			s.reads(s.client, "bye", nil)
			s.send(s.client, "late")
			synctest.Wait()
			if _, err := s.client.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
				s.t.Errorf("client write: %v, want ECONNRESET", err)
			}
		}, relay.Upstream, relay.Upstream, syscall.EPIPE, true},

		{"met by a write to a guest that has closed", func(s *stage) {
			s.client.Close()
			s.reads(s.server, "", nil)
			s.send(s.server, "late")
			synctest.Wait()
			if _, err := s.server.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
				s.t.Errorf("server write: %v, want ECONNRESET", err)
			}
		}, relay.Guest, relay.Guest, syscall.EPIPE, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			joined(t, relay.Options{}, func(s *stage) {
				row.play(s)
				r := s.wait()
				if row.err != nil {
					s.want(r, relay.Result{First: row.first, By: row.by, End: relay.ByRST}, row.err)
				}
				if row.instant {
					s.within(0)
				} else {
					s.within(drain)
				}
			})
		})
	}
}

// Where both ends say when they wait, an RST ends the wait at once.
func TestRSTDoesNotWait(t *testing.T) {
	trying, direct := kinds[1], kinds[2]
	t.Run("of the guest", func(t *testing.T) {
		joinedAs(t, direct, trying, relay.Options{}, func(s *stage) {
			s.fill(s.client)
			s.client.Reset()
			s.want(s.wait(), relay.Result{First: relay.Guest, By: relay.Guest, End: relay.ByRST}, syscall.ECONNRESET)
			s.within(0)
		})
	})
	t.Run("of the server", func(t *testing.T) {
		joinedAs(t, direct, trying, relay.Options{}, func(s *stage) {
			s.fill(s.server)
			s.server.Reset()
			s.want(s.wait(), relay.Result{First: relay.Upstream, By: relay.Upstream, End: relay.ByRST}, syscall.ECONNRESET)
			s.within(0)
		})
	})
}

// A FIN that came before the RST is still passed on as one.
func TestRSTRightAfterFIN(t *testing.T) {
	plain := kinds[0]
	joinedAs(t, plain, plain, relay.Options{}, func(s *stage) {
		s.send(s.server, string(make([]byte, window)))
		synctest.Wait()
		s.send(s.server, "the rest")
		s.server.CloseWrite()
		synctest.Wait() // the inbound loop waits for the guest
		s.server.Reset()
		synctest.Wait()
		if got, err := io.ReadAll(s.client); len(got) != window+len("the rest") || err != nil {
			s.t.Errorf("client read %d bytes, %v; want all, and FIN", len(got), err)
		}
		s.want(s.wait(), relay.Result{First: relay.Upstream, By: relay.Upstream, End: relay.ByRST}, syscall.ECONNRESET)
	})
}

func TestOtherErrors(t *testing.T) {
	t.Run("upstream times out", func(t *testing.T) {
		joined(t, relay.Options{}, func(s *stage) {
			s.up.Fail(syscall.ETIMEDOUT)
			s.reads(s.client, "", syscall.ECONNRESET)
			s.want(s.wait(), relay.Result{By: relay.Upstream, End: relay.ByError}, syscall.ETIMEDOUT)
		})
	})
	t.Run("the context ends", func(t *testing.T) {
		joined(t, relay.Options{}, func(s *stage) {
			s.fill(s.client)
			why := errors.New("sandbox ends")
			s.cancel(why)
			s.reads(s.client, "", syscall.ECONNRESET)
			if _, err := io.Copy(io.Discard, s.server); !errors.Is(err, syscall.ECONNRESET) {
				s.t.Errorf("server read: %v, want ECONNRESET", err)
			}
			s.want(s.wait(), relay.Result{End: relay.ByError}, why)
			s.within(0)
		})
	})
	t.Run("the context ends after a FIN", func(t *testing.T) {
		// What the guest has finished sending is the upstream kernel's to deliver.
		joined(t, relay.Options{}, func(s *stage) {
			s.send(s.client, "all of it")
			s.client.CloseWrite()
			synctest.Wait()
			s.cancel(context.Canceled)
			s.reads(s.server, "all of it", nil)
			s.reads(s.client, "", syscall.ECONNRESET)
			s.want(s.wait(), relay.Result{First: relay.Guest, End: relay.ByError}, context.Canceled)
			if s.up.State().WasReset || !s.guest.State().WasReset {
				s.t.Error("want the upstream closed and the guest reset")
			}
		})
	})
	t.Run("the context ends after a FIN, and the guest is reset by whoever ended it", func(t *testing.T) {
		joined(t, relay.Options{}, func(s *stage) {
			s.send(s.client, "all of it")
			s.client.CloseWrite()
			synctest.Wait()
			s.cancel(context.Canceled)
			s.client.Reset()
			s.want(s.wait(), relay.Result{First: relay.Guest, End: relay.ByError}, context.Canceled)
			s.reads(s.server, "all of it", nil)
			if s.up.State().WasReset {
				s.t.Error("want the upstream closed")
			}
		})
	})
	t.Run("the context ended before", func(t *testing.T) {
		joined(t, relay.Options{}, func(s *stage) {
			s.cancel(context.Canceled)
			s.want(s.wait(), relay.Result{End: relay.ByError}, context.Canceled)
		})
	})
	t.Run("a Conn that cannot be watched", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, guest := relaytest.Pipe(0)
			up, server := relaytest.Pipe(0)
			done := make(chan relay.Result)
			go func() { done <- relay.Join(t.Context(), unwatched{guest}, unwatched{up}, relay.Options{}) }()
			io.WriteString(client, "hello")
			synctest.Wait()
			server.Close() // with bytes unread
			if _, err := io.ReadAll(client); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("client read %v, want ECONNRESET", err)
			}
			if r := <-done; r.End != relay.ByRST || r.By != relay.Upstream || r.Outbound != 5 {
				t.Errorf("Join = %v", r)
			}
		})
	})
}

// expirer is a Conn that asks why it is reset.
type expirer struct {
	*relaytest.Conn
	expired int
}

func (e *expirer) Expire() error {
	e.expired++
	return e.Reset()
}

func TestHalfCloseTimeout(t *testing.T) {
	o := relay.Options{HalfCloseTimeout: 30 * time.Second}
	t.Run("an idle half-close is reset on both sides", func(t *testing.T) {
		joined(t, o, func(s *stage) {
			time.Sleep(time.Hour) // open and idle: no limit
			s.client.CloseWrite()
			before := time.Now()
			s.reads(s.server, "", nil)
			r := s.wait()
			if d := time.Since(before); d != 30*time.Second {
				s.t.Errorf("lasted %v, want 30s", d)
			}
			s.want(r, relay.Result{First: relay.Guest, End: relay.ByTimeout}, relay.ErrHalfCloseTimeout)
			s.reads(s.client, "", syscall.ECONNRESET)
			if !s.up.State().WasReset || !s.guest.State().WasReset {
				s.t.Error("want both ends reset")
			}
		})
	})
	t.Run("who asks is told why", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, guest := relaytest.Pipe(0)
			up, _ := relaytest.Pipe(0)
			asks := &expirer{Conn: guest}
			client.CloseWrite()
			relay.Join(t.Context(), asks, up, o)
			if asks.expired != 1 || !guest.State().WasReset || !up.State().WasReset {
				t.Errorf("expired %d times, reset %v and %v", asks.expired, guest.State().WasReset, up.State().WasReset)
			}
		})
	})
	t.Run("bytes begin the time anew", func(t *testing.T) {
		joined(t, o, func(s *stage) {
			s.server.CloseWrite()
			synctest.Wait()
			before := time.Now()
			for range 10 {
				time.Sleep(20 * time.Second)
				s.send(s.client, "x")
				s.readsPart(s.server, "x")
			}
			r := s.wait()
			if d := time.Since(before); d != 230*time.Second {
				s.t.Errorf("lasted %v, want 230s", d)
			}
			s.want(r, relay.Result{First: relay.Upstream, End: relay.ByTimeout}, relay.ErrHalfCloseTimeout)
		})
	})
	t.Run("the second FIN stops it", func(t *testing.T) {
		joined(t, o, func(s *stage) {
			s.server.CloseWrite()
			time.Sleep(29 * time.Second)
			s.client.Close()
			s.want(s.wait(), relay.Result{First: relay.Upstream, End: relay.ByFIN}, nil)
			time.Sleep(time.Hour)
		})
	})
}

func TestBytesArriveWhole(t *testing.T) {
	joined(t, relay.Options{}, func(s *stage) {
		const size = 200 * window
		random := rand.New(rand.NewSource(1))
		out, in := make([]byte, size), make([]byte, size)
		random.Read(out)
		random.Read(in)
		send := func(c *relaytest.Conn, p []byte) {
			for len(p) > 0 {
				n, err := c.Write(p[:min(len(p), 1+len(p)%3000)])
				if err != nil {
					s.t.Errorf("write: %v", err)
					return
				}
				p = p[n:]
			}
			c.CloseWrite()
		}
		go send(s.client, out)
		go send(s.server, in)
		sums := make(chan [sha256.Size]byte)
		go func() {
			b, _ := io.ReadAll(s.client)
			sums <- sha256.Sum256(b)
		}()
		got, _ := io.ReadAll(s.server)
		if !bytes.Equal(got, out) {
			s.t.Error("outbound bytes differ")
		}
		if <-sums != sha256.Sum256(in) {
			s.t.Error("inbound bytes differ")
		}
		r := s.wait()
		if r.Outbound != size || r.Inbound != size || r.End != relay.ByFIN {
			s.t.Errorf("Join = %v, want %d each way by fin", r, size)
		}
	})
}
