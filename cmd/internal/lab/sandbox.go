package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"tcpbox"
	"tcpbox/policy/knob"
	"tcpbox/stack/statelog"
)

// sandbox is the box of a row: a real one, with ServeGuest as its guest.
type sandbox struct {
	box      *tcpbox.Sandbox
	first    *talk            // with the guest
	programs map[string]*talk // with further programs of the guest, by name
	args     []string         // what calls ServeGuest
	stderr   *os.File
	end      *stackEnd
	stack    *endpoints
	columns  []string      // what is counted at the end beside what is expected
	patience time.Duration // for counts to become what is expected
	log      *logKeeper    // nil: nothing is kept
	host     *host         // nil: the machine's, which is let alone
}

// startSandbox starts a sandbox for a row, offline, with the row's knobs. The
// sysctls are not set yet.
func (r *Runner) startSandbox(ctx context.Context, l *Lab, v *Variant) (box, error) {
	cfg := tcpbox.Config{
		Name: "lab-" + v.Name, Args: r.Guest, Dir: "/", NoIPv6: true,
		DNS: tcpbox.DNS{None: true}, Stderr: r.Stderr,
	}
	if cfg.Args == nil {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("lab: %w", err)
		}
		cfg.Args = []string{self, "lab", "guest"}
	}
	var err error
	if cfg.Peers, err = l.peers(); err != nil {
		return nil, err
	}
	if cfg.Faults, err = faultsOf(slices.Concat(l.Faults, v.Faults)); err != nil {
		return nil, err
	}
	settings, _ := l.settings(v)
	for _, s := range settings {
		if _, _, ok := s.Sysctl(); ok {
			continue
		}
		set, err := knob.ParseSetting(string(s))
		if err != nil {
			return nil, err
		}
		cfg.Knobs = append(cfg.Knobs, set)
	}
	var columns []string
	for _, c := range l.Columns {
		if v.stepOf(c.Figure) == "" && checkCount(c.Figure) == nil {
			columns = append(columns, c.Figure)
		}
	}
	s := &sandbox{
		columns: columns,
		stack:   newEndpoints(), programs: make(map[string]*talk), args: cfg.Args, stderr: r.Stderr,
		patience: cmp.Or(r.Patience, patience), host: r.host,
	}
	if s.host != nil {
		if cfg.Policy, err = policyOfHost(); err != nil {
			return nil, err
		}
	}
	cfg.OnRecords = s.stack.read
	if r.KeepLog {
		s.log = &logKeeper{name: cfg.Name}
		cfg.TraceSegments, cfg.OnSegments = true, s.log.segments
		cfg.OnRecords = func(items []statelog.Item) {
			s.stack.read(items)
			s.log.records(items)
		}
	}

	cfg.TraceSegments = cfg.TraceSegments || v.countsSegments()
	if s.first, cfg.Stdin, cfg.Stdout, err = newTalk(); err != nil {
		return nil, err
	}
	defer cfg.Stdin.Close()
	defer cfg.Stdout.Close()
	if s.box, err = tcpbox.Start(ctx, cfg); err != nil {
		return nil, errors.Join(err, s.first.close())
	}
	s.end = newStackEnd(s.box)
	return s, nil
}

// countsSegments reports whether a figure of the row is a number of segments.
func (v *Variant) countsSegments() bool {
	isSegments := func(name string) bool { return strings.HasPrefix(name, "sent.") }
	all := slices.Concat(slices.Collect(maps.Keys(v.After)), slices.Collect(maps.Keys(v.Within)))
	for i := range v.Steps {
		all = slices.AppendSeq(all, maps.Keys(v.Steps[i].Expect))
		all = slices.AppendSeq(all, maps.Keys(v.Steps[i].Within))
	}
	return slices.ContainsFunc(all, isSegments)
}

// step does a step, or has a program of the guest do it. If ctx ends, so does the
// sandbox.
func (s *sandbox) step(ctx context.Context, st *Step) (Figures, error) {
	most := maxStep
	if st.Connect != nil {
		most += ms(5 * st.Connect.Times)
	}
	if st.Wait != nil {
		most += ms(st.Wait.For + st.Wait.Until)
	}
	if st.Command != nil {
		most = maxCommand
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = s.box.Close() })
	defer stop()
	begin := time.Now()
	f, err := s.do(ctx, st)
	if err != nil {
		return nil, errors.Join(err, context.Cause(ctx))
	}
	within := s.patience
	if st.Wait != nil {
		within = max(within, ms(st.Wait.Until))
	}
	err = s.become(ctx, f, st.Expect, st.Within, within)
	if _, timed := st.Within["ms"]; timed && st.Wait != nil {
		f["ms"] = int(time.Since(begin).Milliseconds())
	}
	return f, err
}

func (s *sandbox) do(ctx context.Context, st *Step) (Figures, error) {
	switch {
	case st.Wait != nil:
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(ms(st.Wait.For)):
		}
		return Figures{}, nil
	case st.Set != nil:
		return Figures{}, s.set(st.Set)
	case st.Stop != nil:
		return Figures{}, s.stop(st.Stop.Program)
	case st.Command != nil:
		return s.command(ctx, st.Command)
	case st.In == InStack:
		return s.end.do(ctx, st)
	case st.In == InHost && s.host != nil:
		return s.host.serves.do(st)
	}
	t, err := s.program(ctx, st.In)
	if err != nil {
		return nil, err
	}
	question := *st
	question.Expect = nil // the guest does not need to know
	return t.ask(&question)
}

// become waits until what is counted is what is expected of it, for so long, and
// adds it to f.
func (s *sandbox) become(ctx context.Context, f, expect Figures, ranges map[string]Range, within time.Duration) error {
	names := slices.DeleteFunc(slices.Concat(slices.Sorted(maps.Keys(expect)), slices.Sorted(maps.Keys(ranges))),
		func(name string) bool { return checkCount(name) != nil })
	end := time.Now().Add(within)
	for {
		n := snapshot{s: s}
		equal := true
		for _, name := range names {
			v, err := n.count(name)
			if err != nil {
				return err
			}
			f[name] = v
			if r, ok := ranges[name]; ok {
				equal = equal && r.holds(v)
			} else {
				equal = equal && v == expect[name]
			}
		}
		if equal || time.Now().After(end) {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// set changes settings while the row runs.
func (s *sandbox) set(st *Set) error {
	if st.NoFaults {
		for _, r := range s.box.Faults() {
			if err := s.box.RemoveFault(r.ID); err != nil {
				return err
			}
		}
	}
	faults, err := faultsOf(st.Faults)
	if err != nil {
		return err
	}
	for _, f := range faults {
		if _, err := s.box.AddFault(f); err != nil {
			return err
		}
	}
	for _, set := range st.Settings {
		if name, value, ok := set.Sysctl(); ok {
			if err := s.setSysctl(name, value); err != nil {
				return err
			}
			continue
		}
		k, err := knob.ParseSetting(string(set))
		if err != nil {
			return err
		}
		if _, err := s.box.Set(k); err != nil {
			return err
		}
	}
	return nil
}

func (s *sandbox) sysctl(name string) (string, error) { return s.box.NS().Sysctl(name) }

func (s *sandbox) setSysctl(name, value string) error {
	if name, ok := strings.CutPrefix(name, ofHost); ok && s.host != nil {
		return s.host.SetSysctl(name, value)
	}
	return s.box.NS().SetSysctl(name, value)
}

func (s *sandbox) sockets() (sockets, error) {
	text, err := s.box.NS().ProcNet("sockstat")
	if err != nil {
		return sockets{}, err
	}
	return parseSockstat(text)
}

// settleTime bounds the wait for connections that the guest has closed. Only
// what hangs meets it.
const settleTime = 20 * time.Second

// settle waits until every connection has ended, but for TIME-WAIT, at both
// ends.
func (s *sandbox) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		now, err := s.sockets()
		if err != nil {
			return err
		}
		open, _ := s.stack.count()
		if now.inUse == 0 && open == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("lab: the guest still has %d sockets, and the stack %d open endpoints: %w",
				now.inUse, open, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

func (s *sandbox) count(ctx context.Context, expect Figures, ranges map[string]Range) (Figures, error) {
	f := Figures{}
	n := snapshot{s: s}
	for _, name := range slices.Concat(counts, s.columns) {
		var err error
		if f[name], err = n.count(name); err != nil {
			return nil, err
		}
	}
	return f, s.become(ctx, f, expect, ranges, s.patience)
}

func (s *sandbox) close() error {
	err := errors.Join(s.box.Close(), s.first.close())
	for _, t := range s.programs {
		err = errors.Join(err, t.close())
	}
	return err
}

// took returns what happened. The sandbox has ended.
func (s *sandbox) took() Log {
	if s.log == nil {
		return Log{}
	}
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	return s.log.log
}

// maxLog bounds the records and the segments that are kept of a row. The first
// ones stay.
const maxLog = 100_000

// logKeeper keeps what happened in a row.
type logKeeper struct {
	name string // of the sandbox

	mu  sync.Mutex
	log Log
}

func (k *logKeeper) records(items []statelog.Item) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range items {
		if len(k.log.Records) == maxLog {
			return
		}
		k.log.Records = append(k.log.Records, items[i].Record(k.name))
	}
}

func (k *logKeeper) segments(segments []statelog.Segment) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.log.Segments = append(k.log.Segments, segments[:min(len(segments), maxLog-len(k.log.Segments))]...)
}
