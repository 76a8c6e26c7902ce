package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"tcpbox"
	"tcpbox/cmd/internal/control"
	"tcpbox/cmd/internal/view"
	"tcpbox/stack/legs"
	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

func ssCommand(streams Streams) *cli.Command {
	return &cli.Command{
		Name: "ss", Usage: "show each connection with the states of its three legs",
		Flags: append(styleFlags(),
			&cli.StringFlag{Name: "watch", Aliases: []string{"w"}},
			&cli.StringFlag{Name: "sort", Value: "conn"},
			&cli.BoolFlag{Name: "closed"},
		),
		Action: func(c *cli.Context) error {
			s, filter, err := parseSubject(c)
			if err != nil {
				return err
			}
			p := ssPrinter{out: streams.Out, filter: filter, json: c.Bool("json"), closed: c.Bool("closed")}
			if p.line, err = lineStyle(c, streams.Out); err != nil {
				return err
			}
			if p.compare = sortKeys[c.String("sort")]; p.compare == nil {
				return usagef("it is one of "+strings.Join(sortNames, ", "), "--sort %s: nothing to sort by", oneWord(c.String("sort")))
			}
			every, err := watchEvery(c, s)
			if err != nil {
				return err
			}
			return quietPipe(repeat(streams, s.name, every, func(before []byte) error { return p.show(c, s, streams, before, every > 0) }))
		},
	}
}

// watchEvery reads --watch.
func watchEvery(c *cli.Context, s subject) (time.Duration, error) {
	text := c.String("watch")
	if text == "" && !c.IsSet("watch") {
		return 0, nil
	}
	d, err := parseTimeout(text)
	if err != nil || d < 10*time.Millisecond {
		return 0, usagef("a duration is written as 1s or 500ms; the shortest is 10ms", "--watch %q: not a duration", text)
	}
	if s.client == nil {
		return 0, usagef(`"tcpbox log -f FILE" follows one`, "--watch is for a sandbox that runs, and %q is a recording", s.file)
	}
	return d, nil
}

// repeat calls f again and again, or once if every is zero. On a terminal each time
// takes the place of the one before, by what f is to print before its own. The end of
// the sandbox called name is the end of that, and is told.
func repeat(streams Streams, name string, every time.Duration, f func(before []byte) error) error {
	if every == 0 {
		return f(nil)
	}
	var before []byte
	if isTerminal(streams.Out) {
		before = []byte("\x1b[H\x1b[J") // home, and nothing below
	}
	for first := true; ; first = false {
		if err := f(before); err != nil {
			if !first && errors.Is(err, control.ErrEnded) {
				fmt.Fprintf(streams.Err, "tcpbox: sandbox %q has ended\n", name)
				return nil
			}
			return err
		}
		time.Sleep(every)
	}
}

// ssPrinter prints the rows that a filter chooses.
type ssPrinter struct {
	out     *os.File
	line    view.Line
	filter  statelog.Filter
	json    bool
	closed  bool
	compare func(a, b *legs.Row) int
}

// maxEndedShown is how many connections of a recording that have ended are kept.
const maxEndedShown = 100_000

// show prints the rows as they are now. Of a recording that is as they were at its
// end, those included that had ended.
func (p *ssPrinter) show(c *cli.Context, s subject, streams Streams, before []byte, again bool) error {
	ended := p.closed || s.client == nil
	rec, err := s.open(c.Context, tcpbox.FollowOptions{Rows: true, Ended: ended, Past: true}, streams)
	if err != nil {
		return err
	}
	table := legs.Table{MaxEnded: maxEndedShown}
	err = rec.read(rec.from(), func(r *statelog.Record) error {
		table.Add(r)
		return nil
	})
	if err = errors.Join(err, rec.end()); err != nil {
		return err
	}
	now := table.Last()
	if s.client != nil {
		now = time.Now()
	}
	rows := table.Rows(p.filter, ended)
	if p.filter.IsZero() {
		rows = slices.DeleteFunc(rows, isResolver)
	}
	slices.SortStableFunc(rows, func(a, b legs.Row) int { return p.compare(&a, &b) })
	if p.json {
		return p.printJSON(rows, now, table.Missed(), again)
	}
	text := p.line.Rows(nil, rows, now)
	if again && !isTerminal(p.out) {
		text = append(text, '\n')
	}
	if err := writeScreen(p.out, before, text); err != nil {
		return err
	}
	tellMissed(streams, table.Missed())
	return nil
}

// isResolver reports whether a row is that of the sandbox's own resolver, which
// listens in every sandbox and says nothing of the command.
func isResolver(r legs.Row) bool {
	return r.Leg(tcpstate.Guest).Since.IsZero() && !r.Peer.IsValid() && r.Guest.Port() == tcpbox.ResolverPort
}

func tellMissed(streams Streams, m legs.Missed) {
	warn := func(n uint64, text string) {
		if n > 0 {
			fmt.Fprintf(streams.Err, "tcpbox: warning: "+text+"\n", n)
		}
	}
	warn(m.Dropped, "the log lacks %d records: some of what is shown may be out of date")
	warn(m.Records, "there are too many connections: %d records of further ones are not shown")
	warn(m.Ended, "%d connections that ended earlier are not shown")
}

var sortNames = []string{"conn", "age", "bytes", "state", "peer", "process", "name"}

// sortKeys are the orders: by age and bytes the greatest first.
var sortKeys = map[string]func(a, b *legs.Row) int{
	"conn": func(_, _ *legs.Row) int { return 0 }, // as they are
	"age":  func(a, b *legs.Row) int { return a.Since().Compare(b.Since()) },
	"bytes": func(a, b *legs.Row) int {
		sum := func(r *legs.Row) uint64 {
			if r.Bytes == nil {
				return 0
			}
			return r.Bytes.Outbound + r.Bytes.Inbound
		}
		return cmp.Compare(sum(b), sum(a))
	},
	"state": func(a, b *legs.Row) int {
		for _, leg := range tcpstate.Legs() {
			if c := cmp.Compare(a.Leg(leg).State, b.Leg(leg).State); c != 0 {
				return c
			}
		}
		return 0
	},
	"peer":    func(a, b *legs.Row) int { return a.Peer.Compare(b.Peer) },
	"process": func(a, b *legs.Row) int { return cmp.Or(cmp.Compare(a.Command, b.Command), cmp.Compare(a.PID, b.PID)) },
	"name":    func(a, b *legs.Row) int { return cmp.Compare(a.Name, b.Name) },
}

// ssJSON is the form of ss --json, version 1. What is not known is null.
type ssJSON struct {
	V           int       `json:"v"`
	Time        time.Time `json:"time"`
	Missing     uint64    `json:"missing_records"`
	Connections []rowJSON `json:"connections"`
}

type rowJSON struct {
	Sandbox   string              `json:"sandbox"`
	Conn      tcpstate.Conn       `json:"conn"`
	Direction *tcpstate.Direction `json:"direction"`
	Guest     *legJSON            `json:"guest"`
	Stack     *legJSON            `json:"stack"`
	Upstream  *legJSON            `json:"upstream"`
	Began     time.Time           `json:"began"`
	GuestAddr *netip.AddrPort     `json:"guest_addr"`
	PeerAddr  *netip.AddrPort     `json:"peer_addr"`
	HostAddr  *netip.AddrPort     `json:"host_addr"`
	FarAddr   *netip.AddrPort     `json:"far_addr"`
	PID       *int                `json:"pid"`
	Command   *string             `json:"command"`
	Name      *string             `json:"name"`
	Rule      *string             `json:"rule"`
	BytesOut  *uint64             `json:"bytes_out"`
	BytesIn   *uint64             `json:"bytes_in"`
	ClosedBy  *tcpstate.Leg       `json:"closed_by"`
	ClosedHow *tcpstate.How       `json:"closed_how"`
	RTT       *float64            `json:"rtt"` // seconds
	Again     *uint32             `json:"retransmits"`
	Frozen    bool                `json:"frozen"`
}

type legJSON struct {
	State  tcpstate.State  `json:"state"`
	Since  time.Time       `json:"since"`
	Source tcpstate.Source `json:"source"`
}

func (p *ssPrinter) printJSON(rows []legs.Row, now time.Time, m legs.Missed, again bool) error {
	j := ssJSON{V: 1, Time: now.UTC(), Missing: m.Dropped + m.Records, Connections: []rowJSON{}}
	for i := range rows {
		j.Connections = append(j.Connections, newRowJSON(&rows[i]))
	}
	if again {
		return json.NewEncoder(p.out).Encode(j) // one line each time
	}
	return printJSON(p.out, j)
}

// known is a pointer to v, or nil for the zero value.
func known[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

func newRowJSON(r *legs.Row) rowJSON {
	leg := func(l tcpstate.Leg) *legJSON {
		s := r.Leg(l)
		if s.Since.IsZero() {
			return nil
		}
		return &legJSON{s.State, s.Since.UTC(), s.Source}
	}
	j := rowJSON{
		Sandbox: r.Sandbox, Conn: r.Conn, Direction: known(r.Direction), Began: r.Began.UTC(),
		Guest: leg(tcpstate.Guest), Stack: leg(tcpstate.Stack), Upstream: leg(tcpstate.Upstream),
		GuestAddr: known(r.Facts.Guest), PeerAddr: known(r.Facts.Peer), HostAddr: known(r.HostLocal), FarAddr: known(r.HostRemote),
		PID: known(r.PID), Command: known(r.Command), Name: known(r.Name), Rule: known(r.Rule),
		Frozen: r.Held(),
	}
	if b := r.Bytes; b != nil {
		j.BytesOut, j.BytesIn = &b.Outbound, &b.Inbound
	}
	if c := r.Closed; c != nil {
		j.ClosedBy, j.ClosedHow = &c.By, &c.How
	}
	if p := r.Path; p != nil {
		rtt := p.RTT.Seconds()
		j.RTT, j.Again = &rtt, &p.Retransmits
	}
	return j
}
