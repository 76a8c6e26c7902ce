package view

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"tcpbox/stack/legs"
	"tcpbox/stack/tcpstate"
)

// Compare draws two runs side by side, and where they part. Of Line it heeds
// Color, ASCII and Netstat.
type Compare struct {
	Line

	// A and B are what the runs are called beside "a" and "b".
	A, B Side
}

// Side is one of two runs.
type Side struct {
	Settings string // in the words of whoever ran it
	Status   int    // the command's exit status
	Run      *legs.Run
}

// maxShown is how many connections are drawn that part: those that follow are
// counted.
const maxShown = 10

// Text appends the counts of both runs, where they part first, and the ways of
// the connections that do.
func (c Compare) Text(b []byte, parts []legs.Part) []byte {
	b = c.counts(b, len(parts) > 0 || c.A.Status != c.B.Status)
	b = append(b, '\n')
	if len(parts) == 0 && c.A.Status == c.B.Status {
		return append(b, "no difference\n"...)
	}
	if len(parts) == 0 {
		return append(b, "they differ in the exit status alone\n"...)
	}
	b = append(b, "they part at "...)
	b = append(b, c.First(&parts[0])...)
	b = append(b, '\n')
	shown := 0
	for i := range parts {
		if i > 0 && parts[i].A == parts[i-1].A && parts[i].B == parts[i-1].B && parts[i].Leg == parts[i-1].Leg {
			continue
		}
		if shown++; shown > maxShown {
			continue
		}
		b = c.ways(b, &parts[i])
	}
	if shown > maxShown {
		b = fmt.Appendf(b, "\n%d more differ, in later steps\n", shown-maxShown)
	}
	return b
}

// First names the step at which two runs part.
func (c Compare) First(p *legs.Part) string {
	if p.Leg == 0 {
		who, only := p.A, "a"
		if who == nil {
			who, only = p.B, "b"
		}
		return fmt.Sprintf("%s: only %s has it", c.life(who), only)
	}
	end := fmt.Sprintf("the %v's end of %s", p.Leg, c.life(p.A))
	a, b := p.StepA(), p.StepB()
	switch {
	case p.Late:
		return fmt.Sprintf("%s: %s: after %s in a, %s in b", end, c.step(a), c.age(a.Age), c.age(b.Age))
	case a == nil:
		return fmt.Sprintf("%s: %s: only in b", end, c.step(b))
	case b == nil:
		return fmt.Sprintf("%s: %s: only in a", end, c.step(a))
	}
	return fmt.Sprintf("%s: %s in a, %s in b", end, c.step(a), c.step(b))
}

// life names a connection.
func (c Compare) life(l *legs.Life) string {
	s := "connection " + strconv.Itoa(l.Number)
	if to, listens := strings.CutPrefix(l.To, "listener "); listens {
		return s + ", the guest's listener on " + printable(to)
	}
	if from, inbound := strings.CutPrefix(l.To, "inbound "); inbound {
		return s + ", to the guest's " + printable(from)
	}
	return s + ", to " + printable(l.To)
}

func (c Compare) step(s *legs.Step) string {
	return c.state(s.From) + c.arrowText() + c.state(s.To) + ", " + cause(s.Cause)
}

func (c Compare) age(d time.Duration) string { return Age(d, c.ASCII) }

// counts draws how often each state was entered, leg by leg. Where the runs do not
// differ, a number that does is one of a run that ended a moment sooner.
func (c Compare) counts(b []byte, differ bool) []byte {
	const title = 8 + 1 + stateWidth
	row := func(name, a, z string) {
		d := drawing{Line: c.Line, b: b, begin: len(b)}
		mark := " "
		if a != z && name != "" && differ {
			d.color(alarm)
			mark = "|"
		}
		d.left(name, title)
		d.right(a, 7)
		d.text(" " + mark)
		d.right(z, 6)
		b = d.end()
	}
	b = fmt.Appendf(b, "a: %s\nb: %s\n\n", printable(c.A.Settings), printable(c.B.Settings))
	row("", "a", "b")
	row("exit status", strconv.Itoa(c.A.Status), strconv.Itoa(c.B.Status))
	row("connections", strconv.Itoa(len(c.A.Run.Lives)), strconv.Itoa(len(c.B.Run.Lives)))
	for _, leg := range tcpstate.Legs() {
		for _, s := range tcpstate.All() {
			if a, z := c.A.Run.Entered(leg, s), c.B.Run.Entered(leg, s); a+z > 0 {
				row(fmt.Sprintf("%-8v %s", leg, c.state(s)), strconv.Itoa(a), strconv.Itoa(z))
			}
		}
	}
	return b
}

// wayWidth is the width of one of the two columns of steps.
const (
	causeRoom = 16 // timer fin-wait-2
	wayWidth  = 8 + stateWidth + 1 + causeRoom + 3
)

// ways draws side by side what a connection went through in either run.
func (c Compare) ways(b []byte, p *legs.Part) []byte {
	who, leg := p.A, p.Leg
	if who == nil {
		who = p.B
	}
	b = append(b, '\n')
	if leg == 0 {
		for _, l := range tcpstate.Legs() {
			if len(who.Course(l).Steps) > 0 {
				leg = l
				break
			}
		}
	}
	title := fmt.Sprintf("%s, the %v's end", c.life(who), leg)
	if p.A != nil && p.B != nil && p.A.Number != p.B.Number {
		title += fmt.Sprintf(" (%d in b)", p.B.Number)
	}
	b = append(append(b, title...), '\n')
	left, right := c.way(p.A, leg, c.A.Run), c.way(p.B, leg, c.B.Run)
	d := drawing{Line: c.Line, b: b, begin: len(b)}
	d.text("  ")
	d.left("SECONDS a", wayWidth)
	d.text("SECONDS b")
	b = d.end()
	for i := range max(len(left), len(right)) {
		d := drawing{Line: c.Line, b: b, begin: len(b)}
		mark := "  "
		if i >= min(p.InA, p.InB) {
			mark = "| "
			d.color(alarm)
		}
		d.text(mark)
		if i < len(left) {
			d.text(left[i])
		}
		d.column(2 + wayWidth)
		if i < len(right) {
			d.text(right[i])
		}
		b = d.end()
	}
	return b
}

// way is one column of ways: a step a line.
func (c Compare) way(l *legs.Life, leg tcpstate.Leg, run *legs.Run) (lines []string) {
	if l == nil {
		return []string{strings.Repeat(" ", 8) + "(no such connection)"}
	}
	course := l.Course(leg)
	for i := range course.Steps {
		s := &course.Steps[i]
		lines = append(lines, fmt.Sprintf("%7.3f %-*s %s", s.Time.Sub(run.Began).Seconds(), stateWidth, c.state(s.To), cut(cause(s.Cause), causeRoom)))
	}
	if n := len(course.Steps); n > 0 && course.Steps[n-1].To != tcpstate.Closed {
		lines = append(lines, fmt.Sprintf("%7.3f (the run ended, %s later)", run.Took.Seconds(), c.age(course.Still)))
	}
	if len(lines) == 0 {
		lines = append(lines, strings.Repeat(" ", 8)+"(nothing)")
	}
	return lines
}

// cut shortens s to so many characters.
func cut(s string, most int) string {
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most])
}
