package knob

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"tcpbox/stack/tcpstate"
)

// Plan is what a list of settings comes to on the legs there are. Nothing has
// been changed yet.
type Plan struct {
	// Outcomes are in the order in which the keys first appear among the
	// settings, and for each key in the order guest, stack, upstream. Those
	// that are not Applied are of settings of every leg.
	Outcomes []Outcome

	legs []legPlan
}

// legPlan is what Apply hands to one carrier.
type legPlan struct {
	leg      tcpstate.Leg
	carrier  Carrier
	settings []Setting
	undo     []Setting // what to go back to if a later leg fails
}

// assignment is the setting that holds for one key on one leg.
type assignment struct {
	setting  Setting // with Leg set
	specific bool    // it named the leg
	outcome  Outcome
}

// Resolve lays settings out over the legs by the rules of the package comment
// and asks the carriers what they will do. A leg without a carrier carries
// nothing. It changes nothing, and reports all faults together, each an *Error,
// joined by errors.Join. A setting that a later one overrides must be in range
// all the same.
func Resolve(settings []Setting, carriers map[tcpstate.Leg]Carrier) (*Plan, error) {
	var faults []error
	for _, s := range settings {
		if err := s.check(); err != nil {
			faults = append(faults, err)
		}
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}

	assigned := assign(settings)
	plan := &Plan{}
	for _, leg := range tcpstate.Legs() {
		lp := legPlan{leg: leg, carrier: carriers[leg]}
		if err := lp.ask(assigned); err != nil {
			faults = append(faults, err)
		}
		if len(lp.settings) > 0 {
			plan.legs = append(plan.legs, lp)
		}
	}
	faults = append(faults, refusals(settings, assigned)...)
	for _, contradiction := range []func(legPlan) error{legPlan.noPorts, legPlan.noTimeout} {
		for _, lp := range plan.legs {
			if err := contradiction(lp); err != nil {
				faults = append(faults, err)
				break // of the next leg it is the same setting, as a rule
			}
		}
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	for _, a := range assigned {
		plan.Outcomes = append(plan.Outcomes, a.outcome)
	}
	return plan, nil
}

// Possible reports what is wrong with settings by the table alone, whatever a kernel
// can do: the faults of Resolve with carriers that carry everything.
func Possible(settings []Setting) error {
	carriers := map[tcpstate.Leg]Carrier{}
	for _, leg := range tcpstate.Legs() {
		carriers[leg] = anything{}
	}
	_, err := Resolve(settings, carriers)
	return err
}

// anything is a leg that carries whatever the table lets it.
type anything struct{}

func (anything) Plan(settings []Setting) []Outcome {
	out := make([]Outcome, len(settings))
	for i := range out {
		out[i].Applied = true
	}
	return out
}

func (anything) Apply([]Setting) error { return nil }

// Apply hands the settings to their carriers, guest first. Each carrier sets
// all of its own or none; if one fails, those before it keep theirs, so the
// sandbox must not be started. A plan of Since takes them back.
func (p *Plan) Apply() error {
	for i, lp := range p.legs {
		if err := lp.carrier.Apply(lp.settings); err != nil {
			return errors.Join(fmt.Errorf("knob: set the %v leg: %w", lp.leg, err), undo(p.legs[:i]))
		}
	}
	return nil
}

// Undo takes back what Apply has done, for a plan of Since. For one of Resolve it does
// nothing.
func (p *Plan) Undo() error { return undo(p.legs) }

// undo takes back what legs were given.
func undo(legs []legPlan) (err error) {
	for _, lp := range legs {
		if len(lp.undo) > 0 {
			if e := lp.carrier.Apply(lp.undo); e != nil {
				err = errors.Join(err, fmt.Errorf("knob: set the %v leg back: %w", lp.leg, e))
			}
		}
	}
	return err
}

// assign finds for each key and leg the setting that holds.
func assign(settings []Setting) []*assignment {
	var assigned []*assignment
	seen := map[string]bool{}
	for _, first := range settings {
		if seen[first.Key] {
			continue
		}
		seen[first.Key] = true
		for _, leg := range tcpstate.Legs() {
			var a *assignment
			for _, s := range settings {
				switch {
				case s.Key != first.Key:
				case s.Leg == leg:
					a = &assignment{setting: s, specific: true}
				case s.Leg == 0 && (a == nil || !a.specific):
					a = &assignment{setting: s}
				}
			}
			if a != nil {
				a.setting.Leg = leg
				a.outcome = Outcome{Leg: leg, Key: first.Key}
				assigned = append(assigned, a)
			}
		}
	}
	return assigned
}

// ask fills in the outcomes of one leg, from the table where that settles it
// and else from the carrier. The error is of a carrier that breaks its
// contract.
func (lp *legPlan) ask(assigned []*assignment) error {
	var asked []*assignment
	var settings []Setting
	for _, a := range assigned {
		if a.setting.Leg != lp.leg {
			continue
		}
		def := lookup(a.setting.Key).Leg(lp.leg)
		switch why := def.outside(a.setting); {
		case !def.Carries:
			a.outcome.Text = def.Text
		case why != "":
			a.outcome.Text = why
		case lp.carrier == nil:
			a.outcome.Text = "this sandbox has no such leg"
		default:
			asked = append(asked, a)
			settings = append(settings, a.setting)
		}
	}
	if len(asked) == 0 {
		return nil
	}
	outcomes := lp.carrier.Plan(settings)
	if len(outcomes) != len(asked) {
		return fmt.Errorf("knob: the %v leg answers %d settings with %d outcomes", lp.leg, len(asked), len(outcomes))
	}
	for i, a := range asked {
		a.outcome.Applied, a.outcome.Text = outcomes[i].Applied, outcomes[i].Text
		if a.outcome.Applied {
			lp.settings = append(lp.settings, a.setting)
		}
	}
	return nil
}

// refusals are the faults of settings that named a leg which cannot carry them,
// and of those that no leg carries.
func refusals(settings []Setting, assigned []*assignment) []error {
	var faults []error
	carried := map[string]bool{}
	why := map[string][]string{}
	for _, a := range assigned {
		key := a.setting.Key
		switch {
		case a.outcome.Applied:
			carried[key] = true
		case a.specific:
			faults = append(faults, cannot(a.setting, a.setting.Leg, a.outcome.Text))
		default:
			why[key] = append(why[key], a.setting.Leg.String()+": "+a.outcome.Text)
		}
	}
	for i, s := range settings {
		if s.Leg != 0 || carried[s.Key] || len(why[s.Key]) == 0 || overridden(settings[i+1:], s) {
			continue
		}
		faults = append(faults, &Error{
			Input:   s.String(),
			Source:  s.Source,
			Message: "no leg can carry it: " + strings.Join(why[s.Key], "; "),
			Hint:    s.Key + " is " + lookup(s.Key).Range() + carriersHint(s.Key),
		})
	}
	return faults
}

// overridden reports whether a later setting is of the same key and leg.
func overridden(later []Setting, s Setting) bool {
	for _, l := range later {
		if l.Key == s.Key && l.Leg == s.Leg {
			return true
		}
	}
	return false
}

// cannot is the fault of a setting for a leg that does not carry it.
func cannot(s Setting, leg tcpstate.Leg, why string) *Error {
	return &Error{
		Input:   s.String(),
		Source:  s.Source,
		Message: fmt.Sprintf("the %v leg cannot carry it: %s", leg, why),
		Hint:    s.Key + " is " + lookup(s.Key).Range() + carriersHint(s.Key),
	}
}

// carriersHint names the legs that carry a knob, and what they take of it.
func carriersHint(key string) string {
	var legs []string
	for _, leg := range tcpstate.Legs() {
		def := lookup(key).Leg(leg)
		if !def.Carries {
			continue
		}
		text := leg.String()
		switch {
		case def.Step == time.Second && def.MaxDuration != 0:
			text += " (whole seconds, at most " + formatDuration(def.MaxDuration) + ")"
		case def.Step == time.Second:
			text += " (whole seconds)"
		}
		legs = append(legs, text)
	}
	return "; the legs that can carry it: " + strings.Join(legs, ", ")
}
