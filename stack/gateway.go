package stack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"tcpbox/policy"
	"tcpbox/stack/internal/netstack"
	"tcpbox/stack/relay"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun"
)

// Uplink is where connections go on: the host's sockets, or another Gateway.
// Errors are errnos, and decide what the guest sees.
type Uplink interface {
	// DialTCP opens a connection to dst on behalf of src. It gives up when ctx
	// ends, which it does when the guest stops asking.
	DialTCP(ctx context.Context, id tcpstate.Conn, src, dst netip.AddrPort) (relay.Conn, error)

	// DialUDP opens a flow of datagrams to dst on behalf of src. Nothing is
	// sent.
	DialUDP(ctx context.Context, src, dst netip.AddrPort) (relay.Packets, error)

	// DialEcho opens a flow of ICMP echo messages, with the ICMP header, to
	// dst. An error with a method Remedy() string means that the host does not
	// let it, and says what would.
	DialEcho(ctx context.Context, src, dst netip.Addr) (relay.Packets, error)
}

// Config is what New needs. The zero value of a field means its default.
type Config struct {
	// Device carries the guest's packets. The Gateway owns it.
	Device tun.Device

	// Addrs are the gateway's own addresses in the sandbox's subnets.
	Addrs []netip.Addr

	// Guest are the addresses that the guest may send from; empty means all.
	Guest []netip.Prefix

	// Subnets are the sandbox's own. A destination in them is a host inside
	// the stack or nobody; it is never dialled.
	Subnets []netip.Prefix

	// Loopback are addresses in Subnets, at most one of each family, that stand
	// for the host's loopback: a connection or a datagram to one of them is
	// asked of Decide with Request.Host and goes on to 127.0.0.1 or ::1.
	Loopback []netip.Addr

	// UDPTimeout ends a flow of datagrams after this long without one in either
	// direction. Zero means DefaultUDPTimeout.
	UDPTimeout time.Duration

	// Limits bound what the guest can make grow.
	Limits Limits

	// Decide answers each connection before anything is dialled. Nil denies
	// all.
	Decide policy.Decide

	// OnRefused is told of each connection or packet that was refused. It must
	// not block. Nil means that no one asks.
	OnRefused func(Refusal)

	// Sink takes every TCP state transition; see tcpstate.Sink.
	Sink tcpstate.Sink

	// Facts takes what is known of each connection besides its states, when it is
	// let in and when it has ended. Nil means that nobody asks.
	Facts tcpstate.FactsSink

	// NameOf returns the name that the guest asked for to get an address, "" if it
	// asked for none. Nil knows of none.
	NameOf func(netip.Addr) string

	// Numbers are those of the sandbox's connections. Nil means that the
	// Gateway alone gives them.
	Numbers *tcpstate.Numbers

	// Paired: another Gateway is the uplink, and this one is the other's, by
	// Across.
	Paired bool

	// Log gets what happens to single flows, at level debug, and at level warn
	// that a limit is reached or that the guest floods. Nil discards.
	Log *slog.Logger
}

// What stands in the place of a rule where none had to be asked.
const (
	RulePeer      = "peer"    // it is a host inside the stack
	RulePublished = "publish" // it came through a published port
)

// A Refusal is something that the guest tried and did not get.
type Refusal struct {
	Request policy.Request
	Verdict policy.Verdict // zero if Unsupported

	// Unsupported: no rule is to blame; the host does not let tcpbox carry the
	// protocol, and Why says what would. It is told once for a Gateway.
	Unsupported bool
	Why         string
}

// Gateway is the guest's peer in every connection. Make it with New; its
// methods may be called concurrently.
type Gateway struct {
	net       *netstack.Stack
	decide    policy.Decide
	onRefused func(Refusal)
	log       *slog.Logger
	sink      tcpstate.Sink
	facts     tcpstate.FactsSink
	nameOf    func(netip.Addr) string
	subnets   []netip.Prefix
	loopback  []netip.Addr
	hosts     hosts
	packets   *flowTable
	crossings *crossings // nil: not paired
	knobs     knobs
	limits    limits
	counters  counters
	forbidden sync.Once // told that the host forbids pings

	carriedMu sync.Mutex
	carried   map[tcpstate.Conn]*carried

	uplink Uplink // set by Run
	ctx    context.Context
	cancel context.CancelFunc
	failed chan error // a panic in a flow
	flows  sync.WaitGroup
}

// counters count what became of the connections that the guest asked for.
type counters struct {
	established, refused, unreachable, silent atomic.Uint64
	noPort, busy                              atomic.Uint64
	open                                      atomic.Int64
	undelivered                               atomic.Int64 // flows whose guest's FIN has not been passed on
	cut                                       atomic.Int64 // of those: ended by Close

	inbound, inboundFailed, inboundDatagrams, inletDropped atomic.Uint64

	flows, datagramsOut, datagramsIn, datagramsDropped, errorsPassedOn atomic.Uint64
}

// New makes a Gateway. It owns cfg.Device from then on, also when it fails.
func New(cfg Config) (*Gateway, error) {
	g := &Gateway{
		decide: cfg.Decide, onRefused: cfg.OnRefused, log: cfg.Log, subnets: cfg.Subnets, failed: make(chan error, 1),
		loopback: cfg.Loopback, sink: cfg.Sink, facts: cfg.Facts, nameOf: cfg.NameOf,
	}
	if g.sink == nil {
		g.sink = func(tcpstate.Transition) {}
	}
	if cfg.UDPTimeout == 0 {
		cfg.UDPTimeout = DefaultUDPTimeout
	}
	g.packets = newFlowTable(DefaultMaxFlows, cfg.UDPTimeout)
	g.packets.onEvict = g.evicted
	g.SetLimits(cfg.Limits)
	if g.decide == nil {
		g.decide = func(context.Context, policy.Request) policy.Verdict { return policy.Verdict{} }
	}
	if g.onRefused == nil {
		g.onRefused = func(Refusal) {}
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	nc := netstack.Config{
		Device: cfg.Device, Addrs: cfg.Addrs, Guest: cfg.Guest, Sink: cfg.Sink, Numbers: cfg.Numbers,
		Log: g.log, OnSYN: g.serve, OnUDP: g.onUDP, OwnUDP: g.ownUDP, OnEcho: g.onEcho, OnNoPort: g.onNoPort,
	}
	if cfg.Paired {
		g.crossings = &crossings{flows: make(map[flowKey]*crossing)}
		nc.OnEchoReply, nc.OnPathError = g.onEchoReply, g.onPathError
	}
	ns, err := netstack.New(nc)
	if err != nil {
		g.cancel()
		return nil, fmt.Errorf("stack: %w", err)
	}
	g.net = ns
	return g, nil
}

// Run carries the sandbox's traffic until ctx ends or Close is called, which
// returns nil, or the device is gone or fails, or a packet makes the stack
// panic (*PanicError). It is called once.
func (g *Gateway) Run(ctx context.Context, uplink Uplink) (err error) {
	g.uplink = uplink
	stop := context.AfterFunc(ctx, func() { _ = g.Close() })
	defer stop()
	failed := make(chan error, 1)
	go func() {
		defer g.contain(func(err error) { failed <- err })
		failed <- g.net.Run()
	}()
	select {
	case err = <-failed:
	case err = <-g.failed:
	}
	if err != nil {
		return fmt.Errorf("stack: %w", err)
	}
	return nil
}

// PanicError is a panic of the stack, caught where it could be. The sandbox has
// no network any more.
type PanicError struct {
	Value any
	Stack []byte // of the goroutine that panicked
}

func (e *PanicError) Error() string { return fmt.Sprintf("the stack panicked: %v", e.Value) }

// contain, deferred, turns a panic into an error. What panics with a lock of
// the stack held leaves it held, so nothing can go on; but it can be told, and
// the guest can be ended.
func (g *Gateway) contain(tell func(error)) {
	if v := recover(); v != nil {
		tell(&PanicError{Value: v, Stack: debug.Stack()})
	}
}

// fail makes Run return err.
func (g *Gateway) fail(err error) {
	select {
	case g.failed <- err:
	default: // it has been told already
	}
}

// Close resets all connections and returns when they have ended. It is safe to
// call twice.
func (g *Gateway) Close() error {
	g.net.Stopping()
	g.cancel()
	g.hosts.close()
	g.packets.close()
	err := g.net.Close()
	g.flows.Wait()
	return err
}

// ListenPacket opens a UDP socket on one of the gateway's addresses.
func (g *Gateway) ListenPacket(addr netip.AddrPort) (net.PacketConn, error) {
	c, err := g.net.ListenUDP(addr)
	if err != nil {
		return nil, fmt.Errorf("stack: %w", err)
	}
	return c, nil
}

// Conn is a connection that ends in the stack, with the guest at its other end.
// EOF is the guest's FIN; an error that matches ECONNRESET its RST.
type Conn interface {
	net.Conn

	// CloseWrite sends FIN; reading goes on.
	CloseWrite() error

	// Reset sends RST and releases the connection.
	Reset() error
}

// Dial opens a connection to a port of the guest, from src. A zero port of src
// is chosen by the stack. The error is an errno.
func (g *Gateway) Dial(ctx context.Context, src, dst netip.AddrPort) (Conn, error) {
	c, err := g.net.Dial(ctx, 0, src, dst)
	if err != nil {
		return nil, fmt.Errorf("stack: dial %v from %v: %w", dst, src, err)
	}
	return c, nil
}

// Stats are the Gateway's counters since it began, and what it holds now.
type Stats struct {
	netstack.Stats

	Established uint64 `json:"established"` // connections that were completed
	Refused     uint64 `json:"refused"`     // by the policy, flows of datagrams included
	Unreachable uint64 `json:"unreachable"` // answered with an ICMP error or an RST because of the upstream
	Silent      uint64 `json:"silent"`      // dials that nobody answered in time
	NoPort      uint64 `json:"no_port"`     // SYNs dropped: the host has no port or descriptor left
	Busy        uint64 `json:"busy"`        // SYNs dropped: too many dials upstream
	Limited     uint64 `json:"limited"`     // SYNs dropped: the guest has as many connections as Limits lets it
	Unbuffered  uint64 `json:"unbuffered"`  // SYNs dropped: the buffers come to as much as Limits lets them
	Open        int    `json:"open"`        // connections that are relayed now

	// What came in through published ports. The first is part of Established.
	Inbound          uint64 `json:"inbound"`           // connections that the guest accepted
	InboundFailed    uint64 `json:"inbound_failed"`    // that the guest refused or did not answer
	InboundDatagrams uint64 `json:"inbound_datagrams"` // handed to the guest

	// Flows of datagrams: UDP and echo.
	Flows            int    `json:"flows"`             // now, those included that wait for the policy
	FlowsOpened      uint64 `json:"flows_opened"`      // that got a socket upstream
	FlowsEvicted     uint64 `json:"flows_evicted"`     // ended for a newer one, their limit being reached
	FlowsExpired     uint64 `json:"flows_expired"`     // ended by UDPTimeout
	DatagramsOut     uint64 `json:"datagrams_out"`     // of the guest's that were sent on
	DatagramsIn      uint64 `json:"datagrams_in"`      // replies that the guest was sent
	DatagramsDropped uint64 `json:"datagrams_dropped"` // that there was no room for
	ErrorsPassedOn   uint64 `json:"errors_passed_on"`  // ICMP errors of the path
}

// Stats returns the counters.
func (g *Gateway) Stats() Stats {
	c := &g.counters
	flows, _ := g.packets.count()
	return Stats{
		Stats: g.net.Stats(), Established: c.established.Load(), Refused: c.refused.Load(),
		Unreachable: c.unreachable.Load(), Silent: c.silent.Load(), NoPort: c.noPort.Load(),
		Busy: c.busy.Load(), Limited: g.limits.limited.Load(), Unbuffered: g.limits.unbuffered.Load(), Open: int(c.open.Load()),
		Inbound: c.inbound.Load(), InboundFailed: c.inboundFailed.Load(), InboundDatagrams: c.inboundDatagrams.Load(),
		Flows: flows, FlowsOpened: c.flows.Load(), FlowsEvicted: g.packets.evicted.Load(), FlowsExpired: g.packets.expired.Load(),
		DatagramsOut: c.datagramsOut.Load(), DatagramsIn: c.datagramsIn.Load(), DatagramsDropped: c.datagramsDropped.Load() + c.inletDropped.Load(),
		ErrorsPassedOn: c.errorsPassedOn.Load(),
	}
}

var errNoUplink = errors.New("stack: the gateway has no uplink")
