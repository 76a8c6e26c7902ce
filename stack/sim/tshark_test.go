package sim_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"tcpbox/integration/testnet"
	"tcpbox/stack/sim"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
	"tcpbox/tun/tuntest"
)

// The bits of tshark's field tcp.completeness.
const (
	sawSYN = 1 << iota
	sawSYNACK
	sawACK // with neither SYN nor data; that of a RST counts
	sawData
	sawFIN
	sawRST
)

// talked is one connection of the campaign.
type talked struct {
	paths    map[tcpstate.Leg][]tcpstate.Transition
	segments []string
	payload  bool
	early    []tcpstate.Leg // who sent a RST before its own end

	streams map[string]bool // of tshark, to which its segments belong
	saw     map[int]bool    // what each of them has as tcp.completeness
}

// TestCompletenessByTshark gives the segments of connections over a link
// that loses, doubles and reorders to tshark, and compares what it says of each
// conversation with the transitions of both ends. They agree when:
//
//   - the segments of a connection number are one conversation;
//   - SYN: an end came to SYN-SENT;
//   - SYN-ACK: an end came to SYN-RECEIVED;
//   - ACK: the end that asked came to ESTABLISHED or, as an RST has one too,
//     it was refused;
//   - data: a segment has a payload, and an end was ESTABLISHED;
//   - FIN: an end came to FIN-WAIT-1 or LAST-ACK, and did not end there, cut off
//     before what it still had to send was sent;
//   - RST: an end was cut off, by a call, a segment or a lack of answers, or
//     the RST answers for an end that is CLOSED already.
func TestCompletenessByTshark(t *testing.T) {
	testnet.Programs(t, "tshark")
	connections := 1500
	if testing.Short() {
		connections = 300
	}
	events := campaign(t, connections, tuntest.Impairment{Seed: 3, Loss: 2, Duplicates: 2, Reordered: 4})
	all := make(map[tcpstate.Conn]*talked)
	var frames []testnet.Frame
	var of []*talked // by frame
	numbers := numbersOf(events)
	for i, e := range events {
		if tr := e.Transition; e.Packet == nil {
			c := all[tr.Conn]
			if c == nil {
				c = newTalked()
				all[tr.Conn] = c
			}
			c.paths[tr.Leg] = append(c.paths[tr.Leg], tr)
			continue
		}
		h, err := packet.Parse(e.Packet)
		if err != nil {
			t.Fatal(err)
		}
		conn, known := numbers[ends{h.Src, h.Dst}]
		if !known {
			t.Fatalf("%v is of no connection", h)
		}
		if all[conn] == nil { // its transition comes
			all[conn] = newTalked()
		}
		c := all[conn]
		c.segment(&h, e.FromGuest)
		frames = append(frames, testnet.Frame{Time: time.Unix(0, int64(i)*1000), Data: e.Packet})
		of = append(of, c)
	}
	for i, told := range testnet.Tshark(t, frames, "tcp.completeness", "tcp.stream") {
		n, err := strconv.Atoi(told["tcp.completeness"][0])
		if err != nil {
			t.Fatal(err)
		}
		of[i].saw[n] = true
		of[i].streams[told["tcp.stream"][0]] = true
	}
	count := make(map[string]int)
	streams := make(map[string]bool)
	for conn, c := range all {
		maps.Copy(streams, c.streams)
		if why := c.disagrees(); why != "" {
			t.Errorf("connection %d: %s\n%s", conn, why, c)
		}
		for n := range c.saw {
			count[completeness(n)]++
		}
	}
	if len(all) != connections || len(streams) != connections {
		t.Errorf("%d connections, %d conversations of tshark, want %d", len(all), len(streams), connections)
	}
	for _, kind := range []string{"SYN", "SYN ACK RST", "SYN SYN-ACK ACK data FIN", "SYN SYN-ACK ACK data FIN RST"} {
		if count[kind] == 0 {
			t.Errorf("no conversation with %s", kind)
		}
	}
	t.Logf("%d segments, %d connections: %v", len(frames), len(all), count)
}

// ends are the two ends of a segment, or of a socket.
type ends struct{ a, b netip.AddrPort }

// numbersOf are the numbers of the connections, by their ends, which are different in
// each.
func numbersOf(events []sim.Event) map[ends]tcpstate.Conn {
	numbers := make(map[ends]tcpstate.Conn)
	for _, e := range events {
		if tr := e.Transition; e.Packet == nil {
			numbers[ends{tr.Local, tr.Remote}], numbers[ends{tr.Remote, tr.Local}] = tr.Conn, tr.Conn
		}
	}
	return numbers
}

func newTalked() *talked {
	return &talked{paths: make(map[tcpstate.Leg][]tcpstate.Transition), streams: make(map[string]bool), saw: make(map[int]bool)}
}

// segment notes what was sent.
func (c *talked) segment(h *packet.Packet, fromGuest bool) {
	leg, way := tcpstate.Stack, "<"
	if fromGuest {
		leg, way = tcpstate.Guest, ">"
	}
	c.payload = c.payload || h.PayloadLen() > 0
	c.segments = append(c.segments, fmt.Sprintf("%s%v+%d", way, h.TCP.Flags, h.PayloadLen()))
	path := c.paths[leg]
	if h.TCP.Flags.Has(packet.RST) && len(path) > 0 && path[len(path)-1].To != tcpstate.Closed {
		c.early = append(c.early, leg)
	}
}

func (c *talked) String() string {
	text := fmt.Sprintf("tshark: %v; %s\n", slices.Collect(maps.Keys(c.saw)), strings.Join(c.segments, " "))
	for leg, path := range c.paths {
		text += fmt.Sprintf("%v:", leg)
		for _, tr := range path {
			text += fmt.Sprintf(" %v (%v)", tr.To, tr.Cause)
		}
		text += "\n"
	}
	return text
}

func completeness(n int) string {
	var names []string
	for i, name := range []string{"SYN", "SYN-ACK", "ACK", "data", "FIN", "RST"} {
		if n&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
}

// was reports whether an end came to one of the states.
func (c *talked) was(states ...tcpstate.State) bool {
	for _, path := range c.paths {
		for _, tr := range path {
			if slices.Contains(states, tr.To) {
				return true
			}
		}
	}
	return false
}

var (
	ackCame = tcpstate.Cause{Kind: tcpstate.BySegment, Which: "ACK"}
	rstCame = tcpstate.Cause{Kind: tcpstate.BySegment, Which: "RST"}
)

// disagrees says in what tshark and the transitions differ; "" if in nothing.
func (c *talked) disagrees() string {
	if len(c.streams) != 1 || len(c.saw) != 1 {
		return fmt.Sprintf("tshark has %d conversations of it, with %d values", len(c.streams), len(c.saw))
	}
	var saw int
	for saw = range c.saw {
	}
	has := func(bit int) bool { return saw&bit == bit }
	var asked, established, refused, cut, byRST, unsent bool
	for _, path := range c.paths {
		last := path[len(path)-1]
		if last.To != tcpstate.Closed {
			return "an end of it has not ended"
		}
		opener := path[0].To == tcpstate.SynSent
		asked = asked || opener
		for _, tr := range path {
			established = established || opener && tr.To == tcpstate.Established
			byRST = byRST || tr.Cause == rstCame
		}
		switch {
		case last.From == tcpstate.TimeWait && last.Cause.Kind == tcpstate.ByTimer, last.From == tcpstate.LastAck && last.Cause == ackCame:
			continue // in peace
		case last.From == tcpstate.SynSent && last.Cause.Kind == tcpstate.BySegment:
			refused = true
		case last.From == tcpstate.FinWait1 || last.From == tcpstate.LastAck:
			unsent = true // it may be
		}
		cut = true
	}
	finned := c.was(tcpstate.FinWait1, tcpstate.LastAck)
	switch {
	case has(sawSYN) != asked:
		return "a SYN"
	case has(sawSYNACK) != c.was(tcpstate.SynReceived):
		return "a SYN-ACK"
	case established && !has(sawSYN|sawSYNACK|sawACK), has(sawACK) && !established && !has(sawRST):
		return "an ACK"
	case refused && !has(sawACK|sawRST):
		return "a refusal"
	case has(sawData) != c.payload, has(sawData) && !established:
		return "data"
	case has(sawFIN) && !finned, !has(sawFIN) && finned && !unsent:
		return "a FIN"
	case byRST && !has(sawRST), has(sawRST) && !cut && len(c.early) > 0, has(sawRST) && !cut && !established:
		return "an RST"
	}
	return ""
}

// campaign has both ends treat connections at random over a bad link.
func campaign(t *testing.T, connections int, impair tuntest.Impairment) []sim.Event {
	t.Helper()
	// A SYN that comes late, or twice, may begin another connection, of which
	// nothing else on the wire tells: it is lost or comes in time.
	damage := impair.Hook()
	hook := func(dir tuntest.Direction, f *tuntest.Frame) tuntest.Action {
		action := damage(dir, f)
		if p, err := f.Parse(); err == nil && p.TCP.Flags&synAck == packet.SYN && (action == tuntest.Hold || action == tuntest.Dup) {
			return tuntest.Pass
		}
		return action
	}
	n, err := sim.New(sim.Config{Seed: impair.Seed, Hook: hook})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var serving, opening sync.WaitGroup
	serving.Go(func() {
		for ctx.Err() == nil {
			n.Advance(20 * time.Millisecond)
			time.Sleep(time.Millisecond)
		}
	})
	for _, h := range []*sim.Host{n.Guest, n.Stack} {
		serving.Go(func() {
			for i := uint64(0); ; i++ {
				r, err := h.Request(ctx)
				if err != nil {
					return
				}
				serving.Go(func() { answer(ctx, r, rand.New(rand.NewPCG(impair.Seed, 1<<32|i))) })
			}
		})
	}
	slots := make(chan struct{}, 100)
	for i := range connections {
		slots <- struct{}{}
		opening.Go(func() {
			defer func() { <-slots }()
			rng := rand.New(rand.NewPCG(impair.Seed, uint64(i)))
			h := n.Guest
			if rng.IntN(4) == 0 {
				h = n.Stack
			}
			ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
			defer cancel()
			if c, err := h.Dial(ctx, uint16(20000+i), 80); err == nil {
				treat(c, rng)
			}
		})
	}
	opening.Wait()
	// Almost every timer runs out. Close ends the rest: an end may stay in CLOSING
	// whose ACK came before the FIN that it was behind.
	for range 60 {
		n.Link.Release(tuntest.AToB)
		n.Link.Release(tuntest.BToA)
		n.Advance(10 * time.Second)
		time.Sleep(time.Millisecond)
	}
	stop()
	serving.Wait()
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	return n.Events()
}

// answer is what becomes of a connection that somebody asks for.
func answer(ctx context.Context, r *sim.Request, rng *rand.Rand) {
	switch rng.IntN(20) {
	case 0:
		r.Reset()
		return
	case 1:
		select {
		case <-r.Context().Done():
		case <-ctx.Done():
		}
		r.Drop()
		return
	}
	if c, err := r.Accept(); err == nil {
		treat(c, rng)
	}
}

// treat writes, reads and half-closes at random, and ends with a close or a
// reset.
func treat(c *sim.Conn, rng *rand.Rand) {
	buf := make([]byte, 3000)
	for range rng.IntN(4) {
		_ = c.SetDeadline(time.Now().Add(time.Duration(1+rng.IntN(50)) * time.Millisecond))
		switch rng.IntN(3) {
		case 0:
			_, _ = c.Write(buf[:1+rng.IntN(len(buf))])
		case 1:
			_, _ = c.Read(buf[:1+rng.IntN(len(buf))])
		case 2:
			_ = c.CloseWrite()
			if rng.IntN(2) == 0 {
				_, _ = io.Copy(io.Discard, c)
			}
		}
	}
	if rng.IntN(4) == 0 {
		c.Reset()
		return
	}
	c.Close()
}
