package stack

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"

	"tcpbox/policy"
	"tcpbox/stack/relay"
)

// A Client is the far end of a flow into the guest, and the address of the host
// that it speaks to, from which it expects replies.
type Client struct {
	From netip.AddrPort
	To   netip.Addr
}

// An Inlet takes datagrams of the world to a port of the guest. Each client is a
// flow, which counts and idles as one that the guest has begun.
//
//	client ──▶ Inlet.Deliver ──▶ guest
//	client ◀──── send ◀───────── guest
type Inlet struct {
	g     *Gateway
	guest netip.AddrPort
	send  func(p []byte, to Client) error

	mu     sync.Mutex
	flows  map[Client]*inletFlow
	closed bool
}

// NewInlet makes an Inlet to a port of the guest. send sends a reply and keeps
// nothing of it; it must not block.
func (g *Gateway) NewInlet(guest netip.AddrPort, send func(p []byte, to Client) error) *Inlet {
	return &Inlet{g: g, guest: guest, send: send, flows: make(map[Client]*inletFlow)}
}

// inletFlow is the flow of one client. It implements relay.Packets for the way
// back.
type inletFlow struct {
	in     *Inlet
	client Client
	flow   *packetFlow
}

// Deliver hands the guest a datagram of a client, which it sees as. It keeps
// nothing of p. A client that is seen as somebody else may get another port.
func (in *Inlet) Deliver(client Client, as netip.AddrPort, p []byte) {
	f := in.flowOf(client, as)
	if f == nil {
		in.g.counters.inletDropped.Add(1)
		return
	}
	in.g.packets.touch(f.flow)
	if err := in.g.net.WriteUDP(f.flow.key.dst, in.guest, p); err == nil {
		in.g.counters.inboundDatagrams.Add(1)
	}
}

// flowOf finds the client's flow, or begins it.
func (in *Inlet) flowOf(client Client, as netip.AddrPort) *inletFlow {
	in.mu.Lock()
	f := in.flows[client]
	closed := in.closed
	in.mu.Unlock()
	if f != nil || closed {
		return f
	}
	f = &inletFlow{in: in, client: client}
	key := flowKey{src: in.guest, dst: as}
	if as != client.From {
		if key.dst = in.freePort(as); !key.dst.IsValid() {
			return nil
		}
	}
	f.flow = &packetFlow{key: key, request: policy.Request{Proto: policy.UDP, Src: key.src, Dst: key.dst}, cancel: func() {}, conn: f, live: true}
	in.mu.Lock()
	closed = in.closed
	if !closed {
		in.flows[client] = f
	}
	in.mu.Unlock()
	if closed || !in.g.packets.enter(f.flow) {
		f.forget()
		return nil
	}
	in.g.counters.flows.Add(1)
	return f
}

// freePort finds a port at which the guest can see a client that shares its
// address with others: the client's own, or another that is free.
func (in *Inlet) freePort(as netip.AddrPort) netip.AddrPort {
	const least, tries = 1024, 64
	for range tries {
		if as.Port() >= least && in.g.packets.find(flowKey{src: in.guest, dst: as}) == nil {
			return as
		}
		as = netip.AddrPortFrom(as.Addr(), uint16(least+rand.IntN(1<<16-least)))
	}
	return netip.AddrPort{}
}

// Close ends all flows. It is safe to call twice.
func (in *Inlet) Close() {
	in.mu.Lock()
	in.closed = true
	var all []*inletFlow
	for _, f := range in.flows {
		all = append(all, f)
	}
	in.mu.Unlock()
	for _, f := range all {
		in.g.packets.end(f.flow)
	}
}

func (f *inletFlow) forget() {
	f.in.mu.Lock()
	defer f.in.mu.Unlock()
	if f.in.flows[f.client] == f {
		delete(f.in.flows, f.client)
	}
}

// Send implements relay.Packets: a reply of the guest's. Its TTL is the host's.
func (f *inletFlow) Send(p []byte, _ uint8) error { return f.in.send(p, f.client) }

// Receive implements relay.Packets. Nobody calls it: Deliver is the way in.
func (*inletFlow) Receive(func([]byte)) error { return net.ErrClosed }

// MTU implements relay.Packets.
func (*inletFlow) MTU() int { return 0 }

// Close implements relay.Packets.
func (f *inletFlow) Close() error {
	f.forget()
	return nil
}

var _ relay.Packets = (*inletFlow)(nil)

// ownUDP reports whether a datagram of the guest's to one of the gateway's own
// addresses is a reply to a client that it sees there.
func (g *Gateway) ownUDP(src, dst netip.AddrPort) bool {
	return g.packets.find(flowKey{src: src, dst: dst}) != nil
}
