package netstack

import (
	"errors"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"tcpbox/stack/tcpstate"
)

// live are the knobs that gVisor has for each endpoint alone. They are set on
// those there are, and on each new one when its handshake is complete.
type live struct {
	mu          sync.Mutex
	keepAlive   bool
	idle        time.Duration
	interval    time.Duration
	count       int
	userTimeout time.Duration // zero: never
}

// setLive changes them, and what follows from that on every connection.
func (s *Stack) setLive(change func(*live)) error {
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	change(&s.live)
	var errs []error
	for _, r := range s.tracker.snapshot() {
		ep := r.ep.Load()
		if ep == nil || !connected(r.state()) {
			continue // its Conn is made later
		}
		errs = append(errs, s.live.setLocked(ep))
	}
	return errors.Join(errs...)
}

// setOn sets them on a connection that has just been opened.
func (l *live) setOn(ep *tcp.Endpoint) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.keepAlive && l.userTimeout == 0 {
		return nil // as gVisor makes it
	}
	return l.setLocked(ep)
}

func (l *live) setLocked(ep *tcp.Endpoint) error {
	for _, opt := range []tcpip.SettableSocketOption{
		ptr(tcpip.KeepaliveIdleOption(l.idle)), ptr(tcpip.KeepaliveIntervalOption(l.interval)),
		ptr(tcpip.TCPUserTimeoutOption(l.userTimeout)),
	} {
		if err := ep.SetSockOpt(opt); err != nil {
			return errnoOf(err)
		}
	}
	if err := ep.SetSockOptInt(tcpip.KeepaliveCountOption, l.count); err != nil {
		return errnoOf(err)
	}
	ep.SocketOptions().SetKeepAlive(l.keepAlive)
	return nil
}

func ptr[T any](v T) *T { return &v }

// connected reports whether an endpoint in this state has completed its
// handshake and not ended.
func connected(st tcpstate.State) bool {
	switch st {
	case tcpstate.Established, tcpstate.CloseWait:
		return true
	}
	return closing(st)
}

// SetKeepAlive says whether connections on which nothing comes are probed, open
// ones at once.
func (s *Stack) SetKeepAlive(on bool) error { return s.setLive(func(l *live) { l.keepAlive = on }) }

// SetKeepAliveIdle sets how long nothing has come before the first probe. It
// counts anew on open connections.
func (s *Stack) SetKeepAliveIdle(d time.Duration) error {
	return s.setLive(func(l *live) { l.idle = d })
}

// SetKeepAliveInterval sets how long after an unanswered probe comes the next.
func (s *Stack) SetKeepAliveInterval(d time.Duration) error {
	return s.setLive(func(l *live) { l.interval = d })
}

// SetKeepAliveCount sets how many unanswered probes end a connection.
func (s *Stack) SetKeepAliveCount(n int) error { return s.setLive(func(l *live) { l.count = n }) }

// SetUserTimeout sets how long what was sent may stay unacknowledged; zero means
// that only the number of retransmissions counts.
func (s *Stack) SetUserTimeout(d time.Duration) error {
	return s.setLive(func(l *live) { l.userTimeout = d })
}
