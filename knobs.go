package tcpbox

import (
	"errors"

	"tcpbox/netns"
	"tcpbox/policy/knob"
	"tcpbox/stack"
	"tcpbox/stack/tcpstate"
)

// resolveKnobs lays the settings out over the three legs. Nothing is set and
// neither the guest's namespace nor the gateway need exist yet.
func (s *Sandbox) resolveKnobs(cfg *Config) error {
	plan, err := s.resolve(cfg.Knobs)
	if err != nil {
		return err
	}
	s.force.knobs = plan
	s.force.settings = cfg.settings()
	return nil
}

// carriers are the three legs, for planning; only a started sandbox can apply.
func (s *Sandbox) carriers() map[tcpstate.Leg]knob.Carrier {
	legs := map[tcpstate.Leg]knob.Carrier{
		tcpstate.Guest:    guestLeg{s},
		tcpstate.Stack:    stackLeg{s},
		tcpstate.Upstream: s.host,
	}
	if s.paired {
		delete(legs, tcpstate.Upstream) // stackLeg has both stacks
	}
	return legs
}

// guestDefaults are the sysctls of a guest of our own without a setting.
func guestDefaults() []netns.Sysctl {
	var sysctls []netns.Sysctl
	for _, s := range knob.GuestDefaults() {
		sysctls = append(sysctls, netns.Sysctl{Name: s.Name, Value: s.Value})
	}
	return sysctls
}

// tune sets the knobs, before the guest starts.
func (s *Sandbox) tune(cfg *Config) error {
	s.force.settings.Sysctls = nil
	undo, err := s.carryOut(s.force.knobs, cfg.Sysctls)
	if err != nil {
		return errors.Join(err, undo())
	}
	s.force.settings.Sysctls = cfg.Sysctls
	for _, o := range s.force.knobs.Outcomes {
		cfg.OnOutcome(o)
	}
	for _, n := range s.force.knobs.Notes(cfg.Sysctls) {
		cfg.OnNote(n)
	}
	return nil
}

// stackLeg is the gateway, before it is made, and with it the outer one.
type stackLeg struct{ s *Sandbox }

func (l stackLeg) Plan(settings []knob.Setting) []knob.Outcome { return stack.PlanKnobs(settings) }
func (l stackLeg) Apply(settings []knob.Setting) error {
	if err := l.s.gateway.Apply(settings); err != nil || l.s.outer == nil {
		return err
	}
	return l.s.outer.Apply(settings) // what one takes, so does the other
}

// resolve lays settings out over the legs that there are.
func (s *Sandbox) resolve(settings []knob.Setting) (*knob.Plan, error) {
	plan, err := knob.Resolve(settings, s.carriers())
	if err != nil || !s.paired {
		return plan, err
	}
	for i := range plan.Outcomes {
		if o := &plan.Outcomes[i]; o.Leg == tcpstate.Upstream {
			o.Text = "the outer connection ends in a stack too, for which the stack leg's value holds"
		}
	}
	return plan, nil
}
