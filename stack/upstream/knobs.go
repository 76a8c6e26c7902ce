package upstream

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox/policy/knob"
	"tcpbox/stack/tcpstate"
)

// options is what a Host sets on each new socket.
type options struct {
	// linger2 is TCP_LINGER2 in seconds: how long a socket stays in FIN-WAIT-2
	// after Close. Zero leaves it to net.ipv4.tcp_fin_timeout.
	linger2 atomic.Int32
}

// prepare sets the options on a socket that is about to connect.
func (o *options) prepare(fd int) error {
	// What the guest sends at once leaves at once: the guest's own kernel has
	// gathered small writes already, if it was asked to.
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return err
	}
	// Urgent bytes stay in their place in the stream (RFC 6093, section 6);
	// otherwise the kernel takes the last one out.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1); err != nil {
		return err
	}
	if s := o.linger2.Load(); s != 0 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_LINGER2, int(s))
	}
	return nil
}

// Plan implements knob.Carrier.
func (h *Host) Plan(settings []knob.Setting) []knob.Outcome {
	var outcomes []knob.Outcome
	for _, s := range settings {
		if s.Leg != 0 && s.Leg != tcpstate.Upstream {
			continue
		}
		_, o := plan(s)
		outcomes = append(outcomes, o)
	}
	return outcomes
}

// Apply implements knob.Carrier. It concerns connections dialled from now on.
func (h *Host) Apply(settings []knob.Setting) error {
	var errs []error
	linger2 := h.knobs.linger2.Load()
	for _, s := range settings {
		if s.Leg != 0 && s.Leg != tcpstate.Upstream {
			continue
		}
		value, o := plan(s)
		switch {
		case o.Applied:
			linger2 = value
		case s.Leg == tcpstate.Upstream:
			errs = append(errs, fmt.Errorf("upstream: set upstream.%s=%s: %s", s.Key, s.Text, o.Text))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	h.knobs.linger2.Store(linger2)
	return nil
}

// plan says what a host socket makes of one setting; linger2 is meaningful if
// it carries it. What it cannot, and why, is in the table of knobs.
func plan(s knob.Setting) (linger2 int32, o knob.Outcome) {
	o = knob.Outcome{Leg: tcpstate.Upstream, Key: s.Key}
	def, _ := knob.Lookup(s.Key)
	switch leg := def.Upstream; {
	case !leg.Carries:
		o.Text = leg.Text
		if o.Text == "" {
			o.Text = "there is no such knob"
		}
	case s.Key != finTimeoutKey:
		o.Text = "a host socket does not know it" // the table promises more than there is
	case s.Duration <= 0 || s.Duration > leg.MaxDuration || s.Duration%time.Second != 0:
		o.Text = fmt.Sprintf("TCP_LINGER2 takes whole seconds, from 1 to %d", leg.MaxDuration/time.Second)
	default:
		linger2 = int32(s.Duration / time.Second)
		o.Applied, o.Text = true, fmt.Sprintf("TCP_LINGER2 = %d s", linger2)
	}
	return linger2, o
}

const finTimeoutKey = "fin-timeout"
