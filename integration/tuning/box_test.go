// Package tuning shows for each knob that a leg behaves as it is set, in packets,
// states and counters, from the start and when it is set while connections live.
package tuning

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox"
	"tcpbox/policy"
	"tcpbox/policy/knob"
)

func TestMain(m *testing.M) {
	tcpbox.Init()
	flag.Parse()
	_ = flag.Set("test.parallel", "24") // they wait for the kernel's timers, most of the time
	os.Exit(m.Run())
}

// box is a sandbox whose guest does nothing. The test makes its sockets itself, and
// they talk to each other over the guest's loopback.
type box struct {
	*tcpbox.Sandbox
	t         *testing.T
	wire      *wire
	listeners int
}

func begin(t *testing.T, settings ...string) *box {
	t.Helper()
	return beginWith(t, tcpbox.Config{}, settings...)
}

// beginWith is begin with peers, or whatever else cfg has.
func beginWith(t *testing.T, cfg tcpbox.Config, settings ...string) *box {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root, which CI=true promises")
		}
		t.Skip("needs root, to make sockets in the guest's namespace")
	}
	cfg.Args, cfg.Knobs = []string{"sleep", "1h"}, parse(t, settings...)
	cfg.Policy.Net = policy.NetNone
	sb, err := tcpbox.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sb.Close() })
	b := &box{Sandbox: sb, t: t}
	b.wire = b.capture()
	return b
}

func parse(t *testing.T, texts ...string) []knob.Setting {
	t.Helper()
	var settings []knob.Setting
	for _, text := range texts {
		s, err := knob.ParseSetting(text)
		if err != nil {
			t.Fatal(err)
		}
		settings = append(settings, s)
	}
	return settings
}

// set changes knobs while the sandbox lives.
func (b *box) set(settings ...string) {
	b.t.Helper()
	if _, err := b.Set(parse(b.t, settings...)...); err != nil {
		b.t.Fatal(err)
	}
}

// eventually waits for a condition; the limit ends a test that has failed.
func (b *box) eventually(what string, ok func() bool) {
	b.t.Helper()
	for end := time.Now().Add(40 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("never came true: %s", what)
		}
	}
}

func (b *box) check(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// sock is a TCP socket of the guest's namespace.
type sock struct {
	b    *box
	file *os.File
	fd   int
}

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

func (b *box) socket() *sock {
	b.t.Helper()
	f, err := b.NS().Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	b.check(err)
	b.t.Cleanup(func() { f.Close() })
	s := &sock{b: b, file: f, fd: int(f.Fd())}
	b.check(unix.SetNonblock(s.fd, true))
	return s
}

func (b *box) listen(backlog int) *sock {
	b.t.Helper()
	s := b.socket()
	b.listeners++ // below every range of ports for those who connect
	b.check(unix.Bind(s.fd, &unix.SockaddrInet4{Addr: loopback.As4(), Port: 10000 + b.listeners}))
	b.check(unix.Listen(s.fd, backlog))
	return s
}

func (s *sock) local() *unix.SockaddrInet4 {
	s.b.t.Helper()
	sa, err := unix.Getsockname(s.fd)
	s.b.check(err)
	return sa.(*unix.SockaddrInet4)
}

func (s *sock) port() uint16 { return uint16(s.local().Port) }

// begin sends a SYN to a listener.
func (s *sock) begin(to *sock) error {
	err := unix.Connect(s.fd, to.local())
	if errors.Is(err, unix.EINPROGRESS) {
		return nil
	}
	return err
}

// err returns the socket's error when it has one.
func (s *sock) err() error {
	n, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && n != 0 {
		err = unix.Errno(n)
	}
	return err
}

func (s *sock) option(level, name, value int) {
	s.b.t.Helper()
	s.b.check(unix.SetsockoptInt(s.fd, level, name, value))
}

// deaf makes the socket hear nothing: a filter drops each segment for it.
func (s *sock) deaf() {
	s.b.t.Helper()
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	s.b.check(unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop}))
}

func (s *sock) hearing() {
	s.b.t.Helper()
	s.option(unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
}

func (s *sock) close() { s.file.Close() }

func (s *sock) write(n int) (int, error) { return unix.Write(s.fd, make([]byte, n)) }

// pair is a connection of the guest with itself.
func (b *box) pair() (client, server *sock) {
	b.t.Helper()
	l := b.listen(8)
	client = b.socket()
	b.check(client.begin(l))
	return client, l.accept()
}

func (s *sock) accept() *sock {
	s.b.t.Helper()
	c := &sock{b: s.b}
	s.b.eventually("a connection can be accepted", func() bool {
		fd, _, err := unix.Accept4(s.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		c.fd = fd
		return err == nil
	})
	c.file = os.NewFile(uintptr(c.fd), "accepted")
	s.b.t.Cleanup(func() { c.file.Close() })
	return c
}

// The kernel's numbers of states in /proc/net/tcp.
const (
	synReceived = 3
	finWait1    = 4
	finWait2    = 5
	timeWait    = 6
)

// states counts the namespace's sockets that have the local port, by state.
func (b *box) states(port uint16) map[int]int {
	b.t.Helper()
	text, err := b.NS().ProcNet("tcp")
	b.check(err)
	found := make(map[int]int)
	for line := range bytes.Lines(text) {
		f := strings.Fields(string(line))
		if len(f) > 3 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
			n, err := strconv.ParseUint(f[3], 16, 8)
			b.check(err)
			found[int(n)]++
		}
	}
	return found
}

// counter is one of TcpExt.
func (b *box) counter(name string) int {
	b.t.Helper()
	text, err := b.NS().ProcNet("netstat")
	b.check(err)
	lines := strings.Split(string(text), "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		for j, n := range names {
			if n == name {
				value, err := strconv.Atoi(values[j])
				b.check(err)
				return value
			}
		}
	}
	b.t.Fatalf("no counter %s", name)
	return 0
}
