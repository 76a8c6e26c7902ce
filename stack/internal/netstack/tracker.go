package netstack

import (
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gvstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"tcpbox/stack/tcpstate"
)

// A tracker turns gVisor's endpoints into transitions, exactly, from four
// places that only look at the endpoint's (atomic) state:
//
//	probe    after each segment that a connected endpoint handled
//	notify   whenever gVisor notifies the endpoint's waiter queue
//	egress   when a SYN or SYN-ACK leaves
//	call     after our own Connect, Shutdown, Close, Abort
//
// Soundness: under record.mu, successive loads of one atomic never go
// backwards, so what is logged is a subsequence of the truth. Completeness:
// gVisor writes a state only with the endpoint's lock held, and between any
// two writes one of the four places runs under that same lock; the one
// function that can write twice for one segment (FIN-WAIT-1, FIN-WAIT-2,
// TIME-WAIT when a gap is filled in front of a queued FIN) notifies readers in
// between, which is why the entry's mask must be every event. A test holds the
// set of writes against the one this was proved for.
type tracker struct {
	clock tcpip.Clock
	stack *gvstack.Stack
	sink  tcpstate.Sink
	tw    *timeWaitOptions
	ender *ender
	// retries are those of the handshake.
	retries retries
	orphans orphans
	// orphanNumber is that of the newest orphan.
	orphanNumber atomic.Uint64

	numbers *tcpstate.Numbers

	mu      sync.RWMutex
	records map[gvstack.TransportEndpointID]*record
	live    map[*record]struct{}
	// expected are active opens whose SYN has not left.
	expected map[*tcp.Endpoint]*record
	// unpark gets the SYN that waited for a record's end.
	unpark func([]byte)

	stopping atomic.Bool   // resets are policy
	unknown  atomic.Uint64 // segments of endpoints that have no record; a defect
	swept    atomic.Uint64 // changes that only the sweeper found; a defect
}

func newTracker(clock tcpip.Clock, sink tcpstate.Sink, tw *timeWaitOptions, numbers *tcpstate.Numbers) *tracker {
	if numbers == nil {
		numbers = new(tcpstate.Numbers)
	}
	if sink == nil {
		sink = func(tcpstate.Transition) {}
	}
	return &tracker{
		clock:    clock,
		sink:     sink,
		tw:       tw,
		ender:    newEnder(),
		numbers:  numbers,
		records:  make(map[gvstack.TransportEndpointID]*record),
		live:     make(map[*record]struct{}),
		expected: make(map[*tcp.Endpoint]*record),
	}
}

// track begins a record for the connection id. The endpoint may be unknown
// yet; its queue must be watched with watch before it can change its state.
func (t *tracker) track(conn tcpstate.Conn, id gvstack.TransportEndpointID, ep *tcp.Endpoint) *record {
	r := &record{id: conn, tuple: id, local: localOf(id), remote: remoteOf(id), bound: true}
	r.last.Store(uint32(tcpstate.Closed))
	if ep != nil {
		r.ep.Store(ep)
	}
	t.mu.Lock()
	t.records[id] = r
	t.live[r] = struct{}{}
	t.mu.Unlock()
	return r
}

// watch makes every notification of the queue look at the record.
func (t *tracker) watch(r *record, wq *waiter.Queue) {
	entry := waiter.NewFunctionEntry(waiter.AllEvents, func(waiter.EventMask) { t.observe(r, viaNotify) })
	wq.EventRegister(&entry)
}

// via says which of the four places looked.
type via uint8

const (
	viaProbe via = iota
	viaNotify
	viaEgress
	viaCall
	viaSweep
)

// observe logs the record's state if it has changed. It is called under the
// endpoint's lock, from everywhere, so it takes no lock of gVisor's.
func (t *tracker) observe(r *record, v via) {
	ep := r.ep.Load()
	if ep == nil || stateOf(ep.EndpointState()) == r.state() {
		return
	}
	r.mu.Lock()
	raw := ep.EndpointState()
	to, from := stateOf(raw), r.state()
	if to == from || !r.bound { // an unbound record is seen next when its SYN leaves
		r.mu.Unlock()
		return
	}
	if v == viaSweep {
		// The sweeper may come between a change and the look that follows it.
		// Only what it finds twice was missed.
		if r.missed != to {
			r.missed = to
			r.mu.Unlock()
			return
		}
		t.swept.Add(1)
	}
	now := t.clock.Now()
	tr := tcpstate.Transition{
		Time: now, Conn: r.id, Leg: tcpstate.Stack, Local: r.local, Remote: r.remote,
		From: from, To: to, Source: tcpstate.FromStack,
	}
	if !r.since.IsZero() {
		tr.Age = now.Sub(r.since)
	}
	tr.Cause = r.causeLocked(from, to, raw == tcp.StateError, t)
	if raw == tcp.StateError && handshake(from) {
		// gVisor notes the error before it writes the state; nobody else asks
		// for it, for the error that a failed handshake returns is kept apart.
		// The lock it is under is a leaf, and not held where we are called.
		if why, ok := r.handshakeCause(ep.LastErrorLocked(), tr.Cause); ok {
			tr.Cause = why
		}
	}
	r.since = now
	r.last.Store(uint32(to))
	t.moved(r, from, to)
	t.sink(tr)
	if to == tcpstate.Closed && (raw == tcp.StateError || from == tcpstate.CloseWait) {
		r.failLocked(tr.Cause)
	}
	r.mu.Unlock()
	switch to {
	case tcpstate.Closed:
		t.forget(r)
	case tcpstate.TimeWait:
		t.goOn(r)
	}
}

// forget drops the record and lets a SYN go on that waited for that.
func (t *tracker) forget(r *record) {
	r.mu.Lock()
	tuple := r.tuple
	r.mu.Unlock()
	t.mu.Lock()
	if t.records[tuple] == r { // a new connection may own the tuple already
		delete(t.records, tuple)
	}
	delete(t.live, r)
	t.mu.Unlock()
	t.goOn(r)
}

// goOn lets a SYN go on that waited for the record's end, or for its TIME-WAIT.
func (t *tracker) goOn(r *record) {
	r.mu.Lock()
	syn := r.parked
	if syn != nil && t.clock.NowMonotonic().Sub(r.parkedAt) >= firstRetransmission {
		syn = nil // the guest has asked again, or no longer wants it
	}
	r.parked = nil
	r.mu.Unlock()
	if syn != nil && t.unpark != nil {
		t.unpark(syn)
	}
}

// find returns the record of a 4-tuple, or nil.
func (t *tracker) find(id gvstack.TransportEndpointID) *record {
	t.mu.RLock()
	r := t.records[id]
	t.mu.RUnlock()
	return r
}

// snapshot returns all live records.
func (t *tracker) snapshot() []*record {
	t.mu.RLock()
	defer t.mu.RUnlock()
	all := make([]*record, 0, len(t.live))
	for r := range t.live {
		all = append(all, r)
	}
	return all
}

// probe is gVisor's TCP probe: after each segment of a connected endpoint,
// under the endpoint's lock.
func (t *tracker) probe(s *tcp.TCPEndpointState) {
	id := gvstack.TransportEndpointID(s.ID)
	r := t.find(id)
	if r == nil {
		t.probeUnknown(id)
		return
	}
	r.rst.handledSegment(uint32(s.Receiver.RcvNxt))
	ep := r.ep.Load()
	if ep != nil && r.released.Load() {
		r.answered.Store(timeouts(ep))
	}
	if ep != nil && ep.EndpointState() == tcp.StateTimeWait {
		// This runs once: segments that arrive in TIME-WAIT are not probed.
		r.mu.Lock()
		r.tw.rcvNxt = uint32(s.Receiver.RcvNxt)
		r.tw.timestamps = s.SendTSOk
		r.tw.recentTS = s.RecentTS
		r.tw.since = t.clock.NowMonotonic()
		r.tw.known = true
		r.mu.Unlock()
		if s.SendTSOk {
			t.recycleTimeWait(r, id, s.RecentTS, s.Sender.RTO)
		}
	}
	t.observe(r, viaProbe)
}

// probeUnknown counts a segment of a connection without a record, unless the
// connection has just ended and somebody else has seen it: our own Close.
func (t *tracker) probeUnknown(id gvstack.TransportEndpointID) {
	if t.stack.FindTransportEndpoint(netProtoOfTuple(id), header.TCPProtocolNumber, id, nicID) != nil {
		t.unknown.Add(1)
	}
}

// egressSYN is called under the endpoint's lock when a SYN-bearing segment
// leaves. Here the endpoint of a passive open becomes known, and the tuple of an
// active one. The record that the tuple has may still be that of the endpoint
// before: gVisor frees a tuple before it writes the last state.
//
// It reports whether the segment may leave: if it is one retransmission too many
// it may not, and the endpoint ends.
func (t *tracker) egressSYN(id gvstack.TransportEndpointID, netProto tcpip.NetworkProtocolNumber, tcpHdr header.TCP) bool {
	ep, ok := t.stack.FindTransportEndpoint(netProto, header.TCPProtocolNumber, id, nicID).(*tcp.Endpoint)
	if !ok {
		return true
	}
	r := t.find(id)
	switch {
	case r != nil && r.ep.Load() == nil:
		r.ep.Store(ep)
	case r == nil || r.ep.Load() != ep:
		if r = t.bind(id, ep, tcpHdr.SequenceNumber()); r == nil {
			t.unknown.Add(1)
			return true
		}
	}
	r.rst.iss.Store(tcpHdr.SequenceNumber())
	if tcpHdr.Flags().Contains(header.TCPFlagAck) {
		r.rst.rcvNxt.Store(tcpHdr.AckNumber())
	}
	t.observe(r, viaEgress)
	if r.handshake.exhausted(tcpHdr.Flags().Contains(header.TCPFlagAck), t.clock.NowMonotonic(), &t.retries) {
		t.ender.condemn(r, endRetries)
		return false
	}
	return true
}

// listening logs that a host inside the stack begins to listen, and returns
// what logs that it has ended.
func (t *tracker) listening(conn tcpstate.Conn, tr tcpstate.Transition) (ended func()) {
	began := t.clock.Now()
	tr.Time, tr.Conn, tr.Leg, tr.Source = began, conn, tcpstate.Stack, tcpstate.FromStack
	tr.From, tr.To, tr.Cause = tcpstate.Closed, tcpstate.Listen, tcpstate.Cause{Kind: tcpstate.ByCall, Which: "listen"}
	t.sink(tr)
	return func() {
		tr.Time = t.clock.Now()
		tr.Age = tr.Time.Sub(began)
		tr.From, tr.To, tr.Cause = tcpstate.Listen, tcpstate.Closed, tcpstate.Cause{Kind: tcpstate.ByCall, Which: "close"}
		t.sink(tr)
	}
}
