package sim

import (
	"context"
	"fmt"
	"net/netip"

	"tcpbox/policy/knob"
	"tcpbox/stack/internal/netstack"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun"
	"tcpbox/tun/packet"
	"tcpbox/tun/tuntest"
)

// Addr is the host's address.
func (h *Host) Addr() netip.Addr {
	if h.leg == tcpstate.Guest {
		return GuestAddr
	}
	return StackAddr
}

// Dial opens a connection from a port of the host to one of the other. It returns
// when the handshake is complete, and an errno otherwise.
func (h *Host) Dial(ctx context.Context, from, to uint16) (*Conn, error) {
	other := h.net.Stack
	if h.leg == tcpstate.Stack {
		other = h.net.Guest
	}
	return h.stack.Dial(ctx, 0, netip.AddrPortFrom(h.Addr(), from), netip.AddrPortFrom(other.Addr(), to))
}

// Request returns the next connection that the other host asks for. Until it is
// ended nothing is answered.
func (h *Host) Request(ctx context.Context) (*Request, error) {
	select {
	case r := <-h.requests:
		return r, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("sim: nobody asks the %v: %w", h.leg, ctx.Err())
	}
}

// Asked is how many Requests of the host nobody has ended, once the hosts have
// settled.
func (h *Host) Asked() int {
	h.net.Settle()
	return h.stack.Stats().Pending
}

// Set sets knobs of the host, which is a stack whatever its part: see
// stack.Gateway for what it carries. The legs of the settings are not looked at.
func (h *Host) Set(settings ...knob.Setting) error {
	for _, s := range settings {
		if text, ok := netstack.PlanKnob(s); !ok {
			return fmt.Errorf("sim: %v: %s", s, text)
		}
	}
	return h.stack.ApplyKnobs(settings)
}

// Listen notes that somebody listens on a port of the host, until ended is called. It
// is noted alone: Request returns what comes to each port.
func (h *Host) Listen(port uint16) (ended func()) {
	return h.stack.Listening(netip.AddrPortFrom(h.Addr(), port))
}

// asked waits until somebody has the request.
func (h *Host) asked(r *Request) {
	select {
	case h.requests <- r:
		<-r.Context().Done()
	case <-r.Context().Done():
		r.Drop()
	}
}

// sink notes a transition as one of this host's leg, with the number that both
// ends have.
func (h *Host) sink(tr tcpstate.Transition) {
	n := h.net
	key := tuple{tr.Local, tr.Remote}
	side := 0
	if h.leg == tcpstate.Stack {
		key, side = tuple{tr.Remote, tr.Local}, 1
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	u := n.numbers[key]
	if u == nil || tr.From == tcpstate.Closed && u.began[side] {
		n.last++
		u = &used{conn: n.last}
		n.numbers[key] = u
	}
	u.began[side] = true
	tr.Leg, tr.Conn = h.leg, u.conn
	n.addLocked(Event{Time: tr.Time, Transition: tr})
}

// Flight is a packet that was sent and is held. Exactly one of its methods ends
// that.
type Flight struct {
	Packet packet.Packet

	net   *Net
	dir   tuntest.Direction
	event int
}

// Expect waits for the oldest packet that the end has sent and that is held, and
// returns an error if it is not a TCP segment with exactly these flags, PSH
// aside.
func (n *Net) Expect(ctx context.Context, from tcpstate.Leg, flags packet.Flags) (*Flight, error) {
	dir := direction(from)
	if err := n.Link.WaitHeld(ctx, dir, 1); err != nil {
		return nil, fmt.Errorf("sim: the %v sends no %v: %w", from, flags, err)
	}
	p, ok := n.Link.HeldPacket(dir, 0)
	if !ok || p.Proto != packet.TCP || p.TCP.Flags&^packet.PSH != flags&^packet.PSH {
		return nil, fmt.Errorf("sim: the %v sends %v, not %v", from, &p, flags)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return &Flight{Packet: p, net: n, dir: dir, event: n.flying[dir][0]}, nil
}

// Deliver lets it arrive, after the clock has gone on by the latency.
func (f *Flight) Deliver() {
	f.net.Advance(f.net.latency)
	f.take(1)
}

// Double lets it arrive twice, after the clock has gone on by the latency.
func (f *Flight) Double() {
	f.net.Advance(f.net.latency)
	f.take(2)
}

// Lose lets it never arrive.
func (f *Flight) Lose() {
	f.net.mu.Lock()
	f.net.events[f.event].Lost = true
	f.net.mu.Unlock()
	f.take(0)
}

func (f *Flight) take(times int) {
	f.net.mu.Lock()
	at := 0
	for i, event := range f.net.flying[f.dir] {
		if event == f.event {
			at = i
			f.net.flying[f.dir] = append(f.net.flying[f.dir][:i:i], f.net.flying[f.dir][i+1:]...)
			break
		}
	}
	f.net.mu.Unlock()
	if times > 0 && f.net.paws != nil {
		f.net.Link.Change(f.dir, at, func(pkt []byte) { f.net.paws.check(f.dir, pkt) })
	}
	f.net.Link.Take(f.dir, at, times)
}

// Same reports whether both are the same packet of one Net.
func (f *Flight) Same(g *Flight) bool { return f.event == g.event }

// Before reports whether it was sent before another one of its Net.
func (f *Flight) Before(g *Flight) bool { return f.event < g.event }

// Bytes returns a copy of the packet, to be injected later.
func (f *Flight) Bytes() []byte {
	f.net.mu.Lock()
	defer f.net.mu.Unlock()
	return append([]byte(nil), f.net.events[f.event].Packet...)
}

// Inject sends an IP packet as if the end had sent it. Its event says so.
func (n *Net) Inject(from tcpstate.Leg, pkt []byte) error {
	n.injecting.Lock()
	defer n.injecting.Unlock()
	n.injected.Store(true)
	defer n.injected.Store(false)
	return n.device(from).Write([][]byte{pkt}, tun.Offload{})
}

func (n *Net) device(of tcpstate.Leg) tun.Device {
	if of == tcpstate.Stack {
		return n.Link.B
	}
	return n.Link.A
}

// Held returns what an end has sent that is held, the oldest first. The hosts
// have settled before.
func (n *Net) Held(from tcpstate.Leg) []*Flight {
	n.Settle()
	dir := direction(from)
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []*Flight
	for _, event := range n.flying[dir] {
		f := &Flight{net: n, dir: dir, event: event}
		f.Packet, _ = packet.Parse(n.events[event].Packet) // what a host sends can be parsed
		all = append(all, f)
	}
	return all
}

func direction(from tcpstate.Leg) tuntest.Direction {
	if from == tcpstate.Stack {
		return tuntest.BToA
	}
	return tuntest.AToB
}

// Hop is Expect and Deliver.
func (n *Net) Hop(ctx context.Context, from tcpstate.Leg, flags packet.Flags) error {
	f, err := n.Expect(ctx, from, flags)
	if err != nil {
		return err
	}
	f.Deliver()
	return nil
}

// Forget lets it never arrive, and takes it out of the events: as if the host
// had kept it back.
func (f *Flight) Forget() {
	f.take(0)
	f.net.mu.Lock()
	defer f.net.mu.Unlock()
	f.net.events[f.event].forgotten = true
}
