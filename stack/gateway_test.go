package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tcpbox/policy"
	"tcpbox/policy/knob"
	"tcpbox/stack/internal/netstack"
	"tcpbox/stack/relay"
	"tcpbox/stack/relay/relaytest"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun"
	"tcpbox/tun/packet"
	"tcpbox/tun/tuntest"
)

const testTimeout = time.Minute // machines are slow at times

var (
	guestAddr    = netip.MustParseAddr("198.18.0.2")
	guestAddr6   = netip.MustParseAddr("fd74:6370:626f:78::2")
	gatewayAddr  = netip.MustParseAddr("198.18.0.1")
	gatewayAddr6 = netip.MustParseAddr("fd74:6370:626f:78::1")
	peerAddr     = netip.MustParseAddr("198.18.0.16")
	subnet       = netip.MustParsePrefix("198.18.0.0/24")
	subnet6      = netip.MustParsePrefix("fd74:6370:626f:78::/64")
	server       = netip.MustParseAddrPort("203.0.113.5:80")
	server6      = netip.MustParseAddrPort("[2001:db8::5]:80")
)

// TestMain fails if a goroutine of a gateway outlives the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	left := ""
	for range 200 {
		buf := make([]byte, 1<<20)
		left = ""
		for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if !strings.Contains(g, "stack.TestMain") && (strings.Contains(g, "gvisor.dev/") || strings.Contains(g, "tcpbox/stack")) {
				left += g + "\n\n"
			}
		}
		if left == "" {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if left != "" && code == 0 {
		fmt.Fprintln(os.Stderr, "goroutines that nobody waited for:\n"+left)
		code = 1
	}
	os.Exit(code)
}

// fakeUplink answers dials by a script, and keeps what it was asked.
type fakeUplink struct {
	dial func(ctx context.Context, dst netip.AddrPort) (relay.Conn, error)

	mu    sync.Mutex
	asked []netip.AddrPort
}

func (u *fakeUplink) DialTCP(ctx context.Context, _ tcpstate.Conn, _, dst netip.AddrPort) (relay.Conn, error) {
	u.mu.Lock()
	u.asked = append(u.asked, dst)
	u.mu.Unlock()
	return u.dial(ctx, dst)
}

func (u *fakeUplink) dials() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.asked)
}

// pipes is an uplink whose connections arrive at far.
func pipes(window int) (u *fakeUplink, far <-chan *relaytest.Conn) {
	ch := make(chan *relaytest.Conn, 100)
	return &fakeUplink{dial: func(context.Context, netip.AddrPort) (relay.Conn, error) {
		a, b := relaytest.Pipe(window)
		ch <- a
		return b, nil
	}}, ch
}

func failing(err error) *fakeUplink {
	return &fakeUplink{dial: func(context.Context, netip.AddrPort) (relay.Conn, error) { return nil, err }}
}

func allowAll(context.Context, policy.Request) policy.Verdict { return policy.Verdict{Allow: true} }

// start runs a gateway on a device until the test ends.
func start(t *testing.T, dev tun.Device, uplink Uplink, change func(*Config)) *Gateway {
	t.Helper()
	cfg := Config{
		Device: dev, Addrs: []netip.Addr{gatewayAddr, gatewayAddr6}, Subnets: []netip.Prefix{subnet, subnet6},
		Guest:  []netip.Prefix{netip.PrefixFrom(guestAddr, 32), netip.PrefixFrom(guestAddr6, 128)},
		Decide: allowAll,
	}
	if change != nil {
		change(&cfg)
	}
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- g.Run(context.Background(), uplink) }()
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error("close:", err)
		}
		if err := <-ran; err != nil && !errors.Is(err, tun.ErrGone) {
			t.Error("run:", err)
		}
		if st := g.Stats(); st.Open != 0 || st.Tracked != 0 || st.Pending != 0 || st.UnknownEndpoints != 0 || st.SweptTransitions != 0 {
			t.Errorf("left over: %+v", st)
		}
	})
	return g
}

// withGuest runs a gateway whose guest is another stack.
func withGuest(t *testing.T, uplink Uplink, change func(*Config)) (*Gateway, *netstack.Stack) {
	t.Helper()
	a, b := tuntest.Pair(1500)
	g := start(t, b, uplink, change)
	guest, err := netstack.New(netstack.Config{Device: a, Addrs: []netip.Addr{guestAddr, guestAddr6}, OnSYN: func(r *netstack.Request) {
		if c, err := r.Accept(); err == nil {
			io.Copy(c, c)
			c.Close()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- guest.Run() }()
	t.Cleanup(func() {
		guest.Close()
		<-ran
	})
	return g, guest
}

// withPackets runs a gateway whose guest is made of single packets.
func withPackets(t *testing.T, uplink Uplink, change func(*Config)) (*Gateway, *tuntest.Recorder) {
	t.Helper()
	a, b := tuntest.Pair(1500)
	g := start(t, b, uplink, change)
	rec := tuntest.Record(a)
	t.Cleanup(func() { rec.Close() })
	return g, rec
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(testTimeout)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("it never happened that %s", what)
		}
		time.Sleep(200 * time.Microsecond)
	}
}

func dial(t *testing.T, guest *netstack.Stack, dst netip.AddrPort) (*netstack.Conn, error) {
	t.Helper()
	src := guestAddr
	if dst.Addr().Is6() {
		src = guestAddr6
	}
	return guest.Dial(testContext(t), 0, netip.AddrPortFrom(src, 0), dst)
}

func mustDial(t *testing.T, guest *netstack.Stack, dst netip.AddrPort) *netstack.Conn {
	t.Helper()
	c, err := dial(t, guest, dst)
	if err != nil {
		t.Fatalf("dial %v: %v", dst, err)
	}
	t.Cleanup(func() { c.Reset() })
	return c
}

// TestCarries: an allowed connection goes on upstream, both ways, to its end.
func TestCarries(t *testing.T) {
	for _, dst := range []netip.AddrPort{server, server6} {
		t.Run(dst.String(), func(t *testing.T) {
			u, far := pipes(0)
			g, guest := withGuest(t, u, nil)
			c := mustDial(t, guest, dst)
			f := <-far
			c.Write([]byte("question"))
			c.CloseWrite()
			if got, err := io.ReadAll(f); string(got) != "question" || err != nil {
				t.Errorf("the upstream read %q, %v", got, err)
			}
			f.Write([]byte("answer"))
			f.Close()
			if got, err := io.ReadAll(c); string(got) != "answer" || err != nil {
				t.Errorf("the guest read %q, %v", got, err)
			}
			c.Close()
			eventually(t, "the flow had ended", func() bool { return g.Stats().Open == 0 })
			if st := g.Stats(); st.Established != 1 || !slices.Equal(u.asked, []netip.AddrPort{dst}) {
				t.Errorf("Established = %d, dialled %v", st.Established, u.asked)
			}
		})
	}
}

// TestOrder: decide, then dial, then complete: the guest is answered last.
func TestOrder(t *testing.T) {
	steps := make(chan string, 10)
	decided, dialed := make(chan struct{}), make(chan struct{})
	u := &fakeUplink{dial: func(ctx context.Context, _ netip.AddrPort) (relay.Conn, error) {
		steps <- "dial"
		<-dialed
		_, b := relaytest.Pipe(0)
		return b, nil
	}}
	_, rec := withPackets(t, u, func(c *Config) {
		c.Decide = func(_ context.Context, r policy.Request) policy.Verdict {
			if r != (policy.Request{Proto: policy.TCP, Src: netip.AddrPortFrom(guestAddr, 1000), Dst: server}) {
				t.Errorf("asked about %+v", r)
			}
			steps <- "decide"
			<-decided
			return policy.Verdict{Allow: true}
		}
	})
	if err := rec.Send(packet.Build{Src: netip.AddrPortFrom(guestAddr, 1000), Dst: server, Flags: packet.SYN, Seq: 7}.Bytes()); err != nil {
		t.Fatal(err)
	}
	want := func(step string) {
		t.Helper()
		if got := <-steps; got != step {
			t.Fatalf("%s came first, want %s", got, step)
		}
		ping(t, rec)
		if n := len(rec.Frames()); n > 2 {
			t.Fatalf("the guest was answered before %s was done", step)
		}
	}
	want("decide")
	if u.dials() != 0 {
		t.Fatal("dialled before it was decided")
	}
	close(decided)
	want("dial")
	close(dialed)
	if _, err := rec.WaitTCP(testContext(t), 1000, packet.SYN|packet.ACK); err != nil {
		t.Fatal(err)
	}
}

// ping exchanges an echo with the gateway.
func ping(t *testing.T, rec *tuntest.Recorder) {
	t.Helper()
	req := packet.Build{Src: netip.AddrPortFrom(guestAddr, 0), Dst: netip.AddrPortFrom(gatewayAddr, 0), Proto: packet.ICMP, ICMPType: 8}
	_, err := rec.Exchange(testContext(t), req.Bytes(), func(f *tuntest.Recorded) bool {
		return f.Packet.Proto == packet.ICMP && f.Packet.ICMPType == 0
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestRefused: what the policy refuses gets an RST, reaches no uplink, and is
// told.
func TestRefused(t *testing.T) {
	refusals := make(chan Refusal, 10)
	u := failing(errors.New("must not be called"))
	g, guest := withGuest(t, u, func(c *Config) {
		c.Decide = func(context.Context, policy.Request) policy.Verdict { return policy.Verdict{Rule: "deny all"} }
		c.OnRefused = func(r Refusal) { refusals <- r }
	})
	if _, err := dial(t, guest, server); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial = %v, want ECONNREFUSED", err)
	}
	r := <-refusals
	if r.Request.Dst != server || r.Request.Proto != policy.TCP || r.Verdict.Rule != "deny all" || r.Unsupported {
		t.Errorf("told of %+v", r)
	}
	if u.dials() != 0 || g.Stats().Refused != 1 {
		t.Errorf("%d dials, Refused = %d", u.dials(), g.Stats().Refused)
	}
}

// TestDeniesByDefault: a gateway without a policy lets nothing through.
func TestDeniesByDefault(t *testing.T) {
	u := failing(errors.New("must not be called"))
	_, guest := withGuest(t, u, func(c *Config) { c.Decide = nil })
	if _, err := dial(t, guest, server); !errors.Is(err, syscall.ECONNREFUSED) || u.dials() != 0 {
		t.Errorf("dial = %v after %d dials, want ECONNREFUSED", err, u.dials())
	}
}

// TestDialErrors: what an errno of the upstream becomes for the guest.
func TestDialErrors(t *testing.T) {
	type seen struct {
		rst        bool
		typ4, cod4 uint8
		typ6, cod6 uint8
	}
	silence := seen{}
	reset := seen{rst: true}
	noRoute := seen{typ4: 3, cod4: 0, typ6: 1, cod6: 0}
	noHost := seen{typ4: 3, cod4: 1, typ6: 1, cod6: 3}
	prohibited := seen{typ4: 3, cod4: 13, typ6: 1, cod6: 1}
	counted := func(f func(Stats) uint64) func(Stats) uint64 { return f }
	unreachable := counted(func(s Stats) uint64 { return s.Unreachable })
	silent := counted(func(s Stats) uint64 { return s.Silent })
	noPort := counted(func(s Stats) uint64 { return s.NoPort })
	busy := counted(func(s Stats) uint64 { return s.Busy })
	for _, c := range []struct {
		err   error
		want  seen
		count func(Stats) uint64
	}{
		{syscall.ECONNREFUSED, reset, unreachable},
		{syscall.ECONNRESET, reset, unreachable},
		{syscall.ENETUNREACH, noRoute, unreachable},
		{syscall.ENETDOWN, noRoute, unreachable},
		{syscall.EAFNOSUPPORT, noRoute, unreachable},
		{syscall.EHOSTUNREACH, noHost, unreachable},
		{syscall.EHOSTDOWN, noHost, unreachable},
		{errors.New("no errno at all"), noHost, unreachable},
		{syscall.EACCES, prohibited, unreachable},
		{syscall.EPERM, prohibited, unreachable},
		{syscall.ETIMEDOUT, silence, silent},
		{context.DeadlineExceeded, silence, silent},
		{syscall.EADDRNOTAVAIL, silence, noPort},
		{syscall.EADDRINUSE, silence, noPort},
		{syscall.EMFILE, silence, noPort},
		{syscall.ENOBUFS, silence, noPort},
		{ErrBusy, silence, busy},
		{fmt.Errorf("upstream: dial: %w", syscall.ECONNREFUSED), reset, unreachable},
	} {
		t.Run(c.err.Error(), func(t *testing.T) {
			t.Parallel()
			g, rec := withPackets(t, failing(c.err), nil)
			for i, dst := range []netip.AddrPort{server, server6} {
				src := netip.AddrPortFrom(guestAddr, 1000)
				if dst.Addr().Is6() {
					src = netip.AddrPortFrom(guestAddr6, 1000)
				}
				if err := rec.Send(packet.Build{Src: src, Dst: dst, Flags: packet.SYN}.Bytes()); err != nil {
					t.Fatal(err)
				}
				eventually(t, "the dial was answered", func() bool { return c.count(g.Stats()) == uint64(i+1) && g.Stats().Pending == 0 })
			}
			ping(t, rec)
			var got seen
			for _, f := range rec.Frames() {
				switch p := &f.Packet; {
				case p.Proto == packet.TCP && p.TCP.Flags.Has(packet.RST):
					got.rst = true
				case p.Version == 4 && p.ICMPError():
					got.typ4, got.cod4 = p.ICMPType, p.ICMPCode
				case p.Version == 6 && p.ICMPError():
					got.typ6, got.cod6 = p.ICMPType, p.ICMPCode
				}
			}
			if got != c.want {
				t.Errorf("the guest saw %+v, want %+v", got, c.want)
			}
		})
	}
}

// TestSilenceIsSilence: while the upstream says nothing, so does the gateway,
// and others are served; a dial ends when its guest gives up.
func TestSilenceIsSilence(t *testing.T) {
	gaveUp := make(chan struct{}, 100)
	u := &fakeUplink{dial: func(ctx context.Context, dst netip.AddrPort) (relay.Conn, error) {
		if dst == server {
			_, b := relaytest.Pipe(0)
			return b, nil
		}
		<-ctx.Done()
		gaveUp <- struct{}{}
		return nil, ctx.Err()
	}}
	g, rec := withPackets(t, u, nil)
	silent := netip.MustParseAddr("203.0.113.99")
	for port := range uint16(40) {
		rec.Send(packet.Build{Src: netip.AddrPortFrom(guestAddr, 1000+port), Dst: netip.AddrPortFrom(silent, 80), Flags: packet.SYN}.Bytes())
	}
	eventually(t, "forty dials were pending", func() bool { return g.Stats().Pending == 40 })
	rec.Send(packet.Build{Src: netip.AddrPortFrom(guestAddr, 2000), Dst: server, Flags: packet.SYN}.Bytes())
	if _, err := rec.WaitTCP(testContext(t), 2000, packet.SYN|packet.ACK); err != nil {
		t.Fatal(err)
	}
	if n := len(rec.Frames()); n != 1 || g.Stats().Pending != 40 {
		t.Errorf("%d frames came back, %d dials are pending", n, g.Stats().Pending)
	}
	rec.Send(packet.Build{Src: netip.AddrPortFrom(guestAddr, 1000), Dst: netip.AddrPortFrom(silent, 80), Flags: packet.RST, Seq: 1}.Bytes())
	<-gaveUp
	eventually(t, "it was no longer pending", func() bool { return g.Stats().Pending == 39 })
}

// TestHosts: hosts inside the stack, reachable under any policy.
func TestHosts(t *testing.T) {
	var log transitions
	u := failing(errors.New("must not be called"))
	g, guest := withGuest(t, u, func(c *Config) {
		c.Decide = nil
		c.Sink = log.add
	})
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(peerAddr, port) }
	l, err := g.Listen(at(80))
	if err != nil {
		t.Fatal(err)
	}
	if l.Addr().String() != at(80).String() {
		t.Errorf("Addr = %v", l.Addr())
	}
	if _, err := g.Listen(at(80)); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second Listen = %v, want EADDRINUSE", err)
	}
	refuser := netip.MustParseAddr("198.18.0.17")
	if err := g.Refuse(refuser); err != nil {
		t.Fatal(err)
	}
	hole := netip.MustParseAddrPort("198.18.0.18:80")
	if err := g.Blackhole(hole); err != nil {
		t.Fatal(err)
	}

	c := mustDial(t, guest, at(80))
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := s.(relay.Conn); !ok {
		t.Errorf("%T is no relay.Conn", s)
	}
	s.Write([]byte("hello"))
	buf := make([]byte, 10)
	if n, err := c.Read(buf); string(buf[:n]) != "hello" || err != nil {
		t.Errorf("read %q, %v", buf[:n], err)
	}
	s.Close()

	for what, x := range map[string]struct {
		dst  netip.AddrPort
		want error
	}{
		"another port of a host":       {at(81), syscall.ECONNREFUSED},
		"a host that refuses":          {netip.AddrPortFrom(refuser, 80), syscall.ECONNREFUSED},
		"another port of a black hole": {netip.AddrPortFrom(hole.Addr(), 81), syscall.ECONNREFUSED},
		"nobody in the subnet":         {netip.MustParseAddrPort("198.18.0.99:80"), syscall.EHOSTUNREACH},
		"the gateway itself":           {netip.AddrPortFrom(gatewayAddr, 80), syscall.EHOSTUNREACH},
	} {
		if _, err := dial(t, guest, x.dst); !errors.Is(err, x.want) {
			t.Errorf("%s: dial = %v, want %v", what, err, x.want)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := guest.Dial(ctx, 0, netip.AddrPortFrom(guestAddr, 0), hole); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a black hole: dial = %v", err)
	}
	if u.dials() != 0 {
		t.Errorf("%d dials upstream", u.dials())
	}

	// A connection that nobody has accepted is reset when the listener closes.
	c = mustDial(t, guest, at(80))
	accepted := make(chan error, 1)
	l.Close()
	l.Close()
	go func() {
		_, err := l.Accept()
		accepted <- err
	}()
	if err := <-accepted; err != nil && !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept = %v", err)
	} else if err != nil {
		if _, err := c.Read(buf); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("what nobody accepted read %v, want ECONNRESET", err)
		}
	}
	if _, err := dial(t, guest, at(80)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after Close dial = %v, want ECONNREFUSED", err)
	}
	if got := log.of(at(80), netip.AddrPort{}); !slices.Equal(got, []string{"CLOSED>LISTEN call listen", "LISTEN>CLOSED call close"}) {
		t.Errorf("the listener's log is %q", got)
	}
}

// transitions keeps transitions by endpoint.
type transitions struct {
	mu  sync.Mutex
	all []tcpstate.Transition
}

func (l *transitions) add(t tcpstate.Transition) {
	l.mu.Lock()
	l.all = append(l.all, t)
	l.mu.Unlock()
}

// of returns what became of an endpoint; the zero remote is a listener's.
func (l *transitions) of(local, remote netip.AddrPort) (s []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range l.all {
		if t.Local == local && t.Remote == remote {
			s = append(s, fmt.Sprintf("%v>%v %v", t.From, t.To, t.Cause))
		}
	}
	return s
}

// TestHalfCloseTimeout: the knob cuts a half-closed connection, and only that.
func TestHalfCloseTimeout(t *testing.T) {
	u, far := pipes(0)
	g, guest := withGuest(t, u, nil)
	if err := g.Apply([]knob.Setting{{Key: "half-close-timeout", Duration: 20 * time.Millisecond}}); err != nil {
		t.Fatal(err)
	}
	whole := mustDial(t, guest, server)
	wholeFar := <-far
	half := mustDial(t, guest, server)
	halfFar := <-far
	half.CloseWrite()
	if _, err := half.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the half-closed one read %v, want ECONNRESET", err)
	}
	eventually(t, "the upstream was reset", func() bool {
		_, err := halfFar.TryWrite([]byte("x"))
		return err != nil
	})
	whole.Write([]byte("still here"))
	buf := make([]byte, 20)
	if n, err := wholeFar.Read(buf); string(buf[:n]) != "still here" || err != nil {
		t.Errorf("the other read %q, %v", buf[:n], err)
	}
}

// TestKnobs: Plan tells what Apply does, and Apply does all or nothing.
func TestKnobs(t *testing.T) {
	g, _ := withPackets(t, failing(nil), nil)
	good := []knob.Setting{
		{Key: "time-wait.timeout", Duration: 5 * time.Second},
		{Key: "time-wait.reuse", Word: "on"},
		{Key: "fin-timeout", Duration: time.Second},
		{Key: "syn-backlog", Int: 7},
		{Key: "half-close-timeout", Duration: time.Minute},
	}
	for i, o := range g.Plan(good) {
		if !o.Applied || o.Leg != tcpstate.Stack || o.Key != good[i].Key || o.Text == "" {
			t.Errorf("Plan(%s) = %+v", good[i].Key, o)
		}
	}
	if err := g.Apply(good); err != nil {
		t.Fatal(err)
	}
	if g.knobs.halfCloseTimeout() != time.Minute {
		t.Error("half-close-timeout was not set")
	}
	bad := []knob.Setting{{Key: "half-close-timeout", Duration: time.Hour}, {Key: "no-such-knob"}}
	if o := g.Plan(bad); !o[0].Applied || o[1].Applied || o[1].Text == "" {
		t.Errorf("Plan = %+v", o)
	}
	if err := g.Apply(bad); err == nil || !strings.Contains(err.Error(), "no-such-knob") {
		t.Errorf("Apply = %v", err)
	}
	if g.knobs.halfCloseTimeout() != time.Minute {
		t.Error("Apply set something though it failed")
	}
}

// TestDialGuest: a connection to the guest's own port.
func TestDialGuest(t *testing.T) {
	g, _ := withGuest(t, failing(nil), nil)
	c, err := g.Dial(testContext(t), netip.AddrPortFrom(gatewayAddr, 0), netip.AddrPortFrom(guestAddr, 8080))
	if err != nil {
		t.Fatal(err)
	}
	c.Write([]byte("echo"))
	c.CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "echo" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	c.Close()
}

// TestClose ends what is in progress, whatever it is, and nothing is left. What
// it ends is logged as ended by tcpbox.
func TestClose(t *testing.T) {
	var log transitions
	ch := make(chan *relaytest.Conn, 10)
	var silent atomic.Int32
	u := &fakeUplink{dial: func(ctx context.Context, dst netip.AddrPort) (relay.Conn, error) {
		if dst.Port() != 80 {
			silent.Add(1)
			<-ctx.Done()
			return nil, ctx.Err()
		}
		a, b := relaytest.Pipe(1000)
		ch <- a
		return b, nil
	}}
	g, guest := withGuest(t, u, func(c *Config) { c.Sink = log.add })
	l, err := g.Listen(netip.AddrPortFrom(peerAddr, 80))
	if err != nil {
		t.Fatal(err)
	}
	idle := mustDial(t, guest, server)
	idleFar := <-ch
	full := mustDial(t, guest, server) // whose upstream takes nothing
	<-ch
	go full.Write(make([]byte, 1<<20))
	half := mustDial(t, guest, server)
	<-ch
	half.CloseWrite()
	mustDial(t, guest, netip.AddrPortFrom(peerAddr, 80)) // which nobody accepts
	dialed := make(chan error, 1)
	go func() {
		_, err := dial(t, guest, netip.AddrPortFrom(server.Addr(), 81))
		dialed <- err
	}()
	eventually(t, "a dial was silent", func() bool { return silent.Load() == 1 })

	closed := make(chan error, 2)
	for range 2 {
		go func() { closed <- g.Close() }()
	}
	for range 2 {
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if st := g.Stats(); st.Open != 0 || st.Tracked != 0 || st.Pending != 0 {
			t.Errorf("left over: %+v", st)
		}
	}
	if _, err := idleFar.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the upstream read %v, want ECONNRESET", err)
	}
	if _, err := l.Accept(); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept = %v", err)
	}
	if _, err := g.Listen(netip.AddrPortFrom(peerAddr, 81)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Listen after Close = %v", err)
	}
	path := log.of(server, idle.LocalAddr().(*net.TCPAddr).AddrPort())
	if last := path[len(path)-1]; last != "ESTABLISHED>CLOSED policy stopped" {
		t.Errorf("an idle connection ended by %q", last)
	}
	guest.Close()
	if err := <-dialed; err == nil {
		t.Error("a dial to nobody succeeded")
	}
}

// TestRunEnds: by the context, which is no error, and by the device, which is
// one.
func TestRunEnds(t *testing.T) {
	a, b := tuntest.Pair(1500)
	g, err := New(Config{Device: b})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := g.Run(ctx, failing(nil)); err != nil {
		t.Errorf("Run = %v", err)
	}
	g.Close()
	a.Close()

	a, b = tuntest.Pair(1500)
	if g, err = New(Config{Device: b}); err != nil {
		t.Fatal(err)
	}
	a.Close()
	if err := g.Run(context.Background(), failing(nil)); !errors.Is(err, tun.ErrGone) {
		t.Errorf("Run = %v, want tun.ErrGone", err)
	}
	g.Close()
}

// TestClosedBeforeRun: a gateway that never ran.
func TestClosedBeforeRun(t *testing.T) {
	a, b := tuntest.Pair(1500)
	g, err := New(Config{Device: b})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if err := a.Write([][]byte{{0x45}}, tun.Offload{}); !errors.Is(err, tun.ErrGone) {
		t.Errorf("the device is open: %v", err)
	}
	if err := g.Run(context.Background(), failing(nil)); err != nil {
		t.Errorf("Run after Close = %v", err)
	}
	a.Close()
}
