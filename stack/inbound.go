package stack

import (
	"context"
	"errors"
	"net/netip"
	"syscall"
	"time"

	"tcpbox/stack/relay"
	"tcpbox/stack/tcpstate"
)

// Inbound says between whom a connection from the world to the guest is.
type Inbound struct {
	Client netip.AddrPort // who it comes from
	Host   netip.AddrPort // where on the host it was accepted
	As     netip.AddrPort // who the guest sees; the port is kept if that is possible
	Guest  netip.AddrPort // the guest's end

	// OnAnswer, if set, is called when the guest has answered, or will not.
	OnAnswer func()
}

// Deliver opens a connection to the guest for a client that the host has
// accepted, and relays until it has ended, as for a connection of the guest's.
// What the guest does to the handshake the client sees as far as that is still
// possible: if the guest refuses or does not answer, the client is reset, and
// the error is an errno. A client that goes away ends the dial. Deliver owns
// client, and returns when nothing of the connection runs any more; before it
// does, Close waits for nothing of it.
func (g *Gateway) Deliver(ctx context.Context, client relay.Conn, in Inbound) error {
	defer g.contain(g.fail)
	id := g.net.NewConn()
	g.accepted(id, client, in)
	guest, err := g.dialFor(ctx, client, id, in)
	if in.OnAnswer != nil {
		in.OnAnswer()
	}
	if err != nil {
		_ = client.Reset() // an end without a word would be a lie
		g.counters.inboundFailed.Add(1)
		g.log.Debug("guest not reached", "conn", id, "src", in.Client, "dst", in.Guest, "err", err)
		return err
	}
	g.counters.inbound.Add(1)
	g.counters.established.Add(1)
	g.counters.open.Add(1)
	defer g.counters.open.Add(-1)
	result := g.join(id, guest, client)
	g.log.Debug("flow ended", "conn", id, "src", in.Client, "dst", in.Guest, "end", result.End, "first", result.First, "err", result.Err)
	return nil
}

// accepted records who the client is, on the upstream leg: the host's kernel has
// completed the handshake, some time before. A client that can be followed tells
// itself.
func (g *Gateway) accepted(id tcpstate.Conn, client relay.Conn, in Inbound) {
	g.admitted(id, tcpstate.Inbound, in.Guest, in.As, RulePublished)
	if c, ok := client.(interface{ Track(id tcpstate.Conn) }); ok {
		c.Track(id)
		return
	}
	g.sink(tcpstate.Transition{
		Time: time.Now(), Conn: id, Leg: tcpstate.Upstream, Local: in.Host, Remote: in.Client,
		From: tcpstate.SynReceived, To: tcpstate.Established,
		Cause: tcpstate.Cause{Kind: tcpstate.BySegment, Which: "ACK"}, Source: tcpstate.FromSocket,
	})
}

// dialFor is dialGuest, unless the client's address has as many that are opening as it
// may: then it is EAGAIN.
func (g *Gateway) dialFor(ctx context.Context, client relay.Conn, id tcpstate.Conn, in Inbound) (relay.Conn, error) {
	end, ok := g.net.BeginFrom(in.Client.Addr())
	if !ok {
		return nil, syscall.EAGAIN
	}
	defer end()
	return g.dialGuest(ctx, client, id, in)
}

// dialGuest opens the connection to the guest. The port that the guest sees is
// the client's, unless the stack still has that 4-tuple.
func (g *Gateway) dialGuest(ctx context.Context, client relay.Conn, id tcpstate.Conn, in Inbound) (relay.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if w, ok := client.(relay.Watcher); ok {
		stop := w.AfterReset(func(error) { cancel() })
		defer stop()
	}
	guest, err := g.net.Dial(ctx, id, in.As, in.Guest)
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		guest, err = g.net.Dial(ctx, id, netip.AddrPortFrom(in.As.Addr(), 0), in.Guest)
	}
	if err != nil {
		return nil, err // not a nil *netstack.Conn in an interface
	}
	return guest, nil
}
