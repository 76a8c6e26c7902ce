package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeBox is a machine whose guest does whatever is expected of it.
type fakeBox struct {
	sysctls map[string]string // what the kernel offers
	variant *Variant
	stepErr error
	after   Figures

	mu     sync.Mutex
	log    []string
	closed int
}

func (b *fakeBox) note(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.log = append(b.log, fmt.Sprintf(format, args...))
}

func (b *fakeBox) step(_ context.Context, s *Step) (Figures, error) {
	b.note("step %s", s.Name)
	return maps.Clone(s.Expect), b.stepErr
}

func (b *fakeBox) sysctl(name string) (string, error) {
	if v, ok := b.sysctls[name]; ok {
		return v, nil
	}
	return "", fmt.Errorf("sysctl %s: %w", name, fs.ErrNotExist)
}

func (b *fakeBox) setSysctl(name, value string) error {
	if _, err := b.sysctl(name); err != nil {
		return err
	}
	b.note("set %s=%s", name, value)
	return nil
}

func (b *fakeBox) settle(context.Context) error { b.note("settle"); return nil }

func (b *fakeBox) count(context.Context, Figures, map[string]Range) (Figures, error) {
	b.note("count")
	if b.after != nil {
		return b.after, nil
	}
	return maps.Clone(b.variant.After), nil
}

func (b *fakeBox) took() Log { return Log{} }

func (b *fakeBox) close() error { b.closed++; return nil }

// aLab is a small lab of so many rows.
func aLab(rows int, quick bool) *Lab {
	l := &Lab{Name: "small", Settings: []Setting{"net.ipv4.all=1", "net.ipv4.new=1"}}
	for i := range rows {
		l.Variants = append(l.Variants, Variant{
			Name: fmt.Sprintf("row-%d", i), Group: Problem,
			Steps: []Step{
				{Name: "first", Quick: quick, Connect: &Connect{To: "a:1", Times: 2, Close: ClientClose}, Expect: Figures{"ok": 2}},
				{Name: "again", Fetch: &Fetch{To: "a:1", Times: 1}, Expect: Figures{"ok": 1}},
			},
			After: Figures{guestTimeWait: 2},
		})
	}
	return l
}

// boxes makes fakes, after change has had its way with them.
func boxes(change func(*fakeBox)) (start func(context.Context, *Lab, *Variant) (box, error), made func() []*fakeBox) {
	var mu sync.Mutex
	var all []*fakeBox
	return func(_ context.Context, _ *Lab, v *Variant) (box, error) {
			b := &fakeBox{variant: v, sysctls: map[string]string{"net.ipv4.all": "0", reuseDelaySysctl: "3600000"}}
			if change != nil {
				change(b)
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, b)
			return b, nil
		}, func() []*fakeBox {
			mu.Lock()
			defer mu.Unlock()
			for _, b := range all {
				if b.closed != 1 {
					panic(fmt.Sprintf("a box was closed %d times", b.closed))
				}
			}
			return all
		}
}

func TestRunMeasuresEveryRow(t *testing.T) {
	start, made := boxes(nil)
	var told []string
	r := Runner{start: start, OnRow: func(done, total int, row *Row) {
		told = append(told, fmt.Sprintf("%d/%d", done, total))
	}}
	report, err := r.Run(t.Context(), aLab(3, true))
	if err != nil {
		t.Fatal(err)
	}
	if report.Verdict() != Pass || report.Kernel == "" || len(report.Rows) != 3 {
		t.Errorf("the report is %+v", report)
	}
	for i, row := range report.Rows {
		if want := fmt.Sprintf("row-%d", i); row.Variant.Name != want {
			t.Errorf("row %d is %s, want %s", i, row.Variant.Name, want)
		}
		if want := (Figures{"first.ok": 2, "again.ok": 1, guestTimeWait: 2}); !maps.Equal(row.Measured, want) {
			t.Errorf("row %d measured %v, want %v", i, row.Measured, want)
		}
	}
	if want := []string{"1/3", "2/3", "3/3"}; !slices.Equal(told, want) {
		t.Errorf("OnRow was told %v, want %v", told, want)
	}
	if got := made(); len(got) != 3 {
		t.Errorf("%d boxes for 3 rows", len(got))
	}
	// What the kernel does not offer is left out of the lab's own settings.
	want := []string{"set net.ipv4.all=1", "step first", "settle", "step again", "settle", "count"}
	if got := made()[0].log; !slices.Equal(got, want) {
		t.Errorf("the box was asked %q, want %q", got, want)
	}
}

func TestRunSkipsWhatTheKernelDoesNotOffer(t *testing.T) {
	start, made := boxes(nil)
	l := aLab(2, false)
	l.Variants[1].Settings = []Setting{"net.ipv4.new=2"}
	report, err := (&Runner{start: start}).Run(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	if got := report.Rows[1].Skipped; got != "this kernel has no net.ipv4.new" {
		t.Errorf("the row was skipped because %q", got)
	}
	if report.Verdict() != Pass || report.Rows[0].Verdict() != Pass || report.Rows[1].Verdict() != Skip {
		t.Errorf("verdicts %s, %s, %s", report.Verdict(), report.Rows[0].Verdict(), report.Rows[1].Verdict())
	}
	made()
}

func TestRunBeginsAgainWhatWasLate(t *testing.T) {
	for _, tt := range []struct {
		name  string
		late  int // boxes in which every step is late
		boxes int
		want  Verdict
	}{
		{"once", 1, 2, Pass},
		{"always", 99, tries, Skip},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := 0
			start, made := boxes(func(b *fakeBox) {
				if n++; n <= tt.late {
					b.sysctls[reuseDelaySysctl] = "0" // which has passed before anything is done
				}
			})
			report, err := (&Runner{start: start}).Run(t.Context(), aLab(1, true))
			if err != nil {
				t.Fatal(err)
			}
			if got := report.Rows[0].Verdict(); got != tt.want {
				t.Errorf("the verdict is %s, want %s: %+v", got, tt.want, report.Rows[0])
			}
			if got := len(made()); got != tt.boxes {
				t.Errorf("%d boxes, want %d", got, tt.boxes)
			}
		})
	}
}

func TestRunBeginsAgainWhatStalled(t *testing.T) {
	for _, tt := range []struct {
		name  string
		after Figures
		boxes int
	}{
		{"a SYN was repeated", Figures{guestTimeWait: 2, synRetransmits: 1}, tries},
		{"and something else is wrong", Figures{guestTimeWait: 3, synRetransmits: 1}, 1},
	} {
		start, made := boxes(func(b *fakeBox) { b.after = tt.after })
		l := aLab(1, false)
		l.Variants[0].After[synRetransmits] = 0
		report, err := (&Runner{start: start}).Run(t.Context(), l)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(made()); got != tt.boxes || report.Verdict() != Fail {
			t.Errorf("%s: %d boxes, verdict %s, want %d, fail", tt.name, got, report.Verdict(), tt.boxes)
		}
	}
}

func TestRunTellsWhatBrokeOff(t *testing.T) {
	start, made := boxes(func(b *fakeBox) { b.stepErr = errors.New("the guest ended") })
	report, err := (&Runner{start: start}).Run(t.Context(), aLab(1, false))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := report.Rows[0].Err, "step first: the guest ended"; got != want || report.Verdict() != Fail {
		t.Errorf("the row says %q, verdict %s, want %q, fail", got, report.Verdict(), want)
	}
	made()
}

func TestRunFailsWhereNoBoxCanBeMade(t *testing.T) {
	why := errors.New("no TUN driver")
	r := Runner{start: func(context.Context, *Lab, *Variant) (box, error) { return nil, why }}
	if report, err := r.Run(t.Context(), aLab(20, false)); !errors.Is(err, why) || report != nil {
		t.Errorf("Run = %v, %v, want the error %v", report, err, why)
	}
	if _, err := r.Run(t.Context(), &Lab{}); err == nil || !strings.Contains(err.Error(), "no rows") {
		t.Errorf("Run of a lab at fault = %v", err)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	start, made := boxes(nil)
	r := Runner{start: start, OnRow: func(int, int, *Row) { cancel() }}
	l := aLab(30, false)
	for i := range l.Variants {
		if i > 0 {
			l.Variants[i].Steps[1].When = AfterDelay // an hour
		}
	}
	if _, err := r.Run(ctx, l); !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v, want %v", err, context.Canceled)
	}
	made()
}

// The kernel with the sysctl counts milliseconds; the others compare whole
// seconds of the same clock.
func TestReuseDelay(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	by := func(d time.Duration) reuseDelay { return reuseDelay{d: d} }
	seconds := reuseDelay{d: s, seconds: true}
	for _, tt := range []struct {
		name       string
		delay      reuseDelay
		since, now time.Duration
		mayHave    bool
	}{
		{"just begun", by(s), 5 * s, 5 * s, false},
		{"half of it", by(s), 5 * s, 5*s + 500*ms, false},
		{"nearly all of it", by(s), 5 * s, 5*s + 995*ms, true},
		{"all of it", by(s), 5 * s, 6 * s, true},
		{"the same second", seconds, 5*s + 1*ms, 5*s + 999*ms, false},
		{"the next second", seconds, 5*s + 999*ms, 6 * s, true},
	} {
		if got := tt.delay.mayHavePassed(tt.since, tt.now); got != tt.mayHave {
			t.Errorf("%s: mayHavePassed(%v, %v) = %v, want %v", tt.name, tt.since, tt.now, got, tt.mayHave)
		}
	}
	for _, tt := range []struct {
		delay      reuseDelay
		last, want time.Duration
	}{
		{by(s), 5*s + 300*ms, 6*s + 310*ms},
		{by(1 * ms), 5 * s, 5*s + 11*ms},
		{seconds, 5*s + 300*ms, 6*s + 10*ms},
		{seconds, 5 * s, 6*s + 10*ms},
	} {
		if got := tt.delay.until(tt.last); got != tt.want {
			t.Errorf("%+v: until(%v) = %v, want %v", tt.delay, tt.last, got, tt.want)
		}
	}
	for _, tt := range []struct {
		sysctls map[string]string
		want    reuseDelay
	}{
		{map[string]string{}, seconds},
		{map[string]string{reuseDelaySysctl: "1000"}, by(s)},
		{map[string]string{reuseDelaySysctl: "1"}, by(ms)},
	} {
		if got, err := reuseDelayOf(&fakeBox{sysctls: tt.sysctls}); got != tt.want || err != nil {
			t.Errorf("reuseDelayOf(%v) = %+v, %v, want %+v", tt.sysctls, got, err, tt.want)
		}
	}
	if _, err := reuseDelayOf(&fakeBox{sysctls: map[string]string{reuseDelaySysctl: "soon"}}); err == nil {
		t.Error("a delay that is no number is taken")
	}
}

func TestWaitingEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (reuseDelay{d: time.Hour}).wait(ctx, now()); !errors.Is(err, context.Canceled) {
		t.Errorf("wait = %v, want %v", err, context.Canceled)
	}
	if err := (reuseDelay{}).wait(t.Context(), now()-time.Second); err != nil {
		t.Errorf("wait for what has passed = %v", err)
	}
}
