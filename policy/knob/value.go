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
	Duration  Type = iota + 1 // a Go duration: 250ms, 5s, 1m30s, 0
	Int                       // a whole number
	Word                      // one of the words of the Def
	Size                      // a number of bytes: 4096, 64k, 4M
	Range                     // two whole numbers: 32768-60999
	SizeRange                 // two Sizes, or one for both: 64k-4M
	Name                      // a name of the kernel's: letters, digits, - and _
	Ports                     // port numbers and ranges of them, or none: 8080,9000-9010
)

var typeNames = [...]string{
	Duration: "duration", Int: "int", Word: "word", Size: "size", Range: "range", SizeRange: "size range", Name: "name", Ports: "ports",
}

// String returns one word or two: "duration", "size range".
func (t Type) String() string {
	if int(t) < len(typeNames) && typeNames[t] != "" {
		return typeNames[t]
	}
	return fmt.Sprintf("Type(%d)", uint8(t))
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
	case Size:
		return fmt.Sprintf("a number of bytes from %s to %s, such as 64k or 4M", formatSize(d.MinInt), formatSize(d.MaxInt))
	case Range:
		return fmt.Sprintf("two whole numbers from %d to %d, such as 40000-49999", d.MinInt, d.MaxInt)
	case SizeRange:
		return fmt.Sprintf("a number of bytes to begin with and one to grow to, from %s to %s, such as 64k-4M, or one for both", formatSize(d.MinInt), formatSize(d.MaxInt))
	case Name:
		return "a name of up to 15 letters, digits, - and _"
	case Ports:
		return "ports and ranges of them, such as 8080,9000-9010, or none"
	case Word:
		last := len(d.Words) - 1
		return strings.Join(d.Words[:last], ", ") + " or " + d.Words[last]
	default:
		return d.Type.String()
	}
}

// Example returns a value that the knob takes: the default if there is one.
func (d Def) Example() string {
	switch {
	case d.Default != "":
		return d.Default
	case d.Type == Name:
		return "reno"
	case d.Type == Int:
		return strconv.Itoa(min(max(d.MinInt, 1400), d.MaxInt))
	default:
		return "64k-4M"
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
	case Size:
		s.Int, message = parseSize(text)
	case Range, SizeRange:
		message = d.parseRange(s, text)
	default:
		s.Word = text
	}
	if message != "" {
		return message
	}
	return d.outside(*s)
}

// parseRange sets Low and Hi.
func (d *Def) parseRange(s *Setting, text string) (message string) {
	low, hi, two := strings.Cut(text, "-")
	if !two && d.Type == SizeRange {
		hi = low
	}
	for _, end := range []struct {
		text string
		to   *int
	}{{low, &s.Low}, {hi, &s.Hi}} {
		if d.Type == SizeRange {
			*end.to, message = parseSize(end.text)
		} else if n, err := strconv.ParseUint(end.text, 10, 31); err == nil {
			*end.to = int(n)
		} else {
			message = fmt.Sprintf("%q is not two numbers with - between them", text)
		}
		if message != "" {
			return message
		}
	}
	return ""
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
		return d.outsideInt(s.Int, strconv.Itoa)
	case Size:
		return d.outsideInt(s.Int, formatSize)
	case Range, SizeRange:
		format := strconv.Itoa
		if d.Type == SizeRange {
			format = formatSize
		}
		if s.Low > s.Hi {
			return fmt.Sprintf("%s is more than %s, which comes after it", format(s.Low), format(s.Hi))
		}
		for _, n := range []int{s.Low, s.Hi} {
			if message := d.outsideInt(n, format); message != "" {
				return message
			}
		}
	case Word:
		if !slices.Contains(d.Words, s.Word) {
			return fmt.Sprintf("%q is not a value of %s", s.Word, d.Key)
		}
	case Name:
		if !isName(s.Word) {
			return fmt.Sprintf("%q is not a name", s.Word)
		}
	case Ports:
		if _, ok := PortList(s.Word); !ok {
			return fmt.Sprintf("%q is not a list of ports", s.Word)
		}
	}
	return ""
}

func (d *Def) outsideInt(n int, format func(int) string) string {
	switch {
	case n < d.MinInt:
		return fmt.Sprintf("%s is less than %s", format(n), format(d.MinInt))
	case n > d.MaxInt:
		return fmt.Sprintf("%s is more than %s", format(n), format(d.MaxInt))
	}
	return ""
}

// outside says why the leg does not take the value of s although it carries
// the knob, or returns "".
func (l LegDef) outside(s Setting) string {
	switch {
	case l.Step == time.Second && s.Duration%l.Step != 0:
		return "it takes whole seconds, not " + formatDuration(s.Duration)
	case l.Step != 0 && s.Duration%l.Step != 0:
		return "it takes multiples of " + formatDuration(l.Step) + ", not " + formatDuration(s.Duration)
	case l.MaxDuration != 0 && s.Duration > l.MaxDuration:
		return "it takes at most " + formatDuration(l.MaxDuration) + ", not " + formatDuration(s.Duration)
	case l.MaxInt != 0 && s.Int > l.MaxInt:
		return fmt.Sprintf("it takes at most %d, not %d", l.MaxInt, s.Int)
	case l.Not != "" && l.Not == s.Word:
		return "it cannot be " + s.Word + " there"
	default:
		return ""
	}
}

// formatDuration is d.String without units that are zero, 2m and not 2m0s, and what
// is less than that in seconds: 60s and 75s are how people call these times.
func formatDuration(d time.Duration) string {
	text := d.String()
	if d >= time.Minute && d < 2*time.Minute && d%time.Second == 0 {
		text = strconv.Itoa(int(d/time.Second)) + "s"
	}
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
