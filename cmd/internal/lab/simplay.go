package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

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

// begin makes a call that waits for segments, and returns when it waits: when it
// has sent something, or has returned.
func (p *player) begin(ctx context.Context, end *simEnd, call func() (*sim.Conn, error)) error {
	before := len(p.net.Held(end.leg))
	c := &simCall{done: make(chan struct{})}
	end.call = c
	go func() {
		defer close(c.done)
		c.conn, c.err = call()
	}()
	for len(p.net.Held(end.leg)) == before && !c.returned() {
		if err := pause(ctx); err != nil {
			return err
		}
	}
	return nil
}

// pause lets other goroutines go on for a moment.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(50 * time.Microsecond):
		return nil
	}
}

// settle returns when the hosts have settled and the calls have returned that are
// going to without another segment: a program is never late.
func (p *player) settle(ctx context.Context) error {
	p.net.Settle()
	for leg, end := range p.ends {
		if end.call == nil || end.call.returned() {
			continue
		}
		if st := p.state(leg); st == tcpstate.SynSent || st == tcpstate.SynReceived {
			continue
		}
		select {
		case <-end.call.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	p.net.Settle()
	return nil
}

func (p *player) connectGives(ctx context.Context, end *simEnd, expected string) error {
	if end.call == nil {
		return fmt.Errorf("nobody on the %v has called connect", end.leg)
	}
	if err := p.settle(ctx); err != nil {
		return err
	}
	measured := "nothing"
	if end.call.returned() {
		measured = resultOf(end.call.err)
	}
	p.check("connect gives "+expected, "connect gives "+measured)
	return nil
}

// resultOf is what a call came to, in one word.
func resultOf(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, io.EOF):
		return "EOF"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "nothing"
	case errors.As(err, &errno) && unix.ErrnoName(errno) != "":
		return unix.ErrnoName(errno)
	}
	return strconv.Quote(err.Error())
}

// request returns the connection that the other end asks for.
func (p *player) request(ctx context.Context, end *simEnd) (*sim.Request, error) {
	for {
		if end.host.Asked() == 0 {
			return nil, p.stop(fmt.Sprintf("somebody asks the %v for a connection", end.leg), "nobody does")
		}
		// One that has been given up just now never comes.
		moment, cancel := context.WithTimeout(ctx, requestTime)
		r, err := end.host.Request(moment)
		cancel()
		if err == nil || ctx.Err() != nil {
			return r, err
		}
	}
}

// requestTime is after how long, in real time, it is asked again whether there is
// a request.
const requestTime = 100 * time.Millisecond

// answer ends the request of the other end.
func (p *player) answer(ctx context.Context, end *simEnd, kind simKind) error {
	r, err := p.request(ctx, end)
	if err != nil {
		return err
	}
	switch kind {
	case simRefuse:
		r.Reset()
	case simIgnore:
		r.Drop()
	default:
		return p.begin(ctx, end, r.Accept)
	}
	return p.settle(ctx)
}

// conn returns an end's connection.
func (p *player) conn(ctx context.Context, end *simEnd) (*sim.Conn, error) {
	if err := p.settle(ctx); err != nil {
		return nil, err
	}
	switch {
	case end.call == nil || !end.call.returned():
		return nil, p.stop(fmt.Sprintf("the %v has a connection", end.leg), "it is in "+p.state(end.leg).String())
	case end.call.conn == nil:
		return nil, p.stop(fmt.Sprintf("the %v has a connection", end.leg), "its call gave "+resultOf(end.call.err))
	}
	return end.call.conn, nil
}

// write writes; the script says ok by saying nothing.
func (p *player) write(ctx context.Context, end *simEnd, s *simStep) error {
	c, err := p.conn(ctx, end)
	if err != nil {
		return err
	}
	data := []byte(s.text)
	if s.text == "" {
		data = make([]byte, s.n)
		for i := range data {
			data[i] = 'a' + byte(i%26)
		}
	}
	// What does not fit into the buffer would wait for the other end.
	if err := c.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return err
	}
	n, err := c.Write(data)
	want := s.result
	if want == "" {
		want = "ok"
	}
	if got := resultOf(err); got != want {
		p.miss("write gives "+want, fmt.Sprintf("%s after %d bytes", got, n))
	}
	return p.settle(ctx)
}

// writeTime bounds a write that finds no room, in real time.
const writeTime = 2 * time.Second

// read reads all that there is, and what comes behind it if that is asked.
func (p *player) read(ctx context.Context, end *simEnd, s *simStep) error {
	c, err := p.conn(ctx, end)
	if err != nil {
		return err
	}
	p.net.Settle()
	var got []byte
	buf := make([]byte, 1<<16)
	for {
		c.Interrupt() // where there is nothing it does not wait
		n, err := c.Read(buf)
		got = append(got, buf[:n]...)
		end.bytes += n
		if n > 0 && (s.result == "" && len(got) < len(s.text)) {
			continue
		}
		switch {
		case s.text != "" && len(got) > 0:
			p.check("it reads "+strconv.Quote(s.text), "it reads "+strconv.Quote(string(got)))
		case s.result == "ok" && n > 0:
			continue
		case s.result == "ok" && len(got) > 0:
		default:
			want := s.result
			if s.text != "" {
				want = strconv.Quote(s.text)
			}
			measured := resultOf(err)
			if len(got) > 0 {
				measured = strconv.Quote(string(got))
			}
			p.check("read gives "+want, "read gives "+measured)
		}
		return p.settle(ctx) // the window may have opened
	}
}

func (p *player) end(ctx context.Context, end *simEnd, kind simKind) error {
	c, err := p.conn(ctx, end)
	if err != nil {
		return err
	}
	switch kind {
	case simShutdown:
		err = c.CloseWrite()
	case simReset:
		err = c.Reset()
	default:
		err = c.Close()
	}
	if err != nil {
		p.miss("the call succeeds", resultOf(err))
	}
	return p.settle(ctx)
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
