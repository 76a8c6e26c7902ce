package statelog

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"tcpbox/stack/tcpstate"
)

// numbers returns items with the numbers from first to last.
func numbers(first, last int) []Item {
	var items []Item
	for n := first; n <= last; n++ {
		it := Item{Transition: testTransition()}
		it.Transition.Conn = tcpstate.Conn(n)
		items = append(items, it)
	}
	return items
}

// connsOf returns the numbers in a log, markers as negative ones.
func connsOf(t *testing.T, log []byte) []int {
	t.Helper()
	var conns []int
	for r := NewReader(bytes.NewReader(log)); ; {
		rec, err := r.Next()
		switch {
		case errors.Is(err, io.EOF):
			return conns
		case err != nil:
			t.Errorf("%v in\n%s", err, log)
		case rec.Dropped > 0:
			conns = append(conns, -int(rec.Dropped))
		default:
			conns = append(conns, int(rec.Conn))
		}
	}
}

func equal(a, b []int) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestWriterToAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	w := NewWriter(file, WriterOptions{Sandbox: "web"})
	var want []int
	for n := 1; n <= 1000; n += 10 {
		w.Write(numbers(n, n+9))
		for i := range 10 {
			want = append(want, n+i)
		}
	}
	w.Write([]Item{{Dropped: 4}})
	want = append(want, -4)
	for range 2 {
		if err := w.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	w.Write(numbers(2000, 2000))
	log, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := connsOf(t, log); !equal(got, want) {
		t.Errorf("the log has %v, want %v", got, want)
	}
	if w.Lost() != 1 {
		t.Errorf("Lost() = %d, want 1: what came after Close", w.Lost())
	}
}

// sink is an io.Writer that can be told to fail or to wait.
type sink struct {
	mu   sync.Mutex
	text bytes.Buffer
	room int // how many bytes fit until it fails; -1 for all
	err  error
	gate chan struct{} // if not nil, each write takes one from it
}

func (s *sink) Write(b []byte) (int, error) {
	if s.gate != nil {
		<-s.gate
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(b)
	if s.room >= 0 && n > s.room {
		n = s.room
	}
	s.text.Write(b[:n])
	if s.room >= 0 {
		s.room -= n
	}
	if n < len(b) {
		return n, s.err
	}
	return n, nil
}

func (s *sink) set(room int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.room = room
}

func TestWriterWritesAtOnceWhenIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &sink{room: -1}
		w := NewWriter(out, WriterOptions{})
		for n := 1; n <= 3; n++ {
			w.Write(numbers(n, n))
			synctest.Wait() // no time has passed
			if got := connsOf(t, out.text.Bytes()); len(got) != n {
				t.Errorf("after %d records the log has %v", n, got)
			}
		}
		w.Close(t.Context())
	})
}

func TestWriterMarksWhatASlowReaderMakesItDrop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := len(AppendJSON(nil, testRecord()))
		out := &sink{room: -1, gate: make(chan struct{})}
		w := NewWriter(out, WriterOptions{Sandbox: "web", BufferBytes: 3 * line})
		w.Write(numbers(1, 1))
		synctest.Wait()        // 1 is being written
		w.Write(numbers(2, 6)) // 2, 3 and 4 wait; 5 and 6 are missing
		out.gate <- struct{}{}
		synctest.Wait()        // 2 to 4 are being written, the marker waits
		w.Write(numbers(7, 8)) // both fit
		w.Write(numbers(9, 9)) // but not this
		close(out.gate)
		if err := w.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := []int{1, 2, 3, 4, -2, 7, 8, -1}
		if got := connsOf(t, out.text.Bytes()); !equal(got, want) {
			t.Errorf("the log has %v, want %v", got, want)
		}
		if w.Lost() != 3 {
			t.Errorf("Lost() = %d, want 3", w.Lost())
		}
	})
}

func TestWriterGoesOnWhenAFullDiskHasRoomAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := len(AppendJSON(nil, testRecord()))
		out := &sink{room: line + line/2, err: syscall.ENOSPC}
		var faults []error
		recovered := 0
		w := NewWriter(out, WriterOptions{
			Sandbox: "web", BufferBytes: 4 * line,
			OnFault:   func(err error) { faults = append(faults, err) },
			OnRecover: func() { recovered++ },
		})
		w.Write(numbers(1, 2)) // full in the middle of 2
		synctest.Wait()
		w.Write(numbers(3, 8)) // 3 to 6 wait, 7 and 8 are missing
		time.Sleep(time.Hour)
		if len(faults) != 1 || !errors.Is(faults[0], syscall.ENOSPC) || recovered != 0 {
			t.Errorf("faults %v, recovered %d times, want one ENOSPC", faults, recovered)
		}
		out.set(-1)
		time.Sleep(retryAfter)
		synctest.Wait()
		w.Write(numbers(9, 9))
		if err := w.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := []int{1, 2, 3, 4, 5, 6, -2, 9}
		if got := connsOf(t, out.text.Bytes()); !equal(got, want) {
			t.Errorf("the log has %v, want %v", got, want)
		}
		if len(faults) != 1 || recovered != 1 || w.Lost() != 2 {
			t.Errorf("faults %v, recovered %d times, lost %d, want one, once, 2", faults, recovered, w.Lost())
		}
	})
}

func TestWriterGivesUpAtClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &sink{room: 0, err: syscall.ENOSPC}
		w := NewWriter(out, WriterOptions{})
		w.Write(numbers(1, 3))
		synctest.Wait()
		w.Write(numbers(4, 5))
		begun := time.Now()
		if err := w.Close(t.Context()); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("Close() = %v, want ENOSPC", err)
		}
		if w.Lost() != 5 || time.Since(begun) != 0 {
			t.Errorf("Lost() = %d after %v, want all 5 at once", w.Lost(), time.Since(begun))
		}
	})
}

func TestWriterIsLeftBehindByItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &sink{room: -1, gate: make(chan struct{})}
		w := NewWriter(out, WriterOptions{})
		w.Write(numbers(1, 1))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := w.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close() of a writer that is stuck = %v, want the context's error", err)
		}
		close(out.gate)
		if err := w.Close(t.Context()); err != nil {
			t.Errorf("Close() when it is no longer stuck = %v", err)
		}
	})
}

// The real thing: a device that is always full, and pipes without a reader.
func TestWriterOnRealDescriptors(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("no /dev/full: ", err)
	}
	defer full.Close()
	r, broken, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer broken.Close()
	for _, tt := range []struct {
		file *os.File
		want error
	}{{full, syscall.ENOSPC}, {broken, syscall.EPIPE}} {
		fault := make(chan error, 1)
		w := NewWriter(tt.file, WriterOptions{OnFault: func(err error) { fault <- err }})
		w.Write(numbers(1, 2))
		if err := <-fault; !errors.Is(err, tt.want) {
			t.Errorf("the fault is %v, want %v", err, tt.want)
		}
		if err := w.Close(t.Context()); !errors.Is(err, tt.want) || w.Lost() != 2 {
			t.Errorf("Close() = %v, lost %d, want %v, 2", err, w.Lost(), tt.want)
		}
	}

	// A pipe that nobody reads: what fits is there, Close does not hang.
	r, unread, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer unread.Close()
	w := NewWriter(unread, WriterOptions{})
	w.Write(numbers(1, 2000))
	if _, err := r.Read(make([]byte, 1)); err != nil { // it has begun
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Close(ctx); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Close() of a pipe that nobody reads = %v, want os.ErrDeadlineExceeded", err)
	}
	if w.Lost() == 0 || w.Lost() == 2000 {
		t.Errorf("Lost() = %d, want some of 2000", w.Lost())
	}
}

func TestWriterEncodesAsItIsTold(t *testing.T) {
	out := &sink{room: -1}
	w := NewWriter(out, WriterOptions{Encode: func(b []byte, r Record) []byte { return append(b, r.To.String()+"\n"...) }})
	w.Write(numbers(1, 2))
	w.Close(t.Context())
	if got := out.text.String(); got != strings.Repeat("CLOSE-WAIT\n", 2) {
		t.Errorf("the log is %q", got)
	}
}

func TestWritingAllocatesNothing(t *testing.T) {
	w := NewWriter(io.Discard, WriterOptions{})
	items := numbers(1, 100)
	for range 100 {
		w.Write(items) // the buffers grow
	}
	if n := testing.AllocsPerRun(100, func() { w.Write(items) }); n > 1 {
		t.Errorf("100 records allocate %v times", n)
	}
	w.Close(t.Context())
}

func BenchmarkWrite(b *testing.B) {
	w := NewWriter(io.Discard, WriterOptions{})
	items := numbers(1, batchItems)
	b.ReportAllocs()
	for b.Loop() {
		w.Write(items)
	}
	w.Close(context.Background())
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*batchItems), "ns/record")
}
