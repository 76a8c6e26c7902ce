package stack

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"syscall"
	"time"

	"tcpbox/policy"
	"tcpbox/stack/internal/netstack"
	"tcpbox/stack/relay"
	"tcpbox/tun/packet"
)

// Defaults and limits of flows of datagrams: UDP between two addresses and
// ports, or echo requests from one identifier to one address.
const (
	DefaultUDPTimeout = 30 * time.Second
	DefaultMaxFlows   = 4096

	// What waits for the policy and the dial, for one flow and for all.
	maxQueuedPackets = 16
	maxQueuedBytes   = 64 << 10
	maxAllQueued     = 4 << 20

	// guestTTL is what the guest's kernel puts into packets of programs that do
	// not ask for another; such packets go on with the host's default.
	guestTTL = 64

	icmpHeaderLen = 8
)

// A flowKey is what the guest sees of a flow. An echo has its identifier as
// the source port.
type flowKey struct {
	echo     bool
	src, dst netip.AddrPort
}

func (k *flowKey) six() bool { return k.dst.Addr().Is6() }

func (k *flowKey) proto() policy.Proto {
	if k.echo {
		return policy.ICMP
	}
	return policy.UDP
}

// about describes a packet of the guest's in an ICMP error. An echo's data is
// the whole message.
func (k *flowKey) about(data []byte) packet.Build {
	const quote = 1232 // more than any error holds
	b := packet.Build{Src: k.src, Dst: k.dst, Proto: packet.UDP, Payload: data[:min(len(data), quote)]}
	if !k.echo {
		return b
	}
	b.Src = netip.AddrPortFrom(k.src.Addr(), 0)
	b.Proto, b.ICMPType = packet.ICMP, 8
	if k.six() {
		b.Proto, b.ICMPType = packet.ICMPv6, 128
	}
	b.ICMPRest = uint32(k.src.Port()) << 16
	if len(b.Payload) >= icmpHeaderLen {
		b.ICMPRest |= uint32(binary.BigEndian.Uint16(b.Payload[6:]))
		b.Payload = b.Payload[icmpHeaderLen:]
	}
	return b
}

// An outgoing is a datagram of the guest's.
type outgoing struct {
	data  []byte
	ttl   uint8
	probe bool // it is to be lost rather than fragmented
}

// onUDP takes a datagram of the guest's, in the goroutine that reads the device.
func (g *Gateway) onUDP(d netstack.Datagram) bool {
	if c := g.crossings.find(flowKey{src: d.Src, dst: d.Dst}); c != nil {
		c.deliver(d.Payload)
		return true
	}
	g.fromGuest(flowKey{src: d.Src, dst: d.Dst}, outgoing{d.Payload, d.TTL, d.Probe})
	return true
}

// onEcho takes an echo request of the guest's.
func (g *Gateway) onEcho(e netstack.Echo) bool {
	key := flowKey{echo: true, src: netip.AddrPortFrom(e.Src, e.ID), dst: netip.AddrPortFrom(e.Dst, 0)}
	g.fromGuest(key, outgoing{e.Message, e.TTL, e.Probe})
	return true
}

// onNoPort ends the flow of a socket that the guest has closed: what the other
// end still sends is then refused by the host, as the guest did.
func (g *Gateway) onNoPort(guest, remote netip.AddrPort) {
	g.packets.end(g.packets.find(flowKey{src: guest, dst: remote}))
}

func (g *Gateway) fromGuest(key flowKey, p outgoing) {
	f, conn, queued := g.packets.send(key, p)
	switch {
	case conn != nil:
		g.forward(f, conn, p)
	case queued:
	case f != nil:
		g.counters.datagramsDropped.Add(1)
	case g.answeredHere(key, p):
	default:
		g.begin(key, p)
	}
}

// answeredHere answers what is for a host inside the stack, or for an address
// of the sandbox's subnets that nobody has.
func (g *Gateway) answeredHere(key flowKey, p outgoing) bool {
	port, isHost := g.hosts.find(key.dst)
	switch {
	case isHost && key.echo:
		if !g.hosts.silent(key.dst.Addr()) {
			_ = g.replyEcho(&key, p.data)
		}
	case port != nil && port.silent:
	case isHost:
		g.packetError(&key, p.data, packet.PortUnreachable.Message(key.six()), key.dst.Addr())
	case g.loopbackOf(key.dst.Addr()).IsValid():
		return false
	case g.inSubnets(key.dst.Addr()):
		g.packetError(&key, p.data, packet.HostUnreachable.Message(key.six()), netip.Addr{})
	default:
		return false
	}
	return true
}

// packetError tells the guest of an error about data, from the gateway if from
// is invalid.
func (g *Gateway) packetError(key *flowKey, data []byte, m packet.Message, from netip.Addr) {
	g.net.WriteError(m, from, key.about(data))
}

// begin makes a flow, and room for it.
func (g *Gateway) begin(key flowKey, p outgoing) {
	ctx, cancel := context.WithCancel(g.ctx)
	f := &packetFlow{key: key, cancel: cancel, request: g.request(key.proto(), key.src, key.dst)}
	if key.echo {
		f.request.Src = netip.AddrPortFrom(key.src.Addr(), 0)
	}
	if !g.packets.add(f, p, &g.flows) {
		cancel()
		return
	}
	go g.servePackets(ctx, f)
}

// servePackets is one flow from its first datagram to its end: the policy, the
// dial, what waited meanwhile, and then the replies.
func (g *Gateway) servePackets(ctx context.Context, f *packetFlow) {
	defer g.flows.Done()
	defer g.contain(g.fail)
	defer g.packets.end(f)
	verdict := g.decide(ctx, f.request)
	if ctx.Err() != nil {
		return // it has ended meanwhile
	}
	if !verdict.Allow {
		g.refusePackets(f, verdict)
		return
	}
	conn, err := g.dialPackets(ctx, f)
	if reply, _ := replyTo(err); err != nil && reply == replyNoPort && g.packets.evict() {
		// The host has run out of something, most likely of descriptors: an
		// old flow gives way here too.
		conn, err = g.dialPackets(ctx, f)
	}
	if err != nil {
		g.log.Debug("flow not opened", "src", f.key.src, "dst", f.key.dst, "err", err)
		for _, p := range g.packets.queued(f) {
			g.answerPacket(f, p, 0, err)
		}
		return
	}
	if !g.packets.attach(f, conn) {
		_ = conn.Close() // nobody is left to carry this on for
		return
	}
	g.counters.flows.Add(1)
	for {
		waited, live := g.packets.drain(f)
		for _, p := range waited {
			g.forward(f, conn, p)
		}
		if live {
			break
		}
	}
	g.receive(f, conn)
}

// dialPackets opens the flow's socket upstream.
func (g *Gateway) dialPackets(ctx context.Context, f *packetFlow) (relay.Packets, error) {
	switch {
	case g.uplink == nil:
		return nil, errNoUplink
	case f.key.echo:
		return g.uplink.DialEcho(ctx, f.key.src.Addr(), f.request.Dst.Addr())
	}
	return g.uplink.DialUDP(ctx, f.key.src, f.request.Dst)
}

// refusePackets answers what the policy does not allow: a datagram as a host
// does on a port where nobody listens, an echo request as a filter on the way.
// Nothing has reached the host's side.
func (g *Gateway) refusePackets(f *packetFlow, v policy.Verdict) {
	g.counters.refused.Add(1)
	g.log.Debug("flow refused", "src", f.key.src, "dst", f.key.dst, "rule", v.Rule)
	kind := packet.PortUnreachable
	if f.key.echo {
		kind = packet.Prohibited
	}
	for _, p := range g.packets.queued(f) {
		g.packetError(&f.key, p.data, kind.Message(f.key.six()), netip.Addr{})
	}
	g.onRefused(Refusal{Request: f.request, Verdict: v})
}

// forward sends a datagram on. What there is no room for is lost, as on any
// wire.
func (g *Gateway) forward(f *packetFlow, conn relay.Packets, p outgoing) {
	if p.probe && g.tooLarge(f, conn, p) {
		return
	}
	hops := p.ttl
	if hops == guestTTL {
		hops = 0
	}
	if err := conn.Send(p.data, hops); err != nil {
		g.answerPacket(f, p, conn.MTU(), err)
		return
	}
	g.counters.datagramsOut.Add(1)
}

// tooLarge answers a probe that would leave in fragments as the router would
// that cannot forward it. Everything else is left to the host's kernel, which
// fragments what is too large: a Linux program that knows nothing of path MTUs
// sends with "don't fragment" set as well, and if its socket is connected, an
// error would fail its next call with EMSGSIZE, which the same program never
// meets on the host. (iperf3 -u, for one, ends.)
func (g *Gateway) tooLarge(f *packetFlow, conn relay.Packets, p outgoing) bool {
	size := len(p.data) + 20
	if f.key.six() {
		size += 20
	}
	if !f.key.echo {
		size += 8
	}
	const least = 1280
	if size <= least {
		return false
	}
	mtu := conn.MTU()
	if mtu == 0 || size <= mtu {
		return false
	}
	g.packetError(&f.key, p.data, packet.TooBig(mtu, f.key.six()), netip.Addr{})
	return true
}

// answerPacket tells the guest why a datagram could not be sent on.
func (g *Gateway) answerPacket(f *packetFlow, p outgoing, mtu int, err error) {
	var errno syscall.Errno
	var forbidden interface{ Remedy() string }
	if errors.As(err, &forbidden) {
		g.forbidden.Do(func() {
			g.onRefused(Refusal{Request: f.request, Unsupported: true, Why: forbidden.Remedy()})
		})
	}
	if errors.As(err, &errno) && errno == syscall.EMSGSIZE && mtu > 0 {
		g.packetError(&f.key, p.data, packet.TooBig(mtu, f.key.six()), netip.Addr{})
		return
	}
	switch reply, kind := replyTo(err); reply {
	case replyReset:
		g.packetError(&f.key, p.data, packet.PortUnreachable.Message(f.key.six()), netip.Addr{})
	case replyICMP:
		g.packetError(&f.key, p.data, kind.Message(f.key.six()), netip.Addr{})
	case replyNoPort, replyBusy:
		g.counters.datagramsDropped.Add(1)
	}
}

// receive passes replies on until the flow ends.
func (g *Gateway) receive(f *packetFlow, conn relay.Packets) {
	take := func(p []byte) {
		g.packets.touch(f)
		g.toGuest(f, p)
	}
	const patience = 16 // errors in a row that say nothing
	for failed := 0; failed < patience; {
		err := conn.Receive(take)
		var icmp *relay.ICMPError
		switch {
		case err == nil:
			failed = 0
		case errors.As(err, &icmp):
			failed = 0
			g.passOn(f, icmp)
		case f.ended():
			return
		default:
			failed++
			g.log.Debug("receiving failed", "src", f.key.src, "dst", f.key.dst, "err", err)
		}
	}
}

// toGuest sends the guest a reply.
func (g *Gateway) toGuest(f *packetFlow, p []byte) {
	var err error
	switch {
	case f.key.echo:
		err = g.replyEcho(&f.key, p)
	case g.crossings != nil: // its device may lead to a world of other MTUs
		err = g.net.SendUDP(f.key.dst, f.key.src, p, 0)
	default:
		err = g.net.WriteUDP(f.key.dst, f.key.src, p)
	}
	if err == nil {
		g.counters.datagramsIn.Add(1)
	}
}

// replyEcho sends the guest an echo reply with the number and the data of msg,
// and the identifier that the guest knows.
func (g *Gateway) replyEcho(key *flowKey, msg []byte) error {
	if len(msg) < icmpHeaderLen {
		return syscall.EBADMSG
	}
	reply := g.net.WriteEchoReply
	if g.crossings != nil {
		reply = g.net.SendEchoReply
	}
	return reply(key.dst.Addr(), key.src.Addr(), key.src.Port(), binary.BigEndian.Uint16(msg[6:]), msg[icmpHeaderLen:])
}

// passOn tells the guest of an error of the path, as it was.
func (g *Gateway) passOn(f *packetFlow, e *relay.ICMPError) {
	m := packet.Message{Type: e.Type, Code: e.Code}
	six := f.key.six()
	switch {
	case !six && m.Type == 3 && m.Code == 4, six && m.Type == 2:
		m = packet.TooBig(int(e.Info), six)
	case !six && (m.Type == 3 || m.Type == 11 || m.Type == 12), six && (m.Type == 1 || m.Type == 3 || m.Type == 4):
	default:
		return // an error that says nothing to a host, or a kind not known
	}
	from := e.From
	switch {
	case from == f.request.Dst.Addr() || from.IsLoopback():
		from = f.key.dst.Addr()
	case !from.IsValid() || from.IsUnspecified() || from.Is6() != six:
		from = netip.Addr{} // the gateway, which is the next hop
	}
	g.counters.errorsPassedOn.Add(1)
	g.packetError(&f.key, e.Quoted, m, from)
}
