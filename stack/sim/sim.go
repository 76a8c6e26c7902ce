// Package sim is two hosts of the embedded stack on a link in memory, with a
// clock that stands still until it is advanced. One plays the guest. Nothing of
// it needs privileges, and the same seed goes the same way.
//
// What the hosts send is held until somebody lets it go: Expect waits for the
// next segment of an end, which is then delivered, doubled or lost. So a test
// or a lab can tell, segment by segment, a handshake or a close that no real
// network would show on demand. With Config.Hook the link runs by itself.
//
// Begin with New.
package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"tcpbox/stack/fault"
	"tcpbox/stack/internal/netstack"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun"
	"tcpbox/tun/tuntest"
)

// The hosts' addresses.
var (
	GuestAddr = netip.MustParseAddr("198.18.0.2")
	StackAddr = netip.MustParseAddr("203.0.113.5")
)

// Latency is how far the clock goes when a segment is delivered by hand, unless
// Config.Latency says otherwise.
const Latency = time.Millisecond

// Config says how a Net is. The zero Config is a good one.
type Config struct {
	// Hook says what becomes of the frames, as on a tuntest.Link; AToB is from
	// the guest. Nil holds each until it is taken with Expect.
	Hook tuntest.Hook

	// MTU of the link in bytes. Zero means 1500.
	MTU int

	// Latency is how far the clock goes when a segment is delivered by hand.
	// Zero means Latency.
	Latency time.Duration

	// PAWS lets both hosts refuse a segment whose timestamp is older than the
	// last one that was delivered (RFC 7323, section 5.3), which the embedded
	// stack does not do by itself. It acts on what is delivered by hand.
	PAWS bool

	// Seed chooses the initial sequence numbers, and what faults choose by chance.
	Seed uint64

	// Faults are rules of what goes wrong, as policy.ParseFault reads them, between
	// the link and the host Stack: out is from the host Guest. They go by the
	// manual clock. With a Hook that passes all they are what the link does.
	Faults []string
}

// Event is something that happened: a packet was sent, or an end changed its
// state.
type Event struct {
	Time time.Time

	// Packet is an IP packet as it was sent; nil if this is a transition.
	// Segments bigger than the MTU are split already.
	Packet    []byte
	FromGuest bool
	Lost      bool // it never arrived
	Injected  bool // the end did not send it: Net.Inject did

	// Transition has the leg Guest or Stack.
	Transition tcpstate.Transition

	forgotten bool
}

// Net is two hosts and the link between them. Its methods may be called
// concurrently.
type Net struct {
	Guest, Stack *Host
	Link         *tuntest.Link

	faults  *fault.Device
	byHand  bool
	latency time.Duration
	paws    *paws // nil: not asked for
	clock   netstack.ManualClock
	running sync.WaitGroup

	injecting sync.Mutex
	injected  atomic.Bool // what is sent now was injected; the hosts have settled

	mu      sync.Mutex
	events  []Event
	changed chan struct{}   // closed by the next event
	flying  [2][]int        // events of the held frames of a direction
	numbers map[tuple]*used // of connections
	last    tcpstate.Conn
}

// Host is one of the two ends.
type Host struct {
	net      *Net
	leg      tcpstate.Leg
	stack    *netstack.Stack
	requests chan *Request
}

// Request is a connection that the other host asks for: one of Accept, Reset,
// Drop ends it. Conn is one that stands, or stood.
type (
	Request = netstack.Request
	Conn    = netstack.Conn
)

type tuple struct{ guest, stack netip.AddrPort }

// used is the number of a tuple's latest connection, and which ends have begun
// it.
type used struct {
	conn  tcpstate.Conn
	began [2]bool
}

// New makes two hosts, which Close ends.
func New(cfg Config) (*Net, error) {
	n := &Net{byHand: cfg.Hook == nil, clock: netstack.NewManualClock(), changed: make(chan struct{}), numbers: make(map[tuple]*used)}
	if n.latency = cfg.Latency; n.latency == 0 {
		n.latency = Latency
	}
	if cfg.PAWS {
		n.paws = newPAWS()
	}
	n.Link = tuntest.NewLink(cfg.MTU, n.hook(cfg.Hook), tuntest.WithoutGSO(), tuntest.Queue(1<<12))
	rules, err := parseFaults(cfg.Faults)
	if err != nil {
		return nil, err
	}
	n.faults = fault.New(n.Link.B, fault.Config{Rules: rules, Seed: cfg.Seed, TwoStacks: true, Clock: faultClock{n.clock}, OnAct: n.acted})
	if n.Guest, err = n.host(tcpstate.Guest, n.Link.A, GuestAddr, cfg.Seed); err != nil {
		return nil, errors.Join(err, n.faults.Close())
	}
	if n.Stack, err = n.host(tcpstate.Stack, n.faults, StackAddr, cfg.Seed+1<<32); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	for _, h := range []*Host{n.Guest, n.Stack} {
		n.running.Go(func() { _ = h.stack.Run() }) // ends with Close, or when the other's device is closed
	}
	return n, nil
}

func (n *Net) host(leg tcpstate.Leg, dev tun.Device, addr netip.Addr, seed uint64) (*Host, error) {
	h := &Host{net: n, leg: leg, requests: make(chan *Request)}
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	var err error
	h.stack, err = netstack.New(netstack.Config{
		Device: dev, Addrs: []netip.Addr{addr}, Clock: n.clock, Random: &locked{r: rand.NewChaCha8(key)},
		OnSYN: h.asked, Sink: h.sink,
	})
	return h, err
}

// locked is a generator for many.
type locked struct {
	mu sync.Mutex
	r  *rand.ChaCha8
}

func (l *locked) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.Read(p)
}

// Close ends both hosts.
func (n *Net) Close() error {
	var errs []error
	for _, h := range []*Host{n.Guest, n.Stack} {
		if h != nil {
			errs = append(errs, h.stack.Close())
		}
	}
	n.running.Wait()
	return errors.Join(errs...)
}

// Advance moves the clock of hosts and link. Where segments are delivered by
// hand, it waits before and after until the hosts have settled.
func (n *Net) Advance(by time.Duration) {
	n.Settle()
	n.clock.Advance(by)
	n.Link.Advance(by)
	n.Settle()
}

// Settle returns, where segments are delivered by hand, when the hosts have
// done all that follows from what was delivered and from how late it is: have read it,
// answered it, set their timers. What then is not held is not sent.
func (n *Net) Settle() {
	if !n.byHand {
		return
	}
	still := func() bool {
		return n.Link.Taken(tuntest.AToB) && n.Link.Taken(tuntest.BToA) && n.faults.Settled()
	}
	for done := false; !done; done = still() { // what the hosts sent may be on its way through the faults
		for tries := 0; !still(); tries++ {
			if tries < 1000 { // mostly it is a matter of microseconds
				runtime.Gosched()
				continue
			}
			time.Sleep(20 * time.Microsecond)
		}
		n.Guest.stack.Settle()
		n.Stack.stack.Settle()
	}
}

// Now is the time on that clock.
func (n *Net) Now() time.Time { return n.clock.Now() }

// hook notes what is sent, and what becomes of it.
func (n *Net) hook(decide tuntest.Hook) tuntest.Hook {
	return func(dir tuntest.Direction, f *tuntest.Frame) tuntest.Action {
		action := tuntest.Hold
		if decide != nil {
			action = decide(dir, f)
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if decide == nil {
			n.flying[dir] = append(n.flying[dir], len(n.events))
		}
		n.addLocked(Event{
			Time: n.clock.Now(), Packet: append([]byte(nil), f.Data...),
			FromGuest: dir == tuntest.AToB, Lost: action == tuntest.Drop, Injected: n.injected.Load(),
		})
		return action
	}
}

func (n *Net) addLocked(e Event) {
	n.events = append(n.events, e)
	close(n.changed)
	n.changed = make(chan struct{})
}

// Events returns what has happened so far.
func (n *Net) Events() []Event {
	all, _ := n.EventsSince(0)
	return all
}

// EventsSince returns what has happened since it returned next, and the next one.
func (n *Net) EventsSince(seen int) (all []Event, next int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.events[seen:] {
		if !e.forgotten {
			all = append(all, e)
		}
	}
	return all, len(n.events)
}

// wait waits until ok holds, which is asked after each event.
func (n *Net) wait(ctx context.Context, ok func() bool) error {
	for {
		n.mu.Lock()
		changed := n.changed
		n.mu.Unlock()
		if ok() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// WaitState returns when the newest connection of an end is in state.
func (n *Net) WaitState(ctx context.Context, leg tcpstate.Leg, state tcpstate.State) error {
	var at tcpstate.State
	err := n.wait(ctx, func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		for i := len(n.events) - 1; i >= 0; i-- {
			if e := &n.events[i]; e.Packet == nil && e.Transition.Leg == leg {
				at = e.Transition.To
				return at == state
			}
		}
		return false
	})
	if err != nil {
		return fmt.Errorf("sim: the %v did not reach %v but %v: %w", leg, state, at, err)
	}
	return nil
}
