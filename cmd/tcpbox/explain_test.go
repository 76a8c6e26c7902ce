package main

import (
	"strings"
	"testing"

	"tcpbox/policy/knob"
	"tcpbox/stack/tcpstate"
)

// TestExplanations: of each knob everything is said that the table has, in lines
// that fit a terminal.
func TestExplanations(t *testing.T) {
	for _, d := range knob.Table() {
		text := explain(d)
		flat := strings.Join(strings.Fields(text), " ")
		want := []string{d.Key, d.Range(), d.Default, d.Does, d.Not, d.Believed, d.Source, d.Lab}
		for _, leg := range tcpstate.Legs() {
			want = append(want, d.Leg(leg).Text, d.Leg(leg).Existing, d.Leg(leg).Default)
		}
		for _, w := range want {
			if !strings.Contains(flat, w) {
				t.Errorf("the explanation of %s lacks %q:\n%s", d.Key, w, text)
			}
		}
		for line := range strings.Lines(text) {
			if len(strings.TrimRight(line, "\n")) > explainWidth {
				t.Errorf("a line of %s is longer than %d: %s", d.Key, explainWidth, line)
			}
		}
	}
}
