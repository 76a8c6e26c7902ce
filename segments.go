package tcpbox

import (
	"errors"
	"slices"
	"sync"
	"time"

	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
	"tcpbox/stack/wire"
)

// ErrNoTrace is matched by the error of Sandbox.Segments when no headers are
// kept.
var ErrNoTrace = errors.New("the sandbox keeps no headers of segments")

const (
	traceSweep     = time.Second
	tracesKept     = 256 // connections that are over
	tracedNumbers  = 4096
	tracedRecords  = 64 // transitions of a connection
	traceQuietTime = 2 * time.Second
)

// segmentTrace keeps the headers of the segments between guest and stack, and
// hands those of each connection over when it has ended.
type segmentTrace struct {
	sandbox string
	tracer  *wire.Tracer
	give    func([]statelog.Segment)
	stop    chan struct{}
	running sync.WaitGroup

	mu      sync.Mutex
	records map[tcpstate.Conn][]statelog.Record
	order   []tcpstate.Conn // of records, the oldest first
	ended   []wire.Trace
}

// newSegmentTrace returns nil if nobody wants one.
func newSegmentTrace(c *Config) *segmentTrace {
	if !c.TraceSegments {
		return nil
	}
	t := &segmentTrace{
		sandbox: c.Name, tracer: wire.NewTracer(wire.TracerConfig{Quiet: traceQuietTime}), give: c.OnSegments,
		stop: make(chan struct{}), records: make(map[tcpstate.Conn][]statelog.Record),
	}
	if t.give == nil {
		t.give = func([]statelog.Segment) {}
	}
	t.running.Go(t.sweep)
	return t
}

// reads returns a reader of the log that is the trace's own, before next.
func (t *segmentTrace) reads(next func([]statelog.Item)) func([]statelog.Item) {
	if t == nil {
		return next
	}
	return func(items []statelog.Item) {
		t.note(items)
		if next != nil {
			next(items)
		}
	}
}

// note learns from the log which connection has which number, and keeps its
// transitions.
func (t *segmentTrace) note(items []statelog.Item) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range items {
		tr := &items[i].Transition
		if !items[i].IsTransition() || !tr.Remote.IsValid() {
			continue
		}
		var tuple wire.Tuple
		switch tr.Leg {
		case tcpstate.Guest:
			tuple = wire.Tuple{Guest: tr.Local, Remote: tr.Remote}
		case tcpstate.Stack:
			tuple = wire.Tuple{Guest: tr.Remote, Remote: tr.Local}
		default:
			continue
		}
		if tr.From == tcpstate.Closed {
			// A SYN of the stack is logged a moment before it passes the tap.
			t.tracer.Number(tuple, tr.Conn, tr.Time.Add(time.Second))
		}
		t.keepLocked(items[i].Record(t.sandbox))
	}
}

func (t *segmentTrace) keepLocked(r statelog.Record) {
	kept, known := t.records[r.Conn]
	if !known {
		if len(t.order) >= tracedNumbers {
			delete(t.records, t.order[0])
			t.order = slices.Delete(t.order, 0, 1)
		}
		t.order = append(t.order, r.Conn)
	}
	if len(kept) < tracedRecords {
		t.records[r.Conn] = append(kept, r)
	}
}

// sweep hands over what has ended, every second.
func (t *segmentTrace) sweep() {
	tick := time.NewTicker(traceSweep)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			t.handOver(t.tracer.Sweep(now, false))
		case <-t.stop:
			return
		}
	}
}

func (t *segmentTrace) handOver(done []wire.Trace) {
	if len(done) == 0 {
		return
	}
	t.mu.Lock()
	t.ended = append(t.ended, done...)
	t.ended = slices.Delete(t.ended, 0, max(0, len(t.ended)-tracesKept))
	t.mu.Unlock()
	for i := range done {
		t.give(t.lines(&done[i]))
	}
}

// lines makes of a trace the lines of the log.
func (t *segmentTrace) lines(tr *wire.Trace) []statelog.Segment {
	all := make([]statelog.Segment, 0, len(tr.Segments))
	for i := range tr.Segments {
		k := &tr.Segments[i]
		s := statelog.Segment{
			Time: k.Time, Sandbox: t.sandbox, Conn: tr.Conn, Sender: tcpstate.Guest, Src: tr.Tuple.Guest, Dst: tr.Tuple.Remote,
			Header: k.Header(), Partial: k.Partial, Payload: k.Payload, GSOSize: k.GSOSize, Skipped: k.Skipped,
		}
		if !k.FromGuest {
			s.Sender, s.Src, s.Dst = tcpstate.Stack, s.Dst, s.Src
		}
		all = append(all, s)
	}
	return all
}

// close hands over all that there is. The log has been read before.
func (t *segmentTrace) close() {
	if t == nil {
		return
	}
	close(t.stop)
	t.running.Wait()
	t.handOver(t.tracer.Sweep(time.Now(), true))
}

// Segments returns what is kept of a connection: its transitions, and the headers
// of its segments, of a long one those of its beginning and its end. Both are
// empty if nothing is known of it. Without Config.TraceSegments the error is
// ErrNoTrace.
func (s *Sandbox) Segments(conn tcpstate.Conn) ([]statelog.Record, []statelog.Segment, error) {
	t := s.trace
	if t == nil {
		return nil, nil, ErrNoTrace
	}
	live, found := t.tracer.Find(conn)
	t.mu.Lock()
	defer t.mu.Unlock()
	if !found {
		i := slices.IndexFunc(t.ended, func(tr wire.Trace) bool { return tr.Conn == conn })
		if i >= 0 {
			live = t.ended[i]
		}
	}
	return slices.Clone(t.records[conn]), t.lines(&live), nil
}
