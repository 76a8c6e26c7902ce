package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"tcpbox"
	"tcpbox/stack/legs"
	"tcpbox/stack/statelog"
)

func logCommand(streams Streams) *cli.Command {
	return &cli.Command{
		Name: "log", Usage: "show the TCP state transitions of a sandbox or a recording",
		Flags: append(styleFlags(),
			&cli.BoolFlag{Name: "f", Aliases: []string{"follow"}},
			&cli.StringFlag{Name: "since"},
			&cli.StringFlag{Name: "until"},
		),
		Action: func(c *cli.Context) error {
			s, filter, err := parseSubject(c)
			if err != nil {
				return err
			}
			p, err := newLogPrinter(c, filter, streams.Out)
			if err != nil {
				return err
			}
			follow := c.Bool("f")
			if err := p.learn(c, s, streams); err != nil {
				return err
			}
			rec, err := s.open(c.Context, tcpbox.FollowOptions{Last: tcpbox.MaxLast, Past: !follow}, streams)
			if err != nil {
				return err
			}
			err = p.show(rec, follow)
			return quietPipe(errors.Join(err, p.out.Flush(), rec.end()))
		},
	}
}

// quietPipe makes, of the error that nobody reads any more, the status that
// SIGPIPE gives where it is not ignored.
func quietPipe(err error) error {
	if errors.Is(err, syscall.EPIPE) {
		return exitStatus(128 + int(syscall.SIGPIPE))
	}
	return err
}

// logPrinter prints the records that a filter chooses.
type logPrinter struct {
	out    *bufio.Writer
	filter statelog.Filter
	json   bool
	table  legs.Table // joins what is known of a connection
	since  time.Time  // zero: from the beginning
	until  time.Time  // zero: to the end
	header []byte
	encode func([]byte, statelog.Record) []byte
	buffer []byte
}

// newLogPrinter reads from the flags how records are printed.
func newLogPrinter(c *cli.Context, filter statelog.Filter, out *os.File) (*logPrinter, error) {
	p := &logPrinter{out: bufio.NewWriterSize(out, 32<<10), filter: filter, encode: statelog.AppendJSON, json: c.Bool("json")}
	p.table.MaxRows, p.table.MaxEnded = maxRowsOfLog, maxEndedOfLog
	line, err := lineStyle(c, out)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	if p.since, err = parseMoment(c, "since", now); err != nil {
		return nil, err
	}
	if p.until, err = parseMoment(c, "until", now); err != nil {
		return nil, err
	}
	if !p.until.IsZero() && p.until.Before(p.since) {
		return nil, usagef("exchange them", "--until %s is before --since %s", c.String("until"), c.String("since"))
	}
	if p.json {
		return p, nil
	}
	p.header, p.encode = line.Header(nil), line.Append
	if filter.IsZero() {
		p.encode = withoutResolver(p.encode)
	}
	return p, nil
}

// learn learns what is known of the connections of a sandbox, whose beginnings may
// be longer ago than the sandbox remembers.
func (p *logPrinter) learn(c *cli.Context, s subject, streams Streams) error {
	if s.client == nil {
		return nil
	}
	rec, err := s.open(c.Context, tcpbox.FollowOptions{Rows: true, Past: true}, streams)
	if err != nil {
		return err
	}
	err = rec.read(rec.from(), func(r *statelog.Record) error {
		p.table.Add(r)
		return nil
	})
	return errors.Join(err, rec.end())
}

// show prints the recording, and follow whatever is added to it.
func (p *logPrinter) show(rec *recording, follow bool) error {
	if follow && rec.file != nil {
		if f := newFollower(rec.file); f != nil {
			return p.follow(rec, f)
		}
	}
	return rec.read(flushBefore{rec.from(), p.out.Flush}, p.print)
}

// follow ends only with an error, or with the process.
func (p *logPrinter) follow(rec *recording, f *follower) error {
	if err := p.begin(); err != nil {
		return err
	}
	for {
		if err := rec.read(flushBefore{f, p.out.Flush}, p.print); err != nil {
			return err
		}
		fmt.Fprintf(rec.errs, "tcpbox: %s was truncated; it is read from its beginning\n", printable(rec.name))
		f.at = 0
	}
}

// begin prints the header, once.
func (p *logPrinter) begin() error {
	_, err := p.out.Write(p.header)
	p.header = nil
	return err
}

func (p *logPrinter) print(r *statelog.Record) error {
	if err := p.begin(); err != nil {
		return err
	}
	row := p.table.Add(r)
	if !p.wants(r, row) {
		return nil
	}
	shown := *r
	if r.Facts != nil && row != nil && !p.json {
		// One line of facts, when it has ended, with all that is known.
		known := row.Facts
		shown.Facts = &known
	}
	p.buffer = p.encode(p.buffer[:0], shown)
	_, err := p.out.Write(p.buffer)
	return err
}

// wants reports whether a record is to be printed.
func (p *logPrinter) wants(r *statelog.Record, row *legs.Row) bool {
	if !p.since.IsZero() && r.Time.Before(p.since) || !p.until.IsZero() && r.Time.After(p.until) {
		return false
	}
	if !p.json && r.Facts != nil && r.Facts.Bytes == nil {
		return false
	}
	facts := r.Facts
	if row != nil {
		facts = &row.Facts
	}
	return p.filter.MatchKnown(r, facts)
}
