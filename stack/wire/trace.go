package wire

import (
	"slices"
	"sync"
	"time"

	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

// TracerConfig bounds what a Tracer keeps. The zero value of a field means its
// default.
type TracerConfig struct {
	// First and Last are how many segments of a connection are kept from its
	// beginning and from its end: 128 each. Each takes 128 bytes.
	First, Last int

	// MaxConns is how many connections are kept at once: 1024. Of one more, the
	// one that was silent for longest makes room.
	MaxConns int

	// Quiet is how long after its end a connection is waited for: 2 s. What is
	// sent once more until then belongs to it.
	Quiet time.Duration
}

// Kept is a segment of a Trace.
type Kept struct {
	Time      time.Time
	FromGuest bool
	Partial   bool   // the checksum was left to the device
	Skipped   uint64 // segments before it that were not kept
	Payload   int
	GSOSize   int

	header [60]byte
	length uint8
}

// Header are the bytes of the TCP header.
func (k *Kept) Header() []byte { return k.header[:k.length] }

// Trace are the segments of one connection, in the order in which they passed.
type Trace struct {
	Tuple    Tuple
	Conn     tcpstate.Conn // 0: none was given
	Segments []Kept
}

// Tracer keeps the headers of connections, of each its beginning and its end. It
// is fed by a Tap. Its methods may be called concurrently.
type Tracer struct {
	cfg TracerConfig

	mu    sync.Mutex
	live  map[Tuple]*trace
	ended []*trace // not yet taken by Sweep
}

// trace is a connection that is being kept. The last segments are a ring.
type trace struct {
	tuple   Tuple
	conn    tcpstate.Conn
	began   time.Time
	latest  time.Time
	first   []Kept
	last    []Kept
	next    int    // of last, once it is full
	skipped uint64 // before the oldest of last

	iss      [2]uint32 // the number of its SYN, of guest and stack
	syn, fin [2]bool
	finEnd   [2]uint32
	finAcked [2]bool
	reset    bool
}

// NewTracer returns a Tracer that has seen nothing.
func NewTracer(cfg TracerConfig) *Tracer {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&cfg.First, 128)
	def(&cfg.Last, 128)
	def(&cfg.MaxConns, 1024)
	if cfg.Quiet <= 0 {
		cfg.Quiet = 2 * time.Second
	}
	return &Tracer{cfg: cfg, live: make(map[Tuple]*trace)}
}

// add keeps a segment.
func (t *Tracer) add(s *Segment, partial bool) {
	from, to := 0, 1
	if !s.FromGuest {
		from, to = 1, 0
	}
	key := s.Tuple()
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.live[key]
	if c != nil && s.TCP.Flags&(packet.SYN|packet.ACK) == packet.SYN && c.syn[from] && c.iss[from] != s.TCP.Seq {
		t.endLocked(c) // this SYN begins another
		c = nil
	}
	if c == nil {
		c = t.beginLocked(key, s.Time)
	}
	c.note(s, from, to)
	c.keep(&t.cfg, s, partial)
}

func (t *Tracer) beginLocked(key Tuple, now time.Time) *trace {
	if len(t.live) >= t.cfg.MaxConns {
		var oldest *trace
		for _, c := range t.live {
			if oldest == nil || c.latest.Before(oldest.latest) {
				oldest = c
			}
		}
		t.endLocked(oldest)
	}
	c := &trace{tuple: key, began: now}
	t.live[key] = c
	return c
}

// endLocked moves a trace to those that are complete. If nobody sweeps, the
// oldest are forgotten.
func (t *Tracer) endLocked(c *trace) {
	delete(t.live, c.tuple)
	if len(t.ended) >= t.cfg.MaxConns {
		t.ended = slices.Delete(t.ended, 0, 1)
	}
	t.ended = append(t.ended, c)
}

// note follows the connection as far as it must be known when it is over.
func (c *trace) note(s *Segment, from, to int) {
	c.latest = s.Time
	flags := s.TCP.Flags
	if flags&packet.SYN != 0 {
		c.syn[from], c.iss[from] = true, s.TCP.Seq
	}
	if flags&packet.ACK != 0 && c.fin[to] && covers(s.TCP.Ack, c.finEnd[to]) {
		c.finAcked[to] = true
	}
	if flags&packet.FIN != 0 {
		c.fin[from], c.finEnd[from] = true, s.End()
	}
	c.reset = c.reset || flags&packet.RST != 0
}

func (c *trace) over() bool { return c.reset || c.finAcked[0] && c.finAcked[1] }

func (c *trace) keep(cfg *TracerConfig, s *Segment, partial bool) {
	k := Kept{Time: s.Time, FromGuest: s.FromGuest, Partial: partial, Payload: s.Payload, GSOSize: s.GSOSize}
	k.length = uint8(copy(k.header[:], s.Raw))
	switch {
	case len(c.first) < cfg.First:
		c.first = append(c.first, k)
	case len(c.last) < cfg.Last:
		c.last = append(c.last, k)
	default:
		c.skipped++
		c.last[c.next] = k
		c.next = (c.next + 1) % len(c.last)
	}
}

// trace returns a copy of what was kept.
func (c *trace) trace() Trace {
	tr := Trace{Tuple: c.tuple, Conn: c.conn, Segments: make([]Kept, 0, len(c.first)+len(c.last))}
	tr.Segments = append(tr.Segments, c.first...)
	tr.Segments = append(tr.Segments, c.last[c.next:]...)
	tr.Segments = append(tr.Segments, c.last[:c.next]...)
	if c.skipped > 0 {
		tr.Segments[len(c.first)].Skipped = c.skipped
	}
	return tr
}

// Number gives the connection that has tuple, and had begun at that time, its
// number, unless it has one.
func (t *Tracer) Number(tuple Tuple, conn tcpstate.Conn, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.live[tuple]; c != nil && !c.began.After(at) {
		if c.conn == 0 {
			c.conn = conn
		}
		return
	}
	for i := len(t.ended) - 1; i >= 0; i-- {
		if c := t.ended[i]; c.tuple == tuple && c.conn == 0 && !c.began.After(at) {
			c.conn = conn
			return
		}
	}
}

// Find returns the trace of a connection that Sweep has not returned yet.
func (t *Tracer) Find(conn tcpstate.Conn) (Trace, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.live {
		if c.conn == conn {
			return c.trace(), true
		}
	}
	for _, c := range t.ended {
		if c.conn == conn {
			return c.trace(), true
		}
	}
	return Trace{}, false
}

// Sweep returns the connections that are over at that time, in the order in
// which they ended, and forgets them. With all it returns every one.
func (t *Tracer) Sweep(now time.Time, all bool) []Trace {
	t.mu.Lock()
	defer t.mu.Unlock()
	var over []*trace
	for _, c := range t.live {
		if all || c.over() && now.Sub(c.latest) >= t.cfg.Quiet {
			over = append(over, c)
		}
	}
	slices.SortFunc(over, func(a, b *trace) int { return a.latest.Compare(b.latest) })
	for _, c := range over {
		delete(t.live, c.tuple)
	}
	var done []Trace
	for _, c := range append(t.ended, over...) {
		done = append(done, c.trace())
	}
	t.ended = nil
	return done
}
