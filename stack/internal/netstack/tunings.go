package netstack

import (
	"fmt"

	"tcpbox/policy/knob"
)

// A tuning is what the stack makes of one knob.
type tuning struct {
	// text says what will be done.
	text func(knob.Setting) string

	// refuse says why the stack does not take the value although the knob has
	// it, or returns "". Nil: it takes all.
	refuse func(knob.Setting) string

	apply func(*Stack, knob.Setting) error
}

// tunings are the knobs that the stack carries, but for those of the relay.
var tunings = map[string]tuning{
	"time-wait.timeout": {
		text:  func(s knob.Setting) string { return fmt.Sprintf("TIME-WAIT lasts %v", s.Duration) },
		apply: func(ns *Stack, s knob.Setting) error { return ns.SetTimeWaitTimeout(s.Duration) },
	},
	"time-wait.reuse": {
		text: func(s knob.Setting) string { return "active opens reuse a TIME-WAIT: " + s.Word },
		apply: set(func(ns *Stack, s knob.Setting) {
			ns.SetTimeWaitReuse(map[string]Reuse{"off": ReuseOff, "on": ReuseOn}[s.Word])
		}),
	},
	"time-wait.reuse-delay": {
		text:  func(s knob.Setting) string { return fmt.Sprintf("active opens reuse a TIME-WAIT after %v", s.Duration) },
		apply: set(func(ns *Stack, s knob.Setting) { ns.SetTimeWaitReuseDelay(s.Duration) }),
	},
	"time-wait.max": {
		text:  func(s knob.Setting) string { return fmt.Sprintf("at most %d endpoints are in TIME-WAIT", s.Int) },
		apply: set(func(ns *Stack, s knob.Setting) { ns.SetTimeWaitMax(s.Int) }),
	},
	"time-wait.overflow": {
		text:  func(s knob.Setting) string { return "of too many TIME-WAITs: " + s.Word },
		apply: set(func(ns *Stack, s knob.Setting) { ns.SetTimeWaitOldest(s.Word == "drop-oldest") }),
	},
	"time-wait.newer-syn": {
		text:  func(s knob.Setting) string { return "a newer SYN opens a connection in TIME-WAIT: " + s.Word },
		apply: set(func(ns *Stack, s knob.Setting) { ns.SetTimeWaitNewerSYN(s.Word == "on") }),
	},
	"time-wait.rfc1337": {
		text:  func(s knob.Setting) string { return "an RST is ignored in TIME-WAIT: " + s.Word },
		apply: set(func(ns *Stack, s knob.Setting) { ns.SetRFC1337(s.Word == "on") }),
	},
	"fin-timeout": {
		text: func(s knob.Setting) string {
			return fmt.Sprintf("FIN-WAIT-2 lasts %v once its owner has closed; TIME-WAIT is not shortened", s.Duration)
		},
		apply: func(ns *Stack, s knob.Setting) error { return ns.SetFINTimeout(s.Duration) },
	},
	"syn-backlog": {
		text:  func(s knob.Setting) string { return fmt.Sprintf("at most %d handshakes are half-open", s.Int) },
		apply: set(func(ns *Stack, s knob.Setting) { ns.SetSYNBacklog(s.Int) }),
	},
	"port-range": {
		text:  func(s knob.Setting) string { return fmt.Sprintf("active opens pick from %d-%d", s.Low, s.Hi) },
		apply: func(ns *Stack, s knob.Setting) error { return ns.SetPortRange(uint16(s.Low), uint16(s.Hi)) },
	},
}

// set is an apply that cannot fail.
func set(f func(*Stack, knob.Setting)) func(*Stack, knob.Setting) error {
	return func(ns *Stack, s knob.Setting) error {
		f(ns, s)
		return nil
	}
}

// PlanKnob says what ApplyKnob would do with a setting of any Stack, or why it
// would not.
func PlanKnob(s knob.Setting) (text string, carries bool) {
	t, ok := tunings[s.Key]
	if !ok {
		return "the embedded stack has no such setting", false
	}
	if t.refuse != nil {
		if why := t.refuse(s); why != "" {
			return why, false
		}
	}
	return t.text(s), true
}

// ApplyKnob makes the setting hold, which is in the knob's range and which
// PlanKnob carries.
func (s *Stack) ApplyKnob(setting knob.Setting) error { return tunings[setting.Key].apply(s, setting) }
