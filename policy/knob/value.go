package knob

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Type says which values a knob takes.
type Type uint8

// The types.
const (
	Duration Type = iota + 1 // a Go duration: 250ms, 5s, 1m30s, 0
	Int                      // a whole number
	Word                     // one of the words of the Def
)

// String returns "duration", "int" or "word".
func (t Type) String() string {
	switch t {
	case Duration:
		return "duration"
	case Int:
		return "int"
	case Word:
		return "word"
	default:
		return fmt.Sprintf("Type(%d)", uint8(t))
	}
}

// Range says in words which values the knob takes: "a duration from 1ms to
// 24h, such as 250ms or 5s".
func (d Def) Range() string {
	switch d.Type {
	case Duration:
		text := "a duration of " + formatDuration(d.MinDuration) + " or more"
		if d.MaxDuration != 0 {
			text = "a duration from " + formatDuration(d.MinDuration) + " to " + formatDuration(d.MaxDuration)
		}
		text += ", such as 250ms or 5s"
		if d.Never {
			text += "; 0 or never means never"
		}
		return text
	case Int:
		return fmt.Sprintf("a whole number from %d to %d", d.MinInt, d.MaxInt)
	case Word:
		last := len(d.Words) - 1
		return strings.Join(d.Words[:last], ", ") + " or " + d.Words[last]
	default:
		return d.Type.String()
	}
}

// parse sets the value of s from text; the message says what is wrong with it.
func (d *Def) parse(s *Setting, text string) (message string) {
	s.Text = text
	var err error
	switch d.Type {
	case Duration:
		if d.Never && text == "never" {
			return ""
		}
		if s.Duration, err = time.ParseDuration(text); err != nil {
			if _, err := strconv.ParseFloat(text, 64); err == nil {
				return fmt.Sprintf("%q has no unit", text)
			}
			return fmt.Sprintf("%q is not a duration", text)
		}
	case Int:
		if s.Int, err = strconv.Atoi(text); err != nil {
			return fmt.Sprintf("%q is not a whole number, or too large for one", text)
		}
	case Word:
		s.Word = text
	}
	return d.outside(*s)
}

// outside says how the value of s is outside the knob's range, or returns "".
func (d *Def) outside(s Setting) string {
	switch d.Type {
	case Duration:
		switch {
		case s.Duration < d.MinDuration:
			return fmt.Sprintf("%s is less than %s", formatDuration(s.Duration), formatDuration(d.MinDuration))
		case d.MaxDuration != 0 && s.Duration > d.MaxDuration:
			return fmt.Sprintf("%s is more than %s", formatDuration(s.Duration), formatDuration(d.MaxDuration))
		}
	case Int:
		switch {
		case s.Int < d.MinInt:
			return fmt.Sprintf("%d is less than %d", s.Int, d.MinInt)
		case s.Int > d.MaxInt:
			return fmt.Sprintf("%d is more than %d", s.Int, d.MaxInt)
		}
	case Word:
		if !slices.Contains(d.Words, s.Word) {
			return fmt.Sprintf("%q is not a value of %s", s.Word, d.Key)
		}
	}
	return ""
}

// outside says why the leg does not take the value of s although it carries
// the knob, or returns "".
func (l LegDef) outside(s Setting) string {
	switch {
	case l.WholeSeconds && s.Duration%time.Second != 0:
		return "it takes whole seconds, not " + formatDuration(s.Duration)
	case l.MaxDuration != 0 && s.Duration > l.MaxDuration:
		return "it takes at most " + formatDuration(l.MaxDuration) + ", not " + formatDuration(s.Duration)
	default:
		return ""
	}
}

// formatDuration is d.String without units that are zero: 1m, not 1m0s.
func formatDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	if text == "0s" {
		return "0"
	}
	return text
}
