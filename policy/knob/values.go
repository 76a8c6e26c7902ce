package knob

import "tcpbox/stack/tcpstate"

// Value is what holds for one knob on one leg that can carry it, or could.
type Value struct {
	Leg tcpstate.Leg
	Key string

	// Carries: the leg can carry the knob. If not, Text says why, and the rest
	// is empty.
	Carries bool

	Value  string // what holds, in words where there is no one default: "the host's default"
	Source string // who set it, as Setting.Source, "set" if that is not known; "default" without a setting

	// Text is what was done for a setting; of one that the leg could not carry
	// although it carries the knob, why not.
	Text string
}

// Values are what holds on every leg, in the order of the table and of the
// legs. written are parameters that are put over what the plan writes into the guest's
// namespace.
func (p *Plan) Values(written []Sysctl) []Value {
	over := map[string]Sysctl{} // by the key of the knob
	for _, sysctl := range written {
		if d, ok := OfSysctl(sysctl.Name); ok {
			over[d.Key] = sysctl
		}
	}
	var all []Value
	for i := range table {
		for _, leg := range tcpstate.Legs() {
			all = append(all, p.holds(&table[i], leg, over))
		}
	}
	return all
}

func (p *Plan) holds(d *Def, leg tcpstate.Leg, over map[string]Sysctl) Value {
	def := d.Leg(leg)
	v := Value{Leg: leg, Key: d.Key, Carries: def.Carries, Text: p.text(leg, d.Key)}
	if !def.Carries {
		v.Text = def.Text
		return v
	}
	if sysctl, ok := over[d.Key]; ok && leg == tcpstate.Guest {
		return sysctl.holds(v)
	}
	s, set := p.of(leg).find(d.Key)
	switch {
	case set && s.Source == "":
		v.Value, v.Source = s.Canonical(), "set"
	case set:
		v.Value, v.Source = s.Canonical(), s.Source
	case def.Default != "":
		v.Value, v.Source = def.Default, "default"
	default:
		v.Value, v.Source = d.Default, "default"
	}
	return v
}

// holds is v with what the sysctl writes, as a value of the knob if it has that one.
func (sc Sysctl) holds(v Value) Value {
	v.Value, v.Source, v.Text = sc.String(), sc.Source, sc.String()
	if s, ok := sc.Knob(); ok {
		v.Value = s.Canonical()
	}
	if v.Source == "" {
		v.Source = "set"
	}
	return v
}
