package netstack

import (
	"fmt"
	"slices"
	"strings"

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
		text:  func(s knob.Setting) string { return fmt.Sprintf("TIME-WAIT lasts %s", s.Canonical()) },
		apply: func(ns *Stack, s knob.Setting) error { return ns.SetTimeWaitTimeout(s.Duration) },
	},
	"time-wait.reuse": {
		text: func(s knob.Setting) string { return "active opens reuse a TIME-WAIT: " + s.Word },
		apply: set(func(ns *Stack, s knob.Setting) {
			ns.SetTimeWaitReuse(map[string]Reuse{"off": ReuseOff, "on": ReuseOn}[s.Word])
		}),
	},
	"time-wait.reuse-delay": {
		text: func(s knob.Setting) string {
			return fmt.Sprintf("active opens reuse a TIME-WAIT after %s", s.Canonical())
		},
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
	"time-wait.recycle": {
		text: func(s knob.Setting) string {
			return "TIME-WAIT is recycled by the timestamps of each address: " + s.Word
		},
		apply: set(func(ns *Stack, s knob.Setting) { ns.SetTimeWaitRecycle(s.Word == "on") }),
	},
	"time-wait.rfc1337": {
		text:  func(s knob.Setting) string { return "an RST is ignored in TIME-WAIT: " + s.Word },
		apply: set(func(ns *Stack, s knob.Setting) { ns.SetRFC1337(s.Word == "on") }),
	},
	"fin-timeout": {
		text: func(s knob.Setting) string {
			return fmt.Sprintf("FIN-WAIT-2 lasts %s once its owner has closed; TIME-WAIT is not shortened", s.Canonical())
		},
		apply: func(ns *Stack, s knob.Setting) error { return ns.SetFINTimeout(s.Duration) },
	},
	"syn-backlog": {
		text:  func(s knob.Setting) string { return fmt.Sprintf("at most %d handshakes are half-open", s.Int) },
		apply: set(func(ns *Stack, s knob.Setting) { ns.SetSYNBacklog(s.Int) }),
	},
	"syn-retries": {
		text:  func(s knob.Setting) string { return fmt.Sprintf("a SYN is sent again %d times", s.Int) },
		apply: set(func(ns *Stack, s knob.Setting) { ns.SetSYNRetries(s.Int) }),
	},
	"synack-retries": {
		text:  func(s knob.Setting) string { return fmt.Sprintf("a SYN-ACK is sent again %d times", s.Int) },
		apply: set(func(ns *Stack, s knob.Setting) { ns.SetSYNACKRetries(s.Int) }),
	},
	"data-retries": {
		text:  func(s knob.Setting) string { return fmt.Sprintf("data is sent again %d times", s.Int) },
		apply: func(ns *Stack, s knob.Setting) error { return ns.SetDataRetries(s.Int) },
	},
	"rto.min": {
		text: func(s knob.Setting) string {
			return fmt.Sprintf("a retransmission timeout is at least %s", s.Canonical())
		},
		apply: func(ns *Stack, s knob.Setting) error { return ns.SetMinRTO(s.Duration) },
	},
	"rto.max": {
		text: func(s knob.Setting) string {
			return fmt.Sprintf("a retransmission timeout is at most %s", s.Canonical())
		},
		apply: func(ns *Stack, s knob.Setting) error { return ns.SetMaxRTO(s.Duration) },
	},
	"keepalive": {
		text:  func(s knob.Setting) string { return "silent connections are probed: " + s.Word },
		apply: func(ns *Stack, s knob.Setting) error { return ns.SetKeepAlive(s.Word == "on") },
	},
	"keepalive.idle": {
		text:  func(s knob.Setting) string { return fmt.Sprintf("the first probe comes after %s", s.Canonical()) },
		apply: func(ns *Stack, s knob.Setting) error { return ns.SetKeepAliveIdle(s.Duration) },
	},
	"keepalive.interval": {
		text:  func(s knob.Setting) string { return fmt.Sprintf("the next probe comes after %s", s.Canonical()) },
		apply: func(ns *Stack, s knob.Setting) error { return ns.SetKeepAliveInterval(s.Duration) },
	},
	"keepalive.count": {
		text:  func(s knob.Setting) string { return fmt.Sprintf("%d probes in vain end a connection", s.Int) },
		apply: func(ns *Stack, s knob.Setting) error { return ns.SetKeepAliveCount(s.Int) },
	},
	"congestion-control": {
		text: func(s knob.Setting) string { return "the algorithm is " + s.Word },
		refuse: func(s knob.Setting) string {
			if slices.Contains(congestionControls, s.Word) {
				return ""
			}
			return "the stack has " + strings.Join(congestionControls, " and ") + ", not " + s.Word
		},
		apply: func(ns *Stack, s knob.Setting) error { return ns.SetCongestionControl(s.Word) },
	},
	"sack": {
		text:  func(s knob.Setting) string { return "selective acknowledgements: " + s.Word },
		apply: func(ns *Stack, s knob.Setting) error { return ns.SetSACK(s.Word == "on") },
	},
	"mss": {
		text:  func(s knob.Setting) string { return fmt.Sprintf("a segment carries at most %d bytes", s.Int) },
		apply: set(func(ns *Stack, s knob.Setting) { ns.SetMSS(s.Int) }),
	},
	"timestamps": {
		text:  func(s knob.Setting) string { return "timestamps: " + s.Word },
		apply: set(func(ns *Stack, s knob.Setting) { ns.SetTimestamps(s.Word == "on") }),
	},
	"window-scaling": {
		text:  func(s knob.Setting) string { return "the scaling of windows: " + s.Word },
		apply: set(func(ns *Stack, s knob.Setting) { ns.SetWindowScaling(s.Word == "on") }),
	},
	"receive-buffer": {
		text: func(s knob.Setting) string {
			return fmt.Sprintf("a receive buffer of %d bytes, which does not grow", s.Low)
		},
		apply: func(ns *Stack, s knob.Setting) error { return ns.SetReceiveBuffer(s.Low) },
	},
	"send-buffer": {
		text: func(s knob.Setting) string {
			return fmt.Sprintf("a send buffer of %d bytes that grows to %d", s.Low, s.Hi)
		},
		apply: func(ns *Stack, s knob.Setting) error { return ns.SetSendBuffer(s.Low, s.Hi) },
	},
	"user-timeout": {
		text: func(s knob.Setting) string {
			if s.Duration == 0 {
				return "only retransmissions are counted"
			}
			return fmt.Sprintf("a connection ends when nothing is acknowledged for %s", s.Canonical())
		},
		apply: func(ns *Stack, s knob.Setting) error { return ns.SetUserTimeout(s.Duration) },
	},
	"syn-overflow": {
		text:  func(s knob.Setting) string { return "a SYN over a limit: " + s.Word },
		apply: set(func(ns *Stack, s knob.Setting) { ns.SetSYNOverflow(s.Word == "reset") }),
	},
	"syn-rate": {
		text: func(s knob.Setting) string {
			if s.Int == 0 {
				return "SYNs have no rate"
			}
			return fmt.Sprintf("at most %d SYNs a second are let in", s.Int)
		},
		apply: set(func(ns *Stack, s knob.Setting) { ns.SetSYNRate(s.Int) }),
	},
	"syn-flood": {
		text: func(s knob.Setting) string {
			if s.Int == 0 {
				return "no flood of SYNs is told of"
			}
			return fmt.Sprintf("a flood of SYNs is told of when %d are dropped in a second", s.Int)
		},
		apply: set(func(ns *Stack, s knob.Setting) { ns.SetSYNFlood(s.Int) }),
	},
	"pending.max": {
		text:  func(s knob.Setting) string { return fmt.Sprintf("at most %d dials are in progress", s.Int) },
		apply: set(func(ns *Stack, s knob.Setting) { ns.SetMaxPending(s.Int) }),
	},
	"pending.per-destination": {
		text: func(s knob.Setting) string {
			if s.Int == 0 {
				return "half of pending.max for one destination"
			}
			return fmt.Sprintf("at most %d dials to one destination are in progress", s.Int)
		},
		apply: set(func(ns *Stack, s knob.Setting) { ns.SetPendingPerDestination(s.Int) }),
	},
	"pending.per-source": {
		text: func(s knob.Setting) string {
			if s.Int == 0 {
				return "one source may have any number that are opening"
			}
			return fmt.Sprintf("at most %d connections of one source are opening", s.Int)
		},
		apply: set(func(ns *Stack, s knob.Setting) { ns.SetPerSource(s.Int) }),
	},
	"orphan.timeout": {
		text: func(s knob.Setting) string {
			if s.Duration == 0 {
				return "what its owner has closed stays for as long as it is acknowledged"
			}
			return fmt.Sprintf("what its owner has closed is ended after %s", s.Canonical())
		},
		apply: set(func(ns *Stack, s knob.Setting) { ns.SetOrphanTimeout(s.Duration) }),
	},
	"orphan.retries": {
		text: func(s knob.Setting) string {
			return fmt.Sprintf("what its owner has closed is given up when %d retransmissions are not answered", s.Int)
		},
		apply: set(func(ns *Stack, s knob.Setting) { ns.SetOrphanRetries(s.Int) }),
	},
	"orphan.max": {
		text: func(s knob.Setting) string {
			return fmt.Sprintf("at most %d endpoints that their owner has closed", s.Int)
		},
		apply: set(func(ns *Stack, s knob.Setting) { ns.SetOrphanMax(s.Int) }),
	},
	"linger": {
		text:  func(s knob.Setting) string { return "a connection that its owner closes: " + s.Word },
		apply: set(func(ns *Stack, s knob.Setting) { ns.SetLingerReset(s.Word == "reset") }),
	},
	"port-range": {
		text:  func(s knob.Setting) string { return fmt.Sprintf("active opens pick from %d-%d", s.Low, s.Hi) },
		apply: func(ns *Stack, s knob.Setting) error { return ns.SetPortRange(uint16(s.Low), uint16(s.Hi)) },
	},
	"reserved-ports": {
		text: func(s knob.Setting) string { return "active opens never pick " + s.Word },
		apply: set(func(ns *Stack, s knob.Setting) {
			ranges, _ := knob.PortList(s.Word)
			ns.SetReservedPorts(ranges)
		}),
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

// ApplyKnobs makes settings hold, which are in the range of their knobs and which
// PlanKnob carries: all of them, or none if two contradict each other.
func (s *Stack) ApplyKnobs(settings []knob.Setting) error {
	least, most := s.RTO()
	for _, setting := range settings {
		switch setting.Key {
		case "rto.min":
			least = setting.Duration
		case "rto.max":
			most = setting.Duration
		}
	}
	if least > most {
		return fmt.Errorf("rto.min %v is more than rto.max %v", least, most)
	}
	for _, setting := range settings {
		if err := tunings[setting.Key].apply(s, setting); err != nil {
			return fmt.Errorf("set %s: %w", setting.Key, err)
		}
	}
	return nil
}
