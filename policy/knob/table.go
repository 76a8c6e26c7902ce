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

	// The values it takes: for Word these, for Duration, Int, Size and
	// Range from the least to the greatest, both included. A zero MaxDuration
	// means that there is no greatest.
	Words                    []string
	MinDuration, MaxDuration time.Duration
	MinInt, MaxInt           int
	Never                    bool // of a Duration: zero means never, and may be written so

	Default  string // what holds without a setting, in the form of a setting's value; empty: see the legs
	Does     string // what it sets, in one sentence
	Not      string // what it does not do though one might think so
	Believed string // what people believe of it, and what is true; empty if nothing is known
	Source   string // the standard or kernel document that describes it
	Lab      string // the lab that shows it; empty if there is none

	Guest, Stack, Upstream LegDef

	// says is what a setting says of itself; see Plan.Notes.
	says []says

	// sysctls are those of the guest's namespace that carry it, if its leg does.
	sysctls func(Setting) []Sysctl
}

// LegDef says what one leg makes of a knob.
type LegDef struct {
	Carries  bool
	Text     string // what carries it there, or why the leg cannot
	Existing string // whether connections that are already there follow a change; empty if the leg cannot

	// What the leg takes of the knob's range; the zero value: all of it.
	Step        time.Duration // multiples of it
	MaxDuration time.Duration
	MaxInt      int
	Not         string // a word that it does not take

	// Default is what holds there without a setting where the knob has no one
	// Default, in words.
	Default string
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

// Refuses says why a leg cannot carry a setting of the knob, by the table alone;
// empty if it can.
func (d Def) Refuses(leg tcpstate.Leg, s Setting) string {
	l := d.Leg(leg)
	if !l.Carries {
		return l.Text
	}
	if why := d.outside(s); why != "" {
		return why
	}
	return l.outside(s)
}

// table has the knobs in the order in which a listing shows them.
var table = slices.Concat(timeWaitKnobs, closeKnobs, openKnobs, aliveKnobs, pathKnobs, bufferKnobs, portKnobs)

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
