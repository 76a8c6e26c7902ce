package tcpbox

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"tcpbox/netns/sockwatch"
	"tcpbox/stack/tcpstate"
	"tcpbox/stack/wire"
	"tcpbox/tun"
	"tcpbox/tun/packet"
)

// guestSockets follows the kernel's sockets of the sandbox: it reads the segments
// that pass the device, and has package sockwatch join what they tell with what
// the kernel does.
type guestSockets struct {
	watcher *sockwatch.Watcher

	mu       sync.Mutex
	machines map[wire.Tuple]*wire.Machine
	changes  []wire.Change

	// The watcher tells of ends in the middle of everything, also of a call from
	// here: they are noted, and carried out before the next segment.
	ended struct {
		any    atomic.Bool
		mu     sync.Mutex
		tuples []wire.Tuple
	}
}

// watchDevice puts one tap on the device for all that reads segments: the guest's
// sockets, and the trace of headers. It returns the device as the sandbox has it
// from then on, which is as it was where nobody reads.
func (s *Sandbox) watchDevice(cfg *Config, dev tun.Device) tun.Device {
	var taps wire.Config
	if s.trace != nil {
		taps.Tracer = s.trace.tracer
	}
	if !cfg.NoGuestLeg {
		taps.OnSegment = s.watchGuest()
	}
	if taps.Tracer == nil && taps.OnSegment == nil {
		return dev
	}
	return wire.NewTap(dev, taps)
}

// watchGuest begins to follow the guest's sockets, and returns what the tap is to
// tell of its segments.
func (s *Sandbox) watchGuest() func(wire.Segment) {
	g := &guestSockets{machines: make(map[wire.Tuple]*wire.Machine)}
	g.watcher = sockwatch.New(sockwatch.Config{
		NS: s.inside.NS(), Numbers: s.numbers, Sink: s.log.Push, Processes: s.processes(),
		OnOwner: func(conn tcpstate.Conn, p sockwatch.Process) {
			s.log.PushFacts(&tcpstate.Facts{Time: time.Now(), Conn: conn, PID: p.PID, Command: p.Command})
		},
		OnEnd:    g.forget,
		Perishes: s.guest != nil,
		Trace:    s.opening,
	})
	s.sockets = g
	return g.see
}

// info says how it is done; g may be nil.
func (g *guestSockets) info() GuestLegInfo {
	if g == nil {
		return GuestLegInfo{}
	}
	st := g.watcher.Stats()
	in := GuestLegInfo{
		Watched: true, Endpoints: st.Endpoints, Untracked: st.Untracked, TraceLost: st.TraceLost,
		Corrected: st.Corrected, LookNanos: int64(st.LookTime),
	}
	traced, why := g.watcher.Traced()
	if in.Traced = traced; why != nil {
		in.Why = why.Error()
	}
	return in
}

// processes are those whose sockets are followed.
func (s *Sandbox) processes() sockwatch.Processes {
	if s.guest != nil {
		init, _ := s.guest.Pids()
		return sockwatch.ProcTree{Root: init}
	}
	return sockwatch.ProcNetNS{Inode: s.info.NetNS}
}

// see takes a segment from the tap.
func (g *guestSockets) see(s wire.Segment) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forgetEnded()
	tuple := s.Tuple()
	m := g.machines[tuple]
	if m == nil {
		if s.TCP.Flags&packet.SYN == 0 {
			return // of a connection that has ended, or began before
		}
		if len(g.machines) >= sockwatch.DefaultMaxEndpoints {
			return
		}
		m = new(wire.Machine)
		g.machines[tuple] = m
	}
	g.changes = m.See(&s, g.changes[:0])
	for i := range g.changes {
		c := &g.changes[i]
		if c.Leg != tcpstate.Guest {
			continue
		}
		step := sockwatch.Step{Time: c.Time, Local: tuple.Guest, Remote: tuple.Remote, From: c.From, To: c.To, Cause: c.Cause}
		switch c.To {
		case tcpstate.SynSent:
			step.ISS = s.TCP.Seq
		case tcpstate.SynReceived:
			step.ISS = s.TCP.Ack - 1 // of the SYN that this answers
		}
		g.watcher.Step(step)
	}
}

// forget is told of the end of a connection.
func (g *guestSockets) forget(local, remote netip.AddrPort) {
	g.ended.mu.Lock()
	defer g.ended.mu.Unlock()
	g.ended.tuples = append(g.ended.tuples, wire.Tuple{Guest: local, Remote: remote})
	g.ended.any.Store(true)
}

// forgetEnded drops the machines of connections that have ended.
func (g *guestSockets) forgetEnded() {
	if !g.ended.any.Load() {
		return
	}
	g.ended.mu.Lock()
	defer g.ended.mu.Unlock()
	for _, t := range g.ended.tuples {
		delete(g.machines, t)
	}
	g.ended.tuples = g.ended.tuples[:0]
	g.ended.any.Store(false)
}
