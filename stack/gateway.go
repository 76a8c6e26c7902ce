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

	// Decide answers each connection before anything is dialled. Nil denies
	// all.
	Decide policy.Decide

	// OnRefused is told of each connection or packet that was refused. It must
	// not block. Nil means that no one asks.
	OnRefused func(Refusal)

	// Sink takes every TCP state transition; see tcpstate.Sink.
	Sink tcpstate.Sink

	// Log gets what happens to single flows, at level debug. Nil discards.
	Log *slog.Logger
}

// A Refusal is something that the guest tried and did not get.
type Refusal struct {
	Request policy.Request
	Verdict policy.Verdict // zero if Unsupported

	// Unsupported: no rule is to blame; tcpbox does not carry the protocol.
	Unsupported bool
}

// Gateway is the guest's peer in every connection. Make it with New; its
// methods may be called concurrently.
type Gateway struct {
	net       *netstack.Stack
	decide    policy.Decide
	onRefused func(Refusal)
	log       *slog.Logger
	subnets   []netip.Prefix
	hosts     hosts
	knobs     knobs
	counters  counters

	uplink Uplink // set by Run
	ctx    context.Context
	cancel context.CancelFunc
	failed chan error // a panic in a flow
	flows  sync.WaitGroup
}

// counters count what became of the connections that the guest asked for.
type counters struct {
	established, refused, unreachable, silent atomic.Uint64
	noPort, busy, backlog                     atomic.Uint64
	open                                      atomic.Int64
	undelivered                               atomic.Int64 // flows whose guest's FIN has not been passed on
}

// New makes a Gateway. It owns cfg.Device from then on, also when it fails.
func New(cfg Config) (*Gateway, error) {
	g := &Gateway{
		decide: cfg.Decide, onRefused: cfg.OnRefused, log: cfg.Log, subnets: cfg.Subnets, failed: make(chan error, 1),
	}
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
	ns, err := netstack.New(netstack.Config{
		Device: cfg.Device, Addrs: cfg.Addrs, Guest: cfg.Guest, Sink: cfg.Sink,
		OnSYN: g.serve, OnOther: g.refuseOther,
	})
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

// Dial opens a connection to a port of the guest, from src. A zero port of src
// is chosen by the stack. The error is an errno.
func (g *Gateway) Dial(ctx context.Context, src, dst netip.AddrPort) (relay.Conn, error) {
	c, err := g.net.Dial(ctx, 0, src, dst)
	if err != nil {
		return nil, fmt.Errorf("stack: dial %v from %v: %w", dst, src, err)
	}
	return c, nil
}

// refuseOther passes on that the guest tried something other than TCP.
func (g *Gateway) refuseOther(o netstack.Other) {
	r := policy.Request{Proto: policy.ICMP, Src: o.Src, Dst: o.Dst}
	if o.UDP {
		r.Proto = policy.UDP
	}
	g.onRefused(Refusal{Request: r, Unsupported: true})
}

// Stats are the Gateway's counters since it began, and what it holds now.
type Stats struct {
	netstack.Stats

	Established uint64 // connections that were completed
	Refused     uint64 // by the policy
	Unreachable uint64 // answered with an ICMP error or an RST because of the upstream
	Silent      uint64 // dials that nobody answered in time
	NoPort      uint64 // SYNs dropped: the host has no port or descriptor left
	Busy        uint64 // SYNs dropped: too many dials upstream
	Open        int    // connections that are relayed now
}

// Stats returns the counters.
func (g *Gateway) Stats() Stats {
	c := &g.counters
	return Stats{
		Stats: g.net.Stats(), Established: c.established.Load(), Refused: c.refused.Load(),
		Unreachable: c.unreachable.Load(), Silent: c.silent.Load(), NoPort: c.noPort.Load(),
		Busy: c.busy.Load(), Open: int(c.open.Load()),
	}
}

var errNoUplink = errors.New("stack: the gateway has no uplink")
