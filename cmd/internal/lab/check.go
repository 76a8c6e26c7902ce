package lab

import (
	"errors"
	"fmt"
	"maps"
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
	if !slices.Contains([]Where{"", OnGuest, OnStack}, l.Where) {
		bad("%s: there is no place %q; the places are %q and %q", l.Name, l.Where, OnGuest, OnStack)
	}
	errs = append(errs, l.checkSettings(l.Settings)...)
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
		for _, err := range v.check(l) {
			errs = append(errs, fmt.Errorf("lab: row %s: %w", v.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (v *Variant) check(l *Lab) []error {
	errs := l.checkSettings(v.Settings)
	if !slices.ContainsFunc(groups, func(g groupHead) bool { return g.group == v.Group }) {
		errs = append(errs, fmt.Errorf("there is no group %q", v.Group))
	}
	if len(v.Steps) == 0 {
		errs = append(errs, errors.New("it has no steps"))
	}
	for _, name := range slices.Concat(slices.Sorted(maps.Keys(v.After)), slices.Sorted(maps.Keys(v.Within))) {
		if v.stepOf(name) == "" && !l.counts(name) {
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
		if (s.Sim != nil) != l.onStack() {
			errs = append(errs, fmt.Errorf("step %s: scenes, and only they, are steps of a lab in virtual time", s.Name))
		}
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
	times, kinds := 0, 0
	for _, is := range []bool{s.Connect != nil, s.Fetch != nil, s.Sim != nil} {
		if is {
			kinds++
		}
	}
	switch {
	case kinds != 1:
		return errors.New("it does not do exactly one thing")
	case s.Sim != nil:
		return s.Sim.check()
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

// counts reports whether something counts a figure when all steps are done. In
// virtual time the scenes do, by names of their own.
func (l *Lab) counts(name string) bool {
	return l.onStack() || slices.Contains(counts, name)
}

func (l *Lab) checkSettings(settings []Setting) (errs []error) {
	for _, s := range settings {
		if name, _, ok := s.Sysctl(); ok {
			if l.onStack() {
				errs = append(errs, noKernel(name))
			}
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
