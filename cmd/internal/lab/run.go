package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Runner runs labs on this machine. The zero Runner is ready for use.
type Runner struct {
	// Guest is the command that calls ServeGuest. Nil means this very program
	// with the arguments "lab guest".
	Guest []string

	// Host is the command that calls ServeHost. Nil means this very program with the
	// arguments "lab host".
	Host []string

	// Stderr is the guest's standard error. Nil means /dev/null.
	Stderr *os.File

	// OnRow is told of each row that is done, from one goroutine at a time.
	OnRow func(done, total int, row *Row)

	// KeepLog keeps in each Row what happened: the transitions, and the headers
	// of the segments.
	KeepLog bool

	// Patience is how long counts have to become what is expected of them. Zero
	// means 20 s.
	Patience time.Duration

	// start makes the box of a row. Nil means a sandbox, and two hosts in memory
	// for labs that run in virtual time.
	start func(context.Context, *Lab, *Variant) (box, error)

	// host is what stands for the sandboxes' host, in ServeHost. Nil means the
	// machine's own namespace.
	host *host
}

// box is what a row runs in.
type box interface {
	step(context.Context, *Step) (Figures, error)
	sysctl(name string) (string, error)
	setSysctl(name, value string) error
	settle(context.Context) error // waits until every connection has ended, but for TIME-WAIT
	count(ctx context.Context, expect Figures, within map[string]Range) (Figures, error)
	close() error
	took() Log // what happened, of a box that is closed
}

const (
	// rowsAtOnce is how many rows run at the same time: they mostly wait for
	// the kernel's reuse delay.
	rowsAtOnce = 8

	// tries is how often a row is begun that a stall of the machine has spoilt.
	tries = 4
)

// errLate says that a step was not done in time, which is within the kernel's
// reuse delay, or as Step.By has it.
var errLate = errors.New("this machine is too busy: the steps took longer than the kernel's reuse delay, or another of its timers")

// Run runs every row of a lab and returns what was measured. The error says
// that the lab could not be run here at all; if ctx ends, it is ctx's.
func (r *Runner) Run(ctx context.Context, l *Lab) (*Report, error) {
	if err := l.Check(); err != nil {
		return nil, err
	}
	report := &Report{Lab: l, Kernel: kernelRelease(), UID: os.Geteuid(), Rows: make([]Row, len(l.Variants))}
	begin := time.Now()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	var (
		mu    sync.Mutex
		done  int
		late  []int
		group sync.WaitGroup
		slots = make(chan struct{}, rowsAtOnce)
	)
	if l.OneByOne {
		slots = make(chan struct{}, 1)
	}
	finish := func(i int, row Row) {
		mu.Lock()
		defer mu.Unlock()
		report.Rows[i] = row
		done++
		if r.OnRow != nil {
			r.OnRow(done, len(report.Rows), &report.Rows[i])
		}
	}
	one := func(i, try int) {
		row, again, err := r.row(ctx, l, &l.Variants[i])
		switch {
		case err != nil:
			cancel(err)
		case again && try < tries:
			mu.Lock()
			late = append(late, i)
			mu.Unlock()
		default:
			finish(i, row)
		}
	}
	for i := range l.Variants {
		select { // here and not in the goroutine, so that rows begin in order
		case slots <- struct{}{}:
		case <-ctx.Done():
			continue
		}
		group.Go(func() {
			defer func() { <-slots }()
			if ctx.Err() == nil {
				one(i, 1)
			}
		})
	}
	group.Wait()
	for try := 2; len(late) > 0; try++ { // now one at a time, with the machine to itself
		again := late
		late = nil
		for _, i := range again {
			if ctx.Err() == nil {
				one(i, try)
			}
		}
	}
	report.Took = time.Since(begin)
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return report, nil
}

// row runs one row in a box of its own. The error says that no box could be
// made; every other is told in the row. again says that the row may have been
// spoilt by a stall of the machine.
func (r *Runner) row(ctx context.Context, l *Lab, v *Variant) (row Row, again bool, err error) {
	begin := time.Now()
	row = Row{Variant: v, Expected: v.expected(), Within: v.within(), Measured: Figures{}}
	start := r.start
	switch {
	case start != nil:
	case l.onHost() && r.host == nil:
		return r.elsewhere(ctx, l, row)
	case l.onStack():
		start = startSim
	default:
		start = r.startSandbox
	}
	b, err := start(ctx, l, v)
	if err != nil {
		return row, false, err
	}
	err = row.measure(ctx, b, l)
	if closeErr := b.close(); err == nil && closeErr != nil {
		err = closeErr
	}
	if r.KeepLog {
		row.Log = b.took()
	}
	if s, ok := b.(*simBox); ok {
		row.Misses = s.misses
	}
	row.Took = time.Since(begin)
	var missing *missingError
	var none *noHostError
	switch {
	case errors.As(err, &missing), errors.As(err, &none), errors.Is(err, errLate):
		row.Skipped = err.Error()
	case err != nil:
		row.Err = err.Error()
	}
	return row, errors.Is(err, errLate) || row.stalled(), nil
}

// stalled reports whether the row is as expected but for SYNs that were
// repeated, or for how long a wait took. A kernel repeats a SYN after a second,
// which may be the stack's fault or a busy machine's.
func (row *Row) stalled() bool {
	return row.Verdict() == Fail && row.Err == "" && !slices.ContainsFunc(row.Differences(), func(name string) bool {
		return name != synRetransmits && !strings.HasSuffix(name, ".ms")
	})
}

// missingError says that this kernel does not offer what a row needs.
type missingError struct{ sysctl string }

func (e *missingError) Error() string { return "this kernel has no " + e.sysctl }

// measure does the row's steps and counts.
func (row *Row) measure(ctx context.Context, b box, l *Lab) error {
	settings, own := l.settings(row.Variant)
	for _, s := range settings {
		name, value, ok := s.Sysctl()
		if !ok {
			continue // a knob, which is set already
		}
		err := b.setSysctl(name, value)
		switch {
		case errors.Is(err, fs.ErrNotExist) && own[s]:
			return &missingError{name}
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return err
		}
	}
	var delay reuseDelay
	if !l.onStack() {
		var err error
		if delay, err = reuseDelayOf(b); err != nil {
			return err
		}
	}
	begin := now()
	since := begin // every TIME-WAIT that began before this is old enough
	last := since
	for i := range row.Variant.Steps {
		s := &row.Variant.Steps[i]
		if s.When == AfterDelay {
			if err := delay.wait(ctx, last); err != nil {
				return err
			}
			since = now()
		}
		figures, err := b.step(ctx, s)
		if err != nil {
			return fmt.Errorf("step %s: %w", s.Name, err)
		}
		if s.Quick && delay.mayHavePassed(since, now()) || s.By > 0 && now()-begin > ms(s.By) {
			return errLate
		}
		row.Measured.add(s.Name, figures)
		if row.Variant.passing() {
			if err := b.settle(ctx); err != nil {
				return fmt.Errorf("step %s: %w", s.Name, err)
			}
		}
		last = now()
	}
	counted := maps.Clone(row.Within)
	maps.DeleteFunc(counted, func(name string, _ Range) bool { return row.stepOf(name) != "" })
	after, err := b.count(ctx, row.Variant.After, counted)
	for name, n := range after {
		row.Measured[name] = n
	}
	return err
}

// reuseDelay is how long a port must have been in TIME-WAIT before the kernel
// reuses it.
type reuseDelay struct {
	d time.Duration

	// seconds: the kernel compares whole seconds of its clock, as those
	// without the sysctl do.
	seconds bool
}

const reuseDelaySysctl = "net.ipv4.tcp_tw_reuse_delay"

func reuseDelayOf(b box) (reuseDelay, error) {
	text, err := b.sysctl(reuseDelaySysctl)
	if errors.Is(err, fs.ErrNotExist) {
		return reuseDelay{d: time.Second, seconds: true}, nil
	}
	if err != nil {
		return reuseDelay{}, err
	}
	ms, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return reuseDelay{}, fmt.Errorf("lab: %s: %w", reuseDelaySysctl, err)
	}
	return reuseDelay{d: time.Duration(ms) * time.Millisecond}, nil
}

// tick is the coarsest that the kernel rounds the delay to.
const tick = 10 * time.Millisecond

// mayHavePassed reports whether a TIME-WAIT that began at or after since can
// be old enough.
func (r reuseDelay) mayHavePassed(since, now time.Duration) bool {
	if r.seconds {
		return now/time.Second != since/time.Second
	}
	return now-since >= r.d-tick
}

// until is when every TIME-WAIT that began before last is old enough.
func (r reuseDelay) until(last time.Duration) time.Duration {
	if r.seconds {
		return last.Truncate(time.Second) + time.Second + tick
	}
	return last + r.d + tick
}

func (r reuseDelay) wait(ctx context.Context, last time.Duration) error {
	for {
		left := r.until(last) - now()
		if left <= 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(left):
		}
	}
}

// now reads the clock that the kernel's reuse delay goes by.
func now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return time.Duration(math.MaxInt64) // it cannot fail; if it did, every row would be late
	}
	return time.Duration(ts.Nano())
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}
