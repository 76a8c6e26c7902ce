package view

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// On a narrow terminal a ladder has no times, and no line that would wrap; on a wide
// one it is as it is in a file.
func TestNarrowLadder(t *testing.T) {
	p := newPlay(t)
	plays[0].run(p)
	lad := p.ladder()
	whole := string(Ladder{}.Text(nil, lad))
	if got := string(Ladder{Width: 120}.Text(nil, lad)); got != whole {
		t.Errorf("120 columns are too few:\n%s", got)
	}
	if !strings.Contains(whole, " TIME  GUEST") {
		t.Error("a ladder has no times")
	}
	for _, l := range []Ladder{{Width: 70}, {Width: 40}, {Width: 40, Color: true}, {Width: 40, ASCII: true}} {
		text := string(l.Text(nil, lad))
		if strings.Contains(text, " TIME  GUEST") || strings.Count(text, "\n") < strings.Count(whole, "\n") {
			t.Errorf("%d columns have times, or lack lines:\n%s", l.Width, text)
		}
		for line := range strings.Lines(text) {
			line = strings.TrimSuffix(line, "\n")
			if n := visible(line); n > l.Width {
				t.Errorf("%q takes %d columns of %d", line, n, l.Width)
			}
			if l.Color && strings.Count(line, "\x1b[m") < strings.Count(line, "\x1b[")-strings.Count(line, "\x1b[m") {
				t.Errorf("%q does not end its colours", line)
			}
			if l.ASCII && utf8.RuneCountInString(line) != len(line) {
				t.Errorf("%q is not ASCII", line)
			}
		}
	}
	if got := string(Ladder{Width: 40}.Text(nil, lad)); !strings.Contains(got, "…\n") {
		t.Errorf("40 columns do not say that there is more:\n%s", got)
	}
}
