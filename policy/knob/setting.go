package knob

import (
	"time"

	"tcpbox/stack/tcpstate"
)

// Setting is one knob set to one value, for one leg or for every leg that can
// carry it.
type Setting struct {
	Key string       // a key of Table, without a leg in front
	Leg tcpstate.Leg // zero: every leg that can carry it

	// Exactly one of these is meaningful, by the key's type in Table.
	Duration time.Duration
	Int      int
	Word     string

	Text string // the value as it was written
}
