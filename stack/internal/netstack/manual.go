package netstack

import (
	"fmt"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/faketime"
)

// ManualClock is a Config.Clock that stands still until it is advanced.
type ManualClock struct{ *faketime.ManualClock }

// NewManualClock returns a clock that stands at the beginning of 1970.
func NewManualClock() ManualClock { return ManualClock{faketime.NewManualClock()} }

var _ tcpip.Clock = ManualClock{}

// SetKeepAlive makes the connection ask, after being idle for so long, whether
// the other end is still there: count times, each interval, before it is given
// up.
func (c *Conn) SetKeepAlive(idle, interval time.Duration, count int) error {
	c.ep.SocketOptions().SetKeepAlive(true)
	for _, opt := range []tcpip.SettableSocketOption{
		ptr(tcpip.KeepaliveIdleOption(idle)), ptr(tcpip.KeepaliveIntervalOption(interval)),
	} {
		if err := c.ep.SetSockOpt(opt); err != nil {
			return fmt.Errorf("netstack: keepalive: %w", errnoOf(err))
		}
	}
	if err := c.ep.SetSockOptInt(tcpip.KeepaliveCountOption, count); err != nil {
		return fmt.Errorf("netstack: keepalive: %w", errnoOf(err))
	}
	return nil
}

// Settle returns when what was going on with the lock of an endpoint is done: a
// state is set, or a segment sent, before the timer that belongs to it.
func (s *Stack) Settle() {
	for _, r := range s.tracker.snapshot() {
		if ep := r.ep.Load(); ep != nil {
			ep.LockUser()
			ep.UnlockUser()
		}
	}
}
