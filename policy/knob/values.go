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
// legs.
func (p *Plan) Values() []Value {
	var all []Value
	for i := range table {
		for _, leg := range tcpstate.Legs() {
			all = append(all, p.holds(&table[i], leg))
		}
	}
	return all
}

func (p *Plan) holds(d *Def, leg tcpstate.Leg) Value {
	def := d.Leg(leg)
	v := Value{Leg: leg, Key: d.Key, Carries: def.Carries, Text: p.text(leg, d.Key)}
	if !def.Carries {
		v.Text = def.Text
		return v
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
