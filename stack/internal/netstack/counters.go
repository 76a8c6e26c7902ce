package netstack

import "sync/atomic"

// counters count what was dropped, by reason, and what else is worth knowing.
type counters struct {
	malformed, foreignSource, notUnicast, badChecksum atomic.Uint64
	dropBacklog, dropPending, dropPerDst, givenUp     atomic.Uint64
	timeWaitReopened, timeWaitOldSYN, orphansEnded    atomic.Uint64
	refusedOther, icmpLimited, writeErrors            atomic.Uint64
	peakHalfOpen                                      atomic.Int64
}

func (c *counters) raisePeak(n int64) {
	for {
		p := c.peakHalfOpen.Load()
		if n <= p || c.peakHalfOpen.CompareAndSwap(p, n) {
			return
		}
	}
}

// Stats are the counters of a Stack since it began, and what it holds now.
type Stats struct {
	// Packets from the guest that went no further.
	Malformed     uint64 // no IP packet, or one that is cut short
	ForeignSource uint64 // from an address that is not the guest's
	NotUnicast    uint64 // to a group, to broadcast, or to loopback
	BadChecksum   uint64

	// SYNs that were dropped.
	DropBacklog uint64 // the SYN backlog was full
	DropPending uint64 // too many dials were pending
	DropPerDst  uint64 // too many dials were pending to one destination

	GivenUp          uint64 // dials whose guest had stopped asking
	TimeWaitReopened uint64 // newer SYNs that reopened a TIME-WAIT (RFC 6191)
	TimeWaitOldSYN   uint64 // older SYNs answered with an ACK
	OrphansEnded     uint64 // endpoints that would never have ended

	RefusedOther uint64 // UDP and echo requests answered with an ICMP error
	ICMPLimited  uint64 // ICMP errors not sent because of their rate
	WriteErrors  uint64 // packets that the device did not take

	Pending      int // dials in progress now
	HalfOpen     int // handshakes in SYN-RECEIVED now
	PeakHalfOpen int // the most there have been
	Tracked      int // endpoints that are not CLOSED now

	// Defects of the tracker: both are zero, always.
	UnknownEndpoints uint64
	SweptTransitions uint64
}

// Stats returns the counters.
func (s *Stack) Stats() Stats {
	c := &s.counters
	s.tracker.mu.RLock()
	tracked := len(s.tracker.live)
	s.tracker.mu.RUnlock()
	return Stats{
		Malformed: c.malformed.Load(), ForeignSource: c.foreignSource.Load(),
		NotUnicast: c.notUnicast.Load(), BadChecksum: c.badChecksum.Load(),
		DropBacklog: c.dropBacklog.Load(), DropPending: c.dropPending.Load(),
		DropPerDst: c.dropPerDst.Load(), GivenUp: c.givenUp.Load(),
		TimeWaitReopened: c.timeWaitReopened.Load(), TimeWaitOldSYN: c.timeWaitOldSYN.Load(),
		OrphansEnded: c.orphansEnded.Load(), RefusedOther: c.refusedOther.Load(),
		ICMPLimited: c.icmpLimited.Load(), WriteErrors: c.writeErrors.Load(),
		Pending: int(s.admission.pendings.Load()), HalfOpen: int(s.admission.halfOpen.Load()),
		PeakHalfOpen: int(c.peakHalfOpen.Load()), Tracked: tracked,
		UnknownEndpoints: s.tracker.unknown.Load(), SweptTransitions: s.tracker.swept.Load(),
	}
}
