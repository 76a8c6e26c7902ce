package lab

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Yours says how a program of the user's takes a part in a lab: it is run in
// rows that change nothing but settings, and is to end with status 0, or to be
// without the problem.
type Yours struct {
	// Setup says what the rows do then.
	Setup string `json:"setup"`

	// Peers stand in the place of the lab's, if there are any.
	Peers []string `json:"peers,omitempty"`

	// Rows are the names of the rows that it is run in.
	Rows []string `json:"rows"`

	// Steps are done in each row; the program's own is the one whose command has
	// no words.
	Steps []Step `json:"steps"`

	// After is what is expected then, and Columns what is shown.
	After   Figures  `json:"after,omitempty"`
	Columns []Column `json:"columns"`
}

// ForClient is the lab with a command of the user's as its client.
func (l *Lab) ForClient(args []string) (*Lab, error) {
	if l.Client == nil {
		return nil, fmt.Errorf("%s takes no client of yours", l.Name)
	}
	return l.with(l.Client, args), nil
}

// ForServer is the lab with a command of the user's as its server.
func (l *Lab) ForServer(args []string) (*Lab, error) {
	if l.Server == nil {
		return nil, fmt.Errorf("%s takes no server of yours", l.Name)
	}
	return l.with(l.Server, args), nil
}

func (l *Lab) with(y *Yours, args []string) *Lab {
	with := *l
	with.Setup, with.Columns = y.Setup, y.Columns
	with.Moral = []string{"Where a row is as expected, the program is without the problem under that row's setting, if it has made connections at all."}
	if y.Peers != nil {
		with.Peers = y.Peers
	}
	with.Variants = nil
	for i := range l.Variants {
		v := l.Variants[i]
		if !slices.Contains(y.Rows, v.Name) {
			continue
		}
		v.After, v.Within = maps.Clone(y.After), nil
		v.Steps = slices.Clone(y.Steps)
		for i := range v.Steps {
			if c := v.Steps[i].Command; c != nil && len(c.Args) == 0 {
				own := *c
				own.Args = args
				v.Steps[i].Command = &own
			}
		}
		with.Variants = append(with.Variants, v)
	}
	return &with
}

// With is the lab with settings that go before those of each row.
func (l *Lab) With(settings []Setting) (*Lab, error) {
	var errs []error
	for _, s := range settings {
		if !strings.Contains(string(s), "=") {
			errs = append(errs, fmt.Errorf("%q is not a setting: want KEY=VALUE", string(s)))
			continue
		}
		errs = append(errs, l.checkSettings([]Setting{s})...)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	with := *l
	with.Variants = slices.Clone(l.Variants)
	for i := range with.Variants {
		v := &with.Variants[i]
		v.Settings = slices.DeleteFunc(slices.Clone(v.Settings), func(own Setting) bool {
			return slices.ContainsFunc(settings, func(s Setting) bool { return s.name() == own.name() })
		})
		v.Settings = append(v.Settings, settings...)
	}
	return &with, nil
}

// Scaled are the labs that can be run at their real scale, which takes longer.
func Scaled() []Lab {
	return []Lab{TimeWaitExhaustionScaled(), SYNBacklog(5)}
}
