package netstack

import "sync/atomic"

// counters count what was dropped, by reason, and what else is worth knowing.
type counters struct {
	malformed, foreignSource, notUnicast, badChecksum atomic.Uint64
	dropBacklog, dropPending, dropPerDst, givenUp     atomic.Uint64
	dropRate, dropOwner, dropPerSrc                   atomic.Uint64
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
	Malformed     uint64 `json:"malformed"`      // no IP packet, or one that is cut short
	ForeignSource uint64 `json:"foreign_source"` // from an address that is not the guest's
	NotUnicast    uint64 `json:"not_unicast"`    // to a group, to broadcast, or to loopback
	BadChecksum   uint64 `json:"bad_checksum"`

	// SYNs that were dropped, or answered with an RST as syn-overflow says.
	DropBacklog uint64 `json:"drop_backlog"` // the SYN backlog was full, or stayed so while the guest asked
	DropPending uint64 `json:"drop_pending"` // too many dials were pending
	DropPerDst  uint64 `json:"drop_per_dst"` // too many dials were pending to one destination
	DropPerSrc  uint64 `json:"drop_per_src"` // too many connections of one source were opening

	DropRate uint64 `json:"drop_rate"` // more came in a second than syn-rate

	SYNFloods uint64 `json:"syn_floods"` // times that more were dropped in a second than syn-flood
	SYNFlood  bool   `json:"syn_flood"`  // one goes on now

	GivenUp          uint64 `json:"given_up"`           // dials whose guest had stopped asking
	TimeWaitReopened uint64 `json:"time_wait_reopened"` // newer SYNs that reopened a TIME-WAIT (RFC 6191)
	TimeWaitOldSYN   uint64 `json:"time_wait_old_syn"`  // older SYNs answered with an ACK
	TimeWaitRecycled uint64 `json:"time_wait_recycled"` // TIME-WAITs that time-wait.recycle has ended early
	RecycleDropped   uint64 `json:"recycle_dropped"`    // SYNs that it has dropped for their timestamp
	TimeWaitOverflow uint64 `json:"time_wait_overflow"` // TIME-WAITs that were ended because there were too many
	OrphansEnded     uint64 `json:"orphans_ended"`      // endpoints that would have stayed for too long
	OrphanOverflow   uint64 `json:"orphan_overflow"`    // those that were reset because there were too many

	RefusedOther uint64 `json:"refused_other"` // UDP and echo requests answered with an ICMP error
	ICMPLimited  uint64 `json:"icmp_limited"`  // ICMP errors not sent because of their rate
	WriteErrors  uint64 `json:"write_errors"`  // packets that the device did not take

	Retransmits uint64 `json:"retransmits"` // segments of TCP that were sent to the guest again

	Pending      int `json:"pending"`        // dials in progress now
	HalfOpen     int `json:"half_open"`      // handshakes in SYN-RECEIVED now
	PeakHalfOpen int `json:"peak_half_open"` // the most there have been
	TimeWait     int `json:"time_wait"`      // endpoints in TIME-WAIT now
	Orphans      int `json:"orphans"`        // endpoints that their owner has closed, before TIME-WAIT
	Tracked      int `json:"tracked"`        // endpoints that are not CLOSED now

	// Defects of the tracker: both are zero, always.
	UnknownEndpoints uint64 `json:"unknown_endpoints"`
	SweptTransitions uint64 `json:"swept_transitions"`
}

// Stats returns the counters.
func (s *Stack) Stats() Stats {
	c := &s.counters
	s.tracker.mu.RLock()
	tracked := len(s.tracker.live)
	s.tracker.mu.RUnlock()
	floods, flood := s.synFlood.count()
	return Stats{
		Malformed: c.malformed.Load(), ForeignSource: c.foreignSource.Load(),
		NotUnicast: c.notUnicast.Load(), BadChecksum: c.badChecksum.Load(),
		DropBacklog: c.dropBacklog.Load(), DropPending: c.dropPending.Load(),
		DropPerDst: c.dropPerDst.Load(), DropPerSrc: c.dropPerSrc.Load(), DropRate: c.dropRate.Load(), SYNFloods: floods, SYNFlood: flood, GivenUp: c.givenUp.Load(),
		TimeWaitReopened: c.timeWaitReopened.Load(), TimeWaitOldSYN: c.timeWaitOldSYN.Load(),
		TimeWaitRecycled: s.timeWait.recycle.early.Load(), RecycleDropped: s.timeWait.recycle.dropped.Load(),
		OrphansEnded: c.orphansEnded.Load(), OrphanOverflow: s.orphans.overflow.Load(), Orphans: int(s.orphans.now.Load()),
		RefusedOther: c.refusedOther.Load(),
		ICMPLimited:  c.icmpLimited.Load(), WriteErrors: c.writeErrors.Load(),
		Retransmits: s.ns.Stats().TCP.Retransmits.Value(),
		Pending:     int(s.admission.pendings.Load()), HalfOpen: int(s.admission.halfOpen.Load()),
		PeakHalfOpen: int(c.peakHalfOpen.Load()), Tracked: tracked,
		TimeWait: s.timeWait.waits.count(), TimeWaitOverflow: s.timeWait.waits.overflow.Load(),
		UnknownEndpoints: s.tracker.unknown.Load(), SweptTransitions: s.tracker.swept.Load(),
	}
}
