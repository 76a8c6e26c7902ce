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

// maxLinger is the longest that the kernel takes for TCP_LINGER2
// (TCP_FIN_TIMEOUT_MAX).
const maxLinger = 120 * time.Second

// options is what a Host sets on each new socket.
type options struct {
	// linger2 is TCP_LINGER2 in seconds: how long a socket stays in FIN-WAIT-2
	// after Close. Zero leaves it to net.ipv4.tcp_fin_timeout, negative ends it
	// at once, with RST.
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

// reasons says why a host socket cannot carry a knob.
var reasons = map[string]string{
	"time-wait.timeout":  "the kernel holds TIME-WAIT for 60 s; no socket option changes it",
	"time-wait.reuse":    "net.ipv4.tcp_tw_reuse belongs to the whole host, and tcpbox leaves the host as it is",
	"syn-backlog":        "upstream sockets connect and never listen",
	"half-close-timeout": "the relay between the legs cuts an idle half-close, not a socket",
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
// it carries it.
func plan(s knob.Setting) (linger2 int32, o knob.Outcome) {
	o = knob.Outcome{Leg: tcpstate.Upstream, Key: s.Key}
	if s.Key != "fin-timeout" {
		o.Text = reasons[s.Key]
		if o.Text == "" {
			o.Text = "a host socket has nothing to set for it"
		}
		return 0, o
	}
	if s.Duration > maxLinger {
		o.Text = fmt.Sprintf("the kernel takes at most %v for TCP_LINGER2", maxLinger)
		return 0, o
	}
	o.Applied = true
	if s.Duration <= 0 {
		o.Text = "TCP_LINGER2 = -1: a closed socket leaves FIN-WAIT-2 at once, with RST"
		return -1, o
	}
	linger2 = int32((s.Duration + time.Second - 1) / time.Second)
	o.Text = fmt.Sprintf("TCP_LINGER2 = %d s", linger2)
	if time.Duration(linger2)*time.Second != s.Duration {
		o.Text += ", for it counts whole seconds"
	}
	return linger2, o
}
