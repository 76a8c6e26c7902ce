package main

import (
	"tcpbox/cmd/internal/view"
	"tcpbox/stack/legs"
	"tcpbox/stack/tcpstate"
)

// diffJSON is what diff --json prints.
type diffJSON struct {
	V     int         `json:"v"`
	Same  bool        `json:"same"`
	A     diffRunJSON `json:"a"`
	B     diffRunJSON `json:"b"`
	First string      `json:"first,omitempty"` // where they part, in words
	Parts []partJSON  `json:"parts"`           // the earliest first; one leg of a connection at most once
}

type diffRunJSON struct {
	Settings    string                    `json:"settings"`
	Exit        int                       `json:"exit"`
	Seconds     float64                   `json:"seconds"`
	Connections int                       `json:"connections"`
	Entered     map[string]map[string]int `json:"entered"` // leg, state: how often
}

type partJSON struct {
	To   string   `json:"to"`
	Leg  string   `json:"leg,omitempty"` // none: only one run has the connection
	InA  int      `json:"in_a"`          // which step of a's differs, counted from 0
	InB  int      `json:"in_b"`
	Late bool     `json:"late"` // both have the step, after different times
	A    *wayJSON `json:"a"`    // null: the run has no such connection
	B    *wayJSON `json:"b"`
}

// wayJSON is what the leg went through, or all legs do.
type wayJSON struct {
	Connection int        `json:"connection"`
	Steps      []stepJSON `json:"steps"`
	Still      float64    `json:"still"` // seconds from the last step to the run's end
}

type stepJSON struct {
	Leg   tcpstate.Leg   `json:"leg"`
	From  tcpstate.State `json:"from"`
	To    tcpstate.State `json:"to"`
	Cause tcpstate.Cause `json:"cause"`
	At    float64        `json:"at"`  // seconds since the run began
	Age   float64        `json:"age"` // seconds in from
}

func newDiffJSON(text view.Compare, parts []legs.Part) diffJSON {
	j := diffJSON{
		V: 1, Same: len(parts) == 0 && text.A.Status == text.B.Status,
		A: newDiffRun(text.A), B: newDiffRun(text.B), Parts: []partJSON{},
	}
	for i := range parts {
		p := &parts[i]
		one := partJSON{InA: p.InA, InB: p.InB, Late: p.Late, A: newWay(p.A, p.Leg, text.A.Run), B: newWay(p.B, p.Leg, text.B.Run)}
		if p.Leg != 0 {
			one.Leg = p.Leg.String()
		}
		if p.A != nil {
			one.To = p.A.To
		} else {
			one.To = p.B.To
		}
		j.Parts = append(j.Parts, one)
	}
	if len(parts) > 0 {
		j.First = text.First(&parts[0])
	}
	return j
}

func newDiffRun(s view.Side) diffRunJSON {
	j := diffRunJSON{
		Settings: s.Settings, Exit: s.Status, Seconds: s.Run.Took.Seconds(),
		Connections: len(s.Run.Lives), Entered: map[string]map[string]int{},
	}
	for _, leg := range tcpstate.Legs() {
		of := map[string]int{}
		for _, state := range tcpstate.All() {
			if n := s.Run.Entered(leg, state); n > 0 {
				of[state.String()] = n
			}
		}
		j.Entered[leg.String()] = of
	}
	return j
}

func newWay(l *legs.Life, only tcpstate.Leg, run *legs.Run) *wayJSON {
	if l == nil {
		return nil
	}
	w := &wayJSON{Connection: l.Number, Steps: []stepJSON{}}
	for _, leg := range tcpstate.Legs() {
		if only != 0 && leg != only {
			continue
		}
		c := l.Course(leg)
		for _, s := range c.Steps {
			w.Steps = append(w.Steps, stepJSON{s.Leg, s.From, s.To, s.Cause, s.Time.Sub(run.Began).Seconds(), s.Age.Seconds()})
		}
		w.Still = max(w.Still, c.Still.Seconds())
	}
	return w
}
