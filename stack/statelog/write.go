package statelog

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	// DefaultBufferBytes is how much a Writer holds when its options say zero: what
	// comes of about 25,000 records, as many as a sandbox with as many connections
	// makes when it ends.
	DefaultBufferBytes = 8 << 20

	// retryAfter is how long a Writer waits after a write that failed.
	retryAfter = time.Second
)

// WriterOptions says how a Writer writes. The zero value is a good one.
type WriterOptions struct {
	// Sandbox is the name that records carry.
	Sandbox string

	// Encode appends one record as one line, with its line end. Nil means
	// AppendJSON.
	Encode func(b []byte, r Record) []byte

	// BufferBytes is how much may wait to be written. What does not fit is
	// dropped and marked. Zero means DefaultBufferBytes.
	BufferBytes int

	// OnFault, if not nil, is called when writing begins to fail, once until it
	// works again; OnRecover when it does. They are called from the Writer's
	// goroutine and must not close it.
	OnFault   func(error)
	OnRecover func()
}

// Writer writes records to an io.Writer from a goroutine of its own, so that
// whoever hands them over never waits: not for a slow terminal, a full disk or a
// pipe that nobody reads. Each record is written as soon as the write before it
// has ended.
//
// When writing fails, the Writer keeps what it has and tries again every
// second from the very byte where it stopped, so that a disk that was full for
// a while leaves no broken line. Meanwhile its buffer may fill.
type Writer struct {
	out  io.Writer
	opt  WriterOptions
	wake chan struct{} // there is something to write
	stop chan struct{} // closed by Close: the last try
	done chan struct{} // closed when the goroutine has ended

	stopOnce sync.Once

	mu           sync.Mutex
	pending      []byte
	missed       uint64 // records dropped since the last one in pending
	lost         uint64 // all records that will never be written
	lostSegments uint64
	closed       bool
	err          error // why the last try failed
}

// NewWriter returns a Writer to out and starts its goroutine, which Close ends.
// The caller goes on owning out.
func NewWriter(out io.Writer, opt WriterOptions) *Writer {
	if opt.Encode == nil {
		opt.Encode = AppendJSON
	}
	if opt.BufferBytes <= 0 {
		opt.BufferBytes = DefaultBufferBytes
	}
	w := &Writer{out: out, opt: opt, wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	go w.run()
	return w
}

// Write takes a batch from a Queue. It never waits for out, and keeps nothing of
// items.
func (w *Writer) Write(items []Item) {
	w.mu.Lock()
	for i := range items {
		w.addLocked(items[i].Record(w.opt.Sandbox))
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// addLocked appends r to what is pending, with a marker before it where one is
// due, or counts it.
func (w *Writer) addLocked(r Record) {
	if w.closed {
		if r.Dropped == 0 {
			w.lost++
		}
		return
	}
	before := len(w.pending)
	if r.Dropped > 0 {
		// Dropped before it came here: these are not counted twice.
		marker := r
		marker.Dropped += w.missed
		w.pending = w.opt.Encode(w.pending, marker)
	} else {
		w.pending = w.appendMarkerLocked(w.pending, r.Time)
		w.pending = w.opt.Encode(w.pending, r)
	}
	if len(w.pending) <= w.opt.BufferBytes {
		w.missed = 0
		return
	}
	w.pending = w.pending[:before]
	w.missed += max(1, r.Dropped)
	if r.Dropped == 0 {
		w.lost++
	}
}

// appendMarkerLocked appends the marker of what was missed, if anything was.
func (w *Writer) appendMarkerLocked(b []byte, at time.Time) []byte {
	if w.missed == 0 {
		return b
	}
	return w.opt.Encode(b, Record{Time: at, Sandbox: w.opt.Sandbox, Dropped: w.missed})
}

// Lost returns how many records handed to the Writer will never be written.
func (w *Writer) Lost() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost
}

// Close writes what is there and ends the Writer. If writing fails it gives up
// and returns the error; if out makes it wait longer than ctx, it returns the
// context's error, and the goroutine ends when out lets it. Close may be called
// twice.
func (w *Writer) Close(ctx context.Context) error {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.stopOnce.Do(func() { close(w.stop) })
	select {
	case <-w.done:
	case <-ctx.Done():
		// A pipe or a socket that can be told to give up is told.
		if d, ok := w.out.(interface{ SetWriteDeadline(time.Time) error }); !ok || d.SetWriteDeadline(time.Unix(1, 0)) != nil {
			return fmt.Errorf("statelog: close: %w", context.Cause(ctx))
		}
		<-w.done
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return fmt.Errorf("statelog: close: %w", w.err)
	}
	return nil
}

// run writes what is pending until the Writer is closed and all is written, or
// cannot be.
func (w *Writer) run() {
	defer close(w.done)
	var batch []byte
	stopping := false
	for {
		batch = w.swap(batch[:0])
		switch {
		case len(batch) > 0:
			if !w.writeAll(batch) {
				return
			}
		case stopping:
			return
		default:
			select {
			case <-w.wake:
			case <-w.stop:
				stopping = true
			}
		}
	}
}

// swap returns what is pending and gives spare to be filled next. Records that
// were missed were missed after everything that it returns, unless that is their
// marker.
func (w *Writer) swap(spare []byte) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	batch := w.pending
	w.pending = spare
	if len(batch) == 0 {
		batch = w.appendMarkerLocked(batch, time.Now())
	} else {
		w.pending = w.appendMarkerLocked(w.pending, time.Now())
	}
	w.missed = 0
	return batch
}

// writeAll writes batch, however often it takes. It returns false when the
// Writer was closed and the last try failed; what is left is lost then.
func (w *Writer) writeAll(batch []byte) bool {
	failing, last := false, false
	for {
		n, err := w.out.Write(batch)
		if err == nil && n < len(batch) {
			err = io.ErrShortWrite
		}
		batch = batch[max(0, min(n, len(batch))):]
		switch {
		case err == nil:
			if failing && w.opt.OnRecover != nil {
				w.opt.OnRecover()
			}
			return true
		case last:
			w.giveUp(batch, err)
			return false
		case !failing && w.opt.OnFault != nil:
			w.opt.OnFault(err)
		}
		failing = true
		last = !w.pause()
	}
}

// pause waits until it is time to try again. It returns false if the Writer was
// closed: then the next try is the last.
func (w *Writer) pause() bool {
	timer := time.NewTimer(retryAfter)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-w.stop:
		return false
	}
}

// giveUp counts what is left of batch and what is pending as lost.
func (w *Writer) giveUp(batch []byte, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost += uint64(bytes.Count(batch, []byte{'\n'}) + bytes.Count(w.pending, []byte{'\n'}))
	w.pending = nil
	w.err = err
}
