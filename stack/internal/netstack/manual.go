package netstack

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
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

// settling lets Settle know what goes on in goroutines of the Stack's own.
type settling struct {
	mu   sync.Mutex // one at a time: the pause of gVisor's processors is not counted
	over bool       // the Stack is destroyed

	// What has been begun and not ended: sweeps that are due, and SYNs that are
	// delivered again.
	busy atomic.Int64
}

// Settle returns when the Stack has done all that follows from what it has read,
// and from how late it is on its clock: segments are handled, answers sent,
// timers set. Calls of its owner's that wait for a segment, and Requests that
// nobody has ended, stay as they are. It is meant for simulations, whose clock
// stands still and whose packets come one by one.
func (s *Stack) Settle() {
	s.settling.mu.Lock()
	defer s.settling.mu.Unlock()
	for tries := 0; !s.settling.over && s.ctx.Err() == nil; tries++ {
		for _, r := range s.tracker.snapshot() {
			if ep := r.ep.Load(); ep != nil {
				ep.LockUser() // whoever has it sets a state before the timer that belongs to it
				ep.UnlockUser()
			}
		}
		// A processor pauses when no endpoint has a segment for it.
		s.ns.Pause()
		s.ns.Resume()
		if s.settling.busy.Load() == 0 && !s.ender.waiting() {
			return
		}
		if tries < 1000 { // mostly it is a matter of microseconds
			runtime.Gosched()
			continue
		}
		time.Sleep(20 * time.Microsecond)
	}
}
