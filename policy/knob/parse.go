package knob

import (
	"fmt"
	"strings"

	"tcpbox/stack/tcpstate"
)

// Error says what is wrong with one setting.
type Error struct {
	Input   string // the setting as it was written
	Source  string // who wrote it, as Setting.Source; may be empty
	Message string // what is wrong
	Hint    string // what to write instead; never empty
}

// Error returns the source, the input and the message, without the hint, on one
// line.
func (e *Error) Error() string {
	if strings.HasPrefix(e.Source, "--") { // a flag, and what it was given
		return fmt.Sprintf("knob: %s %q: %s", e.Source, e.Input, e.Message)
	}
	if e.Source != "" {
		return fmt.Sprintf("knob: %s: %q: %s", e.Source, e.Input, e.Message)
	}
	return fmt.Sprintf("knob: %q: %s", e.Input, e.Message)
}

const legsHint = "the legs are guest, stack and upstream; without one a key sets every leg that can carry it"

// ParseSetting parses "KEY=VALUE" or "LEG.KEY=VALUE". The value must be in the
// knob's range; whether a leg can carry it is for Resolve to say. The error is
// an *Error.
func ParseSetting(text string) (Setting, error) {
	name, value, ok := strings.Cut(text, "=")
	if !ok {
		return Setting{}, &Error{Input: text, Message: "it has no value", Hint: "a setting is KEY=VALUE or LEG.KEY=VALUE, such as stack.fin-timeout=5s"}
	}
	s := Setting{Key: name}
	if prefix, key, ok := strings.Cut(name, "."); ok {
		if leg := legOf(prefix); leg != 0 {
			s.Leg, s.Key = leg, key
		}
	}
	d := lookup(s.Key)
	if d == nil {
		return Setting{}, unknownKey(text, name)
	}
	if message := d.parse(&s, value); message != "" {
		return Setting{}, &Error{Input: text, Message: message, Hint: d.Key + " is " + d.Range()}
	}
	return s, nil
}

// legOf returns the leg of that name, zero if there is none.
func legOf(name string) tcpstate.Leg {
	for _, leg := range tcpstate.Legs() {
		if leg.String() == name {
			return leg
		}
	}
	return 0
}

// Unknown is the fault of a name that is no knob: an *Error whose hint is the
// nearest one.
func Unknown(name string) error { return unknownKey(name, name) }

// unknownKey is the fault of a name that is no key and no leg with a key.
func unknownKey(input, name string) error {
	hint := `"tcpbox explain" lists the knobs`
	if near := nearest(name); near != "" {
		hint = "did you mean " + near + "?"
	} else if akin := akin(name); len(akin) > 0 {
		hint = "did you mean " + strings.Join(akin, " or ") + `? "tcpbox explain" lists the knobs`
	}
	return &Error{Input: input, Message: fmt.Sprintf("there is no knob %q", name), Hint: hint}
}

func keys() []string {
	var keys []string
	for i := range table {
		keys = append(keys, table[i].Key)
	}
	return keys
}
