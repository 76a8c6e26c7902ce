package tuntest

import (
	"context"
	"slices"
	"sync"
	"time"

	"tcpbox/tun"
	"tcpbox/tun/packet"
)

// Direction is the way a packet travels over a Link.
type Direction uint8

// The two ways.
const (
	AToB Direction = iota
	BToA
)

// String returns "a>b" or "b>a".
func (d Direction) String() string {
	if d == AToB {
		return "a>b"
	}
	return "b>a"
}

// Frame is a packet or super-segment on its way. A Hook may change both
// fields; the frame is not valid after it has returned.
type Frame struct {
	Data    []byte
	Offload tun.Offload

	// After is how long the frame takes, if the hook answers with Delay.
	After time.Duration
}

// Parse reads the headers of the frame.
func (f *Frame) Parse() (packet.Packet, error) { return packet.Parse(f.Data) }

// Frames are pooled, each with room for the largest packet.
var frames = sync.Pool{New: func() any { return &Frame{Data: make([]byte, 0, tun.MaxPacket)} }}

func newFrame(h tun.Offload) *Frame {
	f := frames.Get().(*Frame)
	f.Data, f.Offload, f.After = f.Data[:0], h, 0
	return f
}

func (f *Frame) free() {
	if cap(f.Data) >= tun.MaxPacket { // else a hook replaced it by less
		frames.Put(f)
	}
}

// Action is what becomes of a frame.
type Action uint8

// The actions.
const (
	Pass    Action = iota
	Drop           // it never arrives
	Hold           // it waits until Link.Release, or a later frame with the action Release
	Dup            // it arrives twice
	Release        // it arrives, and behind it all that were held in its direction
	Delay          // it arrives when Link.Advance has advanced by Frame.After
)

// Hook decides about one frame. It is called for one frame of a direction at a
// time, in the order they were written, and must not use the link itself.
type Hook func(dir Direction, f *Frame) Action

// Link is a pair of devices with a Hook between them.
type Link struct {
	A, B tun.Device

	options
	mtu  int
	ends [2]*end
	ways [2]way

	delays delays
}

// way is what the link keeps for one direction.
type way struct {
	mu      sync.Mutex
	hook    Hook
	held    []*Frame
	changed chan struct{} // closed when held grows; nil while nobody waits
}

// NewLink makes a Pair with a hook between its ends. A nil hook passes
// everything.
func NewLink(mtu int, hook Hook, opts ...Option) *Link {
	l := &Link{mtu: mtu, options: options{names: [2]string{"a", "b"}}}
	for _, o := range opts {
		o(&l.options)
	}
	if l.mtu == 0 {
		l.mtu = 1500
	}
	if l.queuePackets == 0 {
		l.queuePackets = DefaultQueue
	}
	for i := range l.ends {
		l.ends[i] = &end{
			link: l,
			dir:  Direction(i),
			name: l.names[i],
			in:   make(chan *Frame, l.queuePackets),
			done: make(chan struct{}),
		}
	}
	l.ends[0].peer, l.ends[1].peer = l.ends[1], l.ends[0]
	l.A, l.B = l.ends[0], l.ends[1]
	l.SetHook(hook)
	return l
}

// SetHook replaces the hook of both directions; nil passes everything. Frames
// that are held stay so.
func (l *Link) SetHook(hook Hook) {
	for i := range l.ways {
		w := &l.ways[i]
		w.mu.Lock()
		w.hook = hook
		w.mu.Unlock()
	}
}

// Held is how many frames of a direction are held.
func (l *Link) Held(dir Direction) int {
	w := &l.ways[dir]
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.held)
}

// WaitHeld returns when n frames of a direction are held, or with the error of
// ctx.
func (l *Link) WaitHeld(ctx context.Context, dir Direction, n int) error {
	w := &l.ways[dir]
	for {
		w.mu.Lock()
		if len(w.held) >= n {
			w.mu.Unlock()
			return nil
		}
		if w.changed == nil {
			w.changed = make(chan struct{})
		}
		changed := w.changed
		w.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Release lets the held frames of a direction arrive, in the order they were
// written, and returns how many.
func (l *Link) Release(dir Direction) int {
	w := &l.ways[dir]
	w.mu.Lock()
	defer w.mu.Unlock()
	return l.releaseLocked(w, l.ends[dir])
}

// ReleaseReversed is Release in the opposite order.
func (l *Link) ReleaseReversed(dir Direction) int {
	w := &l.ways[dir]
	w.mu.Lock()
	defer w.mu.Unlock()
	slices.Reverse(w.held)
	return l.releaseLocked(w, l.ends[dir])
}

func (l *Link) releaseLocked(w *way, from *end) int {
	n := len(w.held)
	for _, f := range w.held {
		from.deliver(f)
	}
	w.held = nil
	return n
}

// send takes a frame that was written at an end.
func (l *Link) send(from *end, f *Frame) {
	w := &l.ways[from.dir]
	w.mu.Lock()
	defer w.mu.Unlock()
	action := Pass
	if w.hook != nil {
		action = w.hook(from.dir, f)
	}
	switch action {
	case Drop:
		f.free()
	case Hold:
		w.held = append(w.held, f)
		if w.changed != nil {
			close(w.changed)
			w.changed = nil
		}
	case Dup:
		g := newFrame(f.Offload)
		g.Data = append(g.Data, f.Data...)
		from.deliver(f)
		from.deliver(g)
	case Release:
		from.deliver(f)
		l.releaseLocked(w, from)
	case Delay:
		l.delays.add(from, f)
	default:
		from.deliver(f)
	}
}
