package lab

import (
	"strings"
	"testing"

	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

// TestAllStates: each end enters each of the eleven states, and each record of
// it has its segment or its call. A segment that caused a transition is one that
// the other end sent before, that was not lost, and that has caused no other
// transition of the same kind; a call is one of the script's.
func TestAllStates(t *testing.T) {
	l := AllStates()
	v := &l.Variants[0]
	events, figures := simulated(t, &l, v)
	var calls []string
	for _, s := range v.Steps {
		for _, line := range s.Sim.Script {
			calls = append(calls, string(line))
		}
	}
	legs := map[tcpstate.Leg]tcpstate.Set{}
	// arrived are the segments that came to each end, by their flags.
	arrived := map[tcpstate.Leg]map[packet.Flags]int{tcpstate.Guest: {}, tcpstate.Stack: {}}
	used := map[string]int{}
	for _, e := range events {
		if e.Packet != nil {
			h, err := packet.Parse(e.Packet)
			if err != nil {
				t.Fatal(err)
			}
			to := tcpstate.Guest
			if e.FromGuest {
				to = tcpstate.Stack
			}
			if !e.Lost {
				arrived[to][h.TCP.Flags&^packet.PSH]++
			}
			continue
		}
		tr := e.Transition
		legs[tr.Leg] |= tcpstate.SetOf(tr.To)
		why := tr.Leg.String() + " " + tr.Cause.String()
		used[why]++
		switch tr.Cause.Kind {
		case tcpstate.BySegment:
			flags, err := flagsOf(strings.ReplaceAll(tr.Cause.Which, "-", "+"))
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for f, times := range arrived[tr.Leg] {
				if f.Has(flags) {
					n += times
				}
			}
			if used[why] > n {
				t.Errorf("%v: %v > %v by %v, the %d. such, after %d such segments", tr.Leg, tr.From, tr.To, tr.Cause, used[why], n)
			}
		case tcpstate.ByCall:
			verb := map[string]string{"listen": "listens", "connect": "connects", "close": "closes"}[tr.Cause.Which]
			n := 0
			for _, line := range calls {
				if strings.HasPrefix(line, tr.Leg.String()+" "+verb) || tr.To == tcpstate.Closed && line == tr.Leg.String()+" stops listening" {
					n++
				}
			}
			if verb == "" || n == 0 {
				t.Errorf("%v: %v > %v by %v, which nobody has called", tr.Leg, tr.From, tr.To, tr.Cause)
			}
		case tcpstate.ByTimer:
			if tr.From != tcpstate.TimeWait || figures[tr.Leg.String()+".TIME-WAIT.ms"] != 120000 {
				t.Errorf("%v: %v > %v by %v after %v", tr.Leg, tr.From, tr.To, tr.Cause, tr.Age)
			}
		default:
			t.Errorf("%v: %v > %v by %v", tr.Leg, tr.From, tr.To, tr.Cause)
		}
	}
	for _, leg := range []tcpstate.Leg{tcpstate.Guest, tcpstate.Stack} {
		for _, s := range tcpstate.All() {
			if !legs[leg].Has(s) {
				t.Errorf("the %v was never in %v", leg, s)
			}
		}
		if n := figures[leg.String()+".states"]; n != 11 {
			t.Errorf("the %v entered %d states, want 11", leg, n)
		}
	}
}

// TestRowsStateCounts: what is drawn is what was counted.
func TestRowsStateCounts(t *testing.T) {
	l := AllStates()
	report, err := new(Runner).Run(t.Context(), &l)
	if err != nil {
		t.Fatal(err)
	}
	c := report.Rows[0].StateCounts()
	for name, want := range l.Variants[0].After {
		end, state, _ := strings.Cut(name, ".")
		leg, _ := legOf(end)
		if s, err := tcpstate.Parse(state); err == nil && c.Entered(leg, s) != want {
			t.Errorf("%s: %d are drawn, want %d", name, c.Entered(leg, s), want)
		}
	}
	var b strings.Builder
	if err := report.WriteTable(&b, Style{}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "\nCLOSING           1     1   TIME-WAIT 1/1\n") {
		t.Errorf("the diagram is not in the table:\n%s", b.String())
	}
}
