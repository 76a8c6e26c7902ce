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
	for i, l := range labs {
		verdict, err := a.run(ctx, l, streams)
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

// run runs a lab and writes its report.
func (a labArgs) run(ctx context.Context, l *lab.Lab, streams Streams) (lab.Verdict, error) {
	page, err := a.openReport(l)
	if err != nil {
		return lab.Skip, err
	}
	progress := newProgress(streams.Err, l.Name, len(l.Variants))
	runner := lab.Runner{Stderr: streams.Err, OnRow: progress.row, KeepLog: page != nil}
	report, err := runner.Run(ctx, l)
	progress.end()
	if err != nil {
		return lab.Skip, errors.Join(err, page.discard())
	}
	if err := page.write(report); err != nil {
		return lab.Skip, err
	}
	if a.json {
		return report.Verdict(), report.WriteJSON(streams.Out)
	}
	style := labStyle(streams.Out)
	if err := report.WriteTable(streams.Out, style); err != nil || !a.explain {
		return report.Verdict(), err
	}
	return report.Verdict(), l.Explain(streams.Out, style)
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
