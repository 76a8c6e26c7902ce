package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"tcpbox/stack/sim"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

// player does the steps of a simulated row.
type player struct {
	net    *sim.Net
	ends   map[tcpstate.Leg]*simEnd
	held   map[string]*sim.Flight
	kept   map[string]keptSegment
	seen   int // events that look has seen
	iss    map[tcpstate.Leg]uint32
	stamp  map[tcpstate.Leg]uint32 // the last timestamp that it has sent
	ports  [2]uint16               // of guest and stack, of the newest connection
	misses []Miss
	line   int

	forgets time.Duration                   // of a middlebox; 0: there is none
	passed  map[[2]netip.AddrPort]time.Time // when it saw the last segment, by guest's and stack's end
}

// keptSegment is a copy of a segment.
type keptSegment struct {
	from tcpstate.Leg
	pkt  []byte
}

// simEnd is one of the two programs.
type simEnd struct {
	leg   tcpstate.Leg
	host  *sim.Host
	call  *simCall // its newest connect, or accept
	bytes int      // that it has read
	ended []func() // of what listens
}

// simCall is a call that waits for segments.
type simCall struct {
	done chan struct{} // closed when it has returned
	conn *sim.Conn
	err  error
}

func (c *simCall) returned() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

func newPlayer(n *sim.Net) *player {
	p := &player{
		net: n, held: make(map[string]*sim.Flight), kept: make(map[string]keptSegment),
		iss: make(map[tcpstate.Leg]uint32), stamp: make(map[tcpstate.Leg]uint32), passed: make(map[[2]netip.AddrPort]time.Time),
	}
	p.ends = map[tcpstate.Leg]*simEnd{
		tcpstate.Guest: {leg: tcpstate.Guest, host: n.Guest}, tcpstate.Stack: {leg: tcpstate.Stack, host: n.Stack},
	}
	return p
}

// close ends the hosts, and with them the calls that still wait.
func (p *player) close() error {
	err := p.net.Close()
	for _, end := range p.ends {
		if end.call != nil {
			<-end.call.done
		}
	}
	return err
}

// errStop says that a script cannot go on: the story has taken another way.
var errStop = errors.New("the script cannot go on")

// play does a script and returns how many of its checks hold, and which do not.
// If the story takes a way on which the script cannot go on, it ends, and the
// checks that are left do not hold. The error says that a simulation is at fault, not
// what is simulated.
func (p *player) play(ctx context.Context, script []SimStep) (holds int, misses []Miss, err error) {
	p.misses = nil
	for i, text := range script {
		p.line = i + 1
		st, err := text.parse()
		if err != nil {
			return holds, p.misses, fmt.Errorf("line %d: %w", p.line, err)
		}
		before := len(p.misses)
		err = p.do(ctx, &st)
		if err != nil && !errors.Is(err, errStop) {
			return holds, p.misses, fmt.Errorf("line %d, %q: %w", p.line, text, err)
		}
		if st.checks() && len(p.misses) == before {
			holds++
		}
		if err != nil {
			break
		}
	}
	return holds, p.misses, nil
}

// miss notes that a check does not hold.
func (p *player) miss(expected, measured string) {
	p.misses = append(p.misses, Miss{Line: p.line, Expected: expected, Measured: measured})
}

// stop is miss, and the script cannot go on.
func (p *player) stop(expected, measured string) error {
	p.miss(expected, measured)
	return errStop
}

// check compares.
func (p *player) check(expected, measured string) {
	if expected != measured {
		p.miss(expected, measured)
	}
}

// checks reports whether a step is a check: whether something that a host does
// decides if it holds.
func (s *simStep) checks() bool {
	switch s.kind {
	case simConnectGives, simAccept, simRefuse, simIgnore, simNotAsked, simRead, simSilent, simIs, simWent, simSends, simWrite:
		return true
	}
	return false
}

func (p *player) do(ctx context.Context, s *simStep) error {
	end := p.ends[s.leg]
	switch s.kind {
	case simListen:
		end.ended = append(end.ended, end.host.Listen(s.from))
	case simUnlisten:
		for _, ended := range end.ended {
			ended()
		}
		end.ended = nil
	case simConnect:
		return p.begin(ctx, end, func() (*sim.Conn, error) {
			// It may wait for longer than this step; closing the hosts ends it.
			return end.host.Dial(context.WithoutCancel(ctx), s.from, s.to)
		})
	case simConnectGives:
		return p.connectGives(ctx, end, s.result)
	case simAccept, simRefuse, simIgnore:
		return p.answer(ctx, end, s.kind)
	case simNotAsked:
		p.check("0 connections are asked for", fmt.Sprintf("%d connections are asked for", end.host.Asked()))
	case simWrite:
		return p.write(ctx, end, s)
	case simRead:
		return p.read(ctx, end, s)
	case simShutdown, simClose, simReset:
		return p.end(ctx, end, s.kind)
	case simSet:
		return end.host.Set(s.setting)
	case simSends:
		return p.sends(ctx, s)
	case simSilent:
		p.check("the "+s.leg.String()+" sends nothing", p.underWay(s.leg))
	case simIs:
		p.check(s.states[0].String(), p.state(s.leg).String())
	case simWent:
		p.check(statesText(s.states), statesText(p.path(s.leg)))
	case simForge:
		return p.forge(ctx, s)
	case simDeliver:
		return p.deliver(ctx, s.name)
	case simAll:
		return p.all(ctx)
	case simWait:
		return p.wait(ctx, s)
	}
	return nil
}

// state is that of an end's newest connection.
func (p *player) state(leg tcpstate.Leg) tcpstate.State {
	var newest tcpstate.Conn
	st := tcpstate.Closed
	for _, e := range p.net.Events() {
		tr := e.Transition
		if e.Packet == nil && tr.Leg == leg && tr.Remote.IsValid() && tr.Conn >= newest {
			newest, st = tr.Conn, tr.To
		}
	}
	return st
}

// path is all that an end has entered.
func (p *player) path(leg tcpstate.Leg) (all []tcpstate.State) {
	for _, e := range p.net.Events() {
		if e.Packet == nil && e.Transition.Leg == leg {
			all = append(all, e.Transition.To)
		}
	}
	return all
}

func statesText(all []tcpstate.State) string {
	names := make([]string, len(all))
	for i, st := range all {
		names[i] = st.String()
	}
	return strings.Join(names, " ")
}

// look notes the first sequence numbers, and the ports, of what was sent last.
func (p *player) look() {
	events, next := p.net.EventsSince(p.seen)
	p.seen = next
	for _, e := range events {
		if e.Packet == nil || e.Injected {
			continue
		}
		h, err := packet.Parse(e.Packet)
		if err != nil {
			continue
		}
		leg, ports := tcpstate.Stack, [2]uint16{h.Dst.Port(), h.Src.Port()}
		if e.FromGuest {
			leg, ports = tcpstate.Guest, [2]uint16{h.Src.Port(), h.Dst.Port()}
		}
		if ts, ok := sim.Timestamp(e.Packet, &h); ok {
			p.stamp[leg] = ts
		}
		if h.TCP.Flags.Has(packet.SYN) {
			p.iss[leg], p.ports = h.TCP.Seq, ports
		}
	}
}
