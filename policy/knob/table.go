package knob

import (
	"slices"
	"time"

	"tcpbox/stack/tcpstate"
)

// Def describes one knob.
type Def struct {
	Key  string
	Type Type

	// The values it takes: for Word these, for Duration and Int from the
	// least to the greatest, both included. A zero MaxDuration means that
	// there is no greatest.
	Words                    []string
	MinDuration, MaxDuration time.Duration
	MinInt, MaxInt           int
	Never                    bool // of a Duration: zero means never, and may be written so

	Default string // what holds without a setting, in the form of a setting's value
	Does    string // what it sets, in one sentence
	Not     string // what it does not do though one might think so
	Source  string // the standard or kernel document that describes it

	Guest, Stack, Upstream LegDef
}

// LegDef says what one leg makes of a knob.
type LegDef struct {
	Carries  bool
	Text     string // what carries it there, or why the leg cannot
	Existing string // whether connections that are already there follow a change; empty if the leg cannot

	// What the leg takes of the knob's range.
	WholeSeconds bool
	MaxDuration  time.Duration // zero: as the knob
}

// Leg returns what the leg makes of the knob; of a value that is no leg, the
// zero LegDef, which carries nothing.
func (d Def) Leg(leg tcpstate.Leg) LegDef {
	switch leg {
	case tcpstate.Guest:
		return d.Guest
	case tcpstate.Stack:
		return d.Stack
	case tcpstate.Upstream:
		return d.Upstream
	default:
		return LegDef{}
	}
}

// table has the knobs in the order in which a listing shows them.
var table = []Def{
	{
		Key:     "time-wait.timeout",
		Type:    Duration,
		Default: "60s",
		Does:    "how long TIME-WAIT lasts; 0 ends it at once, and with it the protection against old duplicates (RFC 1337)",
		Not:     "it does not touch FIN-WAIT-2, which is fin-timeout",
		Source:  "RFC 9293, section 3.6.1",
		Guest: LegDef{
			Text: "the kernel's TIME-WAIT is a constant of 60 s, for which there is no sysctl",
		},
		Stack: LegDef{
			Carries:  true,
			Text:     "the timer of the stack's own endpoints",
			Existing: "those that enter TIME-WAIT from then on follow; those already in it keep the time they began with",
		},
		Upstream: LegDef{
			Text: "the host kernel's TIME-WAIT is a constant of 60 s, for which there is no socket option",
		},
	},
	{
		Key:     "time-wait.reuse",
		Type:    Word,
		Words:   []string{"off", "loopback", "on"},
		Default: "loopback",
		Does:    "whether an active open may take over a local port whose connection to the same destination is in TIME-WAIT",
		Not:     "it does not shorten TIME-WAIT, and does nothing for who accepts: a newer SYN on a connection in TIME-WAIT is taken in any case (RFC 6191)",
		Source:  "RFC 6191; Linux, networking/ip-sysctl, tcp_tw_reuse",
		Guest: LegDef{
			Carries: true,
			Text: "net.ipv4.tcp_tw_reuse; the kernel reuses only what had TCP timestamps, and only after " +
				"net.ipv4.tcp_tw_reuse_delay (1 s; older kernels have it fixed)",
			Existing: "from the next connect on",
		},
		Stack: LegDef{
			Carries: true,
			Text: "connections that the stack opens towards the guest, from ports that it picks itself; " +
				"it needs no timestamps, and the port must have been at rest for 1 s",
			Existing: "from the next connect on",
		},
		Upstream: LegDef{
			Text: "net.ipv4.tcp_tw_reuse of the host is for the whole host, and there is no socket option",
		},
	},
	{
		Key:         "fin-timeout",
		Type:        Duration,
		MinDuration: time.Millisecond,
		MaxDuration: 24 * time.Hour,
		Default:     "60s",
		Does:        "how long FIN-WAIT-2 lasts once the endpoint's owner has closed it in both directions",
		Not: "it does not shorten TIME-WAIT, and does not cut a half-close, whose owner still reads: " +
			"that is half-close-timeout",
		Source: "Linux, networking/ip-sysctl, tcp_fin_timeout; RFC 9293 has no such timer",
		Guest: LegDef{
			Carries:      true,
			Text:         "net.ipv4.tcp_fin_timeout; the kernel does not go below 3.5 retransmission timeouts of the connection",
			Existing:     "those that are closed from then on follow; those already closed keep the time they began with",
			WholeSeconds: true,
		},
		Stack: LegDef{
			Carries:  true,
			Text:     "the timer of the stack's own endpoints",
			Existing: "only connections made from then on follow",
		},
		Upstream: LegDef{
			Carries:      true,
			Text:         "TCP_LINGER2 of each host socket; the kernel does not go below 3.5 retransmission timeouts of the connection",
			Existing:     "only connections made from then on follow",
			WholeSeconds: true,
			MaxDuration:  2 * time.Minute, // TCP_FIN_TIMEOUT_MAX; the kernel makes 120 of more without a word
		},
	},
	{
		Key:     "half-close-timeout",
		Type:    Duration,
		Never:   true,
		Default: "never",
		Does:    "how long a relayed connection of which one direction has ended may stay without a byte in the other before it is cut",
		Not:     "it does not touch a connection that is open both ways, nor one that both ends have closed",
		Source:  "RFC 9293, section 3.6.1, which lets a half-close last for ever",
		Guest: LegDef{
			Text: "a kernel has no timer for a half-closed connection whose owner still holds it; the stack cuts the guest's end with its own",
		},
		Stack: LegDef{
			Carries:  true,
			Text:     "the relay between the stack and upstream, which resets both",
			Existing: "only connections made from then on follow",
		},
		Upstream: LegDef{
			Text: "a kernel has no timer for a half-closed connection whose owner still holds it; the stack cuts the upstream end with its own",
		},
	},
	{
		Key:     "syn-backlog",
		Type:    Int,
		MinInt:  1,
		MaxInt:  1 << 20,
		Default: "1024",
		Does:    "how many handshakes may be half-open (SYN-RECEIVED) at once",
		Not: "it does not count dials in progress, for which the guest is still in SYN-SENT, nor connections that wait " +
			"for accept(2), which listen(2) and net.core.somaxconn limit",
		Source: "RFC 4987, section 3; Linux, networking/ip-sysctl, tcp_max_syn_backlog",
		Guest: LegDef{
			Carries: true,
			Text: "net.ipv4.tcp_max_syn_backlog, which is a hint to the kernel and not a count: with 16 and listen(128), " +
				"Linux 6.18 held 13 half-open handshakes without SYN cookies and 129 with them",
			Existing: "from the next SYN on",
		},
		Stack: LegDef{
			Carries:  true,
			Text:     "the stack's admission, exactly; it has no SYN cookies, and drops and counts the SYNs beyond",
			Existing: "from the next SYN on",
		},
		Upstream: LegDef{
			Text: "the upstream leg dials and has no listener",
		},
	},
}

// Table returns the knobs. The slice is the caller's.
func Table() []Def {
	defs := slices.Clone(table)
	for i := range defs {
		defs[i].Words = slices.Clone(defs[i].Words)
	}
	return defs
}

// Lookup returns the knob of that key, which has no leg in front.
func Lookup(key string) (Def, bool) {
	if d := lookup(key); d != nil {
		def := *d
		def.Words = slices.Clone(def.Words)
		return def, true
	}
	return Def{}, false
}

// lookup is Lookup without the copy; nil if there is no such knob.
func lookup(key string) *Def {
	for i := range table {
		if table[i].Key == key {
			return &table[i]
		}
	}
	return nil
}
