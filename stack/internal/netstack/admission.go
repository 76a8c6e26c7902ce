package netstack

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gvstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"tcpbox/stack/tcpstate"
)

// forwarderLimit is far above what admission lets through: gVisor's forwarder
// has a limit that cannot be changed and knows no destinations, so tcpbox
// counts in front of it.
const forwarderLimit = 1 << 20

// admission decides which SYNs become Requests. Two things are limited, apart
// from each other, so that destinations that never answer do not starve those
// that do:
//
//	pending    Requests that nobody has ended yet: a dial in progress.
//	           In all, and for one destination, which is half of that by default.
//	half-open  handshakes in SYN-RECEIVED: the SYN backlog.
//
// Both together may be limited for one source (sourceShare). So is how many SYNs are admitted in a second. A SYN over a limit is counted, and
// dropped, so that the guest's kernel asks again, or answered with an RST.
type admission struct {
	stack      *Stack
	maxPending atomic.Int64
	perDstMost atomic.Int64 // zero: half of maxPending
	overflow   atomic.Bool  // over a limit: an RST
	rate       *rate.Limiter
	backlog    atomic.Int64
	halfOpen   atomic.Int64
	pendings   atomic.Int64

	running sync.WaitGroup // handlers, dials, and SYNs that are delivered again

	mu      sync.Mutex
	pending map[gvstack.TransportEndpointID]*pendingSYN
	perDst  map[netip.AddrPort]int
	perSrc  sourceShare
	closed  bool
	queue   []chan struct{} // of those that wait for room in the backlog
}

// A pendingSYN is a connection that the guest has asked for and that has no
// endpoint yet.
type pendingSYN struct {
	ctx    context.Context
	cancel context.CancelFunc
	dst    netip.AddrPort
	syn    []byte // its IP and TCP header, which an ICMP error quotes
	seq    uint32 // its sequence number

	// Guarded by admission.mu.
	waiting bool   // counts as pending
	shares  bool   // counts for its source
	gaveUp  bool   // cancelled because the guest had stopped asking
	next    []byte // a SYN that follows when this request has ended
	last    tcpip.MonotonicTime
	gap     time.Duration // between the last two SYNs
}

// firstRetransmission is the guest's first wait for a SYN-ACK (RFC 6298,
// section 2.1: one second).
const firstRetransmission = time.Second

func newAdmission(s *Stack, maxPending int) *admission {
	a := &admission{
		stack:   s,
		rate:    rate.NewLimiter(rate.Inf, 0),
		pending: make(map[gvstack.TransportEndpointID]*pendingSYN),
		perDst:  make(map[netip.AddrPort]int),
	}
	a.maxPending.Store(int64(maxPending))
	return a
}

// perDestination is how many dials may be pending to one destination.
func (a *admission) perDestination() int {
	if n := a.perDstMost.Load(); n != 0 {
		return int(n)
	}
	return max(1, int(a.maxPending.Load())/2)
}

// SetMaxPending sets how many dials may be in progress, from the next SYN on.
func (s *Stack) SetMaxPending(n int) { s.admission.maxPending.Store(int64(n)) }

// SetPendingPerDestination sets how many dials to one destination may be in
// progress, from the next SYN on. Zero means half of SetMaxPending's.
func (s *Stack) SetPendingPerDestination(n int) { s.admission.perDstMost.Store(int64(n)) }

// SetSYNOverflow says whether a SYN over a limit is answered with an RST, rather
// than dropped; from the next one on.
func (s *Stack) SetSYNOverflow(reset bool) { s.admission.overflow.Store(reset) }

// SetSYNRate sets how many SYNs are admitted in a second, and as many at once
// after a rest; from the next one on. Those that are sent again while a dial is
// in progress do not count. Zero means no limit.
func (s *Stack) SetSYNRate(n int) {
	a := s.admission
	a.mu.Lock()
	defer a.mu.Unlock()
	if n == 0 {
		a.rate = rate.NewLimiter(rate.Inf, 0)
		return
	}
	a.rate = rate.NewLimiter(rate.Limit(n), n)
}

// handle takes each TCP segment that belongs to no endpoint. It reports false
// if gVisor is to answer it, which it does with an RST.
func (a *admission) handle(id gvstack.TransportEndpointID, pkt *gvstack.PacketBuffer) bool {
	tcpHdr := header.TCP(pkt.TransportHeader().Slice())
	if len(tcpHdr) < header.TCPMinimumSize {
		return true
	}
	if flags := tcpHdr.Flags(); flags&header.TCPFlagSyn == 0 || flags&(header.TCPFlagAck|header.TCPFlagRst) != 0 {
		return false
	}
	switch a.admit(id, pkt) {
	case overLimit:
		return !a.overflow.Load()
	case notAgain:
		return true
	}
	if !a.stack.forwarder.Load().HandlePacket(id, pkt) {
		a.done(id) // a malformed segment
		a.running.Done()
	}
	return true
}

// begin counts something that Stack.Close waits for, which calls running.Done.
// It reports false if the Stack is closing.
func (a *admission) begin() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return false
	}
	a.running.Add(1)
	return true
}

// admitted is what admit says of a SYN.
type admitted uint8

const (
	notAgain  admitted = iota // it goes no further: a retransmission
	overLimit                 // nor this one
	inProgress
)

// admit records the SYN as pending, if it goes on.
func (a *admission) admit(id gvstack.TransportEndpointID, pkt *gvstack.PacketBuffer) admitted {
	now := a.stack.clock.NowMonotonic()
	dst := localOf(id)
	seq := header.TCP(pkt.TransportHeader().Slice()).SequenceNumber()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return notAgain
	}
	if p := a.pending[id]; p != nil {
		if p.seq != seq {
			// The guest has abandoned that connection, which a kernel does
			// without a word, and asks for another one from the same port.
			p.next = cloneOf(pkt)
			p.cancel()
			return notAgain
		}
		p.gap = now.Sub(p.last)
		p.last = now
		return notAgain
	}
	c := &a.stack.counters
	switch {
	case a.halfOpen.Load() >= a.backlog.Load():
		c.dropBacklog.Add(1)
		return overLimit
	case a.pendings.Load() >= a.maxPending.Load():
		c.dropPending.Add(1)
		return overLimit
	case a.perDst[dst] >= a.perDestination():
		c.dropPerDst.Add(1)
		return overLimit
	case a.perSrc.full(remoteOf(id).Addr()):
		c.dropPerSrc.Add(1)
		return overLimit
	case !a.rate.AllowN(a.stack.clock.Now(), 1):
		c.dropRate.Add(1)
		return overLimit
	}
	p := &pendingSYN{dst: dst, seq: seq, waiting: true, last: now}
	p.ctx, p.cancel = context.WithCancel(a.stack.ctx)
	p.syn = append(p.syn, pkt.NetworkHeader().Slice()...)
	p.syn = append(p.syn, pkt.TransportHeader().Slice()...)
	a.pending[id] = p
	a.perDst[dst]++
	p.shares = a.perSrc.take(remoteOf(id).Addr())
	a.pendings.Add(1)
	a.running.Add(1)
	return inProgress
}

// cloneOf copies a whole packet.
func cloneOf(pkt *gvstack.PacketBuffer) []byte {
	v := pkt.ToView()
	defer v.Release()
	return append([]byte(nil), v.AsSlice()...)
}

// find returns the pending SYN of a 4-tuple.
func (a *admission) find(id gvstack.TransportEndpointID) *pendingSYN {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pending[id]
}

// stopWaitingLocked takes p out of what is limited as pending.
func (a *admission) stopWaitingLocked(p *pendingSYN) {
	if !p.waiting {
		return
	}
	p.waiting = false
	a.pendings.Add(-1)
	if a.perDst[p.dst]--; a.perDst[p.dst] <= 0 {
		delete(a.perDst, p.dst)
	}
}

// enterHalfOpen moves p from pending to half-open. While the backlog is full it
// waits, as pending and in turn, for what it was dialled for stands already: to
// let it go would show the destination a connection that nobody has. It reports
// false when the guest stops asking before there is room.
func (a *admission) enterHalfOpen(p *pendingSYN) bool {
	for {
		a.mu.Lock()
		if a.takeSlot() {
			a.stopWaitingLocked(p)
			a.mu.Unlock()
			return true
		}
		room := make(chan struct{})
		a.queue = append(a.queue, room)
		a.mu.Unlock()
		select {
		case <-room:
		case <-p.ctx.Done():
			a.stack.counters.dropBacklog.Add(1)
			a.leaveQueue(room)
			return false
		}
	}
}

// leaveQueue takes room out of the queue, or passes its turn on if it has come.
func (a *admission) leaveQueue(room chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i := slices.Index(a.queue, room); i >= 0 {
		a.queue = slices.Delete(a.queue, i, i+1)
		return
	}
	a.wakeLocked(1)
}

// wakeLocked lets the first n that wait for room look again.
func (a *admission) wakeLocked(n int) {
	n = min(n, len(a.queue))
	for _, room := range a.queue[:n] {
		close(room)
	}
	a.queue = slices.Delete(a.queue, 0, n)
}

// takeSlot takes a place in the backlog if there is one.
func (a *admission) takeSlot() bool {
	for {
		n := a.halfOpen.Load()
		if n >= a.backlog.Load() {
			return false
		}
		if a.halfOpen.CompareAndSwap(n, n+1) {
			a.stack.counters.raisePeak(n + 1)
			return true
		}
	}
}

// leaveHalfOpen gives the place back.
func (a *admission) leaveHalfOpen() {
	a.halfOpen.Add(-1)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wakeLocked(1)
}

// setBacklog limits the half-open handshakes to n from now on.
func (a *admission) setBacklog(n int) {
	a.backlog.Store(int64(n))
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wakeLocked(n)
}

// done forgets a pending SYN: its Request has ended.
func (a *admission) done(id gvstack.TransportEndpointID) {
	a.mu.Lock()
	p := a.pending[id]
	delete(a.pending, id)
	if p == nil {
		a.mu.Unlock()
		return
	}
	a.stopWaitingLocked(p)
	if p.shares {
		a.perSrc.leave(remoteOf(id).Addr())
	}
	next := p.next
	a.mu.Unlock()
	p.cancel()
	if next != nil {
		a.stack.redeliver(next)
	}
}

// resetBeforeAccept gives up the dial of a guest that has sent RST.
func (a *admission) resetBeforeAccept(id gvstack.TransportEndpointID) {
	if p := a.find(id); p != nil {
		p.cancel()
	}
}

// giveUpSilent gives up the dials whose guest has stopped asking: no SYN for
// twice the time in which the next one was due. A guest's kernel doubles its
// wait each time; the first few waits may be equal (tcp_syn_linear_timeouts).
func (a *admission) giveUpSilent() {
	now := a.stack.clock.NowMonotonic()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.pending {
		due := max(firstRetransmission, 2*p.gap)
		if p.waiting && !p.gaveUp && now.Sub(p.last) > 2*due {
			p.gaveUp = true
			a.stack.counters.givenUp.Add(1)
			p.cancel()
		}
	}
}

// close lets no more SYNs in and cancels all that are pending.
func (a *admission) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	for _, p := range a.pending {
		p.cancel()
	}
}

// handler is gVisor's forwarder calling, in a goroutine of its own, once for
// each admitted SYN.
func (a *admission) handler(fr *tcp.ForwarderRequest) {
	defer a.running.Done()
	id := fr.ID()
	p := a.find(id)
	if p == nil { // the Stack is closing
		fr.Complete(false)
		return
	}
	r := &Request{
		stack: a.stack, fr: fr, id: id, pending: p,
		conn: a.stack.tracker.numbers.Begin(tcpstate.Stack, remoteOf(id), localOf(id), p.seq), src: remoteOf(id), dst: localOf(id),
	}
	defer r.Drop() // if OnSYN has not ended it
	a.stack.onSYN(r)
}
