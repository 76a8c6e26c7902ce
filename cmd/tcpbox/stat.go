package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"tcpbox"
	"tcpbox/stack/legs"
	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

func statCommand(streams Streams) *cli.Command {
	return &cli.Command{
		Name: "stat", Usage: "count the connections of a sandbox or a recording by state",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "json"},
			&cli.StringFlag{Name: "names", Value: "rfc"},
			&cli.StringFlag{Name: "watch", Aliases: []string{"w"}},
		},
		Action: func(c *cli.Context) error {
			s, filter, err := parseSubject(c)
			if err != nil {
				return err
			}
			names, err := stateNames(c)
			if err != nil {
				return err
			}
			every, err := watchEvery(c, s)
			if err != nil {
				return err
			}
			return quietPipe(repeat(streams, s.name, every, func(before []byte) error {
				n, err := numbersOf(c, s, filter, streams)
				switch {
				case err != nil:
					return err
				case c.Bool("json") && every > 0:
					return json.NewEncoder(streams.Out).Encode(n.json())
				case c.Bool("json"):
					return printJSON(streams.Out, n.json())
				}
				return n.print(streams.Out, names, before, every > 0 && !isTerminal(streams.Out))
			}))
		},
	}
}

// stateNames reads --names.
func stateNames(c *cli.Context) (func(tcpstate.State) string, error) {
	switch names := c.String("names"); names {
	case "rfc":
		return tcpstate.State.String, nil
	case "netstat":
		if c.Bool("json") {
			return nil, usagef("leave one of them out", "--json has states as RFC 9293 spells them, not as --names netstat")
		}
		return tcpstate.State.Netstat, nil
	default:
		return nil, usagef("it is rfc or netstat", "--names %s: not a value of it", oneWord(names))
	}
}

// numbers are what stat prints.
type numbers struct {
	legs.Report
	damaged uint64
	counts  *tcpbox.Counts // of a sandbox; nil of a recording

	// present says that only what is now was counted: those of a sandbox that a
	// filter chooses.
	present bool
}

// numbersOf counts. What a filter chooses of a sandbox is counted from its rows,
// which have no past.
func numbersOf(c *cli.Context, s subject, filter statelog.Filter, streams Streams) (numbers, error) {
	n := numbers{}
	if s.client != nil {
		counts, err := s.client.Stat(c.Context)
		if err != nil {
			return n, err
		}
		n.Report, n.counts = counts.States, &counts
		if filter.IsZero() {
			return n, nil
		}
		n.present = true
	}
	rec, err := s.open(c.Context, tcpbox.FollowOptions{Rows: true, Past: true}, streams)
	if err != nil {
		return n, err
	}
	stat := legs.NewStat(filter)
	var table legs.Table
	err = rec.read(rec.from(), func(r *statelog.Record) error {
		var facts *tcpstate.Facts
		if row := table.Add(r); row != nil {
			facts = &row.Facts
		}
		stat.Add(r, facts)
		return nil
	})
	if err = errors.Join(err, rec.end()); err != nil {
		return n, err
	}
	n.Report, n.damaged = stat.Report(), rec.bad
	if n.present {
		n.Causes = nil
	}
	return n, nil
}

// print prints the numbers for people.
func (n *numbers) print(w *os.File, name func(tcpstate.State) string, before []byte, again bool) error {
	var b bytes.Buffer
	last := "END"
	if n.counts != nil {
		last = "NOW"
	}
	fmt.Fprintf(&b, "%-8s %-12s %8s %8s %8s\n", "LEG", "STATE", last, "PEAK", "ENTERED")
	for _, s := range n.States {
		end, peak, entered := "-", "-", "-"
		if s.Counted() {
			end = strconv.FormatUint(s.Now, 10)
		}
		if s.Counted() && !n.present {
			peak = strconv.FormatUint(s.Peak, 10)
		}
		if !n.present {
			entered = strconv.FormatUint(s.Entered, 10)
		}
		fmt.Fprintf(&b, "%-8s %-12s %8s %8s %8s\n", s.Leg, name(s.State), end, peak, entered)
	}
	if !n.present {
		fmt.Fprintf(&b, "\n%-36s %11s\n", "CAUSE", "TRANSITIONS")
		for _, c := range n.Causes {
			fmt.Fprintf(&b, "%-36s %11d\n", printable(c.Cause.String()), c.Transitions)
		}
	}
	if n.counts != nil && !n.present {
		b.WriteByte('\n')
		printCounters(&b, n.counts)
	}
	if n.Dropped > 0 {
		fmt.Fprintf(&b, "\nThe log lacks %d records: the numbers are too low, or their ends were missed.\n", n.Dropped)
	}
	if n.Jumps > 0 && !n.present {
		fmt.Fprintf(&b, "\n%d records do not follow on the one before: the log is not whole, or not in order.\n", n.Jumps)
	}
	if again {
		b.WriteByte('\n')
	}
	return writeScreen(w, before, b.Bytes())
}

// printCounters prints what a sandbox counts besides states.
func printCounters(b *bytes.Buffer, c *tcpbox.Counts) {
	row := func(what, format string, args ...any) {
		fmt.Fprintf(b, "%-11s %s\n", what, fmt.Sprintf(format, args...))
	}
	st, d := c.Stack, c.DNS
	row("SYNs", "%d half-open (peak %d), %d dials pending", st.HalfOpen, st.PeakHalfOpen, st.Pending)
	row("", "%d made, %d refused, %d unreachable, %d unanswered, %d given up", st.Established, st.Refused, st.Unreachable, st.Silent, st.GivenUp)
	row("dropped", "%d backlog full, %d too many pending, %d of them to one host", st.DropBacklog, st.DropPending, st.DropPerDst)
	row("", "%d no port left, %d too many dials, %d bad checksum", st.NoPort, st.Busy, st.BadChecksum)
	row("", "%d malformed, %d foreign source, %d not unicast", st.Malformed, st.ForeignSource, st.NotUnicast)
	row("", "%d of one source, %d over the rate, %d floods of SYNs%s", st.DropPerSrc, st.DropRate, st.SYNFloods, map[bool]string{true: ", one goes on"}[st.SYNFlood])
	row("orphans", "%d now, %d stayed for too long, %d were too many", st.Orphans, st.OrphansEnded, st.OrphanOverflow)
	row("limits", "%d SYNs beyond, %d for want of buffers, %d flows gave way, %d records left out", st.Limited, st.Unbuffered, st.FlowsEvicted, c.LeftOut)
	guest := "unknown"
	if n := c.Retransmits.Guest; n != nil {
		guest = strconv.FormatUint(*n, 10)
	}
	row("retransmits", "%s guest, %d stack, %d upstream", guest, c.Retransmits.Stack, c.Retransmits.Upstream)
	row("DNS", "%d queries: %d answered, %d forwarded, %d refused", d.Queries, d.Answered, d.Forwarded, d.Refused)
	row("", "%d failed, %d dropped, %d malformed", d.Failed, d.Dropped, d.Malformed)
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

	// Of a sandbox only.
	Stack       *tcpbox.Stats       `json:"stack,omitempty"`
	DNS         any                 `json:"dns,omitempty"`
	Retransmits *tcpbox.Retransmits `json:"retransmits,omitempty"`
}

type stateJSON struct {
	Leg     tcpstate.Leg   `json:"leg"`
	State   tcpstate.State `json:"state"`
	End     *uint64        `json:"end"` // null: not known
	Peak    *uint64        `json:"peak"`
	Entered *uint64        `json:"entered"`
}

type causeJSON struct {
	Cause       tcpstate.Cause `json:"cause"`
	Transitions uint64         `json:"transitions"`
}

func (n *numbers) json() statJSON {
	rep := n.Report
	j := statJSON{
		V: 1, Records: rep.Records, Dropped: rep.Dropped, Jumps: rep.Jumps, Damaged: n.damaged,
		States: []stateJSON{}, Causes: []causeJSON{},
	}
	if n.counts != nil && !n.present { // they are of all connections
		j.Stack, j.DNS, j.Retransmits = &n.counts.Stack, n.counts.DNS, &n.counts.Retransmits
	}
	if !rep.First.IsZero() {
		j.First, j.Last = &rep.First, &rep.Last
	}
	for _, s := range rep.States {
		row := stateJSON{Leg: s.Leg, State: s.State}
		if !n.present {
			row.Entered = &s.Entered
		}
		if s.Counted() {
			row.End = &s.Now
		}
		if s.Counted() && !n.present {
			row.Peak = &s.Peak
		}
		j.States = append(j.States, row)
	}
	for _, c := range rep.Causes {
		j.Causes = append(j.Causes, causeJSON(c))
	}
	return j
}
