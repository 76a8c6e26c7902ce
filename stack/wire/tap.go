package wire

import (
	"sync"
	"sync/atomic"
	"time"

	"tcpbox/tun"
	"tcpbox/tun/packet"
)

// Config says what a Tap shows and to whom.
type Config struct {
	// OnSegment is told of each segment that can change a state: SYN, FIN, RST,
	// the ACK that first covers a SYN or a FIN, and the guest's first segment
	// after its SYN-ACK was acknowledged, which proves that it is ESTABLISHED. It
	// is called by whoever reads or writes the device, for the two directions
	// concurrently, and for the stack's segments with the endpoint locked: it
	// must not block, nor call the stack.
	OnSegment func(Segment)

	// Tracer, if not nil, keeps the headers of all segments.
	Tracer *Tracer

	// MaxWaiting is how many connections may have a SYN or a FIN that is not
	// acknowledged yet. Of one more, the ACKs are not shown. Zero means
	// DefaultMaxWaiting.
	MaxWaiting int

	// Now tells the time. Nil means time.Now.
	Now func() time.Time
}

// DefaultMaxWaiting is Config.MaxWaiting's default. Each takes about 100 bytes.
const DefaultMaxWaiting = 1 << 15

// Tap is a device whose segments are watched. Packets pass through as they are,
// whole super-segments too.
type Tap struct {
	tun.Device
	cfg Config

	waiting atomic.Int64 // len(table)
	evicted atomic.Uint64

	mu    sync.Mutex
	table map[Tuple]*awaited
}

// awaited is what of a connection has to be seen yet. Index 0 is what the guest
// has sent and the stack is to acknowledge.
type awaited struct {
	need  [2]uint32
	owes  [2]bool // need is to be acknowledged by the other end
	opens [2]bool // need is that of a SYN
	prove bool    // the guest's next segment is to be shown
	last  time.Time
}

// NewTap returns dev with a tap on it. Closing the Tap closes dev.
func NewTap(dev tun.Device, cfg Config) *Tap {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.MaxWaiting <= 0 {
		cfg.MaxWaiting = DefaultMaxWaiting
	}
	return &Tap{Device: dev, cfg: cfg, table: make(map[Tuple]*awaited)}
}

// Stats are those of the device, if it has any.
func (t *Tap) Stats() tun.Stats {
	if c, ok := t.Device.(tun.Counter); ok {
		return c.Stats()
	}
	return tun.Stats{}
}

// Evicted is how many connections were not followed to their end because there
// were more than Config.MaxWaiting.
func (t *Tap) Evicted() uint64 { return t.evicted.Load() }

// Read implements tun.Device: it shows what the guest has sent.
func (t *Tap) Read(buf []byte) (int, tun.Offload, error) {
	n, h, err := t.Device.Read(buf)
	if err == nil {
		one := [1][]byte{buf[:n]}
		if flags, tcp := tcpFlags(one[:]); tcp && t.wants(flags) {
			t.see(buf[:n], flags, true, h)
		}
	}
	return n, h, err
}

// Write implements tun.Device: it shows what the stack is about to send.
func (t *Tap) Write(bufs [][]byte, h tun.Offload) error {
	if len(bufs) > 0 {
		t.seePieces(bufs, h)
	}
	return t.Device.Write(bufs, h)
}

// maxHeaders is the length of the longest headers that are looked at: IPv6 with
// an extension header or two, and TCP.
const maxHeaders = 160

// scratch has room for headers that come in pieces.
var scratch = sync.Pool{New: func() any { return new([maxHeaders]byte) }}

// seePieces is see for a packet in pieces. Where the headers are of interest and
// not in the first one, they are joined.
func (t *Tap) seePieces(bufs [][]byte, h tun.Offload) {
	flags, tcp := tcpFlags(bufs)
	switch {
	case !tcp || !t.wants(flags):
	case len(bufs) == 1 || len(bufs[0]) >= maxHeaders:
		t.see(bufs[0], flags, false, h)
	default:
		joined := scratch.Get().(*[maxHeaders]byte)
		n := 0
		for _, b := range bufs {
			n += copy(joined[n:], b)
		}
		t.see(joined[:n], flags, false, h)
		scratch.Put(joined)
	}
}

const turning = packet.SYN | packet.FIN | packet.RST

// wants reports whether a segment with these flags may be of interest.
func (t *Tap) wants(flags packet.Flags) bool {
	return flags&turning != 0 || t.cfg.Tracer != nil || t.waiting.Load() > 0
}

// see shows the packet that begins with b, if it is of interest.
func (t *Tap) see(b []byte, flags packet.Flags, fromGuest bool, h tun.Offload) {
	s, ok := Parse(b, fromGuest, h)
	if !ok {
		return
	}
	s.Time = t.cfg.Now()
	if t.cfg.Tracer != nil {
		t.cfg.Tracer.add(&s, h.NeedsCsum)
	}
	if t.cfg.OnSegment != nil && t.await(&s) {
		t.cfg.OnSegment(s)
	}
}

// tcpFlags reads the flags of a TCP segment in pieces, of which the first has at
// least the fixed part of the IP header. What stands behind extension headers of
// IPv6 is not worth the way: it is taken for interesting.
func tcpFlags(bufs [][]byte) (packet.Flags, bool) {
	const tcp, flagsAt = 6, 13
	b := bufs[0]
	if len(b) < 20 {
		return 0, false
	}
	at := 40 + flagsAt
	switch b[0] >> 4 {
	case 4:
		if b[9] != tcp || b[6]&0x1f != 0 || b[7] != 0 { // a later fragment has no header
			return 0, false
		}
		at = int(b[0]&0x0f)*4 + flagsAt
	case 6:
		switch b[6] {
		case tcp:
		case 0, 43, 44, 60:
			return packet.SYN, true
		default:
			return 0, false
		}
	default:
		return 0, false
	}
	for _, b := range bufs {
		if at < len(b) {
			return packet.Flags(b[at]), true
		}
		at -= len(b)
	}
	return 0, false
}

// await notes what the segment asks for and what it answers, and reports whether
// it is to be shown.
func (t *Tap) await(s *Segment) bool {
	from, to := 0, 1
	if !s.FromGuest {
		from, to = 1, 0
	}
	key := s.Tuple()
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.table[key]
	flags := s.TCP.Flags
	if flags&packet.RST != 0 {
		if w != nil {
			delete(t.table, key)
			t.waiting.Store(int64(len(t.table)))
		}
		return true
	}
	if w == nil {
		if flags&turning == 0 {
			return false
		}
		w = t.addLocked(key)
	}
	w.last = s.Time
	show := flags&(packet.SYN|packet.FIN) != 0
	if w.prove && s.FromGuest {
		w.prove, show = false, true
	}
	if flags&packet.ACK != 0 && w.owes[to] && covers(s.TCP.Ack, w.need[to]) {
		w.owes[to], show = false, true
		// A guest that was asked tells by its next segment that it stands.
		w.prove = w.opens[to] && flags&packet.SYN == 0 && !s.FromGuest
	}
	if flags&(packet.SYN|packet.FIN) != 0 {
		w.owes[from], w.need[from], w.opens[from] = true, s.End(), flags&packet.SYN != 0
	}
	if !w.owes[0] && !w.owes[1] && !w.prove {
		delete(t.table, key)
		t.waiting.Store(int64(len(t.table)))
	}
	return show
}

// addLocked makes room for another connection and adds it.
func (t *Tap) addLocked(key Tuple) *awaited {
	if len(t.table) >= t.cfg.MaxWaiting {
		t.evictLocked()
	}
	w := &awaited{}
	t.table[key] = w
	t.waiting.Store(int64(len(t.table)))
	return w
}

// evictLocked drops the one of a few at random that was silent for longest: most
// often a SYN that nobody answers.
func (t *Tap) evictLocked() {
	const look = 16
	var oldest Tuple
	var at time.Time
	n := 0
	for key, w := range t.table {
		if n == 0 || w.last.Before(at) {
			oldest, at = key, w.last
		}
		if n++; n == look {
			break
		}
	}
	delete(t.table, oldest)
	t.evicted.Add(1)
}
