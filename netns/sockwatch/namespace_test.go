package sockwatch

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox/netns"
	"tcpbox/stack/tcpstate"
)

// space is a network namespace of the test's own, in which one thread works.
type space struct {
	netns.NS
	work chan func()
}

func newSpace(t *testing.T) *space {
	t.Helper()
	s := &space{work: make(chan func())}
	made := make(chan error)
	var ended sync.WaitGroup
	ended.Go(func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = loopbackUp()
		}
		made <- err
		if err != nil {
			return
		}
		for f := range s.work {
			f()
		}
	})
	if err := <-made; err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no namespace for the test: %v", err)
		}
		t.Skipf("no namespace for the test: %v", err)
	}
	t.Cleanup(func() {
		close(s.work)
		ended.Wait()
	})
	return s
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// do runs f inside.
func (s *space) do(f func()) {
	done := make(chan struct{})
	s.work <- func() {
		defer close(done)
		f()
	}
	<-done
}

func (s *space) Socket(domain, typ, proto int) (file *os.File, err error) {
	s.do(func() { file, err = netns.Socket(domain, typ, proto) })
	return file, err
}

func (s *space) Sysctl(name string) (value string, err error) {
	s.do(func() {
		var b []byte
		b, err = os.ReadFile(filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/")))
		value = strings.TrimSpace(string(b))
	})
	return value, err
}

func (s *space) SetSysctl(name, value string) (err error) {
	s.do(func() {
		err = os.WriteFile(filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/")), []byte(value), 0o644)
	})
	return err
}

// recording keeps transitions.
type recording struct {
	mu  sync.Mutex
	all []tcpstate.Transition
}

func (r *recording) add(tr tcpstate.Transition) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, tr)
}

// of returns the transitions of a socket.
func (r *recording) of(local netip.AddrPort) []tcpstate.Transition {
	r.mu.Lock()
	defer r.mu.Unlock()
	var own []tcpstate.Transition
	for _, tr := range r.all {
		if tr.Local == local {
			own = append(own, tr)
		}
	}
	return own
}

// path is what a socket went through, with causes, in one line.
func path(trs []tcpstate.Transition) string {
	var b strings.Builder
	for i, tr := range trs {
		if i == 0 {
			b.WriteString(tr.From.String())
		}
		fmt.Fprintf(&b, " (%v)> %v", tr.Cause, tr.To)
	}
	return b.String()
}

// await waits for a socket's path.
func (r *recording) await(t *testing.T, local netip.AddrPort, want ...string) []tcpstate.Transition {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		trs := r.of(local)
		if slices.Contains(want, path(trs)) {
			return trs
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v went %q,\nwant %q", local, path(trs), want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// pair is a connection within the namespace.
type pair struct {
	listener       net.Listener
	client, server *net.TCPConn
	from, to       netip.AddrPort // the client's address, and the server's
}

func (s *space) pair(t *testing.T) pair {
	t.Helper()
	var p pair
	var err error
	s.do(func() {
		if p.listener, err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
			return
		}
		var c net.Conn
		if c, err = net.Dial("tcp4", p.listener.Addr().String()); err == nil {
			p.client = c.(*net.TCPConn)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.listener.Close() })
	c, err := p.listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	p.server = c.(*net.TCPConn)
	p.from, p.to = p.client.LocalAddr().(*net.TCPAddr).AddrPort(), p.client.RemoteAddr().(*net.TCPAddr).AddrPort()
	return p
}

// TestWhatIsLeftPerishes: nobody sees the end of what a namespace takes with it,
// and the transitions do not say that somebody has.
func TestWhatIsLeftPerishes(t *testing.T) {
	s := newSpace(t)
	p := s.pair(t)
	defer p.client.Close()
	defer p.server.Close()
	r := new(recording)
	w := New(Config{NS: s, Sink: r.add, Perishes: true})
	t.Cleanup(func() { w.Close() })
	r.await(t, p.from, "UNKNOWN (unknown)> ESTABLISHED")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	trs := r.of(p.from)
	last := trs[len(trs)-1]
	if last.To != tcpstate.Closed || last.Source != 0 || last.Cause.String() != "policy stopped" {
		t.Errorf("it ended by %+v", last)
	}
	if first := trs[0]; len(trs) != 2 || first.Source != tcpstate.FromDiag {
		t.Errorf("before, it went %q", path(trs))
	}
}
