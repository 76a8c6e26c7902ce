//go:build oracle

package netstack

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/faketime"
	gvstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"tcpbox/policy"
	"tcpbox/stack/fault"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
	"tcpbox/tun/tuntest"
)

// TestCampaign compares the tracker's log with the truth from inside gVisor,
// for connections that both ends treat at random, on a good link and on a bad
// one. It is built and run by TestOracle.
func TestCampaign(t *testing.T) {
	many := 5000
	if text := os.Getenv(campaignVar); text != "" {
		var err error
		if many, err = strconv.Atoi(text); err != nil || many <= 0 {
			t.Fatalf("%s=%q is not a number of connections", campaignVar, text)
		}
	}
	for _, c := range []struct {
		name        string
		connections int
		link        tuntest.Impairment
		faults      []string
	}{
		{"a good link", 1500, tuntest.Impairment{Seed: 1}, nil},
		{"a link that loses, doubles and reorders", many, tuntest.Impairment{Seed: 2, Loss: 2, Duplicates: 2, Reordered: 4}, nil},
		{"a line with faults, and recycling", many / 4, tuntest.Impairment{Seed: 3}, []string{
			"loss 2%", "dup 1%", "reorder 3% by 2", "corrupt 1%", "delay 2ms ±2ms", "hold 200ms 2% fin", "rst 0.5% when ESTABLISHED",
			"rst guest 0.5% data", "drop 5% ack when FIN-WAIT-1", "drop 20% when TIME-WAIT", "fail 1%", "fail unreachable 1%", "replay 1% data",
		}},
	} {
		t.Run(c.name, func(t *testing.T) { runCampaign(t, c.connections, c.link, c.faults) })
	}
}

// A truth is what one endpoint went through, told by gVisor itself.
type truth struct {
	id   gvstack.TransportEndpointID
	path []tcpstate.State
	err  string // with which it ended
}

// oracle collects the truth about all endpoints, in the order in which they
// left CLOSED.
type oracle struct {
	mu    sync.Mutex
	of    map[*tcp.Endpoint]*truth
	order []*truth
}

// bothAtOnce reports whether a dial was given up while its answer arrived: then
// either of them is the cause.
func bothAtOnce(tr tcpstate.Transition, err string) bool {
	if tr.From != tcpstate.SynSent && tr.From != tcpstate.SynReceived {
		return false
	}
	if tr.Cause.Kind == tcpstate.ByCall {
		return slices.Contains(errorsOf["segment ICMP"], err)
	}
	return err == "Aborted" && (tr.Cause.Which == "RST" || tr.Cause.Which == "ICMP")
}

func (o *oracle) told(ep *tcp.Endpoint, raw tcp.EndpointState, err tcpip.Error) {
	state := stateOf(raw)
	o.mu.Lock()
	defer o.mu.Unlock()
	tr := o.of[ep]
	if tr == nil {
		if state == tcpstate.Closed {
			return
		}
		tr = &truth{id: ep.TransportEndpointInfo.ID, path: []tcpstate.State{tcpstate.Closed}}
		o.of[ep] = tr
		o.order = append(o.order, tr)
	}
	if tr.path[len(tr.path)-1] != state {
		tr.path = append(tr.path, state)
		if raw == tcp.StateError {
			tr.err = strings.TrimPrefix(fmt.Sprintf("%T", err), "*tcpip.Err")
		}
	}
}

// errorsOf are the errors with which gVisor ends an endpoint for each cause.
var errorsOf = map[string][]string{
	"segment RST":               {"ConnectionReset", "ConnectionRefused"},
	"segment ICMP":              {"HostUnreachable", "ConnectionRefused", "NetworkUnreachable", "HostDown", "NoNet"},
	"segment unacceptable":      {"ConnectionAborted", "InvalidEndpointState"},
	"call abort":                {"Aborted"},
	"call close":                {"ConnectionAborted", "Aborted"},
	"timer retransmission":      {"Timeout", "HostUnreachable"},
	"policy stopped":            {"Aborted", "ConnectionAborted"},
	"policy orphan":             {"Aborted"},
	"policy orphan.retries":     {"Aborted"},
	"policy orphan.max":         {"Aborted"},
	"policy half-close-timeout": {"Aborted"},
	"one SYN-ACK too many":      {"Aborted", "Timeout"}, // synack-retries
	"RST in TIME-WAIT":          {"Aborted"},            // gVisor would ignore it
	// The latter: its owner closed it in the same moment, with bytes unread.
	"policy time-wait reopened": {"Aborted", "ConnectionAborted"},
	"policy time-wait.reuse":    {"Aborted", "ConnectionAborted"},
	"policy time-wait.max":      {"Aborted", "ConnectionAborted"},
	"policy time-wait.recycle":  {"Aborted", "ConnectionAborted"},
}

// orderedLog keeps the order in which connections appeared.
type orderedLog struct {
	*transitionLog
	order []tcpstate.Conn
}

func (l *orderedLog) sink(tr tcpstate.Transition) {
	l.mu.Lock()
	if len(l.conns[tr.Conn]) == 0 {
		l.order = append(l.order, tr.Conn)
	}
	l.mu.Unlock()
	l.transitionLog.sink(tr)
}

func runCampaign(t *testing.T, connections int, impair tuntest.Impairment, faults []string) {
	began := time.Now()
	truths := &oracle{of: make(map[*tcp.Endpoint]*truth)}
	tcp.StateOracle = truths.told
	defer func() { tcp.StateOracle = func(*tcp.Endpoint, tcp.EndpointState, tcpip.Error) {} }()

	clock := newStandingClock()
	seed := impair.Seed
	link := tuntest.NewLink(1500, impair.Hook(), tuntest.Queue(1<<14))
	guestLog := &orderedLog{transitionLog: newTransitionLog()}
	gatewayLog := &orderedLog{transitionLog: newTransitionLog()}
	serve := func(end uint64) func(*Request) {
		return func(r *Request) { answer(r, rand.New(rand.NewPCG(seed, end<<32|uint64(r.ID())))) }
	}
	line := fault.New(link.B, fault.Config{Seed: seed, TwoStacks: true, Clock: faultClock{clock}})
	for _, text := range faults {
		f, err := policy.ParseFault(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := line.Add(f); err != nil {
			t.Fatal(err)
		}
	}
	gateway := mustNew(t, Config{Device: line, Addrs: []netip.Addr{gatewayAddr}, Clock: clock, OnSYN: serve(1), Sink: gatewayLog.sink})
	guest := mustNew(t, Config{Device: link.A, Addrs: []netip.Addr{guestAddr}, Clock: clock, OnSYN: serve(2), Sink: guestLog.sink})
	for _, s := range []*Stack{guest, gateway} {
		if err := s.SetPortRange(20000, 20000+599); err != nil {
			t.Fatal(err)
		}
		s.SetTimeWaitReuse(ReuseOn)
		s.SetTimeWaitMax(500)
		s.SetOrphanMax(60)
		s.SetOrphanRetries(3)
		s.SetTimeWaitRecycle(len(faults) > 0)
	}

	stop := make(chan struct{})
	stopped := make(chan struct{})
	go runClock(clock, stop, stopped)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 300)
	for i := range connections {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			switch n := rng.IntN(10); {
			case n < 2:
				open(gateway, netip.AddrPortFrom(gatewayAddr, 0), netip.AddrPortFrom(guestAddr, 8080), rng)
			case n < 4:
				open(gateway, anyClient(rng), netip.AddrPortFrom(guestAddr, 8080+uint16(rng.IntN(2))), rng)
			default:
				open(guest, netip.AddrPortFrom(guestAddr, 0), serverAddr, rng)
			}
		})
	}
	wg.Wait()
	close(stop)
	<-stopped
	// Every timer runs out, and every endpoint ends, but for those that are
	// left to the last minute.
	link.Release(tuntest.AToB)
	link.Release(tuntest.BToA)
	for range 50 {
		clock.Advance(30 * time.Second)
		time.Sleep(time.Millisecond)
	}
	late(t, guest, connections)
	guest.Close()
	gateway.Close()

	if n := len(truths.order); n < connections {
		t.Errorf("only %d endpoints for %d connections", n, connections)
	}
	compare(t, truths, guestLog, gatewayLog)
	for who, s := range map[string]*Stack{"guest": guest, "gateway": gateway} {
		st := s.Stats()
		if st.UnknownEndpoints != 0 || st.SweptTransitions != 0 || st.Tracked != 0 {
			t.Errorf("%s: %d unknown endpoints, %d swept transitions, %d tracked", who, st.UnknownEndpoints, st.SweptTransitions, st.Tracked)
		}
	}
	for _, r := range line.Rules() {
		t.Logf("%v: %d of %d", r.Fault, r.Acted, r.Matched)
		if r.Acted == 0 && r.Fault.Do != policy.FaultReplay { // which needs the same ends again
			t.Errorf("%v has done nothing to %d packets that it meant", r.Fault, r.Matched)
		}
	}
	t.Logf("%d endpoints in %v", len(truths.order), time.Since(began).Round(time.Millisecond))
}

// faultClock is the standing clock as package fault wants it.
type faultClock struct{ *faketime.ManualClock }

func (c faultClock) AfterFunc(d time.Duration, f func()) fault.Timer {
	return c.ManualClock.AfterFunc(d, f)
}

// late leaves connections open for Close to end.
func late(t *testing.T, guest *Stack, connections int) {
	for range 20 {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		guest.Dial(ctx, 0, netip.AddrPortFrom(guestAddr, 0), netip.AddrPortFrom(serverAddr.Addr(), 81))
		cancel()
	}
}

// anyClient is one of the clients of a published port: an address and a port
// that are not the stack's, and that come again while they are still in use.
func anyClient(rng *rand.Rand) netip.AddrPort {
	addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + rng.IntN(4))})
	return netip.AddrPortFrom(addr, uint16(40000+rng.IntN(50)))
}

// runClock lets the time run, faster than it does.
func runClock(clock *faketime.ManualClock, stop <-chan struct{}, stopped chan<- struct{}) {
	defer close(stopped)
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Millisecond):
			clock.Advance(20 * time.Millisecond)
		}
	}
}

// answer is what becomes of a connection that somebody asks for.
func answer(r *Request, rng *rand.Rand) {
	switch n := rng.IntN(100); {
	case n < 4:
		r.Reset()
		return
	case n < 6:
		<-r.Context().Done()
		r.Drop()
		return
	case n < 8:
		r.Unreachable(packet.HostUnreachable)
		return
	}
	if c, err := r.Accept(); err == nil {
		treat(c, rng)
	}
}

// open opens a connection, or gives up while it does.
func open(s *Stack, src, dst netip.AddrPort, rng *rand.Rand) {
	patience := 3 * time.Second
	if rng.IntN(20) == 0 {
		patience = time.Duration(rng.IntN(2000)) * time.Microsecond
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if c, err := s.Dial(ctx, 0, src, dst); err == nil {
		treat(c, rng)
	}
}

// treat writes, reads, waits and half-closes at random, and ends with a close
// or a reset.
func treat(c *Conn, rng *rand.Rand) {
	buf := make([]byte, 20000)
	for range rng.IntN(6) {
		c.SetDeadline(time.Now().Add(time.Duration(1+rng.IntN(50)) * time.Millisecond))
		switch rng.IntN(6) {
		case 0, 1:
			c.Write(buf[:1+rng.IntN(len(buf))])
		case 2, 3:
			c.Read(buf[:1+rng.IntN(len(buf))])
		case 4:
			time.Sleep(time.Duration(rng.IntN(3000)) * time.Microsecond)
		case 5:
			c.CloseWrite()
			if rng.IntN(2) == 0 {
				io.Copy(io.Discard, c)
			}
		}
	}
	if rng.IntN(4) == 0 {
		c.Reset()
		return
	}
	c.Close()
}

// compare holds each log against the truth. Endpoints on one 4-tuple follow
// each other, so the log of the n-th connection on it belongs to the n-th
// endpoint.
func compare(t *testing.T, truths *oracle, logs ...*orderedLog) {
	logged := make(map[gvstack.TransportEndpointID][][]tcpstate.Transition)
	transitions := 0
	for _, l := range logs {
		for _, conn := range l.order {
			path := l.conns[conn]
			transitions += len(path)
			id := tupleOf(path[0].Local, path[0].Remote)
			logged[id] = append(logged[id], path)
		}
	}
	var wrong, unknown int
	causes := make(map[string]int)
	for _, tr := range truths.order {
		if len(logged[tr.id]) == 0 {
			unknown++
			t.Errorf("%v: no log for %v", tr.id, tr.path)
			continue
		}
		path := logged[tr.id][0]
		logged[tr.id] = logged[tr.id][1:]
		got := []tcpstate.State{path[0].From}
		for i, p := range path {
			got = append(got, p.To)
			if i > 0 && (p.From != path[i-1].To || p.Time.Before(path[i-1].Time) || p.Age != p.Time.Sub(path[i-1].Time)) {
				t.Errorf("%v: %v does not continue %v", tr.id, p, path[i-1])
			}
			if p.Cause.Kind == 0 || p.Cause.Which == "" || !tcpstate.Legal(p.From, p.To) {
				t.Errorf("%v: %v>%v has cause %q", tr.id, p.From, p.To, p.Cause)
			}
			causes[fmt.Sprintf("%v>%v %v", p.From, p.To, p.Cause)]++
		}
		end := path[len(path)-1]
		last := end.Cause.String()
		switch {
		case end.From == tcpstate.TimeWait && last == "segment RST":
			last = "RST in TIME-WAIT"
		case handshake(end.From) && last == "timer retransmission":
			last = "one SYN-ACK too many"
		}
		if err := tr.err; err != "" && !slices.Contains(errorsOf[last], err) && !bothAtOnce(end, err) {
			t.Errorf("%v ended with %s, and the log says %q", tr.id, tr.err, describePath(path))
		}
		if !slices.Equal(got, tr.path) {
			wrong++
			t.Errorf("%v went %v and the log says %q", tr.id, tr.path, describePath(path))
		}
	}
	extra := 0
	for id, paths := range logged {
		extra += len(paths)
		for _, p := range paths {
			t.Errorf("%v: a log of nothing: %q", id, describePath(p))
		}
	}
	var lines []string
	for c, n := range causes {
		lines = append(lines, fmt.Sprintf("%6d %s", n, c))
	}
	slices.Sort(lines)
	t.Logf("%d transitions of %d endpoints: %d wrong, %d unknown, %d of nothing\n%s",
		transitions, len(truths.order), wrong, unknown, extra, strings.Join(lines, "\n"))
}
