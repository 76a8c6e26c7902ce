package document

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"tcpbox/policy/knob"
	"tcpbox/stack/tcpstate"
)

// impossible finds settings that no kernel could carry on the leg that they are for, or
// that cannot hold together.
func (p *reader) impossible(d *Document) {
	err := knob.Possible(d.Settings())
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		return
	}
	for _, err := range joined.Unwrap() {
		var fault *knob.Error
		if !errors.As(err, &fault) {
			continue
		}
		name, _, _ := strings.Cut(fault.Input, "=")
		k, ok := p.knobs[name]
		if _, bare, leg := strings.Cut(name, "."); !ok && leg {
			k, ok = p.knobs[bare] // which was written for every leg
		}
		if !ok { // of the preset, and it takes two
			k = key{line: 1, column: 1}
		}
		p.fault(k.line, k.column, fault.Hint, "%s: %s", name, fault.Message)
	}
}

// conflicts finds what is right by itself and cannot hold together.
func (p *reader) conflicts(d *Document) {
	p.impossible(d)
	for _, c := range Conflicts(*d) {
		line := 1
		if i := strings.LastIndexAny(c.Source, ": "); i >= 0 {
			if n, err := strconv.Atoi(c.Source[i+1:]); err == nil {
				line = n
			}
		}
		p.fault(line, 1, c.Hint, "%s", c.Message)
	}
}

// A Conflict is a parameter that a knob sets and a sysctl too.
type Conflict struct {
	Sysctl                knob.Sysctl
	Setting               knob.Setting // of the knob
	Source, Message, Hint string
}

// Conflicts are the parameters of the guest that d sets to two values.
func Conflicts(d Document) []Conflict {
	var out []Conflict
	for _, s := range d.Settings() {
		if s.Leg != 0 && s.Leg != tcpstate.Guest {
			continue
		}
		sysctls, err := knob.GuestSysctls(s)
		if err != nil {
			continue // it is not for the guest's leg
		}
		for _, sc := range sysctls {
			for _, other := range d.Sysctls {
				if other.Name == sc.Name {
					out = append(out, Conflict{
						Sysctl:  other,
						Setting: s,
						Source:  other.Source,
						Message: fmt.Sprintf("sysctl %s and %s set the same parameter", other.Name, s),
						Hint:    "leave one of them out" + asKnob(other),
					})
				}
			}
		}
	}
	return out
}

// asKnob says how the sysctl is written as a knob.
func asKnob(sysctl knob.Sysctl) string {
	s, ok := sysctl.Knob()
	if !ok {
		return ""
	}
	return "; as a knob the sysctl is " + s.Name() + "=" + s.Canonical()
}
