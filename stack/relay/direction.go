package relay

import (
	"errors"
	"io"
	"sync/atomic"
)

// direction is one of the two ways of a join: a loop that reads from src and
// writes to dst.
type direction struct {
	j        *join
	from, to Side
	src, dst Conn
	moved    *atomic.Int64 // bytes
	finished atomic.Bool   // the FIN has been passed on, after all bytes
	limit    atomic.Int64  // of moved, of a join that is being closed

	// Of the loop's goroutine alone: what src and dst said, seen on the way
	// through, for WriteTo and ReadFrom do not tell whose error they return.
	readErr, writeErr error

	// Guarded by join.mu.
	parked   bool // waits for room on dst, while nobody reads src
	ended    bool // the loop has ended, or is about to
	watching bool
	// stopDrain stops the timer that bounds the draining of a source that was
	// reset; nil if there is none.
	stopDrain func() bool
}

// errSourceGone ends a wait for room on dst when src was reset meanwhile.
var errSourceGone = errors.New("relay: the connection that is read from was reset")

// run moves bytes until src's FIN or an error, and passes on what it was.
func (d *direction) run() {
	err := d.move()
	j := d.j
	if err == nil && d.readErr == nil && d.writeErr == nil {
		_ = d.hold() // FIN; if it ends the wait, over says so
	}

	j.mu.Lock()
	d.ended, d.parked = true, false
	over, srcGone, asked := j.over, j.gone[d.from], j.mode.Load() == closing
	j.mu.Unlock()

	switch {
	case over:
	case asked:
		d.closeOut()
	case srcGone:
		if err == nil && d.readErr == nil && d.writeErr == nil {
			d.dst.CloseWrite() // a FIN that came before the RST
		}
		j.abort(d.from, ByRST, nil) // the error is known since lost
	case d.writeErr != nil:
		j.lost(d.to, d.writeErr)
	case d.readErr != nil:
		d.readFailed(d.readErr)
	case err != nil && d.byWriter():
		d.readFailed(err)
	case err != nil:
		j.lost(d.to, err)
	default:
		d.passFIN()
	}
}

// readFailed passes on that reading from src failed: everything before has
// been delivered.
func (d *direction) readFailed(err error) {
	if isReset(err) {
		d.j.abort(d.from, ByRST, err)
		return
	}
	d.j.abort(d.from, ByError, err)
}

// passFIN tells dst that src has sent FIN.
func (d *direction) passFIN() {
	j := d.j
	j.mu.Lock()
	first := j.finLocked()
	if j.firstBy == 0 {
		j.first, j.firstBy = d.from, ByFIN
	}
	j.mu.Unlock()
	if err := d.dst.CloseWrite(); err != nil {
		j.lost(d.to, err)
		return
	}
	d.finished.Store(true)
	if j.onFIN != nil {
		j.onFIN(d.from)
	}
	if first {
		// From now on nobody reads src, yet it may still be reset.
		d.watch()
		j.halfClose()
	}
}

// watch asks src to tell of its RST, once.
func (d *direction) watch() {
	w, ok := d.src.(Watcher)
	j := d.j
	j.mu.Lock()
	if !ok || d.watching || j.over {
		j.mu.Unlock()
		return
	}
	d.watching = true
	j.mu.Unlock()
	stop := w.AfterReset(func(err error) {
		if j.enter() {
			defer j.leave()
			j.lost(d.from, err)
		}
	})
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.finished { // nobody will stop it
		stop()
		return
	}
	j.stops = append(j.stops, stop)
}

// park notes that the loop is about to wait for room on dst.
func (d *direction) park() error {
	d.watch()
	j := d.j
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.over || j.gone[d.from] {
		return errSourceGone
	}
	d.parked = true
	return nil
}

func (d *direction) unpark() {
	d.j.mu.Lock()
	d.parked = false
	d.j.mu.Unlock()
	_ = d.hold() // if the join is over, the write finds that out
}

// count adds n bytes to those that have moved.
func (d *direction) count(n int) {
	if n <= 0 {
		return
	}
	d.moved.Add(int64(n))
	if d.j.halfClosed.Load() {
		d.j.lastMove.Store(int64(d.j.now()))
	}
}

// byWriter reports whether src does the moving, by WriteTo. Where both ends
// offer, the one that finds what it looks for on the other is taken.
func (d *direction) byWriter() bool {
	_, writes := d.src.(io.WriterTo)
	if !writes || d.byTryReader() && !d.byTryWriter() {
		return false
	}
	return true
}

func (d *direction) byTryWriter() bool {
	_, writes := d.src.(io.WriterTo)
	_, tries := d.dst.(TryWriter)
	return writes && tries
}

func (d *direction) byTryReader() bool {
	_, reads := d.dst.(io.ReaderFrom)
	_, tries := d.src.(TryReader)
	return reads && tries
}

// move moves bytes from src to dst until src's FIN, which is nil, or an error.
func (d *direction) move() error {
	_, triesWrite := d.dst.(TryWriter)
	if !triesWrite {
		if _, ok := d.dst.(io.ReaderFrom); !ok || d.byWriter() {
			// Nothing will say when a write waits, so watch from the start.
			d.watch()
		}
	}
	if d.byWriter() {
		var w io.Writer = (*sink)(d)
		if triesWrite {
			w = (*trySink)(d)
		}
		_, err := d.src.(io.WriterTo).WriteTo(w)
		return err
	}
	if rf, ok := d.dst.(io.ReaderFrom); ok {
		var r io.Reader = (*source)(d)
		if _, ok := d.src.(TryReader); ok {
			r = (*trySource)(d)
		}
		_, err := rf.ReadFrom(r)
		return err
	}
	return d.copyBuffered()
}
