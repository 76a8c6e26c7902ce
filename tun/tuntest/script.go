package tuntest

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"tcpbox/tun/packet"
)

// Impairment damages a link at random, and the same way for the same seed and
// the same frames of a direction. The zero Impairment passes everything.
type Impairment struct {
	Seed uint64

	// Loss, Duplicates and Reordered are percentages of the frames: which never
	// arrive, which arrive twice, and which arrive behind later ones.
	Loss, Duplicates, Reordered float64

	// Delay, and up to as much Jitter more, is how long each frame takes on the
	// clock of Link.Advance. A frame with less jitter overtakes.
	Delay, Jitter time.Duration
}

// releaseShare is which percentage of the frames is overtaken by all that are
// held: a frame is late by three others or so.
const releaseShare = 32

// Hook returns the Impairment as a hook, of one link.
func (i Impairment) Hook() Hook {
	// Each direction has its own numbers: the two run concurrently.
	var random [2]*rand.Rand
	for d := range random {
		random[d] = rand.New(rand.NewPCG(i.Seed, uint64(d)+1))
	}
	return func(dir Direction, f *Frame) Action {
		r := random[dir]
		switch n := 100 * r.Float64(); {
		case n < i.Loss:
			return Drop
		case n < i.Loss+i.Duplicates:
			return Dup
		case n < i.Loss+i.Duplicates+i.Reordered:
			return Hold
		case i.Reordered > 0 && n < i.Loss+i.Duplicates+i.Reordered+releaseShare:
			return Release
		}
		if i.Delay > 0 || i.Jitter > 0 {
			f.After = i.Delay
			if i.Jitter > 0 {
				f.After += time.Duration(r.Int64N(int64(i.Jitter)))
			}
			return Delay
		}
		return Pass
	}
}

// Rule says what becomes of certain TCP segments of a Script.
type Rule struct {
	Dir   Direction
	Flags packet.Flags // that the segment has; zero: any

	// Nth is which of those segments is meant, from 1. Zero means all.
	Nth int

	Do    Action
	After time.Duration // with Delay
}

// Script returns a hook that follows rules: the first that means a frame says
// what becomes of it. What none means passes.
func Script(rules ...Rule) Hook {
	var mu sync.Mutex
	seen := make([]int, len(rules))
	return func(dir Direction, f *Frame) Action {
		p, err := f.Parse()
		if err != nil || p.Proto != packet.TCP {
			return Pass
		}
		mu.Lock()
		defer mu.Unlock()
		for i, r := range rules {
			if r.Dir != dir || !p.TCP.Flags.Has(r.Flags) {
				continue
			}
			if seen[i]++; r.Nth == 0 || seen[i] == r.Nth {
				f.After = r.After
				return r.Do
			}
		}
		return Pass
	}
}

// delays are the frames on their way, on a clock of the link's own.
type delays struct {
	mu     sync.Mutex
	now    time.Duration
	flying []flying // by due, then by when they were sent
}

type flying struct {
	from *end
	f    *Frame
	due  time.Duration
}

func (d *delays) add(from *end, f *Frame) {
	d.mu.Lock()
	defer d.mu.Unlock()
	one := flying{from, f, d.now + f.After}
	at, _ := slices.BinarySearchFunc(d.flying, one.due+1, func(x flying, due time.Duration) int { return cmp.Compare(x.due, due) })
	d.flying = slices.Insert(d.flying, at, one)
}

// Advance moves the link's clock, on which frames with the action Delay travel,
// and lets those arrive that are due, in their order. It returns how many.
func (l *Link) Advance(by time.Duration) int {
	d := &l.delays
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now += by
	n := 0
	for n < len(d.flying) && d.flying[n].due <= d.now {
		d.flying[n].from.deliver(d.flying[n].f)
		n++
	}
	d.flying = slices.Delete(d.flying, 0, n)
	return n
}

// HeldPacket parses the i-th of the frames that are held in a direction. It
// reports false if there is none, or it is no packet.
func (l *Link) HeldPacket(dir Direction, i int) (packet.Packet, bool) {
	w := &l.ways[dir]
	w.mu.Lock()
	defer w.mu.Unlock()
	if i >= len(w.held) {
		return packet.Packet{}, false
	}
	p, err := w.held[i].Parse()
	return p, err == nil
}

// Take ends the holding of the i-th of the frames that are held in a direction:
// it arrives that many times, 0 for not at all. It reports false if there is no
// such frame.
func (l *Link) Take(dir Direction, i, times int) bool {
	w := &l.ways[dir]
	w.mu.Lock()
	defer w.mu.Unlock()
	if i >= len(w.held) {
		return false
	}
	f := w.held[i]
	w.held = slices.Delete(w.held, i, i+1)
	if times == 0 {
		f.free()
		return true
	}
	for range times - 1 {
		g := newFrame(f.Offload)
		g.Data = append(g.Data, f.Data...)
		l.ends[dir].deliver(g)
	}
	l.ends[dir].deliver(f)
	return true
}

// Change lets change have its way with the bytes of the i-th of the frames that
// are held in a direction. It reports false if there is no such frame.
func (l *Link) Change(dir Direction, i int, change func([]byte)) bool {
	w := &l.ways[dir]
	w.mu.Lock()
	defer w.mu.Unlock()
	if i >= len(w.held) {
		return false
	}
	change(w.held[i].Data)
	return true
}

// Taken reports whether the reader of a direction has read all that has arrived,
// and has come back for more: it has done with them what it does before it reads
// again.
func (l *Link) Taken(dir Direction) bool {
	reader := l.ends[dir].peer
	return reader.reads.Load() > reader.arrived.Load()
}
