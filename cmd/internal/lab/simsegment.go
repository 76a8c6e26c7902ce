package lab

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"tcpbox/stack/sim"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

// other is the other end.
func other(leg tcpstate.Leg) tcpstate.Leg {
	if leg == tcpstate.Guest {
		return tcpstate.Stack
	}
	return tcpstate.Guest
}

// free are the segments of an end that are under way and that no name holds.
func (p *player) free(leg tcpstate.Leg) []*sim.Flight {
	var all []*sim.Flight
next:
	for _, f := range p.net.Held(leg) {
		for _, h := range p.held {
			if h.Same(f) {
				continue next
			}
		}
		all = append(all, f)
	}
	p.look()
	return all
}

// underWay says what an end has sent that is under way.
func (p *player) underWay(leg tcpstate.Leg) string {
	all := p.free(leg)
	if len(all) == 0 {
		return fmt.Sprintf("the %v sends nothing", leg)
	}
	var texts []string
	for _, f := range all {
		texts = append(texts, p.segmentText(leg, &f.Packet))
	}
	return fmt.Sprintf("the %v sends %s", leg, strings.Join(texts, ", "))
}

// segmentText writes a segment with numbers that count from the first.
func (p *player) segmentText(leg tcpstate.Leg, h *packet.Packet) string {
	text := flagText(h.TCP.Flags) + fmt.Sprintf(" seq=%d", int32(h.TCP.Seq-p.iss[leg]))
	if h.TCP.Flags.Has(packet.ACK) {
		text += fmt.Sprintf(" ack=%d", int32(h.TCP.Ack-p.iss[other(leg)]))
	}
	return text + fmt.Sprintf(" len=%d", h.PayloadLen())
}

// sends takes the oldest segment of an end.
func (p *player) sends(ctx context.Context, s *simStep) error {
	all := p.free(s.leg)
	if len(all) == 0 || all[0].Packet.TCP.Flags&^packet.PSH != s.flags {
		return p.stop(fmt.Sprintf("the %v sends %s", s.leg, flagText(s.flags)), p.underWay(s.leg))
	}
	f := all[0]
	if want := s.what.text(flagText(s.flags)); !p.fits(s, &f.Packet) {
		p.miss(want, p.segmentText(s.leg, &f.Packet))
	}
	switch s.fate {
	case lost:
		f.Lose()
	case without:
		f.Forget()
	case twice:
		f.Double()
	case held:
		if p.held[s.name] != nil {
			return fmt.Errorf("%q is held already", s.name)
		}
		p.held[s.name] = f
		return nil
	case kept:
		p.kept[s.name] = keptSegment{s.leg, f.Bytes()}
		return p.pass(ctx, f)
	default:
		return p.pass(ctx, f)
	}
	return p.settle(ctx)
}

// pass lets a segment arrive, unless a middlebox on its way has forgotten the
// connection.
func (p *player) pass(ctx context.Context, f *sim.Flight) error {
	now, ports := p.net.Now(), [2]netip.AddrPort{f.Packet.Src, f.Packet.Dst}
	if f.Packet.Dst.Addr() == sim.GuestAddr {
		ports[0], ports[1] = ports[1], ports[0]
	}
	last, known := p.passed[ports]
	if p.forgets > 0 && !f.Packet.TCP.Flags.Has(packet.SYN) && (!known || now.Sub(last) > p.forgets) {
		delete(p.passed, ports)
		f.Lose()
		return nil
	}
	p.passed[ports] = now
	f.Deliver()
	return p.settle(ctx)
}

// text writes conditions.
func (w *simWhat) text(flags string) string {
	for _, c := range []struct {
		name string
		n    *uint32
	}{{"seq", w.seq}, {"ack", w.ack}, {"len", w.length}} {
		if c.n != nil {
			flags += fmt.Sprintf(" %s=%d", c.name, int32(*c.n))
		}
	}
	return flags
}

func (p *player) fits(s *simStep, h *packet.Packet) bool {
	is := func(want *uint32, got uint32) bool { return want == nil || *want == got }
	return is(s.what.seq, h.TCP.Seq-p.iss[s.leg]) && is(s.what.ack, h.TCP.Ack-p.iss[other(s.leg)]) &&
		is(s.what.length, uint32(h.PayloadLen()))
}

// deliver lets a segment arrive that is held, or a copy of one.
func (p *player) deliver(ctx context.Context, name string) error {
	if f := p.held[name]; f != nil {
		delete(p.held, name)
		return p.pass(ctx, f)
	}
	k, ok := p.kept[name]
	if !ok {
		return p.stop("a segment called "+name+" is held, or kept", "there is none")
	}
	return p.inject(ctx, k.from, k.pkt)
}

// inject lets a segment arrive that the end has not sent now.
func (p *player) inject(ctx context.Context, from tcpstate.Leg, pkt []byte) error {
	before := len(p.net.Held(from))
	if err := p.net.Inject(from, pkt); err != nil {
		return err
	}
	p.net.Held(from)[before].Deliver()
	return p.settle(ctx)
}

// forge lets a segment arrive that an attacker made, or an older connection.
func (p *player) forge(ctx context.Context, s *simStep) error {
	p.look()
	src := netip.AddrPortFrom(sim.GuestAddr, p.ports[0])
	dst := netip.AddrPortFrom(sim.StackAddr, p.ports[1])
	if s.leg == tcpstate.Stack {
		src, dst = dst, src
	}
	if s.what.from != nil {
		src = netip.AddrPortFrom(src.Addr(), uint16(*s.what.from))
	}
	b := packet.Build{Src: src, Dst: dst, Flags: s.flags, Window: 65535}
	if s.what.seq != nil {
		b.Seq = p.iss[s.leg] + *s.what.seq
	}
	if s.what.ack != nil {
		b.Ack = p.iss[other(s.leg)] + *s.what.ack
	}
	if s.what.length != nil {
		b.Payload = []byte(strings.Repeat("f", int(*s.what.length)))
	}
	if s.what.ts != nil {
		option := binary.BigEndian.AppendUint32([]byte{packet.OptionNop, packet.OptionNop, packet.OptionTimestamps, 10}, p.stamp[s.leg]+*s.what.ts)
		b.Options = append(option, 0, 0, 0, 0)
	}
	return p.inject(ctx, s.leg, b.Bytes())
}

// oldest is the segment that was sent first of all that are under way.
func (p *player) oldest() *sim.Flight {
	var first *sim.Flight
	for leg := range p.ends {
		if all := p.free(leg); len(all) > 0 && (first == nil || all[0].Before(first)) {
			first = all[0]
		}
	}
	return first
}

// maxFlow bounds the segments of "all arrives": two hosts that answer each other
// for ever.
const maxFlow = 10000

func (p *player) all(ctx context.Context) error {
	for range maxFlow {
		f := p.oldest()
		if f == nil {
			break
		}
		if err := p.pass(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

// wait lets the clock go on, in steps short enough for those who look once a
// second.
func (p *player) wait(ctx context.Context, s *simStep) error {
	until := p.net.Now().Add(s.wait)
	if s.until {
		until = time.Unix(0, 0).Add(s.wait) // the hosts' clock begins there
	}
	step := time.Second
	switch {
	case s.with == "flowing" && s.wait <= time.Minute:
		step = 100 * time.Millisecond // what is sent is not late by much
	case s.wait > 10*time.Minute:
		step = 5 * time.Second
	}
	for {
		switch s.with {
		case "losing":
			for f := p.oldest(); f != nil; f = p.oldest() {
				f.Lose()
			}
		case "flowing":
			if err := p.all(ctx); err != nil {
				return err
			}
		}
		left := until.Sub(p.net.Now())
		if left <= 0 {
			return nil
		}
		p.net.Advance(min(left, step))
		if err := p.settle(ctx); err != nil {
			return err
		}
	}
}

// figures counts what has happened: segments of each end by their flags,
// "guest.SYN+ACK"; "guest.segments" and "guest.lost"; "guest.payload", bytes
// sent, and "guest.read", bytes that its program has read; how often it entered
// each state, "guest.TIME-WAIT", how long it stayed there, "guest.TIME-WAIT.ms",
// how often it went from one to the other, "guest.LAST-ACK>CLOSED", and how many
// of the eleven it entered, "guest.states"; and how many bytes of options its
// headers had, "guest.options.most" and "guest.options.least". What was forged does
// not count.
func (p *player) figures() Figures {
	const leastTCPHeader = 20 // bytes: RFC 9293, section 3.1
	f := Figures{}
	for _, e := range p.net.Events() {
		if e.Packet == nil {
			tr := e.Transition
			entered := fmt.Sprintf("%v.%v", tr.Leg, tr.To)
			if f[entered]++; f[entered] == 1 {
				f[tr.Leg.String()+".states"]++
			}
			f[fmt.Sprintf("%v.%v>%v", tr.Leg, tr.From, tr.To)]++
			f[fmt.Sprintf("%v.%v.ms", tr.Leg, tr.From)] += int(tr.Age.Milliseconds())
			continue
		}
		h, err := packet.Parse(e.Packet)
		if err != nil || e.Injected {
			continue
		}
		leg := tcpstate.Stack.String()
		if e.FromGuest {
			leg = tcpstate.Guest.String()
		}
		f[leg+"."+flagText(h.TCP.Flags)]++
		f[leg+".segments"]++
		f[leg+".payload"] += h.PayloadLen()
		options := h.TransportLen - leastTCPHeader
		f[leg+".options.most"] = max(f[leg+".options.most"], options)
		if least, ok := f[leg+".options.least"]; !ok || options < least {
			f[leg+".options.least"] = options
		}
		if e.Lost {
			f[leg+".lost"]++
		}
	}
	for leg, end := range p.ends {
		f[leg.String()+".read"] = end.bytes
	}
	return f
}
