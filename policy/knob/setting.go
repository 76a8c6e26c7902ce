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
	Int      int
	Word     string

	Text string // the value as it was written; empty in a Setting made by hand
}

// String returns what ParseSetting turns into the same Setting again:
// "guest.fin-timeout=5s". The value is as it was written if that is known.
func (s Setting) String() string {
	value := s.Text
	if value == "" {
		value = s.value()
	}
	return s.name() + "=" + value
}

// name returns the key, behind the leg if there is one.
func (s Setting) name() string {
	if s.Leg == 0 {
		return s.Key
	}
	return s.Leg.String() + "." + s.Key
}

// value writes the value in the form of its type.
func (s Setting) value() string {
	d := lookup(s.Key)
	switch {
	case d == nil || d.Type == Word:
		return s.Word
	case d.Type == Int:
		return strconv.Itoa(s.Int)
	case d.Never && s.Duration == 0:
		return "never"
	default:
		return formatDuration(s.Duration)
	}
}

// check returns the fault of a Setting made by hand, nil if there is none.
func (s Setting) check() error {
	d := lookup(s.Key)
	switch {
	case d == nil:
		return unknownKey(s.String(), s.name())
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
