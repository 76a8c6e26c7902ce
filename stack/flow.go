package stack

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"syscall"

	"tcpbox/policy"
	"tcpbox/stack/internal/netstack"
	"tcpbox/stack/relay"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

// ErrBusy is what an Uplink returns, wrapped, when it has too many dials in
// progress. The guest's SYN is dropped, and its kernel asks again.
var ErrBusy = errors.New("too many dials in progress")

// serve is one connection from its SYN to its end. The SYN has been admitted;
// nothing has been answered.
func (g *Gateway) serve(req *netstack.Request) {
	relay.Deepen()
	g.flows.Add(1)
	defer g.flows.Done()
	defer g.contain(g.fail)
	held, ok := g.enter()
	if !ok {
		req.DropOver()
		return
	}
	defer g.leave(held)
	if g.serveHost(req) {
		return
	}
	asked := g.request(policy.TCP, req.Src(), req.Dst())
	verdict := g.decide(req.Context(), asked)
	if !verdict.Allow {
		g.refuse(req, asked, verdict)
		return
	}
	g.admitted(req.ID(), tcpstate.Outbound, req.Src(), req.Dst(), verdict.Rule)
	upstream, err := g.dial(req, asked.Dst)
	if err != nil {
		g.answer(req, err)
		return
	}
	guest, err := req.Accept()
	if err != nil {
		// Nobody is left to carry this on for.
		_ = upstream.Reset()
		g.log.Debug("handshake not completed", "conn", req.ID(), "src", req.Src(), "dst", req.Dst(), "err", err)
		return
	}
	g.counters.established.Add(1)
	g.counters.open.Add(1)
	defer g.counters.open.Add(-1)
	result := g.join(req.ID(), guest, upstream)
	g.log.Debug("flow ended", "conn", req.ID(), "src", req.Src(), "dst", req.Dst(), "end", result.End, "first", result.First, "err", result.Err)
}

// join relays until both connections have ended. Meanwhile it counts as
// undelivered, until the guest's FIN has been passed on, and as cut if Close
// came before.
func (g *Gateway) join(id tcpstate.Conn, guest, upstream relay.Conn) relay.Result {
	c := &carried{upstream: upstream}
	defer g.carry(id, c)()
	g.counters.undelivered.Add(1)
	var once sync.Once
	delivered := func() { once.Do(func() { g.counters.undelivered.Add(-1) }) }
	defer once.Do(func() {
		if g.ctx.Err() != nil {
			g.counters.cut.Add(1)
		}
		g.counters.undelivered.Add(-1)
	})
	result := relay.Join(g.ctx, guest, upstream, relay.Options{
		Counts:           &c.counts,
		Handle:           &c.handle,
		HalfCloseTimeout: g.knobs.halfCloseTimeout(),
		OnFIN: func(from relay.Side) {
			c.finSeen.Store(true)
			if from == relay.Guest {
				delivered()
			}
		},
	})
	g.ended(id, c, result)
	return result
}

// refuse answers what the policy does not allow as a host does on a port where
// nobody listens. Nothing has reached the host's side.
func (g *Gateway) refuse(req *netstack.Request, asked policy.Request, v policy.Verdict) {
	req.Reset()
	g.counters.refused.Add(1)
	g.log.Debug("flow refused", "conn", req.ID(), "src", req.Src(), "dst", req.Dst(), "rule", v.Rule)
	g.onRefused(Refusal{Request: asked, Verdict: v})
}

func (g *Gateway) dial(req *netstack.Request, dst netip.AddrPort) (relay.Conn, error) {
	if g.uplink == nil {
		return nil, errNoUplink
	}
	return g.uplink.DialTCP(req.Context(), req.ID(), req.Src(), dst)
}

// answer tells the guest what the upstream did.
func (g *Gateway) answer(req *netstack.Request, err error) {
	g.log.Debug("dial failed", "conn", req.ID(), "src", req.Src(), "dst", req.Dst(), "err", err)
	switch reply, kind := replyTo(err); reply {
	case replyReset:
		g.counters.unreachable.Add(1)
		req.Reset()
	case replyICMP:
		g.counters.unreachable.Add(1)
		req.Unreachable(kind)
	case replyNone:
		g.counters.silent.Add(1)
		req.Drop()
	case replyNoPort:
		g.counters.noPort.Add(1)
		req.Drop()
	case replyBusy:
		g.counters.busy.Add(1)
		req.DropOver()
	}
}

// A reply is how a failed dial is told to the guest.
type reply uint8

const (
	replyNone   reply = iota // silence: the guest's own timer decides
	replyReset               // RST
	replyICMP                // an ICMP error, which ends the guest's connect
	replyNoPort              // silence, counted: the host has run out of something
	replyBusy                // silence, counted: the uplink has
)

// replyTo maps the error of a dial. What the host lacks is not the
// destination's fault, so the SYN is dropped rather than answered with a lie.
func replyTo(err error) (reply, packet.Kind) {
	var errno syscall.Errno
	var short interface{ Shortage() string }
	switch {
	case errors.Is(err, ErrBusy):
		return replyBusy, 0
	case errors.As(err, &short):
		return replyNoPort, 0
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return replyNone, 0
	case !errors.As(err, &errno):
		return replyICMP, packet.HostUnreachable
	}
	switch errno {
	case syscall.ECONNREFUSED, syscall.ECONNRESET:
		return replyReset, 0
	case syscall.ENETUNREACH, syscall.ENETDOWN, syscall.EAFNOSUPPORT:
		return replyICMP, packet.NoRoute
	case syscall.EACCES, syscall.EPERM:
		return replyICMP, packet.Prohibited
	case syscall.ETIMEDOUT, syscall.EINVAL: // EINVAL is Linux's word for a blackhole route
		return replyNone, 0
	case syscall.EADDRNOTAVAIL, syscall.EADDRINUSE, syscall.EAGAIN, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM:
		return replyNoPort, 0
	}
	return replyICMP, packet.HostUnreachable
}
