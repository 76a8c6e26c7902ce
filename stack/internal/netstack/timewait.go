package netstack

import (
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gvstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"tcpbox/stack/tcpstate"
)

// timeWaitOptions are the knobs of TIME-WAIT that the tracker needs to know.
type timeWaitOptions struct {
	timeoutNanos atomic.Int64
	reuse        atomic.Bool  // by active opens
	delayNanos   atomic.Int64 // how long one is at rest before that
	keepNewer    atomic.Bool  // a newer SYN opens nothing
	rfc1337      atomic.Bool  // an RST ends none
	waits        timeWaits
	recycle      recycling
}

func (o *timeWaitOptions) timeout() time.Duration { return time.Duration(o.timeoutNanos.Load()) }

// twFacts is what a TIME-WAIT remembers of its connection so that a SYN on its
// 4-tuple can be judged.
type twFacts struct {
	known      bool
	rcvNxt     uint32
	timestamps bool
	recentTS   uint32
	since      tcpip.MonotonicTime
}

// pawsIdle is how long a remembered timestamp means something (RFC 7323,
// section 5.5: 24 days).
const pawsIdle = 24 * 24 * time.Hour

// newer reports whether a SYN opens a new incarnation of the connection: its
// timestamp is newer than the last one seen, or its sequence number is beyond
// all that were used (RFC 6191, section 2; the decision is Linux's, a SYN with
// an older timestamp is never newer).
func (f *twFacts) newer(seq uint32, hasTS bool, tsval uint32, now tcpip.MonotonicTime) bool {
	if !f.known {
		return false
	}
	if hasTS && f.timestamps && now.Sub(f.since) < pawsIdle {
		if d := int32(tsval - f.recentTS); d != 0 {
			return d > 0
		}
	}
	return int32(seq-f.rcvNxt) > 0
}

// synOnRecord handles a SYN from the guest on a 4-tuple that has a record. It
// reports whether the packet is to be delivered to gVisor, possibly changed.
//
// gVisor gives a SYN in TIME-WAIT to a listening endpoint only; behind a
// forwarder it would drop it, and the guest would stall until TIME-WAIT ends.
// A Linux server opens a connection for a newer SYN and answers an older one
// with an ACK (RFC 9293, section 3.10.7.4, TIME-WAIT). That is done with a newer
// one as well after SetTimeWaitNewerSYN(false).
func (s *Stack) synOnRecord(r *record, pkt []byte, ipHdrLen int) (deliver bool) {
	ep := r.ep.Load()
	if ep == nil {
		return true // the handshake has not begun: a retransmission
	}
	// The ACK that lets the guest reuse its port leaves before the state is
	// set. Whoever sets it holds the lock until it is done.
	ep.LockUser()
	ep.UnlockUser()
	s.tracker.observe(r, viaNotify)

	now := s.clock.NowMonotonic()
	tcpHdr := header.TCP(pkt[ipHdrLen:])
	switch st := r.state(); {
	case st == tcpstate.Closed:
		return true
	case st != tcpstate.TimeWait:
		if !r.rst.underWay(now) && !(closing(st) && r.firstSYN(now)) {
			return true // in doubt gVisor's challenge ACK asks the guest
		}
		// This SYN belongs to the next connection, which begins when the RST,
		// FIN or ACK that the guest sent in front of it has ended this one. If
		// it does not, the guest's next SYN gets a challenge ACK (RFC 5961,
		// section 4.2).
		if r.park(pkt, now, st) {
			return false
		}
		return s.synOnRecord(r, pkt, ipHdrLen) // it has just ended
	}

	opts := header.ParseSynOptions(pkt[ipHdrLen+header.TCPMinimumSize:ipHdrLen+int(tcpHdr.DataOffset())], false)
	r.mu.Lock()
	newer := r.tw.newer(tcpHdr.SequenceNumber(), opts.TS, opts.TSVal, now)
	r.mu.Unlock()
	if newer && !s.timeWait.keepNewer.Load() {
		if !r.released.Load() && r.firstSYN(now) && r.park(pkt, now, tcpstate.TimeWait) {
			// What the guest sent before is still being read; Conn.Close goes
			// on from here. If that takes longer than until the guest's next
			// SYN, the new connection comes first.
			if r.released.Load() {
				s.reopen(r)
			}
			return false
		}
		s.reopen(r)
		return true
	}
	// Make of it a segment that gVisor answers, in TIME-WAIT, with an ACK.
	s.counters.timeWaitOldSYN.Add(1)
	tcpHdr.SetFlags(uint8(header.TCPFlagAck))
	tcpHdr.SetSequenceNumber(tcpHdr.SequenceNumber() - 1)
	return true
}

// rstInTimeWait ends a TIME-WAIT whose guest sends an RST at exactly the
// sequence number that is expected, as Linux does unless tcp_rfc1337 is set.
// gVisor ignores them all, which is what RFC 1337 asks for.
func (s *Stack) rstInTimeWait(r *record, tcpHdr header.TCP) {
	ep := r.ep.Load()
	if st := r.state(); ep == nil || st != tcpstate.TimeWait && !closing(st) || s.timeWait.rfc1337.Load() {
		return
	}
	// What begins TIME-WAIT may be queued in front of the RST.
	ep.LockUser()
	ep.UnlockUser()
	s.tracker.observe(r, viaNotify)
	if r.state() != tcpstate.TimeWait {
		return
	}
	r.mu.Lock()
	exact := r.tw.known && tcpHdr.SequenceNumber() == r.tw.rcvNxt
	r.mu.Unlock()
	if exact {
		s.carryOut(r, endTimeWaitRST)
	}
}

// firstSYN reports whether this is the first SYN of the next connection, or
// came less than a second after it.
func (r *record) firstSYN(now tcpip.MonotonicTime) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.asked {
		r.asked, r.askedAt = true, now
	}
	return now.Sub(r.askedAt) < firstRetransmission
}

// closing reports whether one segment of the guest, which may be queued, can end
// a connection in this state, or begin its TIME-WAIT.
func closing(st tcpstate.State) bool {
	switch st {
	case tcpstate.FinWait1, tcpstate.FinWait2, tcpstate.Closing, tcpstate.LastAck:
		return true
	}
	return false
}

// park keeps a SYN until the record has ended, or has begun its TIME-WAIT, for
// a second at most: then the guest asks again. It reports false if the record
// is no longer in state st; then the SYN is to be judged anew.
func (r *record) park(pkt []byte, now tcpip.MonotonicTime, st tcpstate.State) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state() != st {
		return false
	}
	r.parked, r.parkedAt = append([]byte(nil), pkt...), now
	return true
}

// reopenParked goes on with a SYN that waited in TIME-WAIT for the owner of the
// endpoint to have done with it.
func (s *Stack) reopenParked(r *record) {
	if r.state() != tcpstate.TimeWait {
		return
	}
	r.mu.Lock()
	parked := r.parked != nil
	r.mu.Unlock()
	if parked {
		s.reopen(r)
	}
}

// reopen ends a TIME-WAIT whose 4-tuple a newer SYN wants.
func (s *Stack) reopen(r *record) {
	if s.end(r, endReopen) {
		s.counters.timeWaitReopened.Add(1)
	}
}

// end ends an endpoint for a reason of tcpbox's own, without a segment. It
// reports false if that has been done before.
func (s *Stack) end(r *record, why ending) bool {
	ep := r.ep.Load()
	if ep == nil || !r.policy.CompareAndSwap(uint32(endNone), uint32(why)) {
		return false
	}
	r.mute.Store(true)
	ep.Abort()
	s.tracker.observe(r, viaCall)
	return true
}

// netProtoOfTuple is the network protocol of a 4-tuple.
func netProtoOfTuple(id gvstack.TransportEndpointID) tcpip.NetworkProtocolNumber {
	if id.LocalAddress.Len() == header.IPv4AddressSize {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}
