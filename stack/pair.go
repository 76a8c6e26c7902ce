package stack

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"tcpbox/stack/internal/netstack"
	"tcpbox/stack/relay"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

// Two Gateways can be each other's uplink, one with a guest on its device and one
// with the world:
//
//	guest ── device ── Gateway ══ Across ══ Gateway ── device ── world
//
// What comes in on one device and is allowed leaves by the other with the address
// and port it came from, so that neither end sees anybody in between. Both are
// made with Config.Paired.

// Across returns an Uplink whose connections and flows leave by g's device, as
// whoever began them. It lasts as long as g.
func (g *Gateway) Across() Uplink { return across{g} }

type across struct{ g *Gateway }

// DialTCP implements Uplink.
func (a across) DialTCP(ctx context.Context, id tcpstate.Conn, src, dst netip.AddrPort) (relay.Conn, error) {
	c, err := a.g.net.DialAs(ctx, id, src, dst)
	if err != nil {
		return nil, err // not a nil *netstack.Conn in an interface
	}
	return c, nil
}

// DialUDP implements Uplink.
func (a across) DialUDP(_ context.Context, src, dst netip.AddrPort) (relay.Packets, error) {
	c := newCrossing(a.g, src, dst)
	a.g.crossings.enter(flowKey{src: dst, dst: src}, c)
	return c, nil
}

// DialEcho implements Uplink.
func (a across) DialEcho(_ context.Context, src, dst netip.Addr) (relay.Packets, error) {
	c := newCrossing(a.g, netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0))
	c.echo = true // it is entered with its first message, which has the identifier
	return c, nil
}

// A crossing is a flow of datagrams that the other Gateway of a pair has begun and
// that leaves by this one's device. It implements relay.Packets.
type crossing struct {
	g        *Gateway
	echo     bool
	src, dst netip.AddrPort
	errs     chan *relay.ICMPError
	done     chan struct{}

	mu     sync.RWMutex
	keys   []flowKey // under which what comes back is found
	take   func(p []byte)
	early  [][]byte // what has come before Receive
	closed bool
}

func newCrossing(g *Gateway, src, dst netip.AddrPort) *crossing {
	return &crossing{g: g, src: src, dst: dst, errs: make(chan *relay.ICMPError, 8), done: make(chan struct{})}
}

// Send implements relay.Packets.
func (c *crossing) Send(p []byte, hops uint8) error {
	if !c.echo {
		return c.g.net.SendUDP(c.src, c.dst, p, hops)
	}
	if len(p) < icmpHeaderLen {
		return syscall.EBADMSG
	}
	id := binary.BigEndian.Uint16(p[4:])
	key := flowKey{echo: true, src: c.dst, dst: netip.AddrPortFrom(c.src.Addr(), id)}
	c.mu.RLock()
	known := slices.Contains(c.keys, key)
	c.mu.RUnlock()
	if !known {
		c.g.crossings.enter(key, c)
	}
	return c.g.net.SendEchoRequest(c.src.Addr(), c.dst.Addr(), id, binary.BigEndian.Uint16(p[6:]), p[icmpHeaderLen:], hops)
}

// Receive implements relay.Packets. What comes is handed over by the reader of the
// device, in its goroutine.
func (c *crossing) Receive(take func(p []byte)) error {
	c.mu.Lock()
	c.take = take
	early := c.early
	c.early = nil
	c.mu.Unlock()
	for _, p := range early {
		take(p)
	}
	select {
	case err := <-c.errs:
		return err
	case <-c.done:
		return net.ErrClosed
	}
}

// deliver hands over what has come back.
func (c *crossing) deliver(p []byte) {
	c.mu.RLock()
	take, closed := c.take, c.closed
	c.mu.RUnlock()
	switch {
	case closed:
	case take != nil:
		take(p)
	default:
		c.keep(p)
	}
}

// keep is deliver before the first Receive.
func (c *crossing) keep(p []byte) {
	c.mu.Lock()
	take := c.take
	if take == nil && len(c.early) < maxQueuedPackets {
		c.early = append(c.early, slices.Clone(p))
	}
	c.mu.Unlock()
	if take != nil {
		take(p)
	}
}

// fail tells of an error of the path. One for which there is no room is lost, as
// any may be.
func (c *crossing) fail(err *relay.ICMPError) {
	select {
	case c.errs <- err:
	default:
	}
}

// MTU implements relay.Packets.
func (c *crossing) MTU() int { return c.g.net.MTU() }

// Close implements relay.Packets.
func (c *crossing) Close() error {
	c.mu.Lock()
	closed := c.closed
	c.closed = true
	keys := c.keys
	c.mu.Unlock()
	if !closed {
		close(c.done)
		c.g.crossings.leave(keys, c)
	}
	return nil
}

// crossings are the flows that leave by a Gateway's device for the other Gateway
// of a pair, by what comes back. Nil is those of a Gateway that has no other. How
// many there are is bounded by the flows of the other.
type crossings struct {
	mu    sync.RWMutex
	flows map[flowKey]*crossing
}

// enter makes c the one that gets what comes with the key.
func (t *crossings) enter(key flowKey, c *crossing) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.keys = append(c.keys, key)
		t.flows[key] = c
	}
}

func (t *crossings) leave(keys []flowKey, c *crossing) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range keys {
		if t.flows[k] == c {
			delete(t.flows, k)
		}
	}
}

func (t *crossings) find(key flowKey) *crossing {
	if t == nil {
		return nil
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.flows[key]
}

// onEchoReply takes an echo reply to a request of the other Gateway's.
func (g *Gateway) onEchoReply(e netstack.Echo) bool {
	c := g.crossings.find(flowKey{echo: true, src: netip.AddrPortFrom(e.Src, 0), dst: netip.AddrPortFrom(e.Dst, e.ID)})
	if c == nil {
		return false
	}
	c.deliver(e.Message)
	return true
}

// onPathError takes an ICMP error about a datagram or an echo request of the other
// Gateway's.
func (g *Gateway) onPathError(e netstack.PathError) {
	key := flowKey{echo: e.Echo, src: e.Dst, dst: e.Src}
	if c := g.crossings.find(key); c != nil {
		c.fail(&relay.ICMPError{Type: e.Type, Code: e.Code, Info: mtuIn(&e), From: e.From, Quoted: slices.Clone(e.Quoted)})
	}
}

// mtuIn is the MTU that a "too big" names.
func mtuIn(e *netstack.PathError) uint32 {
	four := e.Src.Addr().Is4()
	switch m := packet.TooBig(0, !four); {
	case e.Type != m.Type || e.Code != m.Code:
		return 0
	case four:
		return e.Rest & 0xffff
	}
	return e.Rest
}
