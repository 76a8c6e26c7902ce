package knob

import (
	"strconv"
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
	Int      int    // also of a Size, in bytes
	Word     string // also of a Name and of Ports
	Low, Hi  int    // of a Range, both included; of a SizeRange, in bytes

	Text   string // the value as it was written; empty in a Setting made by hand
	Source string // who wrote it: "box.yaml:9", "preset windows", "--tcp"; empty: not said
}

// String returns what ParseSetting turns into the same Setting again:
// "guest.fin-timeout=5s". The value is as it was written if that is known.
func (s Setting) String() string {
	return s.Name() + "=" + s.Value()
}

// Name returns the key, behind the leg if there is one.
func (s Setting) Name() string {
	if s.Leg == 0 {
		return s.Key
	}
	return s.Leg.String() + "." + s.Key
}

// Canonical returns the value in the one form of its type, however it was written:
// 60s, and not 1m0s.
func (s Setting) Canonical() string {
	d := lookup(s.Key)
	if d == nil {
		return s.Word
	}
	switch d.Type {
	case Int:
		return strconv.Itoa(s.Int)
	case Size:
		return formatSize(s.Int)
	case Range:
		return strconv.Itoa(s.Low) + "-" + strconv.Itoa(s.Hi)
	case SizeRange:
		return formatSize(s.Low) + "-" + formatSize(s.Hi)
	case Duration:
		if d.Never && s.Duration == 0 {
			return "never"
		}
		return formatDuration(s.Duration)
	default:
		return s.Word
	}
}

// Value returns the value as it was written, and else in the form of its type.
func (s Setting) Value() string {
	if s.Text != "" {
		return s.Text
	}
	return s.Canonical()
}

// check returns the fault of a Setting made by hand, nil if there is none.
func (s Setting) check() error {
	d := lookup(s.Key)
	switch {
	case d == nil:
		return unknownKey(s.String(), s.Name())
	case s.Leg != 0 && !isLeg(s.Leg):
		return &Error{Input: s.String(), Message: s.Leg.String() + " is not a leg", Hint: legsHint}
	}
	if message := d.outside(s); message != "" {
		return &Error{Input: s.String(), Message: message, Hint: d.Key + " is " + d.Range()}
	}
	return nil
}

func isLeg(leg tcpstate.Leg) bool {
	for _, l := range tcpstate.Legs() {
		if l == leg {
			return true
		}
	}
	return false
}
