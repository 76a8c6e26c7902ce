package stack

import (
	"container/list"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tcpbox/policy"
	"tcpbox/stack/relay"
)

// A packetFlow is a flow of datagrams in one direction and their replies.
//
//	waiting ──attach, drain──▶ live ──▶ ended
//	   └──────────────────────────────────▲
//
// While it waits, for the policy and the dial, what the guest sends is queued.
type packetFlow struct {
	key     flowKey
	request policy.Request // what the policy is asked; Dst is where it is dialled
	cancel  context.CancelFunc

	// Guarded by flowTable.mu.
	at    *list.Element // nil once it has ended
	used  time.Time
	queue []outgoing
	bytes int           // of the queue
	conn  relay.Packets // nil until it has been dialled
	live  bool          // nothing is queued any more

	over atomic.Bool
}

func (f *packetFlow) ended() bool { return f.over.Load() }

// A flowTable holds the flows of one sandbox, in the order of their last use.
type flowTable struct {
	idle time.Duration
	now  func() time.Time

	mu       sync.Mutex
	max      int
	flows    map[flowKey]*packetFlow
	order    *list.List // of *packetFlow, the last used first
	allBytes int        // of all queues
	waiting  int        // flows that are not live
	timer    *time.Timer
	closed   bool

	evicted, expired atomic.Uint64

	onEvict func() // flows gave way, and nothing is locked
}

func newFlowTable(most int, idle time.Duration) *flowTable {
	return &flowTable{max: most, idle: idle, now: time.Now, flows: make(map[flowKey]*packetFlow), order: list.New()}
}

// send finds the flow of a datagram and marks it as used. If it is live, conn is
// where to send it; if it waits, the datagram has been queued or there was no
// room.
func (t *flowTable) send(key flowKey, p outgoing) (f *packetFlow, conn relay.Packets, queued bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f = t.flows[key]
	if f == nil {
		return nil, nil, false
	}
	t.touchLocked(f)
	if f.live {
		return f, f.conn, false
	}
	return f, nil, t.queueLocked(f, p)
}

func (t *flowTable) find(key flowKey) *packetFlow {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.flows[key]
}

// queueLocked keeps a copy of p.
func (t *flowTable) queueLocked(f *packetFlow, p outgoing) bool {
	n := len(p.data)
	if len(f.queue) == maxQueuedPackets || f.bytes+n > maxQueuedBytes || t.allBytes+n > maxAllQueued {
		return false
	}
	p.data = slices.Clone(p.data)
	f.queue = append(f.queue, p)
	f.bytes += n
	t.allBytes += n
	return true
}

// touch marks a flow as used.
func (t *flowTable) touch(f *packetFlow) {
	t.mu.Lock()
	t.touchLocked(f)
	t.mu.Unlock()
}

func (t *flowTable) touchLocked(f *packetFlow) {
	if f.at != nil {
		f.used = t.now()
		t.order.MoveToFront(f.at)
	}
}

// add enters a new flow with its first datagram, in place of the one that was
// used least recently if there is no room. It adds one to running for the
// goroutine that serves the flow, unless the table is closed.
func (t *flowTable) add(f *packetFlow, p outgoing, running *sync.WaitGroup) bool {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return false
	}
	running.Add(1)
	out := t.enterLocked(f)
	t.waiting++
	_ = t.queueLocked(f, p) // beyond all limits it is lost
	t.mu.Unlock()
	t.gaveWay(out)
	return true
}

// enter enters a new flow that is live. One that has its key ends.
func (t *flowTable) enter(f *packetFlow) bool {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return false
	}
	before := t.flows[f.key]
	if before != nil {
		t.removeLocked(before)
	}
	out := t.enterLocked(f)
	t.mu.Unlock()
	before.close()
	t.gaveWay(out)
	return true
}

// gaveWay ends flows that newer ones have taken the place of.
func (t *flowTable) gaveWay(flows []*packetFlow) {
	for _, f := range flows {
		f.close()
	}
	if len(flows) > 0 && t.onEvict != nil {
		t.onEvict()
	}
}

// setMax changes how many flows there may be.
func (t *flowTable) setMax(most int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.max = most
}

// enterLocked enters a flow and returns those that gave way: one, if the
// limit is reached, or more, if it has been lowered.
func (t *flowTable) enterLocked(f *packetFlow) (out []*packetFlow) {
	for t.order.Len() >= t.max {
		least := t.order.Back().Value.(*packetFlow)
		t.removeLocked(least)
		t.evicted.Add(1)
		out = append(out, least)
	}
	t.flows[f.key] = f
	f.used = t.now()
	f.at = t.order.PushFront(f)
	if t.timer == nil {
		t.timer = time.AfterFunc(t.idle, t.expire)
	}
	return out
}

// evict ends the flow that was used least recently among those that have a
// socket. It reports false if there is none.
func (t *flowTable) evict() bool {
	t.mu.Lock()
	for e := t.order.Back(); e != nil; e = e.Prev() {
		f := e.Value.(*packetFlow)
		if f.conn == nil {
			continue
		}
		t.removeLocked(f)
		t.evicted.Add(1)
		t.mu.Unlock()
		f.close()
		return true
	}
	t.mu.Unlock()
	return false
}

// attach gives a flow its socket. It reports false if it has ended meanwhile;
// the socket is then the caller's to close.
func (t *flowTable) attach(f *packetFlow, conn relay.Packets) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.at == nil {
		return false
	}
	f.conn = conn
	return true
}

// queued takes what waits.
func (t *flowTable) queued(f *packetFlow) []outgoing {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.takeLocked(f)
}

func (t *flowTable) takeLocked(f *packetFlow) []outgoing {
	q := f.queue
	t.allBytes -= f.bytes
	f.queue, f.bytes = nil, 0
	return q
}

// drain takes what waits, and if that is nothing, makes the flow live.
func (t *flowTable) drain(f *packetFlow) (waited []outgoing, live bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if waited = t.takeLocked(f); len(waited) > 0 {
		return waited, false
	}
	if f.at != nil && !f.live {
		f.live = true
		t.waiting--
	}
	return nil, true
}

// end ends a flow, if there is one and it has not ended.
func (t *flowTable) end(f *packetFlow) {
	if f == nil {
		return
	}
	t.mu.Lock()
	t.removeLocked(f)
	t.mu.Unlock()
	f.close()
}

// removeLocked takes a flow out of the table; close does the rest.
func (t *flowTable) removeLocked(f *packetFlow) {
	if f.at == nil {
		return
	}
	t.order.Remove(f.at)
	f.at = nil
	if t.flows[f.key] == f {
		delete(t.flows, f.key)
	}
	if !f.live {
		t.waiting--
	}
	t.takeLocked(f)
}

// close closes the socket of a flow that is out of the table, which ends its
// goroutine. It does nothing for nil.
func (f *packetFlow) close() {
	if f == nil || !f.over.CompareAndSwap(false, true) {
		return
	}
	f.cancel()
	if f.conn != nil { // it does not change any more
		_ = f.conn.Close()
	}
}

// expire ends the flows that have been idle for too long, and comes back when
// the next one may be.
func (t *flowTable) expire() {
	var out []*packetFlow
	t.mu.Lock()
	now := t.now()
	for e := t.order.Back(); e != nil; e = t.order.Back() {
		f := e.Value.(*packetFlow)
		if left := t.idle - now.Sub(f.used); left > 0 {
			t.timer.Reset(left)
			break
		}
		t.removeLocked(f)
		t.expired.Add(1)
		out = append(out, f)
	}
	if t.order.Len() == 0 {
		t.timer = nil
	}
	t.mu.Unlock()
	for _, f := range out {
		f.close()
	}
}

// close ends all flows, and refuses new ones.
func (t *flowTable) close() {
	var out []*packetFlow
	t.mu.Lock()
	t.closed = true
	if t.timer != nil {
		t.timer.Stop()
	}
	for e := t.order.Back(); e != nil; e = t.order.Back() {
		f := e.Value.(*packetFlow)
		t.removeLocked(f)
		out = append(out, f)
	}
	t.mu.Unlock()
	for _, f := range out {
		f.close()
	}
}

// count returns how many flows there are, and how many of them wait.
func (t *flowTable) count() (all, waiting int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.order.Len(), t.waiting
}
