package tcpstate

import (
	"fmt"
	"net/netip"
	"time"
)

// Facts are what is known of a connection beside its states. They come piece by
// piece, from whoever learns them: a field that is zero says nothing, and a later
// piece adds to what is known. What cannot be known is left out.
type Facts struct {
	Time time.Time // when they were learnt
	Conn Conn

	// Guest is the guest's end and Peer the other one, as the guest sees them.
	Guest, Peer netip.AddrPort
	Direction   Direction

	// PID and Command are those of the process in the guest that owns the
	// socket, the number as the host sees it. Zero: not known.
	PID     int
	Command string

	// Name is what the guest last asked its resolver for that had Peer's address
	// as its answer.
	Name string

	// Rule is what admitted it: a rule of the policy, or what stands in its
	// place ("net public", "peer", "publish").
	Rule string

	Bytes  *Bytes  // nil: not counted
	Closed *Ending // nil: not closed, or not known by whom
	Path   *Path   // nil: not known
	Frozen *bool   // nil: it never was
}

// FactsSink takes facts. Like a Sink it is called from any goroutine, and must
// neither block nor call back. It keeps what it is given.
type FactsSink func(*Facts)

// Direction says who opened a connection. The zero Direction is unknown.
type Direction uint8

// The directions.
const (
	Outbound Direction = iota + 1 // from the guest to the world
	Inbound                       // from the world to the guest

	numDirections
)

var directionNames = [numDirections]string{"unknown", "outbound", "inbound"}

// String returns "outbound" or "inbound", and "unknown" for the zero Direction.
func (d Direction) String() string {
	if d < numDirections {
		return directionNames[d]
	}
	return fmt.Sprintf("Direction(%d)", uint8(d))
}

// MarshalText implements encoding.TextMarshaler.
func (d Direction) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Direction) UnmarshalText(text []byte) error {
	for i, name := range directionNames {
		if name == string(text) {
			*d = Direction(i)
			return nil
		}
	}
	return fmt.Errorf("tcpstate: %q is not a direction", text)
}

// Bytes are what was carried each way, of the application's data.
type Bytes struct {
	Outbound, Inbound uint64
}

// Ending says who closed a connection first, and how. By is Guest, Upstream or,
// where a host inside the stack or tcpbox itself did, Stack.
type Ending struct {
	By  Leg
	How How
}

// String returns "guest FIN" and the like.
func (c Ending) String() string { return c.By.String() + " " + c.How.String() }

// How says how a connection was closed. The zero How is unknown.
type How uint8

// The ways.
const (
	ByFIN     How = iota + 1 // a FIN
	ByRST                    // an RST
	ByTimeout                // nothing came, or moved, for too long
	ByError                  // an error of the network
	ByStop                   // the sandbox ended

	numHows
)

var howNames = [numHows]string{"unknown", "FIN", "RST", "timeout", "error", "stop"}

// Hows returns the ways of closing, without the unknown one.
func Hows() []How { return []How{ByFIN, ByRST, ByTimeout, ByError, ByStop} }

// String returns "FIN", "RST", "timeout", "error" or "stop", and "unknown" for
// the zero How.
func (h How) String() string {
	if h < numHows {
		return howNames[h]
	}
	return fmt.Sprintf("How(%d)", uint8(h))
}

// MarshalText implements encoding.TextMarshaler.
func (h How) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *How) UnmarshalText(text []byte) error {
	for i, name := range howNames {
		if name == string(text) {
			*h = How(i)
			return nil
		}
	}
	return fmt.Errorf("tcpstate: %q is not a way to close", text)
}

// Path is what a host socket says of the way to its peer.
type Path struct {
	RTT         time.Duration // smoothed
	Retransmits uint32        // segments sent again, in all
}

// Add adds what more says to what f says. Conn stays.
func (f *Facts) Add(more *Facts) {
	setIf(&f.Time, more.Time)
	setIf(&f.Guest, more.Guest)
	setIf(&f.Peer, more.Peer)
	setIf(&f.Direction, more.Direction)
	setIf(&f.PID, more.PID)
	setIf(&f.Command, more.Command)
	setIf(&f.Name, more.Name)
	setIf(&f.Rule, more.Rule)
	setIf(&f.Bytes, more.Bytes)
	setIf(&f.Closed, more.Closed)
	setIf(&f.Path, more.Path)
	setIf(&f.Frozen, more.Frozen)
}

func setIf[T comparable](field *T, value T) {
	var zero T
	if value != zero {
		*field = value
	}
}
