package main

import (
	"strings"
	"testing"

	"tcpbox/cmd/internal/lab"
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

// TestExplainNamesLabs: what explain says to run is there.
func TestExplainNamesLabs(t *testing.T) {
	named := 0
	for _, d := range knob.Table() {
		if d.Lab == "" {
			continue
		}
		named++
		if _, ok := lab.Find(d.Lab); !ok {
			t.Errorf("%s: there is no lab %q", d.Key, d.Lab)
		}
	}
	if named < 20 {
		t.Errorf("%d knobs name a lab, want at least 20", named)
	}
}
