package relay

import (
	"errors"
	"io"
	"math"
	"os"
	"sync/atomic"
	"time"
)

// A Handle acts on a join from outside while it runs: it is what Options.Handle
// points to. Its methods may be called at any time, concurrently. Before Join has
// begun and after it has ended they return ErrNotJoined. The zero Handle is ready.
//
//	        Freeze              Thaw
//	open ──────────▶ frozen ──────────▶ open
//	 │ Close           │ Close
//	 ▼                 ▼
//	closing: what has come is delivered, FIN to both ends
//
// Reset ends all of them, and so does whatever ends a join that is open: an RST of
// either side, the half-close timeout, the context.
type Handle struct{ join atomic.Pointer[join] }

// Errors of a Handle.
var (
	// ErrNotJoined says that nothing is relayed: not yet, or not any more.
	ErrNotJoined = errors.New("relay: the connection is not relayed")

	// ErrClosing says that the join is being closed already, by Handle.Close.
	ErrClosing = errors.New("relay: the connection is being closed")

	// ErrReset is the Err of a Result whose join was ended by Handle.Reset.
	ErrReset = errors.New("relay: reset by request")

	// errNoInterrupt says that a Conn is no Interrupter.
	errNoInterrupt = errors.New("relay: a wait for bytes cannot be ended on this kind of connection")
)

// The modes of a join.
const (
	open uint32 = iota
	frozen
	closing
)

// closeLinger is how long, after FIN has gone to both ends, what they still send
// is read and thrown away. Who closes in that time does so as after any other FIN.
// Then both sides are closed, as by a program that ends: bytes that come are
// answered by RST, and FIN-WAIT-2 lasts as long as its owner lets it.
const closeLinger = 5 * time.Second

// Reset sends RST to both ends at once. What has not been delivered is lost.
func (h *Handle) Reset() error {
	j := h.join.Load()
	if j == nil || !j.enter() {
		return ErrNotJoined
	}
	defer j.leave()
	j.abortWith(Neither, ByRST, ErrReset, resetAsked)
	return nil
}

// Close delivers what has come from either end by now, then sends FIN to both: a
// frozen join is thawed for it. An end that takes nothing is waited for as if
// nobody had called. What the ends send after that is thrown away for closeLinger,
// and then the join ends. Close does not wait for any of it. Close of a join that is
// being closed does nothing.
func (h *Handle) Close() error {
	j := h.join.Load()
	if j == nil || !j.enter() {
		return ErrNotJoined
	}
	defer j.leave()
	directions := []*direction{&j.outbound, &j.inbound}
	for _, d := range directions {
		src, ok := d.src.(Interrupter)
		if !ok {
			return errNoInterrupt
		}
		d.limit.Store(math.MaxInt64)
		if n, err := src.Buffered(); err == nil {
			// A loop may hold a buffer that it has read and not counted.
			d.limit.Store(d.moved.Load() + int64(n) + bufferSize)
		}
	}
	j.mu.Lock()
	switch {
	case j.over, j.gone[Guest], j.gone[Upstream]:
		j.mu.Unlock()
		return ErrNotJoined
	case j.mode.Load() == closing:
		j.mu.Unlock()
		return nil
	}
	if j.firstBy == 0 {
		j.firstBy = ByFIN // First stays Neither
	}
	j.mode.Store(closing)
	j.openLocked()
	j.mu.Unlock()
	for _, d := range directions {
		d.src.(Interrupter).Interrupt()
	}
	return nil
}

// Freeze stops the bytes, and FIN with them: what comes stays in the buffers, which
// fill up, so that each end's window closes. A step that is under way when Freeze
// is called is completed. RST is still passed on, at once. Freeze of a frozen join
// does nothing.
func (h *Handle) Freeze() error {
	j := h.join.Load()
	if j == nil || !j.enter() {
		return ErrNotJoined
	}
	defer j.leave()
	j.mu.Lock()
	switch {
	case j.over, j.gone[Guest], j.gone[Upstream]:
		j.mu.Unlock()
		return ErrNotJoined
	case j.mode.Load() == closing:
		j.mu.Unlock()
		return ErrClosing
	case j.mode.Load() == open:
		j.opened = make(chan struct{})
		j.mode.Store(frozen)
	}
	j.mu.Unlock()
	// Nobody reads now, and so nobody would notice.
	j.outbound.watch()
	j.inbound.watch()
	return nil
}

// Thaw lets the bytes of a frozen join go on. Where nothing is frozen it does
// nothing.
func (h *Handle) Thaw() error {
	j := h.join.Load()
	if j == nil || !j.enter() {
		return ErrNotJoined
	}
	defer j.leave()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.over {
		return ErrNotJoined
	}
	if j.mode.CompareAndSwap(frozen, open) {
		j.openLocked()
	}
	return nil
}

// Frozen reports whether the join is frozen.
func (h *Handle) Frozen() bool {
	j := h.join.Load()
	return j != nil && j.frozen()
}

func (j *join) frozen() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return !j.over && !j.finished && j.mode.Load() == frozen
}

// openLocked ends all waits in hold.
func (j *join) openLocked() {
	if j.opened != nil {
		close(j.opened)
		j.opened = nil
	}
}

// hold waits while the join is frozen. An error says that it is over.
func (d *direction) hold() error {
	j := d.j
	for j.mode.Load() == frozen {
		j.mu.Lock()
		over, opened := j.over, j.opened
		j.mu.Unlock()
		if over {
			return errSourceGone
		}
		if opened != nil {
			<-opened
		}
	}
	return nil
}

// errDelivered ends a loop of a join that is being closed: all that had come is
// delivered.
var errDelivered = errors.New("relay: all is delivered")

// admit returns what of n bytes may move now, without waiting: all of them where
// the join is open.
func (d *direction) admit(n int) (int, error) {
	switch d.j.mode.Load() {
	case open:
		return n, nil
	case frozen:
		return 0, nil
	}
	left := d.limit.Load() - d.moved.Load()
	if left <= 0 {
		return 0, errDelivered
	}
	return int(min(left, int64(n))), nil
}

// admitted is admit that waits while the join is frozen.
func (d *direction) admitted(n int) (int, error) {
	for d.j.mode.Load() != open {
		if err := d.hold(); err != nil {
			return 0, err
		}
		if most, err := d.admit(n); most > 0 || err != nil || n == 0 {
			return most, err
		}
	}
	return n, nil
}

// closeOut ends a direction of a join that is being closed. Each side is on its own
// now: an RST of one is not for the other.
func (d *direction) closeOut() {
	j := d.j
	if closeWriteAsked(d.dst) == nil {
		d.finished.Store(true)
		if j.onFIN != nil {
			j.onFIN(d.from)
		}
	}
	j.mu.Lock()
	first := j.finLocked()
	j.mu.Unlock()
	if first {
		j.halfClose()
	}
	d.throwAway()
}

// finLocked counts a FIN that is passed on, and reports whether it is the first.
func (j *join) finLocked() (first bool) {
	j.fins++
	if j.fins == 2 && j.mode.Load() == closing {
		j.stopLinger = j.afterLocked(closeLinger, func() {
			_ = j.outbound.src.Close()
			_ = j.inbound.src.Close()
		})
	}
	return j.fins == 1
}

// throwAway reads what still comes, until the end.
func (d *direction) throwAway() {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	r := struct{ io.Reader }{d.src}
	for {
		if _, err := r.Read(buf[:]); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
	}
}

func resetAsked(c Conn) error {
	if a, ok := c.(Asked); ok {
		return a.ResetAsked()
	}
	return c.Reset()
}

func closeWriteAsked(c Conn) error {
	if a, ok := c.(Asked); ok {
		return a.CloseWriteAsked()
	}
	return c.CloseWrite()
}
