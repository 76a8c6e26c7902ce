package tcpbox

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"tcpbox/netns"
	"tcpbox/policy"
	"tcpbox/policy/document"
	"tcpbox/policy/knob"
	"tcpbox/stack"
	"tcpbox/stack/tcpstate"
	"tcpbox/stack/upstream"
)

// Limits bound what a guest can make grow. Zero means the default: 65,536
// connections, 4,096 flows of UDP and ping, no limit of buffers and of the log.
type Limits document.Limits

func (l Limits) ofGateway() stack.Limits {
	return stack.Limits{Connections: l.Connections, Flows: l.UDPFlows, Buffers: int64(l.Buffers)}
}

// Settings are what of a Config can change while its sandbox runs.
type Settings struct {
	Policy  policy.Policy
	Knobs   []knob.Setting
	Sysctls []knob.Sysctl
	Limits  Limits
	Faults  []policy.Fault
}

func (c *Config) settings() Settings {
	return Settings{Policy: c.Policy, Knobs: c.Knobs, Sysctls: c.Sysctls, Limits: c.Limits, Faults: c.Faults}
}

// Check reports everything that is wrong, as far as it shows without a sandbox.
func (s Settings) Check() error {
	_, err := s.plan()
	errs := []error{err}
	for _, sysctl := range s.Sysctls {
		errs = append(errs, knob.CheckSysctl(sysctl))
	}
	for name, n := range map[string]int{"connections": s.Limits.Connections, "UDP flows": s.Limits.UDPFlows, "buffers": s.Limits.Buffers, "records of the log": s.Limits.LogRate} {
		if n < 0 {
			errs = append(errs, fmt.Errorf("the limit of %s is not negative", name))
		}
	}
	if each := s.bufferBytes(); err == nil && s.Limits.Buffers > 0 && s.Limits.Buffers < each {
		errs = append(errs, &knob.Error{
			Input:   "limits.buffers=" + knob.FormatSize(s.Limits.Buffers),
			Message: fmt.Sprintf("the limit of buffers lets no connection be: its buffers may come to %s", knob.FormatSize(each)),
			Hint:    "raise it, or make stack.receive-buffer and stack.send-buffer smaller",
		})
	}
	for _, f := range s.Faults {
		if again, err := policy.ParseFault(f.String()); err != nil || again != f {
			errs = append(errs, fmt.Errorf("%q is not a fault as policy.ParseFault makes one", f))
		}
	}
	if len(s.Faults) > MaxFaults {
		errs = append(errs, fmt.Errorf("%d faults are more than the %d that there may be", len(s.Faults), MaxFaults))
	}
	for _, c := range s.conflicts() {
		errs = append(errs, &knob.Error{Input: c.Sysctl.Name, Source: c.Source, Message: c.Message, Hint: c.Hint})
	}
	return errors.Join(errs...)
}

// bufferBytes is what the buffers of a connection on the stack may come to, as
// stack.Limits counts it. It is 0 of settings that are refused.
func (s Settings) bufferBytes() (bytes int) {
	values, _ := s.Values()
	for _, v := range values {
		first, most, grows := strings.Cut(v.Value, "-")
		switch {
		case v.Leg != tcpstate.Stack || v.Key != "receive-buffer" && v.Key != "send-buffer":
			continue
		case v.Key == "send-buffer" && grows:
			first = most
		}
		n, err := knob.ParseSize(first)
		if err != nil {
			return 0
		}
		bytes += n
	}
	return bytes
}

func (s Settings) conflicts() []document.Conflict {
	return document.Conflicts(document.Document{TCP: s.Knobs, Sysctls: s.Sysctls})
}

// Values are what would hold in a sandbox with these settings, of each knob and
// leg.
func (s Settings) Values() ([]knob.Value, error) {
	plan, err := s.plan()
	if err != nil {
		return nil, err
	}
	return plan.Values(s.Sysctls), nil
}

// Notes are what the settings say of themselves: what one might expect of them and
// they do not do. Of settings that Check refuses there are none.
func (s Settings) Notes() []knob.Note {
	plan, err := s.plan()
	if err != nil {
		return nil
	}
	return plan.Notes(s.Sysctls)
}

// plan lays the knobs out over the legs that a sandbox will have.
func (s Settings) plan() (*knob.Plan, error) {
	return knob.Resolve(s.Knobs, (&Sandbox{host: &upstream.Host{}}).carriers())
}

// force is what is in force in a sandbox.
type force struct {
	policy atomic.Pointer[policy.Policy] // asked for each connection

	mu       sync.Mutex // one change at a time
	settings Settings
	knobs    *knob.Plan
	before   map[string]string // sysctls as they were before Sysctls wrote them
	unrouted netip.Addr        // the gateway to which a default route lacks; invalid: none
}

// Settings returns what is in force.
func (s *Sandbox) Settings() Settings {
	s.force.mu.Lock()
	defer s.force.mu.Unlock()
	return s.settingsLocked()
}

// settingsLocked is what is in force, with the faults as they are now.
func (s *Sandbox) settingsLocked() Settings {
	now := s.force.settings
	now.Faults = nil
	for _, r := range s.faults.Rules() {
		now.Faults = append(now.Faults, r.Fault)
	}
	return now
}

// SetPolicy puts new settings in the place of all that is in force, at once and
// all or nothing: if it fails, what was in force stays. What next does not set
// goes back to its default. It returns what each leg made of each knob that has
// changed, and of each that it cannot carry.
//
// Connections that stand are not asked again whether they may; which of them
// follow a knob its Change says.
func (s *Sandbox) SetPolicy(next Settings) ([]knob.Change, error) {
	s.force.mu.Lock()
	defer s.force.mu.Unlock()
	return s.setLocked(next)
}

// Amend is SetPolicy of what change makes of the settings that are in force. It is
// called once, while nobody else can change them: it must not call s.
func (s *Sandbox) Amend(change func(Settings) Settings) ([]knob.Change, error) {
	s.force.mu.Lock()
	defer s.force.mu.Unlock()
	return s.setLocked(change(s.settingsLocked()))
}

// Set is SetPolicy for some knobs; the others stay as they are, and nothing is
// returned of them. A setting without a leg takes the place of those of its key on
// every leg, and that of a sysctl in Settings.Sysctls that writes the same.
func (s *Sandbox) Set(settings ...knob.Setting) ([]knob.Change, error) {
	s.force.mu.Lock()
	defer s.force.mu.Unlock()
	next := s.settingsLocked()
	amended := document.Document{TCP: settings}.Amending(document.Document{TCP: next.Knobs, Sysctls: next.Sysctls})
	next.Knobs, next.Sysctls = amended.TCP, amended.Sysctls
	changes, err := s.setLocked(next)
	return slices.DeleteFunc(changes, func(c knob.Change) bool {
		return !slices.ContainsFunc(settings, func(s knob.Setting) bool { return s.Key == c.Key })
	}), err
}

func (s *Sandbox) setLocked(next Settings) ([]knob.Change, error) {
	if err := asConfigError(nonNil(next.Check())); err != nil {
		return nil, err
	}
	if s.life.Err() != nil {
		return nil, fmt.Errorf("tcpbox: set: %w", ErrEnded)
	}
	plan, err := s.resolve(next.Knobs)
	if err != nil {
		return nil, asConfigError([]error{err})
	}
	diff, changes := plan.Since(s.force.knobs)
	undo, err := s.carryOut(diff, next.Sysctls)
	if err != nil {
		select {
		case <-s.inside.Done(): // there is nobody left to change anything for
			return nil, fmt.Errorf("tcpbox: set: %w", ErrEnded)
		default:
			if undone := undo(); undone != nil {
				err = errors.Join(err, undone)
			}
			return nil, fmt.Errorf("%w; nothing was changed", err)
		}
	}
	s.setFaultsLocked(next.Faults)
	s.gateway.SetLimits(next.Limits.ofGateway())
	if s.outer != nil {
		s.outer.SetLimits(next.Limits.ofGateway())
	}
	s.log.limit(next.Limits.LogRate)
	s.routeIPv6(next.Policy)
	s.force.policy.Store(&next.Policy)
	s.noteChanges(s.force.settings, next, changes)
	s.force.settings, s.force.knobs = next, plan
	return changes, nil
}

// noteChanges tells the log what has changed.
func (s *Sandbox) noteChanges(before, now Settings, changes []knob.Change) {
	at := time.Now()
	note := func(leg tcpstate.Leg, key, from, to string) {
		if from != to {
			s.log.PushSet(&tcpstate.Change{Time: at, Leg: leg, Key: key, From: from, To: to})
		}
	}
	for _, c := range changes {
		if c.Applied {
			note(c.Leg, c.Key, c.From, c.To)
		}
	}
	note(0, "policy", inOneLine(before.Policy), inOneLine(now.Policy))
	for i, l := range document.Limits(now.Limits).Each() {
		note(0, "limits."+l.Name, document.Limits(before.Limits).Each()[i].Value, l.Value)
	}
	for _, sysctl := range now.Sysctls {
		from := s.force.before[sysctl.Name]
		if old := find(before.Sysctls, sysctl.Name); old != nil {
			from = old.Value
		}
		note(0, sysctl.Name, from, sysctl.Value)
	}
	for _, sysctl := range before.Sysctls {
		if find(now.Sysctls, sysctl.Name) == nil {
			note(0, sysctl.Name, sysctl.Value, s.force.before[sysctl.Name])
		}
	}
}

func inOneLine(p policy.Policy) string { return strings.ReplaceAll(p.String(), "\n", ", ") }

func nonNil(err error) []error {
	if err == nil {
		return nil
	}
	return []error{err}
}

// carryOut puts back the sysctls that no longer are to be, sets the knobs, and writes
// the sysctls that are not in force yet: what a knob and a sysctl write one after the
// other has at the end the value of the one that is in force. undo takes that back;
// force.mu is held.
func (s *Sandbox) carryOut(knobs *knob.Plan, next []knob.Sysctl) (undo func() error, err error) {
	ns := s.inside.NS()
	var done []netns.Sysctl
	var tuned func() error // takes the knobs back
	before := 0            // of done: what was written before the knobs
	back := func(list []netns.Sysctl) (err error) {
		for i := len(list) - 1; i >= 0; i-- {
			err = errors.Join(err, ns.SetSysctl(list[i].Name, list[i].Value))
		}
		return err
	}
	undo = func() error {
		if tuned == nil {
			return back(done)
		}
		return errors.Join(back(done[before:]), tuned(), back(done[:before]))
	}
	write := func(name, value string) error {
		old, err := ns.Sysctl(name)
		if err != nil {
			return refused(name, value, err)
		}
		if err := ns.SetSysctl(name, value); err != nil {
			return refused(name, value, err)
		}
		done = append(done, netns.Sysctl{Name: name, Value: old})
		if _, known := s.force.before[name]; !known {
			s.force.before[name] = old
		}
		return nil
	}
	for _, old := range s.force.settings.Sysctls {
		if kept := find(next, old.Name); kept != nil || s.force.before[old.Name] == "" {
			continue
		}
		if err := write(old.Name, s.force.before[old.Name]); err != nil {
			return undo, err
		}
	}
	before = len(done)
	if err := knobs.Apply(); err != nil {
		return undo, err
	}
	tuned = knobs.Undo
	for _, sysctl := range next {
		if old := find(s.force.settings.Sysctls, sysctl.Name); old != nil && old.Value == sysctl.Value {
			continue
		}
		if err := write(sysctl.Name, sysctl.Value); err != nil {
			return undo, err
		}
	}
	return undo, nil
}

// refused is the fault of a sysctl that the kernel does not take.
func refused(name, value string, err error) error {
	fault := &knob.Error{Input: name + "=" + value}
	var errno syscall.Errno
	switch {
	case errors.Is(err, fs.ErrNotExist):
		fault.Message = "this kernel has no such parameter in a network namespace"
		fault.Hint = `"sysctl -a" in a sandbox lists those there are; some are of a module that is not loaded, or newer than the kernel`
	case errors.As(err, &errno) && errors.Is(errno, fs.ErrPermission):
		fault.Message = "the kernel lets nobody write it in a network namespace"
		fault.Hint = "leave it out"
	case errors.As(err, &errno):
		fault.Message = "the kernel does not take the value: " + errno.Error()
		fault.Hint = "networking/ip-sysctl of the kernel's documentation says what it may be"
	default:
		return err
	}
	return fault
}

func find(sysctls []knob.Sysctl, name string) *knob.Sysctl {
	for i := range sysctls {
		if sysctls[i].Name == name {
			return &sysctls[i]
		}
	}
	return nil
}

// policyInWords are the rules, in their order, and what decides when none
// matches.
func (s *Sandbox) policyInWords() []string {
	return strings.Split(s.force.policy.Load().String(), "\n")
}
