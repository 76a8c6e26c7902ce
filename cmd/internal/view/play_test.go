package view

import (
	"context"
	"io"
	"testing"
	"time"

	"tcpbox/stack/legs"
	"tcpbox/stack/sim"
	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
	"tcpbox/tun/tuntest"
)

const (
	guest = tcpstate.Guest
	stack = tcpstate.Stack

	syn    = packet.SYN
	synAck = packet.SYN | packet.ACK
	ack    = packet.ACK
	finAck = packet.FIN | packet.ACK
	rstAck = packet.RST | packet.ACK
)

// patience bounds a play that does not go as told.
const patience = 5 * time.Second

// play is a connection between two simulated hosts that a test tells segment by
// segment. What goes otherwise fails the test.
type play struct {
	t             *testing.T
	n             *sim.Net
	ctx           context.Context
	client, serve *sim.Conn // of the guest, and of the stack
}

func newPlay(t *testing.T) *play {
	t.Helper()
	n, err := sim.New(sim.Config{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	p := &play{t: t, n: n, ctx: ctx}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("so far:\n%s", Ladder{}.Text(nil, p.ladder()))
		}
		cancel()
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p *play) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *play) host(leg tcpstate.Leg) *sim.Host {
	if leg == guest {
		return p.n.Guest
	}
	return p.n.Stack
}

// dial has an end ask for a connection; what it gets comes by the channel.
func (p *play) dial(leg tcpstate.Leg) <-chan *sim.Conn {
	from, to := uint16(40001), uint16(80)
	if leg == stack {
		from, to = to, from
	}
	got := make(chan *sim.Conn, 1)
	go func() {
		c, _ := p.host(leg).Dial(p.ctx, from, to)
		got <- c
	}()
	return got
}

// accept has an end agree to the connection that it is asked for.
func (p *play) accept(leg tcpstate.Leg) <-chan *sim.Conn {
	p.t.Helper()
	r, err := p.host(leg).Request(p.ctx)
	p.must(err)
	got := make(chan *sim.Conn, 1)
	go func() {
		c, _ := r.Accept()
		got <- c
	}()
	return got
}

// hop delivers the next segment of an end, which has these flags.
func (p *play) hop(leg tcpstate.Leg, flags packet.Flags) {
	p.t.Helper()
	p.must(p.n.Hop(p.ctx, leg, flags))
}

func (p *play) hold(leg tcpstate.Leg, flags packet.Flags) *sim.Flight {
	p.t.Helper()
	f, err := p.n.Expect(p.ctx, leg, flags)
	p.must(err)
	return f
}

func (p *play) lose(leg tcpstate.Leg, flags packet.Flags) {
	p.t.Helper()
	p.hold(leg, flags).Lose()
}

func (p *play) state(leg tcpstate.Leg, s tcpstate.State) {
	p.t.Helper()
	p.must(p.n.WaitState(p.ctx, leg, s))
}

// open opens the connection, asked for by the guest.
func (p *play) open() {
	p.t.Helper()
	dialled := p.dial(guest)
	p.hop(guest, syn)
	accepted := p.accept(stack)
	p.hop(stack, synAck)
	p.state(guest, tcpstate.Established)
	p.hop(guest, ack)
	p.client, p.serve = <-dialled, <-accepted
	if p.client == nil || p.serve == nil {
		p.t.Fatal("the connection did not come about")
	}
}

// inject sends a segment of no host.
func (p *play) inject(b packet.Build) {
	p.t.Helper()
	p.must(p.n.Inject(stack, b.Bytes()))
}

// ladder is what has happened so far.
func (p *play) ladder() *legs.Ladder {
	p.t.Helper()
	all := legs.NewLadders(1)
	for _, e := range p.n.Events() {
		if e.Packet == nil {
			all.Record(new((&statelog.Item{Transition: e.Transition}).Record("sim")))
			continue
		}
		all.Segment(new(segmentOf(p.t, e)))
	}
	lad, err := all.Ladder()
	p.must(err)
	return lad
}

func segmentOf(t *testing.T, e sim.Event) statelog.Segment {
	t.Helper()
	h, err := packet.Parse(e.Packet)
	if err != nil {
		t.Fatal(err)
	}
	s := statelog.Segment{
		Time: e.Time, Sandbox: "sim", Conn: 1, Sender: stack, Src: h.Src, Dst: h.Dst,
		Header: e.Packet[h.IPLen:h.HeaderLen()], Payload: h.PayloadLen(), Lost: e.Lost,
	}
	if e.FromGuest {
		s.Sender = guest
	}
	return s
}

// read reads n bytes.
func (p *play) read(c *sim.Conn, n int) {
	p.t.Helper()
	p.must(c.SetReadDeadline(time.Now().Add(patience)))
	_, err := io.ReadFull(c, make([]byte, n))
	p.must(err)
}

// drop takes a segment out of the story: it is as if it had never been sent.
func (p *play) drop(leg tcpstate.Leg, flags packet.Flags) {
	p.t.Helper()
	p.hold(leg, flags).Forget()
}

// sent waits until so many segments of an end are held.
func (p *play) sent(leg tcpstate.Leg, n int) {
	p.t.Helper()
	dir := tuntest.AToB
	if leg == stack {
		dir = tuntest.BToA
	}
	p.must(p.n.Link.WaitHeld(p.ctx, dir, n))
}
