package knob

import (
	"slices"
	"strings"

	"tcpbox/stack/tcpstate"
)

// A Note is what a setting says of itself when it is put in force: what one might
// expect of it and it does not do.
type Note struct {
	Key  string
	Text string // one line, without a full stop
}

// says is a Note and when it is due.
type says struct {
	leg    tcpstate.Leg // the one that the setting is for; zero: any
	values []string     // of the setting; empty: all
	with   string       // KEY=VALUE[,VALUE] that must hold on the same leg; empty: whatever holds
	text   string
}

// Says is everything that a setting of the knob may say of itself.
func (d Def) Says() []string {
	var texts []string
	for _, s := range d.says {
		texts = append(texts, s.text)
	}
	return texts
}

// Notes are what the settings of a plan say of themselves, each once, in the order
// of the table. Those whose source is "preset NAME" say nothing: nobody has written
// them. written are
// parameters that are put over what the plan writes into the guest's namespace.
func (p *Plan) Notes(written []Sysctl) []Note {
	var notes []Note
	for i := range table {
		for _, says := range table[i].says {
			note := Note{table[i].Key, says.text}
			same := func(n Note) bool { return n.Text == note.Text }
			if p.due(&table[i], says, written) && !slices.ContainsFunc(notes, same) {
				notes = append(notes, note)
			}
		}
	}
	return notes
}

func (p *Plan) due(d *Def, says says, written []Sysctl) bool {
	for _, leg := range tcpstate.Legs() {
		if says.leg != 0 && says.leg != leg {
			continue
		}
		s, ok := p.of(leg).find(d.Key)
		if !ok || strings.HasPrefix(s.Source, "preset ") {
			continue
		}
		if (len(says.values) == 0 || slices.Contains(says.values, s.Canonical())) && p.of(leg).has(says.with, written) {
			return true
		}
	}
	return false
}

// has reports whether KEY=VALUE[,VALUE] holds on the leg.
func (lp legPlan) has(with string, written []Sysctl) bool {
	if with == "" {
		return true
	}
	key, values, _ := strings.Cut(with, "=")
	for value := range strings.SplitSeq(values, ",") {
		want := Setting{Key: key, Leg: lp.leg, Word: value}
		if d := lookup(key); lp.leg == tcpstate.Guest && d.sysctls != nil {
			sysctl := d.sysctls(want)[0]
			over := slices.IndexFunc(written, func(s Sysctl) bool { return s.Name == sysctl.Name })
			if over >= 0 {
				if written[over].Value == sysctl.Value {
					return true
				}
				continue
			}
		}
		if lp.value(key) == value {
			return true
		}
	}
	return false
}
