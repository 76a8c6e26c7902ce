package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"tcpbox/cmd/internal/lab"
)

// labRun is tcpbox lab run: 0 if all is as expected, 1 if not, 125 if nothing
// could be measured here.
func labRun(args []string, streams Streams) error {
	a, err := parseLabArgs("run", args)
	if err != nil {
		return err
	}
	if a.help {
		_, err := io.WriteString(streams.Out, helpTexts["lab"])
		return err
	}
	labs, err := a.labs("run")
	if err != nil {
		return err
	}
	if err := checkDescriptors(labDescriptors, "a lab"); err != nil {
		return err
	}
	ctx, stop := untilSignal(context.Background())
	defer stop()
	verdicts := make(map[lab.Verdict]int)
	measured := a.measure(ctx, labs, streams.Err)
	for i, l := range labs {
		m := <-measured[i]
		verdict, err := a.tell(l, m, streams)
		switch {
		case ctx.Err() != nil:
			return labError(err, streams.Err)
		case err != nil && (!a.all || isReportError(err)):
			return labError(err, streams.Err)
		case err != nil:
			fmt.Fprintf(streams.Err, "tcpbox: %s is skipped: %v\n", l.Name, labError(err, io.Discard))
			verdict = lab.Skip
		}
		verdicts[verdict]++
		if !a.json && i+1 < len(labs) {
			fmt.Fprintln(streams.Out)
		}
	}
	if a.all && !a.json {
		fmt.Fprintf(streams.Out, "\n%d labs: %d as expected, %d not, %d skipped\n", len(labs), verdicts[lab.Pass], verdicts[lab.Fail], verdicts[lab.Skip])
	}
	switch {
	case verdicts[lab.Fail] > 0:
		return exitStatus(1)
	case verdicts[lab.Pass] == 0:
		return exitStatus(exitInternal)
	}
	return nil
}

// measurement is what became of a lab.
type measurement struct {
	report *lab.Report
	page   *reportFile
	err    error
}

// labsAtOnce is how many labs run at the same time. They mostly wait.
const labsAtOnce = 2

// measure runs the labs, some at once, and gives what became of each.
func (a labArgs) measure(ctx context.Context, labs []*lab.Lab, told *os.File) []chan measurement {
	atOnce := labsAtOnce
	if a.scale || checkDescriptors(labsAtOnce*labDescriptors, "a lab") != nil {
		atOnce = 1
	}
	slots := make(chan struct{}, atOnce)
	all := make([]chan measurement, len(labs))
	for i := range labs {
		all[i] = make(chan measurement, 1)
	}
	go func() { // ends with the last lab, which has been waited for, or with ctx
		for i, l := range labs {
			slots <- struct{}{}
			go func() {
				defer func() { <-slots }()
				all[i] <- a.run(ctx, l, told)
			}()
		}
	}()
	return all
}

// run runs a lab.
func (a labArgs) run(ctx context.Context, l *lab.Lab, told *os.File) (m measurement) {
	if m.page, m.err = a.openReport(l); m.err != nil {
		return m
	}
	progress := newProgress(told, l.Name, len(l.Variants))
	runner := lab.Runner{Stderr: told, OnRow: progress.row, KeepLog: m.page != nil}
	m.report, m.err = runner.Run(ctx, l)
	progress.end()
	return m
}

// tell writes what became of a lab.
func (a labArgs) tell(l *lab.Lab, m measurement, streams Streams) (lab.Verdict, error) {
	if m.err != nil {
		return lab.Skip, errors.Join(m.err, m.page.discard())
	}
	if err := m.page.write(m.report); err != nil {
		return lab.Skip, err
	}
	if a.json {
		return m.report.Verdict(), m.report.WriteJSON(streams.Out)
	}
	style := labStyle(streams.Out)
	if err := m.report.WriteTable(streams.Out, style); err != nil || !a.explain {
		return m.report.Verdict(), err
	}
	return m.report.Verdict(), l.Explain(streams.Out, style)
}

// progress shows on a terminal how far a lab is; elsewhere it is silent.
type progress struct {
	w        io.Writer
	name     string // of the lab
	terminal bool
}

func newProgress(f *os.File, name string, rows int) *progress {
	_, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	p := &progress{w: f, name: name, terminal: err == nil}
	if p.terminal {
		fmt.Fprintf(p.w, "%s: 0 of %d rows", name, rows)
	}
	return p
}

const clearLine = "\r\x1b[K"

func (p *progress) row(done, total int, row *lab.Row) {
	if p.terminal {
		fmt.Fprintf(p.w, "%s%s: %d of %d rows: %s", clearLine, p.name, done, total, row.Variant.Title)
	}
}

func (p *progress) end() {
	if p.terminal {
		fmt.Fprint(p.w, clearLine)
	}
}
