package statelog

import (
	"context"
	"errors"
	"math/bits"
	"sync/atomic"
	"time"

	"tcpbox/stack/tcpstate"
)

const (
	// DefaultQueueItems is the capacity of a Queue made with zero, in items of
	// about 170 bytes.
	DefaultQueueItems = 1 << 14

	maxQueueItems = 1 << 24

	// batchItems is how many items a batch has at most.
	batchItems = 256
)

// Queue is a bounded queue from many producers to one consumer that never makes
// a producer wait: Push takes no lock, makes no system call and allocates
// nothing. Items come out in the order of their Push calls, over all producers.
//
// It is a ring whose slots say whose turn they are, after D. Vyukov's bounded
// queue. Its tail is one word, so that taking a slot and taking over the count
// of what was missed before it are one step, and a marker stands exactly where
// the missing items would have been:
//
//	 63            32   31         30            0
//	┌────────────────┬────────┬──────────────────┐
//	│ next position  │ closed │ missed before it │
//	└────────────────┴────────┴──────────────────┘
type Queue struct {
	slots []slot
	mask  uint32

	_        [64]byte // producers and consumer write to different cache lines
	tail     atomic.Uint64
	_        [56]byte
	dropped  atomic.Uint64
	_        [56]byte
	sleeping atomic.Bool // the consumer is, or is about to be
	head     uint32      // the consumer's own
	wake     chan struct{}
	running  atomic.Bool
}

const (
	positionShift = 32
	closedBit     = 1 << 31
	missedMask    = closedBit - 1
)

// slot holds one transition, or facts, or a change. turn is its position when a producer may fill it,
// position+1 when the consumer may take it.
type slot struct {
	turn   atomic.Uint32
	missed uint32 // how many were dropped just before this one
	facts  *tcpstate.Facts
	set    *tcpstate.Change
	t      tcpstate.Transition
}

// time is when what the slot holds happened.
func (s *slot) time() time.Time {
	switch {
	case s.facts != nil:
		return s.facts.Time
	case s.set != nil:
		return s.set.Time
	}
	return s.t.Time
}

// NewQueue returns a Queue of at least capacity items. Zero or less means
// DefaultQueueItems; there is an upper limit of 16 Mi.
func NewQueue(capacity int) *Queue { return newQueueAt(capacity, 0) }

// newQueueAt returns a Queue whose first position is start.
func newQueueAt(capacity int, start uint32) *Queue {
	if capacity <= 0 {
		capacity = DefaultQueueItems
	}
	// A ring of one slot could not tell full from empty.
	size := 1 << bits.Len(uint(min(max(capacity, 2), maxQueueItems)-1))
	q := &Queue{slots: make([]slot, size), mask: uint32(size - 1), wake: make(chan struct{}, 1)}
	for i := range uint32(size) {
		q.slots[(start+i)&q.mask].turn.Store(start + i)
	}
	q.head = start
	q.tail.Store(uint64(start) << positionShift)
	return q
}

// Push appends t, or counts it as dropped if the queue is full or closed. It is
// a tcpstate.Sink.
func (q *Queue) Push(t tcpstate.Transition) { q.push(&t, nil, nil) }

// PushFacts is Push for facts, which are the queue's from then on. It is a
// tcpstate.FactsSink.
func (q *Queue) PushFacts(f *tcpstate.Facts) { q.push(nil, f, nil) }

// PushSet is Push for a setting that has changed; the Change is the queue's from
// then on.
func (q *Queue) PushSet(c *tcpstate.Change) { q.push(nil, nil, c) }

func (q *Queue) push(t *tcpstate.Transition, f *tcpstate.Facts, c *tcpstate.Change) {
	for {
		tail := q.tail.Load()
		if tail&closedBit != 0 {
			q.dropped.Add(1)
			return
		}
		position := uint32(tail >> positionShift)
		s := &q.slots[position&q.mask]
		switch ahead := int32(s.turn.Load() - position); {
		case ahead == 0:
			if q.tail.CompareAndSwap(tail, uint64(position+1)<<positionShift) {
				s.missed = uint32(tail & missedMask)
				s.facts, s.set = f, c
				if t != nil {
					s.t = *t
				}
				s.turn.Store(position + 1)
				q.rouse()
				return
			}
		case ahead < 0: // the consumer has not taken what is there
			if tail&missedMask == missedMask || q.tail.CompareAndSwap(tail, tail+1) {
				q.dropped.Add(1)
				q.rouse()
				return
			}
		}
		// Somebody else was faster: there is a new tail.
	}
}

// rouse wakes the consumer if it sleeps.
func (q *Queue) rouse() {
	if q.sleeping.Load() && q.sleeping.CompareAndSwap(true, false) {
		select {
		case q.wake <- struct{}{}:
		default:
		}
	}
}

// Dropped returns how many transitions did not fit, or came after Close.
func (q *Queue) Dropped() uint64 { return q.dropped.Load() }

// Close ends the queue: later pushes are dropped. Run hands over what is there
// and returns; to wait for that is to wait for Run. Close may be called twice.
func (q *Queue) Close() {
	q.tail.Or(closedBit)
	q.rouse()
}

// Run gives what is pushed to f, in batches, as soon as it is there. It returns
// nil when the queue has been closed and everything is handed over, and the
// context's error when ctx ends; what is left then stays. f keeps nothing of the
// batch. There is one Run at a time.
func (q *Queue) Run(ctx context.Context, f func([]Item)) error {
	if !q.running.CompareAndSwap(false, true) {
		return errors.New("statelog: run: the queue has a consumer already")
	}
	defer q.running.Store(false)
	batch := make([]Item, 0, batchItems)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		batch = q.take(batch[:0])
		if len(batch) > 0 {
			f(batch)
			continue
		}
		if q.ended() {
			return nil
		}
		q.sleeping.Store(true)
		if q.ready() {
			q.sleeping.Store(false)
			continue
		}
		select {
		case <-q.wake:
		case <-ctx.Done():
			q.sleeping.Store(false)
		}
	}
}

// take moves what is there to batch, up to its capacity.
func (q *Queue) take(batch []Item) []Item {
	for len(batch)+2 <= cap(batch) { // a slot may hold a marker as well
		s := &q.slots[q.head&q.mask]
		if s.turn.Load() != q.head+1 {
			break
		}
		if s.missed > 0 {
			batch = append(batch, Item{Dropped: uint64(s.missed), Transition: tcpstate.Transition{Time: s.time()}})
		}
		switch {
		case s.facts != nil:
			batch = append(batch, Item{Facts: s.facts})
			s.facts = nil
		case s.set != nil:
			batch = append(batch, Item{Set: s.set})
			s.set = nil
		default:
			batch = append(batch, Item{Transition: s.t})
		}
		s.turn.Store(q.head + uint32(len(q.slots)))
		q.head++
	}
	if len(batch) > 0 {
		return batch
	}
	// Nothing came after what was dropped last: its marker has no slot.
	tail := q.tail.Load()
	missed := tail & missedMask
	if missed > 0 && uint32(tail>>positionShift) == q.head && q.tail.CompareAndSwap(tail, tail&^missedMask) {
		batch = append(batch, Item{Dropped: missed})
	}
	return batch
}

// ready reports whether take would find something, or the queue has ended.
func (q *Queue) ready() bool {
	if q.slots[q.head&q.mask].turn.Load() == q.head+1 {
		return true
	}
	tail := q.tail.Load()
	return uint32(tail>>positionShift) == q.head && tail&(closedBit|missedMask) != 0
}

// ended reports whether the queue is closed and everything is taken. A producer
// that has its position but has not filled it yet keeps it from ending.
func (q *Queue) ended() bool {
	tail := q.tail.Load()
	return tail&closedBit != 0 && tail&missedMask == 0 && uint32(tail>>positionShift) == q.head
}
