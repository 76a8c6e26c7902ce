package stack

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"tcpbox/policy/knob"
	"tcpbox/stack/internal/netstack"
	"tcpbox/stack/tcpstate"
)

// knobs are the settings that the Gateway itself keeps.
type knobs struct {
	halfClose atomic.Int64 // nanoseconds; zero means never
}

// A tuning is what the stack's leg makes of one knob.
type tuning struct {
	text  func(knob.Setting) string
	apply func(*Gateway, knob.Setting) error
}

// tunings are the knobs that the stack's leg carries.
var tunings = map[string]tuning{
	"time-wait.timeout": {
		text:  func(s knob.Setting) string { return fmt.Sprintf("TIME-WAIT lasts %v", s.Duration) },
		apply: func(g *Gateway, s knob.Setting) error { return g.net.SetTimeWaitTimeout(s.Duration) },
	},
	"time-wait.reuse": {
		text:  func(s knob.Setting) string { return "active opens reuse a TIME-WAIT: " + s.Word },
		apply: func(g *Gateway, s knob.Setting) error { return g.net.SetTimeWaitReuse(reuseOf(s.Word)) },
	},
	"fin-timeout": {
		text: func(s knob.Setting) string {
			return fmt.Sprintf("FIN-WAIT-2 lasts %v once its owner has closed; TIME-WAIT is not shortened", s.Duration)
		},
		apply: func(g *Gateway, s knob.Setting) error { return g.net.SetFINTimeout(s.Duration) },
	},
	"half-close-timeout": {
		text: func(s knob.Setting) string {
			if s.Duration == 0 {
				return "a half-closed connection is never cut"
			}
			return fmt.Sprintf("a half-closed connection is cut when nothing has moved for %v", s.Duration)
		},
		apply: func(g *Gateway, s knob.Setting) error {
			g.knobs.halfClose.Store(int64(s.Duration))
			return nil
		},
	},
	"syn-backlog": {
		text: func(s knob.Setting) string { return fmt.Sprintf("at most %d handshakes are half-open", s.Int) },
		apply: func(g *Gateway, s knob.Setting) error {
			g.net.SetSYNBacklog(s.Int)
			return nil
		},
	},
}

func reuseOf(word string) netstack.Reuse {
	switch word {
	case "off":
		return netstack.ReuseOff
	case "on":
		return netstack.ReuseOn
	}
	return netstack.ReuseLoopback
}

// Plan implements knob.Carrier for the stack's leg.
func (g *Gateway) Plan(settings []knob.Setting) []knob.Outcome { return PlanKnobs(settings) }

// PlanKnobs says what the Apply of any Gateway would do, for callers that have
// none yet.
func PlanKnobs(settings []knob.Setting) []knob.Outcome {
	out := make([]knob.Outcome, 0, len(settings))
	for _, s := range settings {
		o := knob.Outcome{Leg: tcpstate.Stack, Key: s.Key}
		if t, ok := tunings[s.Key]; ok {
			o.Applied, o.Text = true, t.text(s)
		} else {
			o.Text = "the embedded stack has no such setting"
		}
		out = append(out, o)
	}
	return out
}

// Apply implements knob.Carrier.
func (g *Gateway) Apply(settings []knob.Setting) error {
	var errs []error
	for _, s := range settings {
		if _, ok := tunings[s.Key]; !ok {
			errs = append(errs, fmt.Errorf("stack: %s: the embedded stack has no such setting", s.Key))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for _, s := range settings {
		if err := tunings[s.Key].apply(g, s); err != nil {
			return fmt.Errorf("stack: set %s: %w", s.Key, err)
		}
	}
	return nil
}

var _ knob.Carrier = (*Gateway)(nil)

// halfCloseTimeout is the knob of that name; zero means never.
func (k *knobs) halfCloseTimeout() time.Duration { return time.Duration(k.halfClose.Load()) }
