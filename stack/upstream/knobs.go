package upstream

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"tcpbox/policy/knob"
	"tcpbox/stack/tcpstate"
)

// knobs is what a Host sets on its sockets, and which sockets there are.
type knobs struct {
	set atomic.Pointer[optionSet] // nil: nothing

	mu        sync.Mutex // held while set changes
	conns     map[*Conn]struct{}
	listeners map[*Listener]struct{}
}

// optionSet is what the settings in force come to. It does not change.
type optionSet struct {
	keys    []string // in the order in which they were first set
	options map[string][]option
	reset   bool // linger=reset
}

// with returns the set with the options of one more setting.
func (o *optionSet) with(s knob.Setting) *optionSet {
	next := &optionSet{options: make(map[string][]option)}
	if o != nil {
		next.keys, next.reset = append(next.keys, o.keys...), o.reset
		for key, options := range o.options {
			next.options[key] = options
		}
	}
	if s.Key == lingerKey {
		next.reset = s.Word == "reset"
		return next
	}
	if _, there := next.options[s.Key]; !there {
		next.keys = append(next.keys, s.Key)
	}
	next.options[s.Key] = tunings[s.Key].options(s)
	return next
}

// all calls f with each option, in order, until it fails. o may be nil.
func (o *optionSet) all(f func(option) error) error {
	if o == nil {
		return nil
	}
	for _, key := range o.keys {
		for _, opt := range o.options[key] {
			if err := f(opt); err != nil {
				return err
			}
		}
	}
	return nil
}

// prepare sets the options on a socket that is about to connect or to listen. It
// returns the set that it was, for enrol.
func (k *knobs) prepare(fd int) (*optionSet, error) {
	// What the guest sends at once leaves at once: the guest's own kernel has
	// gathered small writes already, if it was asked to.
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return nil, err
	}
	// Urgent bytes stay in their place in the stream (RFC 6093, section 6);
	// otherwise the kernel takes the last one out.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1); err != nil {
		return nil, err
	}
	set := k.set.Load()
	return set, set.all(func(o option) error { return o.set(fd) })
}

// enrol makes a connection one that Apply reaches. Its socket was prepared with
// a set that may have been replaced since.
func (k *knobs) enrol(c *Conn, prepared *optionSet) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.conns == nil {
		k.conns = make(map[*Conn]struct{})
	}
	k.conns[c] = struct{}{}
	if set := k.set.Load(); set != prepared {
		_ = set.all(func(o option) error {
			if o.live {
				_, _ = o.swap(c.raw)
			}
			return nil
		})
	}
}

// dismiss forgets a connection that is being released.
func (k *knobs) dismiss(c *Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.conns, c)
}

// prepareListener is prepare while no Apply is under way, which would reach the
// listener before or after as a whole.
func (k *knobs) prepareListener(fd int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, err := k.prepare(fd)
	return err
}

func (k *knobs) enrolListener(l *Listener) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.listeners == nil {
		k.listeners = make(map[*Listener]struct{})
	}
	k.listeners[l] = struct{}{}
}

func (k *knobs) dismissListener(l *Listener) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.listeners, l)
}

// resets reports whether a connection is let go with RST when it is closed.
func (k *knobs) resets() bool {
	set := k.set.Load()
	return set != nil && set.reset
}

// Plan implements knob.Carrier. It tries each setting on a socket that it makes
// and closes again.
func (h *Host) Plan(settings []knob.Setting) []knob.Outcome {
	var outcomes []knob.Outcome
	for _, s := range settings {
		if s.Leg != 0 && s.Leg != tcpstate.Upstream {
			continue
		}
		o := knob.Outcome{Leg: tcpstate.Upstream, Key: s.Key}
		if o.Text = h.refuses(s); o.Text == "" {
			o.Applied, o.Text = true, tunings[s.Key].text(s)
		}
		outcomes = append(outcomes, o)
	}
	return outcomes
}

// refuses says why this host cannot carry a setting, by the table or by trial;
// empty if it can.
func (h *Host) refuses(s knob.Setting) string {
	def, ok := knob.Lookup(s.Key)
	if !ok {
		return "there is no such knob"
	}
	if why := def.Refuses(tcpstate.Upstream, s); why != "" {
		return why
	}
	t, ok := tunings[s.Key]
	if !ok {
		return "a host socket does not know it" // the table promises more than there is
	}
	if t.beyond != nil {
		if why := t.beyond(h, s); why != "" {
			return why
		}
	}
	fd, err := h.socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return "it cannot be tried: " + err.Error()
	}
	defer unix.Close(fd)
	for _, o := range t.options(s) {
		if err := o.set(fd); err != nil {
			return o.explain(err)
		}
	}
	return ""
}

// Apply implements knob.Carrier. New sockets have all of it, and those that are
// open what the table of knobs says. If one socket does not take its part, all get
// back what they had.
func (h *Host) Apply(settings []knob.Setting) (err error) {
	var errs []error
	var mine []knob.Setting
	for _, s := range settings {
		if s.Leg != 0 && s.Leg != tcpstate.Upstream {
			continue
		}
		switch why := h.refuses(s); {
		case why == "":
			mine = append(mine, s)
		case s.Leg == tcpstate.Upstream:
			errs = append(errs, fmt.Errorf("upstream: set %s: %s", s, why))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	k := &h.knobs
	k.mu.Lock()
	defer k.mu.Unlock()
	old := k.set.Load()
	next := old
	var change []option
	for _, s := range mine {
		next = next.with(s)
		if s.Key != lingerKey {
			change = append(change, next.options[s.Key]...)
		}
	}
	k.set.Store(next)
	var undo []func()
	defer func() {
		if err != nil {
			k.set.Store(old)
			for _, f := range undo {
				f()
			}
		}
	}()
	for _, o := range change {
		for l := range k.listeners { // what it accepts has its options
			before, err := o.swap(l.raw)
			if err != nil && !l.closed.Load() {
				return fmt.Errorf("upstream: set %s on the listener %v: %w", o.title, l.addr, err)
			}
			undo = append(undo, func() { _, _ = before.swap(l.raw) })
		}
		if !o.live {
			continue
		}
		for c := range k.conns {
			before, err := o.swap(c.raw)
			if err != nil && !c.closed.Load() && !errors.Is(err, os.ErrClosed) {
				return fmt.Errorf("upstream: set %s on the connection to %v: %w", o.title, c.remote, err)
			}
			undo = append(undo, func() { _, _ = before.swap(c.raw) })
		}
	}
	return nil
}
