package reach

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tcpbox/integration/testnet"
	"tcpbox/stack/tcpstate"
)

// Where the peers of an attached namespace are, and who lives there.
var (
	floodTarget = netip.MustParseAddr("198.18.0.16")
	floodEcho   = netip.MustParseAddrPort("198.18.0.17:7")
	floodGuest  = netip.MustParseAddr("198.18.0.2")
)

// floodStats are those of "tcpbox inspect" that a flood changes.
type floodStats struct {
	Foreign    int `json:"foreign_source"`
	Backlog    int `json:"drop_backlog"`
	PendingMax int `json:"drop_pending"`
	PerDst     int `json:"drop_per_dst"`
	Pending    int `json:"pending"`
	HalfOpen   int `json:"half_open"`
	Peak       int `json:"peak_half_open"`
	Tracked    int `json:"tracked"`
}

func (s floodStats) dropped() int { return s.Backlog + s.PendingMax + s.PerDst }

// flooded is a namespace that is served, with a target for floods and an echo.
type flooded struct {
	*serving
	net *testnet.Net
	ns  *testnet.Namespace
}

func serveFlooded(t *testing.T, n *testnet.Net, flags ...string) *flooded {
	t.Helper()
	in := unshared(t, n, root)
	args := append([]string{"--net", "none", "--peer", "echo=echo:7"}, flags...)
	for port := 80; port < 84; port++ {
		args = append([]string{"--peer", fmt.Sprint("target=discard:", port)}, args...)
	}
	f := &flooded{serving: root.attach(t, n, append(args, strconv.Itoa(in.pid))...), net: n, ns: n.Of(t, in.pid)}
	// Its kernel drops what comes from where it has no way to, so that it answers
	// no SYN-ACK with RST.
	f.ns.AddBlackhole(t, netip.PrefixFrom(floodTarget, 32))
	return f
}

func (f *flooded) stats() floodStats {
	f.t.Helper()
	var in struct{ Stats floodStats }
	got := toEnd(f.t, root.tcpbox(f.t.(*testing.T), f.net, "inspect", "--json", f.name))
	if err := json.Unmarshal([]byte(got.stdout), &in); err != nil {
		f.t.Fatalf("inspect: %v, %v", err, got)
	}
	return in.Stats
}

// resident is how many bytes of memory tcpbox holds.
func (f *flooded) resident() int {
	f.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", f.cmd.Process.Pid))
	if err != nil {
		f.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	var kilobytes int
	if _, err := fmt.Sscan(rest, &kilobytes); err != nil {
		f.t.Fatal(err)
	}
	return kilobytes << 10
}

// flood sends n SYNs, of which no two are of one connection, beginning with the
// number first. Between thousands of them it calls meanwhile.
func (f *flooded) flood(first, n int, meanwhile func()) {
	f.t.Helper()
	const some = 5000
	for ; n > 0; first, n = first+some, n-some {
		f.ns.FloodSYNs(f.t, "tcpbox0", min(n, some), func(i int) (src, dst netip.AddrPort) {
			const perPort = 60_000
			i += first
			return netip.AddrPortFrom(floodGuest, uint16(1024+i%perPort)), netip.AddrPortFrom(floodTarget, uint16(80+i/perPort))
		})
		meanwhile()
	}
}

// dialEcho opens a connection from the namespace, and says something over it.
func (f *flooded) dialEcho(t *testing.T) net.Conn {
	t.Helper()
	c, err := f.ns.DialTCP(t.Context(), netip.AddrPort{}, floodEcho)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	must(t, echoes(c))
	return c
}

// echoes says something and hears it again.
func echoes(c net.Conn) error {
	const text = "hello"
	got := make([]byte, len(text))
	if err := c.SetDeadline(time.Now().Add(testnet.Patience)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != text {
		return fmt.Errorf("the echo is %q", got)
	}
	return nil
}

// TestFlood has a program with raw sockets send 200,000 SYNs for connections that
// it never completes: the backlog is exact, memory is flat, an old connection does not
// feel it, a new one waits until there is room, and no other sandbox knows of it.
func TestFlood(t *testing.T) {
	testnet.Programs(t, "unshare")
	const (
		backlog = 64
		warm    = 40_000 // fills all that has a limit
		quiet   = 100_000
		lively  = 80_000
		foreign = 20_000
		fill    = 160 << 20
		room    = 48 << 20 // 314 bytes for each SYN after warm; one that is half-open has more than 5,000
	)
	n := testnet.New(t)
	noBoxesAfter(t)
	f := serveFlooded(t, n, "--tcp", fmt.Sprint("stack.syn-backlog=", backlog), "--tcp", "stack.synack-retries=6")
	other := serveFlooded(t, n)
	old := f.dialEcho(t)

	var over atomic.Bool
	var succeeded int
	var harm error
	var rest sync.WaitGroup
	rest.Go(func() {
		for harm == nil && !over.Load() {
			if harm = other.connects(t); harm == nil {
				succeeded++
			}
			time.Sleep(5 * time.Millisecond) // the flood has the processor
		}
	})
	t.Cleanup(func() {
		over.Store(true)
		rest.Wait()
	})

	// What is half-open is given up after 127 s: a machine that is slower than that
	// has no exact numbers.
	began := time.Now()
	inTime := func() {
		t.Helper()
		if took := time.Since(began); took > 100*time.Second {
			t.Skipf("this machine is too slow: it has taken %v", took)
		}
	}

	before := f.resident()
	f.flood(0, warm, func() {})
	warmed := f.resident()
	most := warmed
	weigh := func() { most = max(most, f.resident()) }

	f.flood(warm, quiet-warm, weigh)
	inTime()
	f.exactly(quiet, backlog)
	f.flood(quiet, lively, func() {
		weigh()
		must(t, echoes(old))
	})
	inTime()
	f.exactly(quiet+lively, backlog)

	full := f.stats()
	f.ns.FloodSYNs(t, "tcpbox0", foreign, func(i int) (src, dst netip.AddrPort) {
		from := []netip.Addr{netip.MustParseAddr("198.18.0.3"), netip.MustParseAddr("192.0.2.1"), floodTarget, netip.MustParseAddr("127.0.0.1")}
		return netip.AddrPortFrom(from[i%len(from)], uint16(1024+i)), floodEcho
	})
	weigh()
	full.Foreign += foreign
	if got := f.stats(); got != full {
		t.Errorf("after %d SYNs from addresses that are not the guest's: %+v, want %+v", foreign, got, full)
	}
	after := f.resident()
	over.Store(true)
	if rest.Wait(); harm != nil || succeeded == 0 {
		t.Errorf("the other sandbox: %v, after %d connections", harm, succeeded)
	}
	if got := other.stats(); got.dropped() != 0 || got.Foreign != 0 {
		t.Errorf("the other sandbox has %+v", got)
	}
	t.Logf("memory: %d KB before, %d KB after %d SYNs, %d KB at most, %d KB after all; %d connections of the other sandbox",
		before>>10, warmed>>10, warm, most>>10, after>>10, succeeded)
	if warmed-before > fill || most-warmed > room {
		t.Errorf("memory grew from %d KB to %d KB, and then to %d KB", before>>10, warmed>>10, most>>10)
	}
	if got := len(f.stderr.String()); got > 10_000 {
		t.Errorf("tcpbox wrote %d bytes: %.300s", got, f.stderr)
	}

	// A new connection waits for room.
	inTime()
	d, err := f.ns.StartDial(netip.AddrPort{}, floodEcho)
	must(t, err)
	local, err := d.Local()
	must(t, err)
	testnet.Eventually(t, func() error {
		if f.stats().dropped() == full.dropped() {
			return errors.New("its SYN is not dropped")
		}
		return nil
	})
	if got := f.ns.State(t, local, floodEcho); got != tcpstate.SynSent {
		t.Errorf("while the backlog is full its socket is in %v", got)
	}
	if got := toEnd(t, root.tcpbox(t, n, "set", f.name, fmt.Sprint("stack.syn-backlog=", 2*backlog))); got.code != 0 {
		t.Fatalf("set: %v", got)
	}
	c, err := d.Wait(t.Context())
	must(t, err)
	defer c.Close()
	must(t, echoes(c))
	must(t, echoes(old))
	if got := f.stats(); got.HalfOpen != backlog || got.Peak != backlog+1 {
		t.Errorf("with more room: %+v, want %d half-open, and at most one more", got, backlog)
	}
}

// connects makes a connection, uses it and ends it.
func (f *flooded) connects(t *testing.T) error {
	c, err := f.ns.DialTCP(t.Context(), netip.AddrPort{}, floodEcho)
	if err != nil {
		return err
	}
	defer c.Close()
	return echoes(c)
}

// exactly checks that of so many SYNs the backlog has as many as it has room for,
// and that all others are counted.
func (f *flooded) exactly(syns, backlog int) {
	f.t.Helper()
	testnet.Eventually(f.t, func() error {
		got := f.stats()
		if got.Pending != 0 || got.HalfOpen+got.dropped() != syns {
			return fmt.Errorf("of %d SYNs: %+v", syns, got)
		}
		if got.HalfOpen != backlog || got.Peak != backlog || got.Foreign != 0 {
			return fmt.Errorf("the backlog is %d: %+v", backlog, got)
		}
		return nil
	})
}
