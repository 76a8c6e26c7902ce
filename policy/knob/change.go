package knob

import (
	"fmt"

	"tcpbox/stack/tcpstate"
)

// Change is what one leg makes of a new value while the sandbox runs.
type Change struct {
	Leg      tcpstate.Leg
	Key      string
	From, To string // values; of a key that has no default, empty for what held before it was set
	Applied  bool   // it was, or would be, changed
	Text     string // what is done, or why not
	Existing string // whether connections that are already there follow; empty if not Applied
}

// String returns one line for people: "stack.time-wait.timeout: 60s > 5s: ...".
func (c Change) String() string {
	name := c.Leg.String() + "." + c.Key
	if !c.Applied {
		return name + " is not changed: " + c.Text
	}
	from := c.From
	if from == "" {
		from = "its default"
	}
	return fmt.Sprintf("%s: %s > %s: %s; %s", name, from, c.To, c.Text, c.Existing)
}

// Since returns the plan for what of p differs from old, which is in force; what
// only old sets goes back to its default. Apply of it is all or nothing: if a
// leg fails, those before it get back what old, or the default, says.
func (p *Plan) Since(old *Plan) (*Plan, []Change) {
	diff := &Plan{}
	var changes []Change
	for _, leg := range tcpstate.Legs() {
		now, before := p.of(leg), old.of(leg)
		lp := legPlan{leg: leg, carrier: now.carrier}
		if lp.carrier == nil {
			lp.carrier = before.carrier
		}
		for _, s := range now.settings {
			from := before.value(s.Key)
			if from == s.Canonical() {
				continue
			}
			lp.settings = append(lp.settings, s)
			if undo, ok := before.setting(s.Key, leg); ok {
				lp.undo = append(lp.undo, undo)
			}
			changes = append(changes, change(leg, s, from, p.text(leg, s.Key)))
		}
		for _, s := range before.settings {
			if _, kept := now.find(s.Key); kept {
				continue
			}
			back, ok := defaultOf(s.Key, leg)
			switch {
			case !ok:
				changes = append(changes, Change{Leg: leg, Key: s.Key, Text: "there is no default to go back to: " + s.Value() + " stays until the sandbox ends"})
			case back.Canonical() != s.Canonical():
				lp.settings = append(lp.settings, back)
				lp.undo = append(lp.undo, s)
				changes = append(changes, change(leg, back, s.Canonical(), "the default"))
			}
		}
		if len(lp.settings) > 0 {
			diff.legs = append(diff.legs, lp)
		}
	}
	for _, o := range p.Outcomes {
		if !o.Applied {
			changes = append(changes, Change{Leg: o.Leg, Key: o.Key, Text: o.Text})
		}
	}
	return diff, changes
}

func change(leg tcpstate.Leg, s Setting, from, text string) Change {
	return Change{Leg: leg, Key: s.Key, From: from, To: s.Canonical(), Applied: true, Text: text, Existing: lookup(s.Key).Leg(leg).Existing}
}

// of returns the part of one leg; a nil Plan has none.
func (p *Plan) of(leg tcpstate.Leg) legPlan {
	if p != nil {
		for _, lp := range p.legs {
			if lp.leg == leg {
				return lp
			}
		}
	}
	return legPlan{leg: leg}
}

// text is what the leg said of the key.
func (p *Plan) text(leg tcpstate.Leg, key string) string {
	for _, o := range p.Outcomes {
		if o.Leg == leg && o.Key == key {
			return o.Text
		}
	}
	return ""
}

func (lp legPlan) find(key string) (Setting, bool) {
	for _, s := range lp.settings {
		if s.Key == key {
			return s, true
		}
	}
	return Setting{}, false
}

// setting is what holds on the leg: what was set, or the default.
func (lp legPlan) setting(key string, leg tcpstate.Leg) (Setting, bool) {
	if s, ok := lp.find(key); ok {
		return s, true
	}
	return defaultOf(key, leg)
}

func (lp legPlan) value(key string) string {
	s, ok := lp.setting(key, lp.leg)
	if !ok {
		return ""
	}
	return s.Canonical()
}

// defaultOf is the setting of a key's default on a leg that carries it.
func defaultOf(key string, leg tcpstate.Leg) (Setting, bool) {
	d := lookup(key)
	s := Setting{Key: key, Leg: leg}
	if d == nil || d.Default == "" || d.Leg(leg).Default != "" || d.parse(&s, d.Default) != "" || d.Leg(leg).outside(s) != "" {
		return Setting{}, false
	}
	return s, true
}
