package peer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// start serves kind on loopback until the test ends, and then checks that
// nothing of it is left. It returns the address.
func start(t *testing.T, kind Kind) string {
	t.Helper()
	addr, stop := startUntil(t, kind)
	t.Cleanup(stop)
	return addr
}

func startUntil(t *testing.T, kind Kind) (addr string, stop func()) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, kind, ln) }()
	return ln.Addr().String(), sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve(%v): %v, want nil when its context ends", kind, err)
		}
		checkEnded(t)
	})
}

// checkEnded waits until no goroutine of a peer is left.
func checkEnded(t *testing.T) {
	t.Helper()
	stacks := make([]byte, 1<<20)
	for deadline := time.Now().Add(20 * time.Second); ; runtime.Gosched() {
		all := string(stacks[:runtime.Stack(stacks, true)])
		left := false
		for _, ours := range []string{"peer.(*server).", "peer.serveHTTP", "http.(*conn).serve", "peer.drain"} {
			left = left || strings.Contains(all, ours)
		}
		if !left {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("a peer left goroutines:\n%s", all)
			return
		}
	}
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.TCPConn)
}

func TestEchoSendsBackAndThenFIN(t *testing.T) {
	conn := dial(t, start(t, Echo))
	sent := bytes.Repeat([]byte("to and fro "), 100_000)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := conn.Write(sent); err != nil {
			t.Error(err)
		}
		conn.CloseWrite()
	})
	got, err := io.ReadAll(conn)
	wg.Wait()
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("echo: read %d bytes, %v, want the %d sent, then EOF", len(got), err, len(sent))
	}
}

func TestDiscardClosesAfterFIN(t *testing.T) {
	conn := dial(t, start(t, Discard))
	if _, err := conn.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	conn.CloseWrite()
	if got, err := io.ReadAll(conn); err != nil || len(got) != 0 {
		t.Errorf("discard: read %d bytes, %v, want none, then EOF", len(got), err)
	}
}

func TestSourceGoesOnAfterFIN(t *testing.T) {
	conn := dial(t, start(t, Source))
	conn.Write([]byte("more!"))
	conn.CloseWrite()
	got := make([]byte, 1<<20)
	if _, err := io.ReadFull(conn, got); err != nil {
		t.Fatalf("source: %v, want bytes without end", err)
	}
	pattern := sourcePattern()
	for i := range got {
		if got[i] != pattern[i%len(pattern)] {
			t.Fatalf("source: byte %d is %q, want %q", i, got[i], pattern[i%len(pattern)])
		}
	}
}

func TestCloserClosesFirst(t *testing.T) {
	conn := dial(t, start(t, Closer))
	if got, err := io.ReadAll(conn); err != nil || len(got) != 0 {
		t.Errorf("closer: read %d bytes, %v, want EOF at once", len(got), err)
	}
}

func TestHolderNeverCloses(t *testing.T) {
	addr, stop := startUntil(t, Holder)
	conn := dial(t, addr)
	conn.CloseWrite()
	end := make(chan error, 1)
	go func() {
		_, err := conn.Read(make([]byte, 1))
		end <- err
	}()
	// Others come and go meanwhile.
	for range 10 {
		dial(t, addr).Close()
	}
	select {
	case err := <-end:
		t.Errorf("holder: read returned %v, want nothing until the holder ends", err)
	default:
	}
	go stop()
	if err := <-end; !errors.Is(err, io.EOF) {
		t.Errorf("holder: read returned %v at its end, want EOF", err)
	}
	stop()
}

func TestResetterResets(t *testing.T) {
	if err := readOnce(start(t, Resetter)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("resetter: connect or read returned %v, want ECONNRESET", err)
	}
}

// readOnce connects to addr and reads a byte. An RST may come before connect is
// done.
func readOnce(addr string) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Read(make([]byte, 1))
	return err
}

func TestServeReportsWhatItCannotDo(t *testing.T) {
	for _, kind := range []Kind{0, Refuse, Blackhole} {
		if err := Serve(context.Background(), kind, nil); err == nil || !strings.Contains(err.Error(), "does not listen") {
			t.Errorf("Serve(%v) = %v, want an error", kind, err)
		}
	}
	for _, kind := range Kinds() {
		if !kind.Listens() {
			continue
		}
		broken := errors.New("broken")
		if err := Serve(context.Background(), kind, &listener{err: broken}); !errors.Is(err, broken) {
			t.Errorf("Serve(%v) = %v, want the listener's error", kind, err)
		}
	}
	ours, theirs := net.Pipe()
	defer theirs.Close()
	ln := &listener{conns: make(chan net.Conn, 1), closed: make(chan struct{})}
	ln.conns <- ours
	if err := Serve(context.Background(), Resetter, ln); !errors.Is(err, ErrNoReset) {
		t.Errorf("Serve(resetter) on a pipe = %v, want ErrNoReset", err)
	}
}

// listener hands out conns until it is closed, or fails at once with err.
type listener struct {
	err    error
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	if l.err != nil {
		return nil, l.err
	}
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		if l.closed != nil {
			close(l.closed)
		}
	})
	return nil
}

func (l *listener) Addr() net.Addr { return &net.TCPAddr{} }

func TestConnsBeyondTheCapAreReset(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &server{kind: Echo, max: 1, conns: make(map[net.Conn]struct{})}
	served := make(chan error, 1)
	go func() { served <- s.serve(ctx, ln) }()
	defer func() {
		cancel()
		<-served
		checkEnded(t)
	}()

	first := dial(t, ln.Addr().String())
	first.Write([]byte("x"))
	if _, err := io.ReadFull(first, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := readOnce(ln.Addr().String()); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the second of at most one: connect or read returned %v, want ECONNRESET", err)
	}
	first.Write([]byte("y"))
	if _, err := io.ReadFull(first, make([]byte, 1)); err != nil {
		t.Errorf("the first of at most one: %v, want it served still", err)
	}
}

func TestHTTP(t *testing.T) {
	addr := start(t, HTTP)
	tests := []struct {
		method, path, host, body string
		wantStatus               int
		want                     string // the body, or a part of it
	}{
		{"GET", "/", "web", "", 200, "Hello from web, a host inside"},
		{"GET", "/", "Web.Example:8080", "", 200, "Hello from web.example, a host inside"},
		{"GET", "/", addr, "", 200, "Hello from 127.0.0.1, a host inside"},
		{"GET", "/bytes/0", "web", "", 200, ""},
		{"GET", "/bytes/5", "web", "", 200, " !\"#$"},
		{"HEAD", "/bytes/9223372036854775807", "web", "", 200, ""},
		{"GET", "/bytes/-1", "web", "", 400, "/bytes/1000000"},
		{"GET", "/bytes/99999999999999999999", "web", "", 400, "/bytes/1000000"},
		{"POST", "/echo", "web", "to and fro", 200, "to and fro"},
		{"GET", "/elsewhere", "web", "", 404, ""},
		{"POST", "/", "web", "", 405, ""},
	}
	for _, tt := range tests {
		req, err := http.NewRequest(tt.method, "http://"+addr+tt.path, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = tt.host
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Errorf("%s %s: %v", tt.method, tt.path, err)
			continue
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tt.wantStatus || err != nil || !strings.Contains(string(got), tt.want) {
			t.Errorf("%s %s = %d %q, %v, want %d %q", tt.method, tt.path, resp.StatusCode, got, err, tt.wantStatus, tt.want)
		}
		if date := resp.Header.Get("Date"); date != "" {
			t.Errorf("%s %s has a Date: %s", tt.method, tt.path, date)
		}
	}
}

func TestHTTPStreams(t *testing.T) {
	addr := start(t, HTTP)
	resp, err := http.Get("http://" + addr + "/bytes/10000000")
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if n != 10_000_000 || err != nil {
		t.Errorf("/bytes/10000000: %d bytes, %v", n, err)
	}
	sent := bytes.Repeat([]byte("0123456789"), 1_000_000)
	resp, err = http.Post("http://"+addr+"/echo", "text/plain", bytes.NewReader(sent))
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if !bytes.Equal(got, sent) || err != nil {
		t.Errorf("/echo: %d bytes, %v, want the %d sent", len(got), err, len(sent))
	}
}

// A peer that ends in the middle of everything leaves nothing behind; the
// check is startUntil's own.
func TestServeEndsInTheMiddle(t *testing.T) {
	for _, kind := range Kinds() {
		if !kind.Listens() {
			continue
		}
		t.Run(kind.String(), func(t *testing.T) {
			addr, stop := startUntil(t, kind)
			for range 20 {
				conn, err := net.Dial("tcp", addr)
				if err != nil {
					if kind == Resetter && errors.Is(err, syscall.ECONNRESET) {
						continue
					}
					t.Fatal(err)
				}
				defer conn.Close()
				conn.Write([]byte("GET /bytes/100000000 HTTP/1.1\r\nHost: web\r\n\r\n"))
			}
			stop()
		})
	}
}
