package upstream

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox/stack/relay"
	"tcpbox/stack/relay/relaytest"
)

// joint is a connection of real sockets through Join: client and server are
// the far ends.
type joint struct {
	t              testing.TB
	client, server *net.TCPConn
	guest, up      *Conn
	done           chan relay.Result
}

// guests are the shapes that the guest's end of a Join may have.
var guests = []struct {
	name string
	make func(*Conn) relay.Conn
}{
	{"direct", func(c *Conn) relay.Conn { return relaytest.Direct(c) }},
	{"trying", func(c *Conn) relay.Conn { return c }},
	{"plain", func(c *Conn) relay.Conn { return relaytest.Plain(c) }},
}

func newJoint(t testing.TB, ctx context.Context, guest func(*Conn) relay.Conn, o relay.Options) *joint {
	h := &Host{}
	j := &joint{t: t, done: make(chan relay.Result, 1)}
	j.guest, j.client = pair(t, h)
	j.up, j.server = pair(t, h)
	go func() {
		j.done <- relay.Join(ctx, guest(j.guest), j.up, o)
		h.Close()
	}()
	t.Cleanup(func() { j.client.Close(); j.server.Close() })
	return j
}

func (j *joint) want(first relay.Side, end relay.End, err error) {
	j.t.Helper()
	r := <-j.done
	if r.First != first || r.End != end || !errors.Is(r.Err, err) || (err == nil) != (r.Err == nil) {
		j.t.Errorf("Join = %v, want %v, %v first, %v", r, end, first, err)
	}
}

func TestJoin(t *testing.T) {
	for _, row := range []struct {
		name string
		play func(t *testing.T, j *joint)
	}{
		{"guest half-closes, then the server replies", func(t *testing.T, j *joint) {
			io.WriteString(j.client, "question")
			j.client.CloseWrite()
			wantRead(t, j.server, "question", nil)
			io.WriteString(j.server, "answer")
			j.server.Close()
			wantRead(t, j.client, "answer", nil)
			j.want(relay.Guest, relay.ByFIN, nil)
		}},
		{"server half-closes, then the guest goes on", func(t *testing.T, j *joint) {
			j.server.CloseWrite()
			wantRead(t, j.client, "", nil)
			io.WriteString(j.client, "late")
			j.client.Close()
			wantRead(t, j.server, "late", nil)
			j.want(relay.Upstream, relay.ByFIN, nil)
		}},
		{"RST of the guest", func(t *testing.T, j *joint) {
			io.WriteString(j.client, "bytes")
			wantPart(t, j.server, "bytes")
			reset(j.client)
			wantRead(t, j.server, "", syscall.ECONNRESET)
			j.want(relay.Guest, relay.ByRST, syscall.ECONNRESET)
		}},
		{"RST of the server, behind bytes", func(t *testing.T, j *joint) {
			io.WriteString(j.server, "bytes")
			wantPart(t, j.client, "bytes")
			reset(j.server)
			wantRead(t, j.client, "", syscall.ECONNRESET)
			j.want(relay.Upstream, relay.ByRST, syscall.ECONNRESET)
		}},
		{"RST of the server while the guest does not read", func(t *testing.T, j *joint) {
			stuff(t, j.server, j.guest)
			reset(j.server)
			j.want(relay.Upstream, relay.ByRST, syscall.ECONNRESET)
			if _, err := io.Copy(io.Discard, j.client); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("client read %v, want ECONNRESET", err)
			}
		}},
		{"RST of the guest while the server does not read", func(t *testing.T, j *joint) {
			stuff(t, j.client, j.up)
			reset(j.client)
			j.want(relay.Guest, relay.ByRST, syscall.ECONNRESET)
			if _, err := io.Copy(io.Discard, j.server); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("server read %v, want ECONNRESET", err)
			}
		}},
		{"RST of the server while neither reads", func(t *testing.T, j *joint) {
			stuff(t, j.server, j.guest)
			stuff(t, j.client, j.up)
			reset(j.server)
			j.want(relay.Upstream, relay.ByRST, syscall.ECONNRESET)
		}},
		{"RST of the server after its FIN", func(t *testing.T, j *joint) {
			j.server.CloseWrite()
			wantRead(t, j.client, "", nil)
			reset(j.server)
			j.want(relay.Upstream, relay.ByRST, syscall.EPIPE)
			if _, err := j.client.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("client write: %v, want the end", err)
			}
		}},
		{"RST of the server after the guest's FIN", func(t *testing.T, j *joint) {
			j.client.CloseWrite()
			wantRead(t, j.server, "", nil)
			reset(j.server)
			wantRead(t, j.client, "", syscall.ECONNRESET)
			j.want(relay.Guest, relay.ByRST, syscall.ECONNRESET)
		}},
		{"a server that has closed answers late bytes by RST", func(t *testing.T, j *joint) {
			j.server.Close()
			wantRead(t, j.client, "", nil)
			io.WriteString(j.client, "late")
			j.want(relay.Upstream, relay.ByRST, syscall.EPIPE)
		}},
		{"a server that answers and closes without reading", func(t *testing.T, j *joint) {
			// It has bytes unread, so its Close is RST (RFC 2525, section 2.17),
			// and its answer must come through before.
			stuff(t, j.client, j.up)
			io.WriteString(j.server, "413 too large")
			wantPart(t, j.client, "413 too large")
			j.server.Close()
			wantRead(t, j.client, "", syscall.ECONNRESET)
			j.want(relay.Upstream, relay.ByRST, syscall.ECONNRESET)
		}},
	} {
		for _, g := range guests {
			t.Run(row.name+"/"+g.name, func(t *testing.T) {
				row.play(t, newJoint(t, t.Context(), g.make, relay.Options{}))
			})
		}
	}
}

func TestJoinContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	j := newJoint(t, ctx, guests[0].make, relay.Options{})
	stuff(t, j.client, j.up)
	cancel()
	j.want(relay.Neither, relay.ByError, context.Canceled)
	wantRead(t, j.client, "", syscall.ECONNRESET)
}

func TestJoinHalfCloseTimeout(t *testing.T) {
	j := newJoint(t, t.Context(), guests[0].make, relay.Options{HalfCloseTimeout: time.Millisecond})
	j.client.CloseWrite()
	wantRead(t, j.client, "", syscall.ECONNRESET)
	j.want(relay.Guest, relay.ByTimeout, relay.ErrHalfCloseTimeout)
}

// wantPart reads text and no more.
func wantPart(t *testing.T, r io.Reader, text string) {
	t.Helper()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != text {
		t.Errorf("read %q, %v; want %q", got, err, text)
	}
}

// stuff writes to c until the whole way to the far end is full: c has no room,
// via, the Conn that Join writes to, holds bytes that have not been sent, and
// neither waits for an acknowledgement. Nothing moves then before the far end
// reads.
func stuff(t testing.TB, c *net.TCPConn, via *Conn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 256<<10)
	eventually(t, "the way is full", func() bool {
		sent, unacked, unsent := 0, 0, 0
		raw.Control(func(fd uintptr) {
			sent, _ = send(fd, p)
			unacked, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
			unsent, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQNSD)
		})
		left := queued(via, unix.SIOCOUTQNSD)
		return sent == 0 && unacked == unsent && left > 0 && left == queued(via, unix.SIOCOUTQ)
	})
}

// noise is an endless stream of bytes that are the same for the same seed.
func noise(seed byte) io.Reader { return rand.NewChaCha8([32]byte{seed}) }

func TestJoinMovesBytesBothWays(t *testing.T) {
	size := int64(64 << 20)
	if testing.Short() {
		size = 4 << 20
	}
	for _, g := range guests {
		t.Run(g.name, func(t *testing.T) {
			j := newJoint(t, t.Context(), g.make, relay.Options{})
			var wg sync.WaitGroup
			stream := func(from, to *net.TCPConn, seed byte) {
				wg.Go(func() {
					if _, err := io.Copy(from, io.LimitReader(noise(seed), size)); err != nil {
						t.Errorf("send: %v", err)
					}
					from.CloseWrite()
				})
				wg.Go(func() {
					got, want := sha256.New(), sha256.New()
					io.Copy(want, io.LimitReader(noise(seed), size))
					if n, err := io.Copy(got, to); n != size || err != nil {
						t.Errorf("received %d bytes, %v; want %d", n, err, size)
					}
					if string(got.Sum(nil)) != string(want.Sum(nil)) {
						t.Error("the checksum differs")
					}
				})
			}
			stream(j.client, j.server, 1)
			stream(j.server, j.client, 2)
			wg.Wait()
			r := <-j.done
			if r.Outbound != size || r.Inbound != size || r.End != relay.ByFIN || r.Err != nil {
				t.Errorf("Join = %v", r)
			}
		})
	}
}
