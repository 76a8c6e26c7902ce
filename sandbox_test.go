package tcpbox_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tcpbox"
	"tcpbox/policy/knob"
	"tcpbox/stack/peer"
	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

// requireSandbox skips where no sandbox can be made; on CI that is a failure.
func requireSandbox(t *testing.T) {
	t.Helper()
	err := noSandbox()
	if err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("no sandbox can be made here:", err)
	}
	t.Skip("no sandbox can be made here:", err)
}

// noSandbox says why no sandbox can be made here; nil if one can.
func noSandbox() error {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err == nil {
		f.Close()
	}
	return err
}

// playGuest is what this binary does inside a sandbox.
func playGuest(mode string) int {
	verb, arg, _ := strings.Cut(mode, " ")
	switch verb {
	case "exit":
		var code int
		fmt.Sscan(arg, &code)
		return code
	case "wait":
		time.Sleep(time.Hour)
	case "echo": // connect, say hello, read it back, close first
		c, err := net.Dial("tcp", arg)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		defer c.Close()
		fmt.Fprint(c, "hello")
		c.(*net.TCPConn).CloseWrite()
		b, err := io.ReadAll(c)
		if err != nil || string(b) != "hello" {
			fmt.Printf("%q %v\n", b, err)
			return 2
		}
	case "churn": // many connections, each of which must be echoed
		return churn(arg)
	case "get": // prints what a web server answers
		resp, err := http.Get(arg)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		defer resp.Body.Close()
		if _, err := io.Copy(os.Stdout, resp.Body); err != nil {
			return 2
		}
	case "serve": // echoes to all who come
		l, err := net.Listen("tcp", arg)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		for {
			c, err := l.Accept()
			if err != nil {
				return 2
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c) // the client has gone
			}()
		}
	case "connect": // tells the errno
		_, err := net.DialTimeout("tcp", arg, 10*time.Second)
		var errno syscall.Errno
		errors.As(err, &errno)
		return int(errno)
	}
	return 0
}

// box starts this binary as the guest.
func box(t *testing.T, mode string, cfg tcpbox.Config) *tcpbox.Sandbox {
	t.Helper()
	requireSandbox(t)
	cfg.Args = []string{"/proc/self/exe"}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Args[0] = self
	cfg.Env = append(os.Environ(), guestMode+"="+mode)
	cfg.Stdout, cfg.Stderr = os.Stdout, os.Stderr
	b, err := tcpbox.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal("start:", err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// keeper keeps the state log.
type keeper struct {
	mu    sync.Mutex
	items []statelog.Item
}

func (k *keeper) keep(items []statelog.Item) {
	k.mu.Lock()
	k.items = append(k.items, items...)
	k.mu.Unlock()
}

// paths returns what each connection went through.
func (k *keeper) paths() map[tcpstate.Conn]string {
	k.mu.Lock()
	defer k.mu.Unlock()
	m := map[tcpstate.Conn]string{}
	for _, it := range k.items {
		tr := it.Transition
		if tr.Leg != tcpstate.Stack {
			continue
		}
		if m[tr.Conn] == "" {
			m[tr.Conn] = tr.From.String()
		}
		m[tr.Conn] += " " + tr.To.String()
	}
	return m
}

func TestExitStatus(t *testing.T) {
	for _, want := range []int{0, 3, 125} {
		status, err := box(t, fmt.Sprint("exit ", want), tcpbox.Config{}).Wait()
		if err != nil || status.ExitCode() != want {
			t.Errorf("exit %d: %v, %v", want, status, err)
		}
	}
}

func TestEchoIsLogged(t *testing.T) {
	var k keeper
	b := box(t, "echo e:7", tcpbox.Config{
		Peers:     []peer.Spec{{Name: "e", Kind: peer.Echo, Port: 7}},
		OnRecords: k.keep,
	})
	status, err := b.Wait()
	if err != nil || status.ExitCode() != 0 {
		t.Fatalf("the guest: %v, %v", status, err)
	}
	const want = "CLOSED SYN-RECEIVED ESTABLISHED CLOSE-WAIT LAST-ACK CLOSED"
	found := 0
	for conn, path := range k.paths() {
		switch path {
		case want:
			found++
		case "CLOSED LISTEN CLOSED":
		default:
			t.Errorf("connection %d went %s", conn, path)
		}
	}
	if found != 1 {
		t.Errorf("%d connections went %s, want 1: %v", found, want, k.paths())
	}
}

func TestWhatTheGuestSees(t *testing.T) {
	peers := []peer.Spec{{Name: "no", Kind: peer.Refuse, Port: 80}, {Name: "web", Kind: peer.HTTP, Port: 80}}
	for _, row := range []struct {
		to   string
		want syscall.Errno
	}{
		{"web:80", 0},
		{"no:80", syscall.ECONNREFUSED},
		{"web:81", syscall.ECONNREFUSED},         // a port that no peer has
		{"203.0.113.1:80", syscall.ECONNREFUSED}, // the policy
		{"198.18.0.77:80", syscall.EHOSTUNREACH}, // nobody in the sandbox's subnet
		{"[fd74:6370:626f:78::77]:80", syscall.EHOSTUNREACH},
	} {
		var refused []tcpbox.Refusal
		b := box(t, "connect "+row.to, tcpbox.Config{Peers: peers, OnRefused: func(r tcpbox.Refusal) { refused = append(refused, r) }})
		status, err := b.Wait()
		if err != nil || syscall.Errno(status.ExitCode()) != row.want {
			t.Errorf("connect to %s: errno %v, %v, want %v", row.to, syscall.Errno(status.ExitCode()), err, row.want)
		}
		if told := len(refused) == 1; told != strings.HasPrefix(row.to, "203") {
			t.Errorf("connect to %s: refusals %v", row.to, refused)
		}
	}
}

func TestKnobsReachTheirLegs(t *testing.T) {
	setting := func(text string) knob.Setting {
		s, err := knob.ParseSetting(text)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	var outcomes []string
	b := box(t, "wait", tcpbox.Config{
		Knobs:     []knob.Setting{setting("fin-timeout=7s"), setting("syn-backlog=32"), setting("time-wait.reuse=on")},
		OnOutcome: func(o knob.Outcome) { outcomes = append(outcomes, o.String()) },
	})
	for name, want := range map[string]string{
		"net.ipv4.tcp_fin_timeout":     "7",
		"net.ipv4.tcp_max_syn_backlog": "32",
		"net.ipv4.tcp_tw_reuse":        "1",
	} {
		if got, err := b.NS().Sysctl(name); err != nil || got != want {
			t.Errorf("%s = %q, %v, want %q", name, got, err, want)
		}
	}
	if len(outcomes) != 9 {
		t.Errorf("outcomes %q, want one for each knob and leg", outcomes)
	}
}

// A panic in a flow of the stack ends the guest and is told; the process lives.
func TestPanicFailsClosed(t *testing.T) {
	b := box(t, "connect 203.0.113.1:80", tcpbox.Config{OnRefused: func(tcpbox.Refusal) { panic("a defect") }})
	_, err := b.Wait()
	var crash *tcpbox.PanicError
	if !errors.As(err, &crash) || crash.Value != "a defect" || len(crash.Stack) == 0 {
		t.Errorf("Wait() = %v, want the panic", err)
	}
}

func TestDialEndsWithTheGuest(t *testing.T) {
	b := box(t, "exit 0", tcpbox.Config{})
	if _, err := b.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{":7", "198.18.0.2:7", "[fd74:6370:626f:78::2]:7"} {
		switch c, err := b.Dial(t.Context(), "tcp", address); {
		case err == nil:
			c.Close()
			t.Errorf("Dial(%s) succeeded after the guest's end", address)
		case !errors.Is(err, tcpbox.ErrEnded):
			t.Errorf("Dial(%s) after the guest's end: %v", address, err)
		}
	}
}

func TestWhatDialAndListenRefuse(t *testing.T) {
	b := box(t, "wait", tcpbox.Config{Peers: []peer.Spec{{Name: "web", Kind: peer.HTTP, Port: 80}}})
	for _, bad := range []struct{ network, address string }{
		{"udp", ":7"}, {"tcp", "7"}, {"tcp", ":0"}, {"tcp", ":65536"}, {"tcp", "203.0.113.1:7"}, {"tcp6", "198.18.0.2:7"}, {"tcp", "web:80"},
	} {
		var op *net.OpError
		if c, err := b.Dial(t.Context(), bad.network, bad.address); !errors.As(err, &op) {
			t.Errorf("Dial(%q, %q) = %v, %v, want a *net.OpError", bad.network, bad.address, c, err)
		}
	}
	for _, bad := range []string{"web", ":80", "web:80", "web:0", "a b:80", "198.18.0.16:80", "localhost:80", tcpbox.HostName + ":80"} {
		if l, err := b.Listen(bad); err == nil {
			l.Close()
			t.Errorf("Listen(%q) succeeded", bad)
		}
	}
	for _, good := range []string{"web:81", "other:80", "Other:81", "other.:82"} {
		l, err := b.Listen(good)
		if err != nil {
			t.Errorf("Listen(%q): %v", good, err)
			continue
		}
		if err := l.Close(); err != nil {
			t.Errorf("Listen(%q).Close: %v", good, err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Listen(%q).Accept after Close: %v", good, err)
		}
	}
}

func TestBeforeStartRefuses(t *testing.T) {
	requireSandbox(t)
	no := errors.New("no")
	b, err := tcpbox.Start(t.Context(), tcpbox.Config{Args: []string{"true"}, BeforeStart: func(*tcpbox.Sandbox) error { return no }})
	if !errors.Is(err, no) {
		t.Errorf("Start = %v, %v, want the error of BeforeStart", b, err)
	}
}

func TestCloseKillsTheGuest(t *testing.T) {
	b := box(t, "wait", tcpbox.Config{})
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal("the second time:", err)
	}
	if status, err := b.Wait(); status.ExitCode() == 0 && err == nil {
		t.Errorf("the guest ended well: %v", status)
	}
}

func TestNothingLeaks(t *testing.T) {
	requireSandbox(t)
	run := func() {
		b := box(t, "echo e:7", tcpbox.Config{Peers: []peer.Spec{{Name: "e", Kind: peer.Echo, Port: 7}}})
		if status, err := b.Wait(); err != nil || status.ExitCode() != 0 {
			t.Fatalf("%v, %v", status, err)
		}
	}
	run() // what is made once stays
	goroutines, fds := runtime.NumGoroutine(), openFDs(t)
	for range 10 {
		run()
	}
	waitFor(t, "goroutines as before", func() (string, bool) {
		n := runtime.NumGoroutine()
		return fmt.Sprint(n, " goroutines, ", goroutines, " before"), n <= goroutines
	})
	waitFor(t, "descriptors as before", func() (string, bool) {
		n := openFDs(t)
		return fmt.Sprint(n, " descriptors, ", fds, " before"), n <= fds
	})
}

func openFDs(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// waitFor waits until a condition holds; what it has come to is told if it
// never does.
func waitFor(t *testing.T, what string, holds func() (string, bool)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		state, ok := holds()
		if ok {
			return
		}
		select {
		case <-ctx.Done():
			buf := make([]byte, 1<<16)
			t.Fatalf("%s: never; %s\n%s", what, state, buf[:runtime.Stack(buf, true)])
		case <-time.After(5 * time.Millisecond):
		}
	}
}
