package tcpbox

import (
	"errors"
	"fmt"

	"tcpbox/netns"
	"tcpbox/policy/knob"
	"tcpbox/stack"
	"tcpbox/stack/tcpstate"
)

// resolveKnobs lays the settings out over the three legs. Nothing is set and
// neither the guest's namespace nor the gateway need exist yet.
func (s *Sandbox) resolveKnobs(cfg *Config) error {
	plan, err := knob.Resolve(cfg.Knobs, s.carriers())
	if err != nil {
		return err
	}
	s.force.knobs = plan
	s.force.settings = cfg.settings()
	return nil
}

// carriers are the three legs, for planning; only a started sandbox can apply.
func (s *Sandbox) carriers() map[tcpstate.Leg]knob.Carrier {
	return map[tcpstate.Leg]knob.Carrier{
		tcpstate.Guest:    guestLeg{s},
		tcpstate.Stack:    stackLeg{s},
		tcpstate.Upstream: s.host,
	}
}

// guestDefaults are the sysctls of a guest of our own without a setting.
func guestDefaults() []netns.Sysctl {
	var sysctls []netns.Sysctl
	for _, s := range knob.GuestDefaults() {
		sysctls = append(sysctls, netns.Sysctl(s))
	}
	return sysctls
}

// tune sets the knobs, before the guest starts.
func (s *Sandbox) tune(cfg *Config) error {
	if err := s.force.knobs.Apply(); err != nil {
		return err
	}
	s.force.settings.Sysctls = nil
	undo, err := s.writeSysctls(cfg.Sysctls)
	if err != nil {
		return errors.Join(err, undo())
	}
	s.force.settings.Sysctls = cfg.Sysctls
	for _, o := range s.force.knobs.Outcomes {
		cfg.OnOutcome(o)
	}
	return nil
}

// stackLeg is the gateway, before it is made.
type stackLeg struct{ s *Sandbox }

func (l stackLeg) Plan(settings []knob.Setting) []knob.Outcome { return stack.PlanKnobs(settings) }
func (l stackLeg) Apply(settings []knob.Setting) error         { return l.s.gateway.Apply(settings) }

// guestLeg carries knobs as sysctls of the guest's network namespace.
type guestLeg struct{ s *Sandbox }

// Plan implements knob.Carrier.
func (l guestLeg) Plan(settings []knob.Setting) []knob.Outcome {
	out := make([]knob.Outcome, 0, len(settings))
	for _, set := range settings {
		o := knob.Outcome{Leg: tcpstate.Guest, Key: set.Key}
		sysctls, err := knob.GuestSysctls(set)
		if err != nil {
			o.Text = err.Error()
		} else {
			o.Applied = true
			for i, sc := range sysctls {
				if i > 0 {
					o.Text += ", "
				}
				o.Text += sc.String()
			}
		}
		out = append(out, o)
	}
	return out
}

// Apply implements knob.Carrier. If one sysctl cannot be written, those before
// it get their old values back.
func (l guestLeg) Apply(settings []knob.Setting) (err error) {
	ns := l.s.inside.NS()
	var written []netns.Sysctl
	defer func() {
		if err == nil {
			return
		}
		for i := len(written) - 1; i >= 0; i-- {
			_ = ns.SetSysctl(written[i].Name, written[i].Value)
		}
	}()
	for _, set := range settings {
		sysctls, err := knob.GuestSysctls(set)
		if err != nil {
			return err
		}
		for _, sc := range sysctls {
			old, err := ns.Sysctl(sc.Name)
			if err != nil {
				return fmt.Errorf("%s: this kernel does not offer it: %w", sc.Name, err)
			}
			if err := ns.SetSysctl(sc.Name, sc.Value); err != nil {
				return err
			}
			written = append(written, netns.Sysctl{Name: sc.Name, Value: old})
		}
	}
	return nil
}
