package tcpbox

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"tcpbox/policy"
	"tcpbox/stack/fault"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun"
)

// FaultRule is a fault that is in force, by its number, and what it has done.
type FaultRule = fault.Rule

// MaxFaults is how many faults a sandbox may have at once.
const MaxFaults = fault.MaxRules

// ErrNoFault is matched by the error of RemoveFault if there is no fault of that
// number, and ErrTooManyFaults by that of AddFault if there is no room. AddFault
// takes what policy.ParseFault returns.
var (
	ErrNoFault       = fault.ErrNoRule
	ErrTooManyFaults = fault.ErrTooMany
)

// newFaults puts the rules between the stack and what it is given as its device,
// which reads the raw one. Without rules it costs a test for each packet.
func newFaults(cfg *Config, dev, raw tun.Device) *fault.Device {
	c := fault.Config{Rules: cfg.Faults, Seed: cfg.FaultSeed}
	if d, ok := raw.(tun.Deadliner); ok {
		c.Interrupt = d.SetReadDeadline
	}
	return fault.New(dev, c)
}

// AddFault puts a fault behind those that there are, from the next packet on, and
// returns its number.
func (s *Sandbox) AddFault(f policy.Fault) (int, error) {
	s.force.mu.Lock()
	defer s.force.mu.Unlock()
	return s.addFaultLocked(f)
}

func (s *Sandbox) addFaultLocked(f policy.Fault) (int, error) {
	if s.life.Err() != nil {
		return 0, fmt.Errorf("tcpbox: fault: %w", ErrEnded)
	}
	id, err := s.faults.Add(f)
	if err != nil {
		return 0, fmt.Errorf("tcpbox: %w", err)
	}
	s.noteFault(id, "", f.String())
	return id, nil
}

// RemoveFault takes away the fault of that number. What it has kept back arrives at
// once, in its order.
func (s *Sandbox) RemoveFault(id int) error {
	s.force.mu.Lock()
	defer s.force.mu.Unlock()
	return s.removeFaultLocked(id)
}

func (s *Sandbox) removeFaultLocked(id int) error {
	rules := s.faults.Rules()
	i := slices.IndexFunc(rules, func(r FaultRule) bool { return r.ID == id })
	if i < 0 {
		return fmt.Errorf("tcpbox: fault %d: %w", id, ErrNoFault)
	}
	if err := s.faults.Remove(id); err != nil {
		return fmt.Errorf("tcpbox: fault %d: %w", id, err)
	}
	s.noteFault(id, rules[i].Fault.String(), "")
	return nil
}

// Faults returns the faults that are in force, in their order.
func (s *Sandbox) Faults() []FaultRule { return s.faults.Rules() }

// FaultsSince returns the faults that go when s takes the place of before, and those that
// come, in their order. One that is to stand behind what was behind it goes and comes again.
func (s Settings) FaultsSince(before Settings) (gone, come []policy.Fault) {
	kept := 0
	for _, f := range before.Faults {
		if kept < len(s.Faults) && s.Faults[kept] == f {
			kept++
		} else {
			gone = append(gone, f)
		}
	}
	return gone, s.Faults[kept:]
}

// setFaultsLocked makes next the faults that are in force. Those that stay keep
// what they hold and have counted, as long as none is to stand before them.
func (s *Sandbox) setFaultsLocked(next []policy.Fault) {
	kept := 0
	for _, r := range s.faults.Rules() {
		if kept < len(next) && next[kept] == r.Fault {
			kept++
			continue
		}
		_ = s.removeFaultLocked(r.ID) // it is there: force.mu is held
	}
	for _, f := range next[kept:] {
		if _, err := s.addFaultLocked(f); err != nil && !errors.Is(err, ErrEnded) {
			s.diag.Error("a fault could not be added", "sandbox", s.name, "rule", f.String(), "err", err)
		}
	}
}

// noteFault tells the log of a change.
func (s *Sandbox) noteFault(id int, from, to string) {
	const none = "none"
	if from == "" {
		from = none
	}
	if to == "" {
		to = none
	}
	s.log.PushSet(&tcpstate.Change{Time: time.Now(), Key: fmt.Sprintf("fault.%d", id), From: from, To: to})
}
