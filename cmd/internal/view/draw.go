package view

import (
	"time"
	"unicode/utf8"

	"tcpbox/stack/tcpstate"
)

// The colours, as SGR sequences (ECMA-48, section 8.3.117). They are of the
// eight that every palette has.
const (
	noColor = ""
	faint   = "\x1b[2m"
	alarm   = "\x1b[1;31m"

	opening = "\x1b[33m" // yellow: on the way up
	open    = "\x1b[32m" // green
	closing = "\x1b[35m" // magenta: on the way down
	waiting = "\x1b[36m" // cyan: nobody's any more, but not gone
	reset   = "\x1b[m"
)

// stateColor returns the colour of a state: one for each phase of a connection.
func stateColor(s tcpstate.State) string {
	switch s {
	case tcpstate.SynSent, tcpstate.SynReceived:
		return opening
	case tcpstate.Established:
		return open
	case tcpstate.FinWait1, tcpstate.FinWait2, tcpstate.CloseWait, tcpstate.Closing, tcpstate.LastAck:
		return closing
	case tcpstate.TimeWait:
		return waiting
	case tcpstate.Closed:
		return faint
	}
	return noColor
}

// drawing is a line that is being drawn.
type drawing struct {
	Line
	b       []byte
	begin   int // where the line begins in b
	width   int // columns drawn so far
	colored bool
}

func (d *drawing) text(s string) {
	d.b = append(d.b, s...)
	d.width += utf8.RuneCountInString(s)
}

// column draws blanks up to column, counted from zero.
func (d *drawing) column(column int) {
	for d.width < column {
		d.text(" ")
	}
}

// left draws s and blanks behind it, width columns in all or more.
func (d *drawing) left(s string, width int) {
	end := d.width + width
	d.text(s)
	d.column(end)
}

// right draws s and blanks before it, width columns in all or more.
func (d *drawing) right(s string, width int) {
	d.column(d.width + width - utf8.RuneCountInString(s))
	d.text(s)
}

func (d *drawing) time(t time.Time) {
	where := d.Location
	if where == nil {
		where = time.Local
	}
	d.color(faint)
	d.b = t.In(where).AppendFormat(d.b, "15:04:05.000")
	d.width += len("15:04:05.000")
	d.plain()
}

func (d *drawing) arrow() { d.text(d.arrowText()) }

func (l Line) arrowText() string {
	if l.ASCII {
		return " > "
	}
	return " → "
}

func (d *drawing) color(sequence string) {
	if d.Color && sequence != noColor {
		d.b = append(d.b, sequence...)
		d.colored = true
	}
}

func (d *drawing) plain() {
	if d.colored {
		d.b = append(d.b, reset...)
		d.colored = false
	}
}

// end ends the line, without blanks at its end, and returns the buffer.
func (d *drawing) end() []byte {
	d.plain()
	for len(d.b) > d.begin && d.b[len(d.b)-1] == ' ' {
		d.b = d.b[:len(d.b)-1]
	}
	return append(d.b, '\n')
}
