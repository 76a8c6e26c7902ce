package upstream

import (
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// space is a network namespace of a test's own. It lives on one thread, which
// dies with it.
type space struct {
	t    testing.TB
	work chan func()
}

// newSpace makes a namespace with its loopback up, and in it runs each of
// script's lines as arguments of ip(8). It skips the test where namespaces
// cannot be made, and fails it where CI=true promises that they can.
func newSpace(t testing.TB, script string) *space {
	t.Helper()
	s := &space{t: t, work: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread dies with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		made <- err
		if err != nil {
			return
		}
		for f := range s.work {
			f()
		}
	}()
	if err := <-made; err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("make a network namespace: %v", err)
		}
		t.Skipf("needs a network namespace of its own, which takes privilege: %v", err)
	}
	t.Cleanup(func() { close(s.work) })
	s.ip("link set lo up")
	for line := range strings.Lines(script) {
		if line = strings.TrimSpace(line); line != "" {
			s.ip(line)
		}
	}
	return s
}

// do runs f on the namespace's thread.
func (s *space) do(f func()) {
	done := make(chan struct{})
	s.work <- func() { defer close(done); f() }
	<-done
}

func (s *space) ip(args string) {
	s.t.Helper()
	var out []byte
	var err error
	s.do(func() { out, err = exec.Command("ip", strings.Fields(args)...).CombinedOutput() })
	if err != nil {
		s.t.Fatalf("ip %s: %v: %s", args, err, out)
	}
}

func (s *space) sysctl(name, value string) {
	s.t.Helper()
	var err error
	s.do(func() { err = os.WriteFile("/proc/sys/"+strings.ReplaceAll(name, ".", "/"), []byte(value), 0) })
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *space) procNet(name string) string {
	s.t.Helper()
	var b []byte
	var err error
	s.do(func() { b, err = os.ReadFile("/proc/thread-self/net/" + name) })
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

// socket is a Socket.
func (s *space) socket(domain, typ, proto int) (fd int, err error) {
	s.do(func() { fd, err = unix.Socket(domain, typ, proto) })
	return fd, err
}

func (s *space) listen(address string) *net.TCPListener {
	s.t.Helper()
	var l net.Listener
	var err error
	s.do(func() { l, err = net.Listen("tcp", address) })
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}
