package sim

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"tcpbox/policy"
	"tcpbox/stack/fault"
	"tcpbox/stack/internal/netstack"
	"tcpbox/stack/tcpstate"
)

// faultClock is the manual clock as package fault wants it.
type faultClock struct{ netstack.ManualClock }

func (c faultClock) AfterFunc(d time.Duration, f func()) fault.Timer {
	return c.ManualClock.AfterFunc(d, f)
}

func parseFaults(texts []string) (rules []policy.Fault, err error) {
	for _, text := range texts {
		f, wrong := policy.ParseFault(text)
		if wrong != nil {
			err = errors.Join(err, fmt.Errorf("sim: %w", wrong))
			continue
		}
		rules = append(rules, f)
	}
	if len(rules) > fault.MaxRules {
		err = errors.Join(err, fmt.Errorf("sim: %w", fault.ErrTooMany))
	}
	return rules, err
}

// AddFault adds a rule behind those that there are, and returns its number.
func (n *Net) AddFault(rule string) (id int, err error) {
	f, err := policy.ParseFault(rule)
	if err == nil {
		id, err = n.faults.Add(f)
	}
	if err != nil {
		return 0, fmt.Errorf("sim: %w", err)
	}
	return id, nil
}

// RemoveFault takes a rule away; what it has kept back arrives at once.
func (n *Net) RemoveFault(id int) error {
	if err := n.faults.Remove(id); err != nil {
		return fmt.Errorf("sim: %w", err)
	}
	return nil
}

// Faults are the rules, and what each has done.
func (n *Net) Faults() []fault.Rule { return n.faults.Rules() }

// acted marks what a rule has taken out as lost. The guest's packet was sent over
// the link already; the stack's has not come that far, and gets an event of its
// own.
func (n *Net) acted(a fault.Act) {
	if !a.Lost {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if a.Direction == tcpstate.Inbound {
		n.addLocked(Event{Time: n.clock.Now(), Packet: bytes.Clone(a.Packet), Lost: true})
		return
	}
	for i := len(n.events) - 1; i >= 0; i-- {
		if e := &n.events[i]; e.FromGuest && !e.Lost && bytes.Equal(e.Packet, a.Packet) {
			e.Lost = true
			return
		}
	}
}
