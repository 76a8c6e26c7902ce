package doctor

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// Style is how a report is printed for people.
type Style struct {
	Width int  // columns; 0 means 80
	Color bool // for a terminal that takes it
}

// The columns of a report.
const (
	stateColumn = 9
	nameColumn  = 20
)

// WriteJSON prints a report for machines: one object.
func (r Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// WriteText prints a report for people: what stands how, and below it what that
// costs and what mends it. Commands are not folded, so that they can be copied.
func (r Report) WriteText(w io.Writer, s Style) error {
	width := s.Width
	if width <= 0 {
		width = 80
	}
	var b strings.Builder
	warnings := 0
	for _, c := range r.Checks {
		if c.State == Warning {
			warnings++
		}
		fmt.Fprintf(&b, "%s%-*s", s.paint(c.State), nameColumn, c.Name)
		fold(&b, stateColumn+nameColumn, stateColumn+nameColumn, width, c.Found)
		if c.Cost != "" {
			b.WriteString(strings.Repeat(" ", stateColumn) + "costs: ")
			fold(&b, stateColumn+7, stateColumn+7, width, c.Cost)
		}
		if c.Mend != "" {
			fmt.Fprintf(&b, "%*smend:  %s\n", stateColumn, "", c.Mend)
		}
	}
	b.WriteByte('\n')
	if r.Run.Works {
		text := "tcpbox run works here: a sandbox was started, and ended."
		switch {
		case warnings == 1:
			text = "tcpbox run works here: a sandbox was started, and ended. It costs what the warning says."
		case warnings > 1:
			text = "tcpbox run works here: a sandbox was started, and ended. It costs what the warnings say."
		}
		fold(&b, 0, 0, width, text)
	} else {
		fold(&b, 0, 2, width, "tcpbox run cannot work here: "+r.Run.Error)
		if r.Run.Hint != "" && !r.explained() {
			fold(&b, 0, 2, width, "hint: "+r.Run.Hint)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// explained reports whether a check says why no sandbox can be made.
func (r Report) explained() bool {
	for _, c := range r.Checks {
		if c.State == Cannot {
			return true
		}
	}
	return false
}

// paint is a state in its column and, on a terminal, in its colour.
func (s Style) paint(state State) string {
	text := fmt.Sprintf("%-*s", stateColumn, state)
	colour := map[State]string{OK: "32", Warning: "33", Cannot: "31"}[state]
	if !s.Color || colour == "" {
		return text
	}
	return "\x1b[" + colour + "m" + string(state) + "\x1b[0m" + text[len(state):]
}

// fold writes text in lines of at most width columns, as far as its words allow.
// The cursor is at column at; the lines after the first begin at column indent.
func fold(b *strings.Builder, at, indent, width int, text string) {
	begun := false
	for word := range strings.FieldsSeq(text) {
		n := len([]rune(word))
		switch {
		case !begun:
		case at+1+n > width:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			at = indent
		default:
			b.WriteByte(' ')
			at++
		}
		b.WriteString(word)
		at += n
		begun = true
	}
	b.WriteByte('\n')
}
