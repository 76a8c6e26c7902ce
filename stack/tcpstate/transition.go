package tcpstate

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Conn identifies one connection within a sandbox. The three legs of a
// connection carry the same Conn. Zero means that no number was given.
type Conn uint64

// Leg says which of a connection's three endpoints something belongs to.
type Leg uint8

// The legs. The zero Leg is none of them.
const (
	Guest    Leg = iota + 1 // the kernel socket of the process in the sandbox
	Stack                   // the endpoint of the embedded stack, the guest's peer
	Upstream                // the host socket on which the connection continues

	numLegs
)

var legNames = [numLegs]string{"none", "guest", "stack", "upstream"}

// Legs returns the three legs in the order guest, stack, upstream.
func Legs() []Leg { return []Leg{Guest, Stack, Upstream} }

// String returns "guest", "stack" or "upstream", and "none" for the zero Leg.
func (l Leg) String() string {
	if l < numLegs {
		return legNames[l]
	}
	return fmt.Sprintf("Leg(%d)", uint8(l))
}

// MarshalText implements encoding.TextMarshaler.
func (l Leg) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *Leg) UnmarshalText(text []byte) error {
	for i, name := range legNames {
		if name == string(text) {
			*l = Leg(i)
			return nil
		}
	}
	return fmt.Errorf("tcpstate: %q is not a leg; the legs are guest, stack and upstream", text)
}

// Source says where the knowledge of a transition came from. The zero Source
// is unknown.
type Source uint8

// The sources.
const (
	FromStack  Source = iota + 1 // the embedded stack itself
	FromKernel                   // the kernel's own trace
	FromWire                     // packets seen between guest and stack
	FromDiag                     // a sock_diag dump
	FromSocket                   // options of an open host socket

	numSources
)

var sourceNames = [numSources]string{"unknown", "stack", "kernel", "wire", "diag", "socket"}

// String returns "stack", "kernel", "wire", "diag" or "socket", and "unknown"
// for the zero Source.
func (s Source) String() string {
	if s < numSources {
		return sourceNames[s]
	}
	return fmt.Sprintf("Source(%d)", uint8(s))
}

// MarshalText implements encoding.TextMarshaler.
func (s Source) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Source) UnmarshalText(text []byte) error {
	for i, name := range sourceNames {
		if name == string(text) {
			*s = Source(i)
			return nil
		}
	}
	return fmt.Errorf("tcpstate: %q is not a source", text)
}

// CauseKind says what class of event caused a transition. The zero kind is
// unknown: what is not known is said, never guessed.
type CauseKind uint8

// The kinds of causes.
const (
	BySegment CauseKind = iota + 1 // a segment arrived
	ByCall                         // the owner of the endpoint called something
	ByTimer                        // a timer ran out
	ByPolicy                       // tcpbox decided it: a rule, a knob, a limit

	numCauseKinds
)

var causeKindNames = [numCauseKinds]string{"unknown", "segment", "call", "timer", "policy"}

// String returns "segment", "call", "timer" or "policy", and "unknown" for
// the zero kind.
func (k CauseKind) String() string {
	if k < numCauseKinds {
		return causeKindNames[k]
	}
	return fmt.Sprintf("CauseKind(%d)", uint8(k))
}

// Cause is what made a transition happen: a kind and, where it is known, which
// one of that kind. Which is one of a small fixed vocabulary: flag names for a
// segment ("SYN", "SYN-ACK", "ACK", "FIN", "RST"), the name of the call
// ("connect", "listen", "shutdown", "close", "abort"), of the timer
// ("time-wait", "fin-wait-2", "retransmission") or of the knob or rule.
type Cause struct {
	Kind  CauseKind
	Which string
}

// String returns the kind, a space and which one: "segment FIN", "timer
// time-wait", "unknown".
func (c Cause) String() string {
	if c.Which == "" {
		return c.Kind.String()
	}
	return c.Kind.String() + " " + c.Which
}

// MarshalText implements encoding.TextMarshaler with the form of String.
func (c Cause) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Cause) UnmarshalText(text []byte) error {
	kind, which, _ := strings.Cut(string(text), " ")
	for i, name := range causeKindNames {
		if name == kind {
			*c = Cause{CauseKind(i), which}
			return nil
		}
	}
	return fmt.Errorf("tcpstate: %q is not a cause", text)
}

// Transition is one change of state of one endpoint.
type Transition struct {
	Time   time.Time
	Conn   Conn
	Leg    Leg
	Local  netip.AddrPort // the endpoint whose state changed
	Remote netip.AddrPort // its peer; the zero AddrPort for a listener
	From   State
	To     State
	Cause  Cause
	Source Source
	Age    time.Duration // how long From had lasted; zero when From began the record
}

// Sink takes transitions. It is called under locks of the embedded stack, from
// any goroutine: it must not block, and must not call back into the stack.
type Sink func(Transition)
