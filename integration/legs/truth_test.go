package legs

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

// A life is one connection as a socket of the guest's has gone through it, or
// one listener: the states after CLOSED, in order.
type life struct {
	ends
	states []tcpstate.State
	times  []time.Time

	// killed: what the kernel kept of it without a socket was over before the last
	// ss, and no segment passed the interface that tells: the log notices by a look,
	// before the end or not. Its CLOSED is left out on both sides.
	killed bool

	log *logged // what the log has of it; nil: nothing
}

func (l *life) String() string { return fmt.Sprintf("%v %v", l.ends, l.states) }

// guestEnds are the ends of a segment as the guest's socket has them.
func guestEnds(s *statelog.Segment) ends {
	if s.Sender == tcpstate.Guest {
		return ends{s.Src, s.Dst}
	}
	return ends{s.Dst, s.Src}
}

// left is what campaign.py prints.
type left struct {
	Seen, Left [][3]string // state, local, remote of ss
	Ended      int64       // when that was all, in nanoseconds
	Counters   []map[string]int
}

func rowOf(t testing.TB, text [3]string) row {
	t.Helper()
	state, err := tcpstate.Parse(text[0])
	must(t, err)
	local, err1 := netip.ParseAddrPort(text[1])
	remote, err2 := netip.ParseAddrPort(text[2])
	must(t, errors.Join(err1, err2))
	return row{ends{local, remote}, state}
}

// truth is what the campaign was without tcpbox's word for it.
type truth struct {
	lives  []*life
	byEnds map[ends][]*life
}

// guestNets are where a guest's own addresses are from.
var guestNets = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/32"), netip.MustParsePrefix("127.0.0.1/32"),
	netip.MustParsePrefix("198.18.0.2/32"), netip.MustParsePrefix("fd74:6370:626f:78::2/128"),
}

// findTruth makes lives out of the kernel's trace of the guest's sockets.
// The trace tells what a socket went through. What the kernel keeps without one,
// TIME-WAIT and FIN-WAIT-2 after close, follows from the FINs, and is what the
// last ss found.
func findTruth(t testing.TB, events []event, log []*logged, out *left) *truth {
	t.Helper()
	tr := &truth{byEnds: make(map[ends][]*life)}
	open := make(map[ends]*life)
	for _, ev := range events {
		k := ev.ends
		if !slices.ContainsFunc(guestNets, func(p netip.Prefix) bool { return p.Contains(k.local.Addr()) }) {
			continue // somebody else's, whose port is one of these
		}
		if ev.to == tcpstate.Listen || ev.from == tcpstate.Listen {
			k.remote = netip.AddrPort{}
		}
		switch {
		case ev.to == tcpstate.SynSent || ev.to == tcpstate.SynReceived:
			continue // with no port yet; the next event says that it was there
		case ev.from == tcpstate.SynSent || ev.from == tcpstate.SynReceived:
			open[k] = tr.begin(k)
			open[k].add(ev.from, time.Time{})
		case ev.to == tcpstate.Listen:
			open[k] = tr.begin(k)
		}
		l := open[k]
		if l == nil {
			t.Fatalf("the trace has no beginning of %v: %v to %v", k, ev.from, ev.to)
		}
		l.add(ev.to, ev.at)
		if ev.to == tcpstate.Closed {
			delete(open, k)
		}
	}
	for k := range open {
		t.Errorf("the trace has no end of %v", open[k])
	}
	tr.complete(t, log, out)
	return tr
}

func (tr *truth) begin(k ends) *life {
	l := &life{ends: k}
	tr.lives = append(tr.lives, l)
	tr.byEnds[k] = append(tr.byEnds[k], l)
	return l
}

func (l *life) add(s tcpstate.State, at time.Time) {
	l.states, l.times = append(l.states, s), append(l.times, at)
}

func (l *life) last() tcpstate.State { return l.states[len(l.states)-1] }

// complete adds what the kernel keeps without a socket.
func (tr *truth) complete(t testing.TB, log []*logged, out *left) {
	t.Helper()
	segments := make(map[ends][]statelog.Segment)
	for _, l := range log {
		for _, s := range l.segments {
			segments[guestEnds(&s)] = append(segments[guestEnds(&s)], s)
		}
	}
	kept, seen := make(map[row]bool), make(map[row]bool)
	for _, text := range out.Left {
		kept[rowOf(t, text)] = true
	}
	for _, text := range out.Seen {
		seen[rowOf(t, text)] = true
	}
	for k, all := range segments {
		tr.addHandshakes(t, k, connections(all))
	}
	for k, lives := range tr.byEnds {
		runs := connections(segments[k])
		for i, l := range lives {
			n := len(l.states)
			if l.last() != tcpstate.Closed || n < 2 || l.states[n-2] != tcpstate.FinWait2 && l.states[n-2] != tcpstate.Closing {
				continue
			}
			came, reset := false, false
			switch other := tr.byEnds[ends{k.remote, k.local}]; {
			case k.remote.Addr().IsLoopback() && k.local.Addr().IsLoopback() && i < len(other):
				came = slices.Contains(other[i].states, tcpstate.LastAck) || slices.Contains(other[i].states, tcpstate.FinWait1)
			case i < len(runs):
				came, reset = finCame(t, runs[i])
			}
			again := i+1 < len(lives)
			within := k.remote.Addr().IsLoopback()
			came = came || !again && kept[row{k, tcpstate.TimeWait}]
			switch {
			case came:
				l.states[n-1] = tcpstate.TimeWait
				if again || reset && !kept[row{k, tcpstate.TimeWait}] {
					l.add(tcpstate.Closed, time.Time{})
				} else if !kept[row{k, tcpstate.TimeWait}] && within {
					l.killed = true
				} else if !kept[row{k, tcpstate.TimeWait}] {
					t.Errorf("%v is in TIME-WAIT, and the last ss has none", l)
				}
			case kept[row{k, tcpstate.FinWait2}] && !again:
				l.states, l.times = l.states[:n-1], l.times[:n-1]
			case within && !again: // reset with a socket or without
				l.killed, l.states, l.times = true, l.states[:n-1], l.times[:n-1]
			}
			if !again {
				delete(kept, row{k, l.last()})
			}
		}
	}
	for r := range kept {
		t.Errorf("the last ss has %v in %v, and no trace or segment led there", r.ends, r.state)
	}
	for r := range seen {
		if !slices.ContainsFunc(tr.byEnds[r.ends], func(l *life) bool { return slices.Contains(l.states, r.state) }) {
			t.Errorf("ss had %v in %v, and no trace or segment led there", r.ends, r.state)
		}
	}
}

// addHandshakes adds those that never had a socket: the guest has answered a SYN,
// and was reset before the handshake was complete.
func (tr *truth) addHandshakes(t testing.TB, k ends, runs [][]statelog.Segment) {
	t.Helper()
	for i, run := range runs {
		answered := slices.IndexFunc(run, func(s statelog.Segment) bool {
			h, err := s.TCP()
			must(t, err)
			return s.Sender == tcpstate.Guest && h.Flags&(packet.SYN|packet.ACK) == packet.SYN|packet.ACK
		})
		if answered < 0 || run[0].Sender != tcpstate.Stack {
			continue
		}
		if i < len(tr.byEnds[k]) {
			l := tr.byEnds[k][i]
			if i+1 == len(runs) || l.times[1].Before(runs[i+1][0].Time) {
				continue
			}
		}
		l := &life{ends: k}
		l.add(tcpstate.SynReceived, run[answered].Time)
		l.add(tcpstate.Closed, run[len(run)-1].Time)
		tr.lives = append(tr.lives, l)
		tr.byEnds[k] = slices.Insert(tr.byEnds[k], i, l)
	}
}

// connections parts the segments of two ends by the SYNs that open connections.
func connections(all []statelog.Segment) (runs [][]statelog.Segment) {
	slices.SortStableFunc(all, func(a, b statelog.Segment) int { return a.Time.Compare(b.Time) })
	var seq uint32
	for _, s := range all {
		h, err := s.TCP()
		if err == nil && h.Flags&(packet.SYN|packet.ACK) == packet.SYN && (len(runs) == 0 || h.Seq != seq) {
			runs, seq = append(runs, nil), h.Seq
		}
		if len(runs) > 0 {
			runs[len(runs)-1] = append(runs[len(runs)-1], s)
		}
	}
	return runs
}

// finCame reports whether the guest took in a FIN, which its ACK tells, before
// anybody reset the connection, and whether somebody has reset it after that.
func finCame(t testing.TB, run []statelog.Segment) (came, reset bool) {
	t.Helper()
	var sent bool
	var end uint32 // the number behind the FIN
	for _, s := range run {
		h, err := s.TCP()
		must(t, err)
		switch {
		case h.Flags&packet.RST != 0 && !came:
			return false, true
		case h.Flags&packet.RST != 0:
			reset = true
		case h.Flags&packet.FIN != 0 && s.Sender == tcpstate.Stack:
			sent, end = true, h.Seq+uint32(s.Payload)+1
		case sent && s.Sender == tcpstate.Guest && int32(h.Ack-end) >= 0:
			came = true
		}
	}
	return came, reset
}

// join gives each life what the log has of it: of those between the same ends,
// one after the other.
func (tr *truth) join(log []*logged) (beyond []*logged) {
	next := make(map[ends]int)
	for _, l := range log {
		if len(l.records) == 0 {
			continue
		}
		i := next[l.ends]
		next[l.ends]++
		if lives := tr.byEnds[l.ends]; i < len(lives) {
			lives[i].log = l
		} else {
			beyond = append(beyond, l)
		}
	}
	return beyond
}

// inBoth is how many states two sequences have in common, in their order.
func inBoth(a, b []tcpstate.State) int {
	row := make([]int, len(b)+1)
	for _, x := range a {
		diagonal := 0
		for j, y := range b {
			above := row[j+1]
			if x == y {
				row[j+1] = diagonal + 1
			} else {
				row[j+1] = max(above, row[j])
			}
			diagonal = above
		}
	}
	return row[len(b)]
}

// shares counts the states of lives.
type shares struct {
	name                                 string
	lives, states, found, wrong, unknown int
	lacking, killed                      int // of the lives
	examples                             []string
}

func (s *shares) String() string {
	if s.states == 0 {
		return s.name + ": none"
	}
	return fmt.Sprintf("%s: %d lives (%d not whole in the log), %d states: %d (%.2f %%) in the log, %d wrong ones there, %d unknown", s.name, s.lives, s.lacking, s.states, s.found, 100*float64(s.found)/float64(s.states), s.wrong, s.unknown)
}

func (s *shares) add(l *life) {
	s.lives++
	if l.killed {
		s.killed++
	}
	s.states += len(l.states)
	var states []tcpstate.State
	if l.log != nil {
		states = l.log.states()
		if n := len(states); l.killed && n > 0 && states[n-1] == tcpstate.Closed {
			states = states[:n-1]
		}
		for _, r := range l.log.records {
			if r.To == tcpstate.Unknown {
				s.unknown++
			}
		}
	}
	both := inBoth(l.states, states)
	s.found += both
	s.wrong += len(states) - both
	if both == max(len(states), len(l.states)) {
		return
	}
	if s.lacking++; len(s.examples) < 10 {
		s.examples = append(s.examples, fmt.Sprintf("%v, the log has %v", l, states))
	}
}
