package lab

import (
	"errors"
	"fmt"
	"slices"

	"tcpbox/policy/knob"
	"tcpbox/stack/peer"
)

// maxTimes bounds what one step does.
const maxTimes = 1 << 20

// Check reports everything that is wrong with a lab.
func (l *Lab) Check() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("lab: "+format, args...))
	}
	if l.Name == "" {
		bad("it has no name")
	}
	if len(l.Variants) == 0 {
		bad("%s: it has no rows", l.Name)
	}
	errs = append(errs, checkSettings(l.Settings)...)
	if _, err := l.peers(); err != nil {
		errs = append(errs, err)
	}
	names := map[string]bool{}
	for i := range l.Variants {
		v := &l.Variants[i]
		if v.Name == "" || names[v.Name] {
			bad("row %d: the name %q is empty or taken", i+1, v.Name)
		}
		names[v.Name] = true
		for _, err := range v.check() {
			errs = append(errs, fmt.Errorf("lab: row %s: %w", v.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (v *Variant) check() []error {
	errs := checkSettings(v.Settings)
	if !slices.ContainsFunc(groups, func(g groupHead) bool { return g.group == v.Group }) {
		errs = append(errs, fmt.Errorf("there is no group %q", v.Group))
	}
	if len(v.Steps) == 0 {
		errs = append(errs, errors.New("it has no steps"))
	}
	for name := range v.After {
		if !slices.Contains(counts, name) {
			errs = append(errs, fmt.Errorf("nothing counts %q", name))
		}
	}
	names := map[string]bool{}
	for i := range v.Steps {
		s := &v.Steps[i]
		if s.Name == "" || names[s.Name] {
			errs = append(errs, fmt.Errorf("step %d: the name %q is empty or taken", i+1, s.Name))
		}
		names[s.Name] = true
		if err := s.check(); err != nil {
			errs = append(errs, fmt.Errorf("step %s: %w", s.Name, err))
		}
	}
	return errs
}

func (s *Step) check() error {
	if !slices.Contains([]When{AtOnce, AfterDelay}, s.When) {
		return fmt.Errorf("there is no time %q", s.When)
	}
	times := 0
	switch {
	case (s.Connect != nil) == (s.Fetch != nil):
		return errors.New("it does not do exactly one thing")
	case s.Connect != nil:
		times = s.Connect.Times
		if !slices.Contains([]Close{ClientShutdown, ClientClose, ServerFirst, ClientReset}, s.Connect.Close) {
			return fmt.Errorf("there is no way to close called %q", s.Connect.Close)
		}
	default:
		times = s.Fetch.Times
	}
	if times < 1 || times > maxTimes {
		return fmt.Errorf("%d times is not from 1 to %d", times, maxTimes)
	}
	return nil
}

func checkSettings(settings []Setting) (errs []error) {
	for _, s := range settings {
		if _, _, ok := s.Sysctl(); ok {
			continue
		}
		if _, err := knob.ParseSetting(string(s)); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// peers returns the hosts inside the stack.
func (l *Lab) peers() ([]peer.Spec, error) {
	var specs []peer.Spec
	for _, text := range l.Peers {
		spec, err := peer.ParseSpec(text)
		if err != nil {
			return nil, err
		}
		specs = append(specs, spec)
	}
	return specs, peer.Check(specs)
}
