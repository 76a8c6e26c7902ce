package relay

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Options tunes Join. The zero Options is what a plain connection wants.
type Options struct {
	// HalfCloseTimeout resets both sides when one has sent FIN, the other has
	// not, and no byte has moved for this long. Zero or less means never, as
	// RFC 9293 has it.
	HalfCloseTimeout time.Duration

	// OnFIN, if set, is called when a FIN of that side has been passed on, and
	// all bytes before it.
	OnFIN func(from Side)

	// Counts, if not nil, is where the bytes are counted that have moved, for
	// whoever looks meanwhile.
	Counts *Counts

	// Handle, if not nil, acts on the join from outside. It is for one Join.
	Handle *Handle

	// Clock is the time for HalfCloseTimeout. Nil means the system's.
	Clock Clock
}

// Counts are bytes that have moved.
type Counts struct{ Outbound, Inbound atomic.Int64 }

// drainTime is how long bytes that came before an RST may go without moving
// before they are given up, on a path that does not say when it waits.
const drainTime = 100 * time.Millisecond

// Join joins the guest's end of a connection and the upstream's, moves bytes
// both ways until the connection has ended, and closes both. It returns when
// nothing of it runs any more.
//
//	FIN on one side         CloseWrite on the other, whose bytes go on
//	FIN on both             Close on both: what remains of the two
//	                        connections (LAST-ACK, TIME-WAIT) runs its course
//	RST on one side         what came before it is delivered as far as the
//	                        other side takes it without waiting; then Reset
//	                        on the other, at once
//	write meets EPIPE       the same: the peer is gone
//	any other error         Reset on both, for what was lost cannot be told
//	                        by a FIN
//	ctx ends                Close on a side that has had all bytes and the FIN,
//	                        whose kernel goes on delivering; Reset on another
//	Options.Handle          see Handle
//
// Who closes first is therefore mirrored by construction: each FIN and RST
// is passed on when it comes, and neither is made up. Join runs one loop in
// the caller's goroutine (copyOutbound) and one in its own (copyInbound).
func Join(ctx context.Context, guest, upstream Conn, o Options) Result {
	j := &join{clock: o.Clock, halfCloseTimeout: o.HalfCloseTimeout, onFIN: o.OnFIN, ended: func() error { return context.Cause(ctx) }}
	if j.clock == nil {
		j.clock = systemClock{}
	}
	if o.HalfCloseTimeout > 0 {
		j.start = j.clock.Now()
	}
	counts := o.Counts
	if counts == nil {
		counts = new(Counts)
	}
	j.outbound = direction{j: j, from: Guest, to: Upstream, src: guest, dst: upstream, moved: &counts.Outbound}
	j.inbound = direction{j: j, from: Upstream, to: Guest, src: upstream, dst: guest, moved: &counts.Inbound}

	if o.Handle != nil {
		o.Handle.join.Store(j)
	}
	stop := context.AfterFunc(ctx, func() {
		if j.enter() {
			defer j.leave()
			j.stop(context.Cause(ctx))
		}
	})
	defer stop()

	inboundDone := make(chan struct{})
	go copyInbound(j, inboundDone)
	copyOutbound(j)
	<-inboundDone
	return j.finish()
}

// copyOutbound moves bytes from the guest to the upstream. It ends with the
// guest's FIN, with an error, or when the join is over.
func copyOutbound(j *join) { j.outbound.run() }

// copyInbound moves bytes from the upstream to the guest. It ends with the
// upstream's FIN, with an error, or when the join is over.
func copyInbound(j *join, done chan<- struct{}) {
	defer close(done)
	Deepen()
	j.inbound.run()
}

// join is the state of one Join.
type join struct {
	outbound, inbound direction
	clock             Clock
	halfCloseTimeout  time.Duration
	onFIN             func(Side)   // nil: nobody asks
	ended             func() error // why the context has; nil while it has not

	start      time.Time    // of the clock, which is monotonic from here
	halfClosed atomic.Bool  // one FIN has been passed on and idleness is timed
	lastMove   atomic.Int64 // nanoseconds since start, kept while halfClosed

	mode      atomic.Uint32  // open, frozen or closing; changed with mu held
	callbacks sync.WaitGroup // timers, watches and calls of a Handle that run now

	mu       sync.Mutex
	finished bool // both loops have ended; callbacks do nothing any more
	over     bool // both sides have been reset, or are about to be
	gone     [Upstream + 1]bool
	first    Side
	firstBy  End // how first closed: by FIN or by RST
	end      End // of a reset or an error; zero until there is one
	by       Side
	err      error
	fins     int           // passed on
	opened   chan struct{} // closed when what is frozen goes on or ends; nil if nothing is
	stopIdle func() bool   // the timer of a half-closed connection, if there is one
	// stopLinger stops the timer of a join that was closed by its Handle, if there
	// is one.
	stopLinger func() bool
	stops      []func() bool // of watches
}

// enter begins a callback; it reports false if there is nothing left for one
// to do.
func (j *join) enter() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.finished || j.over {
		return false
	}
	j.callbacks.Add(1)
	return true
}

func (j *join) leave() { j.callbacks.Done() }

// reading returns the direction that reads from side s.
func (j *join) reading(s Side) *direction {
	if s == Guest {
		return &j.outbound
	}
	return &j.inbound
}

// failedLocked notes why the connection ends, unless that is known already.
func (j *join) failedLocked(by Side, end End, err error) {
	if j.end != 0 {
		return
	}
	j.by, j.end, j.err = by, end, err
	if j.firstBy == 0 && end == ByRST {
		j.first, j.firstBy = by, ByRST
	}
}

// abort resets both sides, the one that lives on first. Only the first call
// does something.
func (j *join) abort(by Side, end End, err error) {
	reset := Conn.Reset
	if end == ByTimeout {
		reset = expire
	}
	j.abortWith(by, end, err, reset)
}

func (j *join) abortWith(by Side, end End, err error, reset func(Conn) error) {
	if j.stopped() {
		return
	}
	j.mu.Lock()
	if j.over {
		j.mu.Unlock()
		return
	}
	j.over = true
	j.failedLocked(by, end, err)
	j.openLocked()
	j.mu.Unlock()
	if by == Guest {
		_ = reset(j.outbound.dst)
		_ = reset(j.outbound.src)
		return
	}
	_ = reset(j.inbound.dst)
	_ = reset(j.inbound.src)
}

func expire(c Conn) error {
	if e, ok := c.(Expirer); ok {
		return e.Expire()
	}
	return c.Reset()
}

// stop ends the join from outside. A side to which the FIN was passed on has all
// that it was to get: its kernel may still be sending, and an RST would destroy
// that.
func (j *join) stop(cause error) {
	j.mu.Lock()
	if j.over {
		j.mu.Unlock()
		return
	}
	j.over = true
	j.failedLocked(Neither, ByError, cause)
	j.openLocked()
	j.mu.Unlock()
	for _, d := range []*direction{&j.outbound, &j.inbound} {
		if d.finished.Load() {
			d.dst.Close()
		} else {
			d.dst.Reset()
		}
	}
}

// stopped stops the join if the context has ended: a side that fails then may
// have been made to by whoever ended it.
func (j *join) stopped() bool {
	cause := j.ended()
	if cause != nil {
		j.stop(cause)
	}
	return cause != nil
}

// lost is told that side s has failed with err: found by a write, or by a
// watch. What s sent before is still worth delivering, so unless the loop
// that reads from s has ended or waits, that loop finds the end itself. So it does
// where the join is being closed.
func (j *join) lost(s Side, err error) {
	if j.stopped() || j.mode.Load() == closing {
		return
	}
	if !isReset(err) {
		j.abort(s, ByError, err)
		return
	}
	j.mu.Lock()
	if j.over || j.gone[s] {
		j.mu.Unlock()
		return
	}
	j.gone[s] = true
	j.failedLocked(s, ByRST, err)
	d := j.reading(s)
	if d.ended || d.parked || j.mode.Load() == frozen {
		j.mu.Unlock()
		j.abort(s, ByRST, err)
		return
	}
	j.drainLocked(d)
	j.mu.Unlock()
}

// drainLocked gives direction d, whose source is gone, up when it has not moved
// a byte for drainTime.
func (j *join) drainLocked(d *direction) {
	before := d.moved.Load()
	d.stopDrain = j.afterLocked(drainTime, func() {
		j.mu.Lock()
		if d.moved.Load() != before && !d.ended {
			j.drainLocked(d)
			j.mu.Unlock()
			return
		}
		j.mu.Unlock()
		j.abort(d.from, ByRST, nil) // the error is known since lost
	})
}

// halfClose begins to time the idleness of a half-closed connection.
func (j *join) halfClose() {
	if j.halfCloseTimeout <= 0 {
		return
	}
	j.lastMove.Store(int64(j.now()))
	j.halfClosed.Store(true)
	j.mu.Lock()
	j.idleLocked(j.halfCloseTimeout)
	j.mu.Unlock()
}

func (j *join) idleLocked(wait time.Duration) {
	j.stopIdle = j.afterLocked(wait, func() {
		j.mu.Lock()
		closed := j.fins == 2
		j.mu.Unlock()
		idle := j.now() - time.Duration(j.lastMove.Load())
		if closed {
			return
		}
		if idle >= j.halfCloseTimeout {
			j.abort(Neither, ByTimeout, ErrHalfCloseTimeout)
			return
		}
		j.mu.Lock()
		j.idleLocked(j.halfCloseTimeout - idle)
		j.mu.Unlock()
	})
}

// now returns the time since the join began.
func (j *join) now() time.Duration { return j.clock.Now().Sub(j.start) }

// afterLocked calls f after d unless the join has ended by then. stop is nil
// if it has already.
func (j *join) afterLocked(d time.Duration, f func()) (stop func() bool) {
	if j.over || j.finished {
		return nil
	}
	return j.clock.AfterFunc(d, func() {
		if j.enter() {
			defer j.leave()
			f()
		}
	})
}

// finish ends what still runs after both loops have, closes both sides unless
// they were reset, and tells the result.
func (j *join) finish() Result {
	j.mu.Lock()
	j.finished = true
	stops := append(j.stops, j.stopIdle, j.stopLinger, j.outbound.stopDrain, j.inbound.stopDrain)
	j.mu.Unlock()
	for _, stop := range stops {
		if stop != nil {
			stop()
		}
	}
	j.callbacks.Wait()

	r := Result{
		Outbound: j.outbound.moved.Load(),
		Inbound:  j.inbound.moved.Load(),
		First:    j.first,
		FirstBy:  j.firstBy,
		End:      j.end,
		By:       j.by,
	}
	if j.over {
		r.Err = describe(j.by, j.err)
		return r
	}
	r.End = ByFIN
	r.Err = errors.Join(describe(Guest, j.inbound.dst.Close()), describe(Upstream, j.outbound.dst.Close()))
	return r
}

func describe(s Side, err error) error {
	switch {
	case err == nil:
		return nil
	case s == Neither:
		return fmt.Errorf("relay: %w", err)
	}
	return fmt.Errorf("relay: %v: %w", s, err)
}

// isReset reports whether err says that the peer has gone away by RST. ENOTCONN
// is what shutdown(2) says of a socket that was reset.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ENOTCONN)
}
