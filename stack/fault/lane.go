package fault

import (
	"container/heap"
	"slices"
	"time"

	"tcpbox/tun"
)

// frame is a packet on its way.
type frame struct {
	data []byte
	off  tun.Offload

	dir    int
	serial uint64 // in which order they were sent
	at     time.Time
	behind int    // how many later packets pass first
	slots  uint64 // of the rules that have made it late

	conn    *conn // nil: of none
	seg     segment
	damaged bool // its receiver will not take it
}

// overtakeWithin is how long a packet waits for those that are to pass first.
const overtakeWithin = 10 * time.Millisecond

// lane is what waits in one direction.
type lane struct {
	byDue   frames
	passing []*frame // that wait for later ones to pass; they are in byDue too
	packets int
	bytes   int
	timer   Timer
	wakeAt  time.Time // when it will
}

// frames is a heap by when they are due, then by when they were sent.
type frames []*frame

func (h frames) Len() int { return len(h) }
func (h frames) Less(i, j int) bool {
	if !h[i].at.Equal(h[j].at) {
		return h[i].at.Before(h[j].at)
	}
	return h[i].serial < h[j].serial
}
func (h frames) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *frames) Push(x any)   { *h = append(*h, x.(*frame)) }
func (h *frames) Pop() any {
	old := *h
	f := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return f
}

func (l *lane) stop() {
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
}

// submitLocked lets a packet that the rules are done with arrive, now or when it
// is due. It keeps nothing of the packet's bytes.
func (d *Device) submitLocked(f *frame, now time.Time, whole [][]byte) error {
	l := &d.lanes[f.dir]
	d.releaseLocked(f.dir, now) // a timer may be late
	if f.behind == 0 && !f.at.After(now) {
		return d.arriveLocked(f, whole)
	}
	if l.packets >= d.cfg.MaxPackets || l.bytes+len(f.data) > d.cfg.MaxBytes {
		for _, r := range d.rules {
			if f.slots&(1<<r.slot) != 0 {
				r.full++
			}
		}
		return nil
	}
	g := *f
	g.data = slices.Clone(f.data)
	l.packets++
	l.bytes += len(g.data)
	if g.behind > 0 {
		g.at = g.at.Add(overtakeWithin)
		l.passing = append(l.passing, &g)
	}
	heap.Push(&l.byDue, &g)
	d.setTimerLocked(f.dir, now)
	return nil
}

// setTimerLocked wakes when the next packet is due.
func (d *Device) setTimerLocked(dir int, now time.Time) {
	l := &d.lanes[dir]
	if len(l.byDue) == 0 || d.closed {
		l.stop()
		return
	}
	next := l.byDue[0].at
	if l.timer != nil && l.wakeAt.Equal(next) {
		return
	}
	l.stop()
	l.wakeAt = next
	l.timer = d.cfg.Clock.AfterFunc(next.Sub(now), func() { d.due(dir) })
}

// due is called by a lane's timer.
func (d *Device) due(dir int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	now := d.cfg.Clock.Now()
	d.lanes[dir].wakeAt = time.Time{}
	d.releaseLocked(dir, now)
	d.setTimerLocked(dir, now)
}

// releaseLocked lets all arrive that is due.
func (d *Device) releaseLocked(dir int, now time.Time) {
	l := &d.lanes[dir]
	for len(l.byDue) > 0 && !l.byDue[0].at.After(now) {
		d.takeLocked(l, heap.Pop(&l.byDue).(*frame))
	}
}

// takeLocked lets a packet arrive that has waited, and is no longer in byDue.
func (d *Device) takeLocked(l *lane, f *frame) {
	l.packets--
	l.bytes -= len(f.data)
	if i := slices.Index(l.passing, f); i >= 0 {
		l.passing = slices.Delete(l.passing, i, i+1)
	}
	_ = d.arriveLocked(f, nil) // nobody waits for the error; the stack sends again
}

// flushLocked lets all arrive at once that a rule has made late, in the order in
// which it was sent; of no rule, all that waits.
func (d *Device) flushLocked(dir int, r *rule) {
	l := &d.lanes[dir]
	var now, later frames
	for _, f := range l.byDue {
		if r == nil || f.slots&(1<<r.slot) != 0 {
			now = append(now, f)
		} else {
			later = append(later, f)
		}
	}
	slices.SortFunc(now, func(a, b *frame) int { return int(int64(a.serial - b.serial)) })
	l.byDue = later
	heap.Init(&l.byDue)
	for _, f := range now {
		d.takeLocked(l, f)
	}
	d.setTimerLocked(dir, d.cfg.Clock.Now())
}

func (d *Device) heldLocked(r *rule) (n int) {
	for i := range d.lanes {
		for _, f := range d.lanes[i].byDue {
			if f.slots&(1<<r.slot) != 0 {
				n++
			}
		}
	}
	return n
}

// arriveLocked hands a packet to the end that it is for, and after it what was to
// come behind it. whole is the packet in its pieces, if it has any.
func (d *Device) arriveLocked(f *frame, whole [][]byte) error {
	err := d.handLocked(f, whole)
	if f.conn != nil && !f.damaged {
		f.conn.arrives(f)
		d.replayLocked(f)
	}
	l := &d.lanes[f.dir]
	for i := 0; i < len(l.passing); {
		w := l.passing[i]
		if w.serial < f.serial {
			w.behind--
		}
		if w.behind > 0 {
			i++
			continue
		}
		heap.Remove(&l.byDue, slices.Index(l.byDue, w))
		l.packets--
		l.bytes -= len(w.data)
		l.passing = slices.Delete(l.passing, i, i+1)
		_ = d.handLocked(w, nil)
		if w.conn != nil && !w.damaged {
			w.conn.arrives(w)
		}
	}
	return err
}

// handLocked gives a packet to the inner device, or has it ready for Read.
func (d *Device) handLocked(f *frame, whole [][]byte) error {
	if f.dir == toGuest {
		if whole == nil {
			whole = [][]byte{f.data}
		}
		return d.inner.Write(whole, f.off)
	}
	if len(d.ready) >= readAhead+d.cfg.MaxPackets {
		return nil // nobody reads
	}
	d.ready = append(d.ready, frame{data: slices.Clone(f.data), off: f.off})
	d.wake.Broadcast()
	return nil
}
