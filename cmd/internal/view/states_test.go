package view

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"tcpbox/stack/tcpstate"
)

// everyWay has gone each arrow of the diagram, a different number of times, and
// two ways that are none.
func everyWay() StateCounts {
	c := StateCounts{}
	for i, a := range stateArrows {
		for range i + 1 {
			c.Add(tcpstate.Guest, a.From, a.To)
		}
		if i%2 == 0 {
			c.Add(tcpstate.Stack, a.From, a.To)
		}
	}
	c.Add(tcpstate.Stack, tcpstate.Established, tcpstate.Closed)
	c.Add(tcpstate.Guest, tcpstate.SynReceived, tcpstate.Closed)
	return c
}

// TestStateDiagram keeps the diagram as a picture and as text.
func TestStateDiagram(t *testing.T) {
	for name, got := range map[string][]byte{
		"testdata/states/every-way.svg": StateDiagram(nil, everyWay()),
		"testdata/states/nothing.svg":   StateDiagram(nil, nil),
		"testdata/states/every-way.txt": StateText(nil, everyWay()),
	} {
		if *update {
			if err := os.WriteFile(name, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what it was; if that is meant: go test -update", name)
		}
	}
}

// TestStateArrowsAreLegal: each arrow is one that RFC 9293 allows, begins and
// ends at the box of its state, and each state has one that leads to it.
func TestStateArrowsAreLegal(t *testing.T) {
	touches := func(s tcpstate.State, x, y float64) bool {
		for _, b := range stateBoxes {
			if b.state == s && x >= b.x-boxWidth/2 && x <= b.x+boxWidth/2 && y >= b.y-boxHeight/2 && y <= b.y+boxHeight/2 {
				return true
			}
		}
		return false
	}
	led := tcpstate.SetOf()
	for _, a := range stateArrows {
		if from := a.From; !tcpstate.Legal(from, a.To) && !(from == tcpstate.Listen && tcpstate.Legal(tcpstate.Closed, a.To)) {
			t.Errorf("no end goes from %v to %v", a.From, a.To)
		}
		if !touches(a.From, a.x1, a.y1) || !touches(a.To, a.x2, a.y2) {
			t.Errorf("the arrow from %v to %v does not join their boxes", a.From, a.To)
		}
		led |= tcpstate.SetOf(a.To)
	}
	for _, s := range tcpstate.All() {
		if !led.Has(s) {
			t.Errorf("no arrow leads to %v", s)
		}
	}
}

func TestStateCounts(t *testing.T) {
	c := StateCounts{}
	c.Add(tcpstate.Guest, tcpstate.Closed, tcpstate.SynReceived)
	c.Add(tcpstate.Guest, tcpstate.SynSent, tcpstate.SynReceived)
	if n := c.Entered(tcpstate.Guest, tcpstate.SynReceived); n != 2 {
		t.Errorf("entered %d times, want 2", n)
	}
	if n := c[tcpstate.Guest][Edge{tcpstate.Listen, tcpstate.SynReceived}]; n != 1 {
		t.Errorf("from LISTEN %d times, want once", n)
	}
	if got := string(StateText(nil, c)); !strings.Contains(got, "SYN-RECEIVED      2     0\n") {
		t.Errorf("StateText = %s", got)
	}
}
