package view

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"tcpbox/stack/legs"
	"tcpbox/stack/tcpstate"
)

// pen are the characters that arrows are drawn with.
type pen struct {
	rail, line, toRight, toLeft, tailLeft, tailRight, lost, dots string
}

var (
	fine  = pen{"│", "─", "▶", "◀", "├", "┤", "✕", "┊"}
	plain = pen{"|", "-", ">", "<", "|", "|", "x", ":"}
)

const (
	leastArrow = 34
	teachArrow = 60
	arrowSlack = 8 // of the arrow's line beside its label
)

// ladderText is a ladder that is being drawn as text.
type ladderText struct {
	Ladder
	pen   pen
	lad   *legs.Ladder
	width int // between the rails
	times int // width of the times
	b     []byte
}

// Text appends the ladder as lines of text.
func (l Ladder) Text(b []byte, lad *legs.Ladder) []byte {
	t := &ladderText{Ladder: l, pen: fine, lad: lad, b: b, width: leastArrow, times: timeWidth}
	if l.ASCII {
		t.pen = plain
	}
	if l.Teach {
		t.width = teachArrow
	}
	for i := range lad.Rungs {
		if r := &lad.Rungs[i]; r.Segment != nil {
			t.width = max(t.width, utf8.RuneCountInString(l.label(lad, r))+arrowSlack)
		}
	}
	if l.Width > 0 && numberWidth+timeWidth+t.width+2*(stateWidth+2)+len("||") > l.Width {
		t.times = 0
	}
	t.line(l.title(lad))
	t.line(summary(lad))
	t.line("")
	if l.Teach {
		for _, s := range teachLegend(lad) {
			t.line(s)
		}
		t.line("")
	}
	t.row("  #", "TIME", "GUEST", " "+t.center("")+" ", "STACK")
	t.row("", "", t.paint(tcpstate.Unknown, l.began(lad, tcpstate.Guest)), t.between(""), t.paint(tcpstate.Unknown, l.began(lad, tcpstate.Stack)))
	for i := range lad.Rungs {
		t.rung(&lad.Rungs[i])
	}
	if l.Decode {
		for i := range lad.Rungs {
			if r := &lad.Rungs[i]; r.Segment != nil {
				t.line("")
				t.b = appendDecoded(t.b, lad, r)
			}
		}
	}
	return t.b
}

func (t *ladderText) line(s string) {
	s = strings.TrimRight(s, " ")
	if t.Width > 0 {
		s = fitting(s, t.Width, t.ASCII)
	}
	t.b = append(t.b, s...)
	t.b = append(t.b, '\n')
}

// fitting leaves of s what fits into so many columns, of which the last says that there
// is more. Colours have no width, and are ended.
func fitting(s string, width int, ascii bool) string {
	if visible(s) <= width {
		return s
	}
	more := "…"
	if ascii {
		more = "~"
	}
	n, escape := 0, false
	for i, r := range s {
		switch {
		case escape:
			escape = r != 'm'
		case r == '\x1b':
			escape = true
		default:
			if n++; n == width {
				if strings.Contains(s[:i], "\x1b") {
					more += reset
				}
				return s[:i] + more
			}
		}
	}
	return s
}

// columns of a row.
const (
	numberWidth = 4
	timeWidth   = 11
)

// row draws one line. States may hold colours, which have no width.
func (t *ladderText) row(number, time, left, middle, right string) {
	pad := max(0, stateWidth-visible(left))
	if t.times == 0 {
		time = ""
	}
	t.line(fmt.Sprintf("%*s%*s  %s%s %s %s", numberWidth, number, t.times, time, left, strings.Repeat(" ", pad), middle, right))
}

// visible is how many columns s takes, but for its colours.
func visible(s string) int {
	n, escape := 0, false
	for _, r := range s {
		switch {
		case escape:
			escape = r != 'm'
		case r == '\x1b':
			escape = true
		default:
			n++
		}
	}
	return n
}

func (t *ladderText) paint(s tcpstate.State, name string) string {
	if c := stateColor(s); t.Color && c != noColor {
		return c + name + reset
	}
	return name
}

// center puts s in the middle between the rails.
func (t *ladderText) center(s string) string {
	left := max(0, (t.width-utf8.RuneCountInString(s))/2)
	right := max(0, t.width-left-utf8.RuneCountInString(s))
	return strings.Repeat(" ", left) + s + strings.Repeat(" ", right)
}

func (t *ladderText) between(s string) string { return t.pen.rail + t.center(s) + t.pen.rail }

// rung draws a rung: the arrow with the states at its ends, then what there is to
// say.
func (t *ladderText) rung(r *legs.Rung) {
	var left, right []string
	for _, s := range r.Steps {
		name := t.paint(s.To, t.state(s.To))
		if s.Leg == tcpstate.Guest {
			left = append(left, name)
		} else {
			right = append(right, name)
		}
	}
	number, middle := "", ""
	lines := t.wrapped(t.notes(t.lad, r))
	if r.Segment != nil {
		if skipped := skippedBefore(r); skipped != "" {
			t.row("", "", "", t.pen.dots+t.center(skipped)+t.pen.dots, "")
		}
		number, middle = fmt.Sprint(r.Number), t.arrow(r)
	} else if len(lines) > 0 {
		middle, lines = t.between(lines[0]), lines[1:]
	}
	for i := 0; i == 0 || i < max(len(left), len(right)) || i <= len(lines); i++ {
		name := func(all []string) string {
			if i < len(all) {
				return all[i]
			}
			return ""
		}
		switch {
		case i == 0:
			t.row(number, at(t.lad, r), name(left), middle, name(right))
		case i <= len(lines):
			t.row("", "", name(left), t.between(lines[i-1]), name(right))
		default:
			t.row("", "", name(left), t.between(""), name(right))
		}
	}
}

// wrapped breaks lines so that they fit between the rails.
func (t *ladderText) wrapped(lines []string) (all []string) {
	for _, line := range lines {
		all = append(all, wrap(line, t.width-2)...)
	}
	return all
}

// wrap breaks s between words.
func wrap(s string, width int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(s) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

// arrow draws a segment between the rails.
func (t *ladderText) arrow(r *legs.Rung) string {
	label := t.label(t.lad, r)
	rest := t.width - utf8.RuneCountInString(label) - 3 // a piece of line, and blanks around the label
	lost := r.Has(legs.Lost)
	if r.Sender() == tcpstate.Guest {
		body := t.pen.line + " " + label + " "
		if lost {
			return t.pen.tailLeft + body + strings.Repeat(t.pen.line, max(0, rest-4)) + " " + t.pen.lost + "  " + t.pen.rail
		}
		return t.pen.tailLeft + body + strings.Repeat(t.pen.line, max(0, rest-1)) + t.pen.toRight + t.pen.rail
	}
	body := " " + label + " " + t.pen.line
	if lost {
		return t.pen.rail + "  " + t.pen.lost + " " + strings.Repeat(t.pen.line, max(0, rest-4)) + body + t.pen.tailRight
	}
	return t.pen.rail + t.pen.toLeft + strings.Repeat(t.pen.line, max(0, rest-1)) + body + t.pen.tailRight
}
