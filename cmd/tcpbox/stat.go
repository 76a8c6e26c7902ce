package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"tcpbox/stack/legs"
	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

func statCommand(streams Streams) *cli.Command {
	return &cli.Command{
		Name: "stat", Usage: "count the connections of a recording by state",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "json"}},
		Action: func(c *cli.Context) error {
			if c.Args().First() == "" {
				return usagef("for example: tcpbox stat states.jsonl", "stat takes a FILE, or - for standard input")
			}
			filter, err := parseFilter(c.Args().Tail())
			if err != nil {
				return err
			}
			rec, err := openRecording(c.Args().First(), streams)
			if err != nil {
				return err
			}
			stat := legs.NewStat(filter)
			err = rec.read(rec.file, func(r *statelog.Record) error {
				stat.Add(r, nil)
				return nil
			})
			if err = errors.Join(err, rec.end()); err != nil {
				return err
			}
			if c.Bool("json") {
				return quietPipe(printJSON(streams.Out, newStatJSON(stat.Report(), rec.bad)))
			}
			return quietPipe(printStat(streams.Out, stat.Report()))
		},
	}
}

// printStat prints a report for people.
func printStat(w io.Writer, rep legs.Report) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%-8s %-12s %8s %8s %8s\n", "LEG", "STATE", "END", "PEAK", "ENTERED")
	for _, s := range rep.States {
		end, peak := "-", "-"
		if s.Counted() {
			end, peak = strconv.FormatUint(s.Now, 10), strconv.FormatUint(s.Peak, 10)
		}
		fmt.Fprintf(&b, "%-8s %-12s %8s %8s %8d\n", s.Leg, s.State, end, peak, s.Entered)
	}
	fmt.Fprintf(&b, "\n%-36s %11s\n", "CAUSE", "TRANSITIONS")
	for _, c := range rep.Causes {
		fmt.Fprintf(&b, "%-36s %11d\n", printable(c.Cause.String()), c.Transitions)
	}
	if rep.Dropped > 0 {
		fmt.Fprintf(&b, "\nThe log lacks %d records: the numbers are too low, or their ends were missed.\n", rep.Dropped)
	}
	if rep.Jumps > 0 {
		fmt.Fprintf(&b, "\n%d records do not follow on the one before: the log is not whole, or not in order.\n", rep.Jumps)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// statJSON is the form of stat --json, version 1.
type statJSON struct {
	V       int         `json:"v"`
	Records uint64      `json:"records"`
	Dropped uint64      `json:"dropped"`
	Jumps   uint64      `json:"jumps"`
	Damaged uint64      `json:"damaged_lines"`
	First   *time.Time  `json:"first"`
	Last    *time.Time  `json:"last"`
	States  []stateJSON `json:"states"`
	Causes  []causeJSON `json:"causes"`
}

type stateJSON struct {
	Leg     tcpstate.Leg   `json:"leg"`
	State   tcpstate.State `json:"state"`
	End     *uint64        `json:"end"` // null: not known
	Peak    *uint64        `json:"peak"`
	Entered uint64         `json:"entered"`
}

type causeJSON struct {
	Cause       tcpstate.Cause `json:"cause"`
	Transitions uint64         `json:"transitions"`
}

func newStatJSON(rep legs.Report, damaged uint64) statJSON {
	j := statJSON{
		V: 1, Records: rep.Records, Dropped: rep.Dropped, Jumps: rep.Jumps, Damaged: damaged,
		States: []stateJSON{}, Causes: []causeJSON{},
	}
	if !rep.First.IsZero() {
		j.First, j.Last = &rep.First, &rep.Last
	}
	for _, s := range rep.States {
		row := stateJSON{Leg: s.Leg, State: s.State, Entered: s.Entered}
		if s.Counted() {
			row.End, row.Peak = &s.Now, &s.Peak
		}
		j.States = append(j.States, row)
	}
	for _, c := range rep.Causes {
		j.Causes = append(j.Causes, causeJSON(c))
	}
	return j
}
