package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"tcpbox/stack/tcpstate"
)

// Fault is one rule of what goes wrong between guest and stack: what is done to
// which packets. ParseFault makes one; package fault carries it out. Faults that
// mean the same are equal by ==. The zero Fault does nothing.
//
// A packet is meant if it has all that the fields name; a field that is zero
// names nothing.
type Fault struct {
	Do FaultAction

	// Percent of the packets that are meant are chosen, by chance. Zero means
	// all of them.
	Percent float64

	// Pick chooses from those by their number N, from 1.
	Pick FaultPick
	N    uint64

	// Delay is how long a packet takes longer (delay, hold), and Jitter by how
	// much more or less, evenly spread. InOrder lets no packet of the rule past
	// another one. Duplicates of dup come Delay later.
	Delay, Jitter time.Duration
	InOrder       bool

	Rate  int64         // of rate: bits per second, IP headers included
	Queue time.Duration // of rate: what would wait longer is dropped; zero: DefaultFaultQueue
	MTU   int           // of mtu: the largest packet that passes, in bytes
	By    int           // of reorder: how many packets pass first; zero: one

	// Toward is, of rst, the leg that is reset: Guest or Stack. Zero: both.
	Toward tcpstate.Leg

	How FaultFailure // of fail
	Fit bool         // of replay: the old segment is given numbers that fit

	Kind      SegmentKind
	Direction tcpstate.Direction // Outbound is from the guest

	// Src and Dst are the ends of the connection: who opened it, and to where.
	Src, Dst FaultEnd

	Option TCPOption

	// The states of the guest's end, of the stack's, and of either.
	Guest, Stack, Either tcpstate.Set

	Age  FaultSpan // since the connection's first segment
	Idle FaultSpan // since the connection's last packet that passed
}

// DefaultFaultQueue is Fault.Queue's default.
const DefaultFaultQueue = time.Second

// FaultAction is what a Fault does to a packet.
type FaultAction uint8

// The actions.
const (
	FaultLoss      FaultAction = iota + 1 // it never arrives, by chance
	FaultDelay                            // it arrives later
	FaultRate                             // it waits its turn on a slow line
	FaultDup                              // it arrives twice
	FaultReorder                          // it arrives behind later ones
	FaultCorrupt                          // a bit of it is turned
	FaultMTU                              // it never arrives if it is too large, and nobody is told
	FaultDrop                             // it never arrives
	FaultHold                             // it is kept back while others pass
	FaultRST                              // it never arrives, and its connection is reset
	FaultBlackhole                        // neither it arrives nor what follows of its connection
	FaultFail                             // a connection that is asked for fails
	FaultReplay                           // a copy of it arrives in a later connection of the same ends
	numFaultActions
)

var faultActions = [numFaultActions]string{
	"", "loss", "delay", "rate", "dup", "reorder", "corrupt", "mtu", "drop", "hold", "rst", "blackhole", "fail", "replay",
}

// FaultActions returns the words that a rule may begin with.
func FaultActions() []string { return slices.Clone(faultActions[1:]) }

// String returns the word that stands for the action, "nothing" for the zero
// one.
func (a FaultAction) String() string {
	switch {
	case a == 0:
		return "nothing"
	case a < numFaultActions:
		return faultActions[a]
	default:
		return fmt.Sprintf("FaultAction(%d)", uint8(a))
	}
}

// FaultPick says which of the chosen packets are acted on.
type FaultPick uint8

// The picks. The zero FaultPick is all.
const (
	PickFirst FaultPick = iota + 1 // the first N
	PickNth                        // the one with the number N
	PickEvery                      // each whose number N divides
	numPicks
)

var pickNames = [numPicks]string{"", "first", "nth", "every"}

// SegmentKind says which kind of packet is meant.
type SegmentKind uint8

// The kinds. The zero SegmentKind is any packet, of whatever protocol.
const (
	KindSYN    SegmentKind = iota + 1 // SYN without ACK
	KindSYNACK                        // SYN with ACK
	KindACK                           // an ACK and nothing else: no payload, SYN, FIN or RST
	KindFIN                           // with FIN
	KindRST                           // with RST
	KindData                          // with a payload
	KindTCP                           // every TCP segment
	KindUDP                           // every UDP datagram
	KindICMP                          // every ICMP message
	numKinds
)

var kindNames = [numKinds]string{"", "syn", "synack", "ack", "fin", "rst", "data", "tcp", "udp", "icmp"}

// FaultFailure is how a connection fails.
type FaultFailure uint8

// The failures. The zero FaultFailure answers with an RST: ECONNREFUSED.
const (
	FailTimeout     FaultFailure = iota + 1 // nothing answers: ETIMEDOUT
	FailUnreachable                         // ICMP says host unreachable: EHOSTUNREACH
	numFailures
)

var failureNames = [numFailures]string{"", "timeout", "unreachable"}

// TCPOption is an option that a segment carries.
type TCPOption uint8

// The options. The zero TCPOption names none.
const (
	OptionMSS TCPOption = iota + 1
	OptionWindowScale
	OptionSACKPermitted
	OptionSACK
	OptionTimestamps
	numOptions
)

var optionNames = [numOptions]string{"", "mss", "wscale", "sack-permitted", "sack", "ts"}

// FaultEnd is addresses and ports. The zero FaultEnd is everywhere.
type FaultEnd struct {
	Prefix      netip.Prefix // the zero Prefix: every address
	First, Last uint16       // ports, both ends included; 0: every port
}

// Contains reports whether the end may be at a.
func (e FaultEnd) Contains(a netip.AddrPort) bool {
	return (!e.Prefix.IsValid() || e.Prefix.Contains(a.Addr().Unmap())) && (e.Last == 0 || e.First <= a.Port() && a.Port() <= e.Last)
}

// String returns the end as it is written behind dst=.
func (e FaultEnd) String() string {
	if e.Prefix.IsValid() {
		return Rule{prefix: e.Prefix, first: e.First, last: e.Last}.format()
	}
	text := ":" + strconv.Itoa(int(e.First))
	if e.Last != e.First {
		text += "-" + strconv.Itoa(int(e.Last))
	}
	return text
}

// FaultSpan is longer than Over and, if Under is not zero, shorter than that.
type FaultSpan struct{ Over, Under time.Duration }

// Contains reports whether d lies within the span.
func (s FaultSpan) Contains(d time.Duration) bool {
	return (s.Over == 0 || d > s.Over) && (s.Under == 0 || d < s.Under)
}

// OfTCP reports whether the rule can only mean TCP segments.
func (f *Fault) OfTCP() bool {
	return f.Kind != 0 && f.Kind < KindUDP || f.Option != 0 || f.Conditional() ||
		f.Do == FaultRST || f.Do == FaultFail || f.Do == FaultReplay
}

// Conditional reports whether the rule asks for something that only shows when a
// connection is followed.
func (f *Fault) Conditional() bool {
	return f.Guest|f.Stack|f.Either != 0 || f.Age != FaultSpan{} || f.Idle != FaultSpan{}
}

// String writes the rule in its one form. ParseFault turns it into the same
// Fault again.
func (f Fault) String() string {
	words := []string{f.Do.String()}
	add := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }
	if f.Rate != 0 {
		add("%s", rateText(f.Rate))
	}
	if f.MTU != 0 {
		add("%d", f.MTU)
	}
	if f.Delay != 0 {
		add("%s", spanText(f.Delay))
	}
	if f.Jitter != 0 {
		add("±%s", spanText(f.Jitter))
	}
	if f.InOrder {
		add("ordered")
	}
	if f.Queue != 0 {
		add("queue %s", spanText(f.Queue))
	}
	if f.Toward != 0 {
		add("%v", f.Toward)
	}
	if f.How < numFailures && f.How != 0 {
		add("%s", failureNames[f.How])
	}
	if f.Fit {
		add("fit")
	}
	if f.Percent != 0 {
		add("%s%%", strconv.FormatFloat(f.Percent, 'f', -1, 64))
	}
	if f.By != 0 {
		add("by %d", f.By)
	}
	if f.Pick < numPicks && f.Pick != 0 {
		if add("%s", pickNames[f.Pick]); f.Pick != PickFirst || f.N != 1 {
			add("%d", f.N)
		}
	}
	if f.Kind < numKinds && f.Kind != 0 {
		add("%s", kindNames[f.Kind])
	}
	switch f.Direction {
	case tcpstate.Outbound:
		add("out")
	case tcpstate.Inbound:
		add("in")
	}
	if f.Src != (FaultEnd{}) {
		add("src=%v", f.Src)
	}
	if f.Dst != (FaultEnd{}) {
		add("dst=%v", f.Dst)
	}
	if f.Option < numOptions && f.Option != 0 {
		add("option=%s", optionNames[f.Option])
	}
	if f.Conditional() {
		add("when")
	}
	for _, c := range []struct {
		what string
		set  tcpstate.Set
	}{{"guest=", f.Guest}, {"stack=", f.Stack}, {"", f.Either}} {
		if c.set != 0 {
			add("%s%s", c.what, strings.Join(stateWords(c.set), ","))
		}
	}
	for _, c := range []struct {
		what string
		span FaultSpan
	}{{"age", f.Age}, {"idle", f.Idle}} {
		if c.span.Over != 0 {
			add("%s>%s", c.what, spanText(c.span.Over))
		}
		if c.span.Under != 0 {
			add("%s<%s", c.what, spanText(c.span.Under))
		}
	}
	return strings.Join(words, " ")
}

// stateWords spells single states as RFC 9293 does; groups keep their names.
func stateWords(set tcpstate.Set) []string {
	names := set.Names()
	for i, name := range names {
		if s, err := tcpstate.Parse(name); err == nil {
			names[i] = s.String()
		}
	}
	return names
}

// spanText is a duration without the zeros that time.Duration ends it with.
func spanText(d time.Duration) string {
	s := strings.Replace(d.String(), "µ", "u", 1)
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// rateUnits are decimal, as a line's rate is, the largest first.
var rateUnits = []struct {
	name string
	bits int64
}{{"gbit", 1e9}, {"mbit", 1e6}, {"kbit", 1e3}, {"bit", 1}}

func rateText(bits int64) string {
	for _, u := range rateUnits {
		if bits%u.bits == 0 {
			return strconv.FormatInt(bits/u.bits, 10) + u.name
		}
	}
	return ""
}
