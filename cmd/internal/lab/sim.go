package lab

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"tcpbox/policy/knob"
	"tcpbox/stack/statelog"
)

// Sim is a step of a lab that runs in virtual time: a scene on two hosts of the
// stack that are joined in memory.
type Sim struct {
	Scene string            `json:"scene"`
	With  map[string]string `json:"with,omitempty"` // what the scene may vary
}

// scene plays a Sim in the box of its row and returns its figures. It may leave
// in the box what later steps of the row go on with.
type scene func(ctx context.Context, b *simBox, with map[string]string) (Figures, error)

// scenes are the scenes, by name.
var scenes = map[string]scene{}

// simBox is the box of a row that runs in virtual time.
type simBox struct {
	knobs []knob.Setting // the row's and the lab's

	// counts are what is counted when all steps are done, by name. The scenes
	// add to them.
	counts Figures

	// log is what the hosts did. The scenes add to it.
	log Log
}

// startSim makes the box of a row of a lab that runs in virtual time.
func startSim(_ context.Context, l *Lab, v *Variant) (box, error) {
	b := &simBox{counts: Figures{}}
	settings, _ := l.settings(v)
	for _, s := range settings {
		set, err := knob.ParseSetting(string(s))
		if err != nil {
			return nil, err
		}
		b.knobs = append(b.knobs, set)
	}
	return b, nil
}

func (b *simBox) step(ctx context.Context, s *Step) (Figures, error) {
	ctx, cancel := context.WithTimeout(ctx, maxStep)
	defer cancel()
	return scenes[s.Sim.Scene](ctx, b, s.Sim.With)
}

// A simulation has no kernel, and so no sysctls: Check has refused them.
func (b *simBox) sysctl(name string) (string, error) { return "", noKernel(name) }

func (b *simBox) setSysctl(name, _ string) error { return noKernel(name) }

func noKernel(name string) error {
	return fmt.Errorf("lab: %s: a lab in virtual time has no kernel", name)
}

func (b *simBox) settle(context.Context) error { return nil }

func (b *simBox) count(context.Context, Figures, map[string]Range) (Figures, error) {
	return maps.Clone(b.counts), nil
}

func (b *simBox) took() Log { return b.log }

func (b *simBox) close() error { return nil }

// check reports what is wrong with a step in virtual time.
func (s *Sim) check() error {
	if _, ok := scenes[s.Scene]; !ok {
		return fmt.Errorf("there is no scene %q; the scenes are %q", s.Scene, slices.Sorted(maps.Keys(scenes)))
	}
	return nil
}

// Log is what happened in a row, in order.
type Log struct {
	Records  []statelog.Record
	Segments []statelog.Segment
}

// text says what a step in virtual time does.
func (s *Sim) text() string {
	var b strings.Builder
	b.WriteString(s.Scene)
	for _, name := range slices.Sorted(maps.Keys(s.With)) {
		fmt.Fprintf(&b, " %s=%s", name, s.With[name])
	}
	return b.String()
}
