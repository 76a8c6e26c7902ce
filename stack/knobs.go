package stack

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"tcpbox/policy/knob"
	"tcpbox/stack/internal/netstack"
	"tcpbox/stack/tcpstate"
)

// knobs are the settings that the Gateway itself keeps; the others are those of
// package netstack.
type knobs struct {
	halfClose atomic.Int64 // nanoseconds; zero means never
}

// halfClose is the key of the one knob that the relay carries.
const halfClose = "half-close-timeout"

// Plan implements knob.Carrier for the stack's leg.
func (g *Gateway) Plan(settings []knob.Setting) []knob.Outcome { return PlanKnobs(settings) }

// PlanKnobs says what the Apply of any Gateway would do, for callers that have
// none yet.
func PlanKnobs(settings []knob.Setting) []knob.Outcome {
	out := make([]knob.Outcome, 0, len(settings))
	for _, s := range settings {
		o := knob.Outcome{Leg: tcpstate.Stack, Key: s.Key}
		o.Text, o.Applied = planKnob(s)
		out = append(out, o)
	}
	return out
}

func planKnob(s knob.Setting) (text string, carries bool) {
	switch {
	case s.Key != halfClose:
		return netstack.PlanKnob(s)
	case s.Duration == 0:
		return "a half-closed connection is never cut", true
	default:
		return fmt.Sprintf("a half-closed connection is cut when nothing has moved for %s", s.Canonical()), true
	}
}

// Apply implements knob.Carrier.
func (g *Gateway) Apply(settings []knob.Setting) error {
	var errs []error
	for _, s := range settings {
		if why, ok := planKnob(s); !ok {
			errs = append(errs, fmt.Errorf("stack: %s: %s", s.Key, why))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	relayed := func(s knob.Setting) bool { return s.Key == halfClose }
	if err := g.net.ApplyKnobs(slices.DeleteFunc(slices.Clone(settings), relayed)); err != nil {
		return fmt.Errorf("stack: %w", err)
	}
	for _, s := range settings {
		if relayed(s) {
			g.knobs.halfClose.Store(int64(s.Duration))
		}
	}
	return nil
}

var _ knob.Carrier = (*Gateway)(nil)

// halfCloseTimeout is the knob of that name; zero means never.
func (k *knobs) halfCloseTimeout() time.Duration { return time.Duration(k.halfClose.Load()) }
