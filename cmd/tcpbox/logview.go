package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/urfave/cli/v2"

	"tcpbox/cmd/internal/view"
	"tcpbox/stack/statelog"
)

func logCommand(streams Streams) *cli.Command {
	return &cli.Command{
		Name: "log", Usage: "show the TCP state transitions of a recording",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "f", Aliases: []string{"follow"}},
			&cli.BoolFlag{Name: "json"},
			&cli.StringFlag{Name: "color", Value: "auto"},
			&cli.StringFlag{Name: "names", Value: "rfc"},
		},
		Action: func(c *cli.Context) error {
			if c.Args().First() == "" {
				return usagef("for example: tcpbox log states.jsonl state time-wait", "log takes a FILE, or - for standard input")
			}
			filter, err := parseFilter(c.Args().Tail())
			if err != nil {
				return err
			}
			p, err := newLogPrinter(c, filter, streams.Out)
			if err != nil {
				return err
			}
			rec, err := openRecording(c.Args().First(), streams)
			if err != nil {
				return err
			}
			err = p.show(rec, c.Bool("f"))
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
	header []byte
	encode func([]byte, statelog.Record) []byte
	buffer []byte
}

// newLogPrinter reads from the flags how records are printed.
func newLogPrinter(c *cli.Context, filter statelog.Filter, out *os.File) (*logPrinter, error) {
	p := &logPrinter{out: bufio.NewWriterSize(out, 32<<10), filter: filter, encode: statelog.AppendJSON}
	line, onTerminal := forTerminal(out)
	if !onTerminal {
		line = view.Line{ASCII: !utf8Locale()}
	}
	switch color := c.String("color"); color {
	case "auto":
	case "always", "never":
		line.Color = color == "always"
	default:
		return nil, usagef("it is auto, always or never", "--color %s: not a value of it", oneWord(color))
	}
	switch names := c.String("names"); names {
	case "rfc":
	case "netstat":
		line.Netstat = true
	default:
		return nil, usagef("it is rfc or netstat", "--names %s: not a value of it", oneWord(names))
	}
	if c.Bool("json") {
		if line.Netstat {
			return nil, usagef("leave one of them out", "--json has states as RFC 9293 spells them, not as --names netstat")
		}
		return p, nil
	}
	p.header, p.encode = line.Header(nil), withFacts(line.Append)
	if filter.IsZero() {
		p.encode = withoutResolver(p.encode)
	}
	return p, nil
}

// show prints the recording, and follow whatever is added to it.
func (p *logPrinter) show(rec *recording, follow bool) error {
	if follow {
		if f := newFollower(rec.file); f != nil {
			return p.follow(rec, f)
		}
	}
	return rec.read(flushBefore{rec.file, p.out.Flush}, p.print)
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
	if !p.filter.Match(r) {
		return nil
	}
	p.buffer = p.encode(p.buffer[:0], *r)
	_, err := p.out.Write(p.buffer)
	return err
}
