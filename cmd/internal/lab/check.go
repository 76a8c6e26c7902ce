package lab

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"tcpbox/policy"
	"tcpbox/policy/knob"
	"tcpbox/stack/peer"
)

// maxTimes bounds what one step does.
const maxTimes = 1 << 20

// maxHead is how wide the head of a column may be.
const maxHead = 5

// isName says whether a lab or a file can be called so.
func isName(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
	})
}

// fault is what is wrong with a lab: with a row of it, and with a step of that,
// if their numbers are not below zero.
type fault struct {
	row, step int
	key       string // of the lab or the row, if it is the fault's
	err       error
}

// Check reports everything that is wrong with a lab.
func (l *Lab) Check() error {
	var errs []error
	for _, f := range l.faults() {
		errs = append(errs, fmt.Errorf("lab: %w", f.err))
	}
	return errors.Join(errs...)
}

// faults are what is wrong with a lab, in order.
func (l *Lab) faults() (faults []fault) {
	bad := func(row, step int, err error) { faults = append(faults, fault{row, step, "", err}) }
	of := func(key string, err error) { faults = append(faults, fault{-1, -1, key, err}) }
	switch {
	case l.Name == "":
		bad(-1, -1, errors.New("it has no name"))
	case !isName(l.Name):
		of("name", fmt.Errorf("the name %.80q is not of lower-case letters, digits and hyphens", l.Name))
	}
	if strings.ContainsFunc(l.Title, unicode.IsControl) {
		of("title", fmt.Errorf("the title %.80q is more than a line of text", l.Title))
	}
	for _, c := range l.Columns {
		if utf8.RuneCountInString(c.Head) > maxHead || strings.ContainsFunc(c.Head, unicode.IsControl) {
			of("columns", fmt.Errorf("the head %.80q of a column is not of at most %d letters", c.Head, maxHead))
		}
	}
	if len(l.Variants) == 0 {
		bad(-1, -1, fmt.Errorf("%s: it has no rows", l.Name))
	}
	if !slices.Contains([]Where{"", OnGuest, OnStack, OnHost}, l.Where) {
		of("where", fmt.Errorf("%s: there is no place %q; the places are %q, %q and %q", l.Name, l.Where, OnGuest, OnStack, OnHost))
	}
	for _, err := range l.checkSettings(l.Settings) {
		of("settings", err)
	}
	if _, err := l.peers(); err != nil {
		of("peers", err)
	}
	if _, err := faultsOf(l.Faults); err != nil {
		of("faults", err)
	}
	names := map[string]bool{}
	for i := range l.Variants {
		v := &l.Variants[i]
		if v.Name == "" || names[v.Name] {
			bad(i, -1, fmt.Errorf("row %d: the name %q is empty or taken", i+1, v.Name))
		}
		names[v.Name] = true
		v.check(l, func(step int, err error) { bad(i, step, fmt.Errorf("row %s: %w", v.Name, err)) })
	}
	return faults
}

func (v *Variant) check(l *Lab, bad func(step int, err error)) {
	for _, err := range l.checkSettings(v.Settings) {
		bad(-1, err)
	}
	if !slices.ContainsFunc(groups, func(g groupHead) bool { return g.group == v.Group }) {
		bad(-1, fmt.Errorf("there is no group %q", v.Group))
	}
	if _, err := faultsOf(v.Faults); err != nil {
		bad(-1, err)
	}
	if len(v.Steps) == 0 {
		bad(-1, errors.New("it has no steps"))
	}
	for _, name := range slices.Concat(slices.Sorted(maps.Keys(v.After)), slices.Sorted(maps.Keys(v.Within))) {
		switch {
		case v.stepOf(name) != "" || l.counts(name):
		case isOfHost(name):
			bad(-1, errNotOnHost(name))
		default:
			bad(-1, checkCount(name))
		}
	}
	names := map[string]bool{}
	for i := range v.Steps {
		s := &v.Steps[i]
		switch {
		case s.Name == "" || names[s.Name]:
			bad(i, fmt.Errorf("step %d: the name %q is empty or taken", i+1, s.Name))
		case checkCount(s.Name+".listen") == nil || strings.Contains(s.Name, "."):
			bad(i, fmt.Errorf("step %d: a step cannot be called %q", i+1, s.Name))
		}
		names[s.Name] = true
		if s.Set != nil {
			for _, err := range l.checkSettings(s.Set.Settings) {
				bad(i, fmt.Errorf("step %s: %w", s.Name, err))
			}
		}
		for _, name := range slices.Concat(slices.Sorted(maps.Keys(s.Expect)), slices.Sorted(maps.Keys(s.Within))) {
			if isOfHost(name) && !l.onHost() {
				bad(i, fmt.Errorf("step %s: %w", s.Name, errNotOnHost(name)))
			}
		}
		if l.onHost() && s.In == InHost && s.Listen == nil && s.Accept == nil && s.Act == nil {
			bad(i, fmt.Errorf("step %s: the host does not do %q; it does listen, accept and act", s.Name, s.kinds()))
		}
		if (s.Sim != nil) != l.onStack() {
			bad(i, fmt.Errorf("step %s: scripts, and only they, are steps of a lab in virtual time", s.Name))
		}
		if i > 0 && s.Sim != nil && s.Sim.ofHosts() {
			bad(i, fmt.Errorf("step %s: the hosts are there already: latency, forgets and paws belong to the first step", s.Name))
		}
		if err := s.check(); err != nil {
			bad(i, fmt.Errorf("step %s: %w", s.Name, err))
		}
	}
}

func (s *Step) check() error {
	if !slices.Contains([]When{AtOnce, AfterDelay}, s.When) {
		return fmt.Errorf("there is no time %q", s.When)
	}
	kinds := s.kinds()
	if len(kinds) != 1 {
		return fmt.Errorf("it does not do exactly one thing: %q", kinds)
	}
	for name := range s.Within {
		if _, also := s.Expect[name]; also {
			return fmt.Errorf("%q is expected twice", name)
		}
	}
	switch {
	case s.Sim != nil:
		return s.Sim.check()
	case s.Connect != nil:
		if err := oneOf("way to close", s.Connect.Close, ClientShutdown, ClientClose, ServerFirst, ClientReset); err != nil {
			return err
		}
		return checkTimes(s.Connect.Times)
	case s.Fetch != nil:
		return checkTimes(s.Fetch.Times)
	case s.Listen != nil:
		if s.In != InStack {
			if _, err := portOf(s.Listen.At); err != nil {
				return err
			}
		}
		return oneOf("server that does", s.Listen.Then, "", ThenClose, ThenReadEnd, ThenLeak, ThenHold)
	case s.Accept != nil:
		return checkTimes(s.Accept.Times)
	case s.Open != nil:
		return checkTimes(s.Open.Times)
	case s.Act != nil:
		if s.Act.Bytes < 0 || s.Act.Bytes > maxBytes {
			return fmt.Errorf("%d bytes are not from 0 to %d", s.Act.Bytes, maxBytes)
		}
		return oneOf("thing to do", s.Act.Do, DoShutdown, DoClose, DoReset, DoWrite, DoFill, DoRead, DoReadEnd)
	case s.Wait != nil:
		if most := 10 * int(maxStep.Milliseconds()); s.Wait.For < 0 || s.Wait.Until < 0 || s.Wait.For > most || s.Wait.Until > most {
			return fmt.Errorf("it does not wait from 0 to %d milliseconds", most)
		}
	case s.Command != nil:
		if len(s.Command.Args) == 0 {
			return errors.New("it has no command")
		}
		if s.Command.Stays != "" {
			_, err := portOf(s.Command.Stays)
			return err
		}
	case s.Set != nil:
		_, err := faultsOf(s.Set.Faults)
		return errors.Join(append((&Lab{Where: OnHost}).checkSettings(s.Set.Settings), err)...)
	}
	return nil
}

// maxBytes bounds what is written to one connection.
const maxBytes = 1 << 30

func checkTimes(times int) error {
	if times < 1 || times > maxTimes {
		return fmt.Errorf("%d times is not from 1 to %d", times, maxTimes)
	}
	return nil
}

// oneOf reports that word is none of those that are known.
func oneOf[T ~string](what string, word T, known ...T) error {
	if !slices.Contains(known, word) {
		return fmt.Errorf("there is no %s called %q; there are %q", what, word, known)
	}
	return nil
}

// counts reports whether something counts a figure when all steps are done. In
// virtual time everything is counted: see player.figures.
func (l *Lab) counts(name string) bool {
	return l.onStack() || checkCount(name) == nil && (l.onHost() || !isOfHost(name))
}

func (l *Lab) checkSettings(settings []Setting) (errs []error) {
	for _, s := range settings {
		if name, _, ok := s.Sysctl(); ok {
			switch {
			case l.onStack():
				errs = append(errs, noKernel(name))
			case strings.HasPrefix(name, ofHost) && !l.onHost():
				errs = append(errs, fmt.Errorf("%s is set only in a lab with where: %s", name, OnHost))
			}
			continue
		}
		if _, err := knob.ParseSetting(string(s)); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// faultsOf reads faults.
func faultsOf(texts []string) ([]policy.Fault, error) {
	var all []policy.Fault
	var errs []error
	for _, text := range texts {
		f, err := policy.ParseFault(text)
		all, errs = append(all, f), append(errs, err)
	}
	return all, errors.Join(errs...)
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
