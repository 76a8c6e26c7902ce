package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"tcpbox/cmd/internal/view"
	"tcpbox/stack/legs"
	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

func ladderCommand(streams Streams) *cli.Command {
	return &cli.Command{
		Name: "ladder", Usage: "draw the segments of a connection, with the states of both ends",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "teach"},
			&cli.BoolFlag{Name: "decode"},
			&cli.BoolFlag{Name: "svg"},
			&cli.BoolFlag{Name: "mermaid"},
			&cli.BoolFlag{Name: "json"},
			&cli.StringFlag{Name: "names", Value: "rfc"},
			&cli.StringFlag{Name: "color", Value: "auto"},
		},
		Action: func(c *cli.Context) error {
			name, conn, err := ladderArguments(c.Args().Slice())
			if err != nil {
				return err
			}
			draw, err := ladderStyle(c, streams.Out)
			if err != nil {
				return err
			}
			lad, err := readLadder(c, name, conn, streams)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return quietPipe(printJSON(streams.Out, newLadderJSON(lad)))
			}
			_, err = streams.Out.Write(draw(lad))
			return quietPipe(err)
		},
	}
}

// ladderArguments reads [NAME|FILE] CONN.
func ladderArguments(args []string) (name string, conn tcpstate.Conn, err error) {
	const example = "for example: tcpbox ladder states.jsonl 3"
	if len(args) == 0 || len(args) > 2 || args[0] == "" {
		return "", 0, usagef(example, "ladder takes a sandbox or a FILE, and the number of a connection")
	}
	word := args[len(args)-1]
	n, err := strconv.ParseUint(strings.TrimPrefix(word, "#"), 10, 64)
	if err != nil || n == 0 {
		return "", 0, usagef(example, "%s is not the number of a connection", oneWord(word))
	}
	if len(args) == 2 {
		name = args[0]
	}
	return name, tcpstate.Conn(n), nil
}

// ladderStyle reads from the flags how the ladder is drawn.
func ladderStyle(c *cli.Context, out *os.File) (func(*legs.Ladder) []byte, error) {
	line, onTerminal := forTerminal(out)
	if !onTerminal {
		line = view.Line{ASCII: !utf8Locale()}
	}
	l := view.Ladder{Color: line.Color, ASCII: line.ASCII, Width: line.Width, Teach: c.Bool("teach"), Decode: c.Bool("decode")}
	switch color := c.String("color"); color {
	case "auto":
	case "always", "never":
		l.Color = color == "always"
	default:
		return nil, usagef("it is auto, always or never", "--color %s: not a value of it", oneWord(color))
	}
	switch names := c.String("names"); names {
	case "rfc":
	case "netstat":
		l.Netstat = true
	default:
		return nil, usagef("it is rfc or netstat", "--names %s: not a value of it", oneWord(names))
	}
	var forms []string
	for _, form := range []string{"svg", "mermaid", "json"} {
		if c.Bool(form) {
			forms = append(forms, "--"+form)
		}
	}
	switch {
	case len(forms) > 1:
		return nil, usagef("leave one of them out", "%s are different forms", strings.Join(forms, " and "))
	case len(forms) == 1 && l.Decode:
		return nil, usagef("leave one of them out", "--decode is for the text, not for %s", forms[0])
	}
	switch {
	case c.Bool("svg"):
		return func(lad *legs.Ladder) []byte { return l.SVG(nil, lad) }, nil
	case c.Bool("mermaid"):
		return func(lad *legs.Ladder) []byte { return l.Mermaid(nil, lad) }, nil
	}
	return func(lad *legs.Ladder) []byte { return l.Text(nil, lad) }, nil
}

// readLadder makes the ladder of a connection of a recording or, if there is no
// such file, of a sandbox.
func readLadder(c *cli.Context, name string, conn tcpstate.Conn, streams Streams) (*legs.Ladder, error) {
	all := legs.NewLadders(conn)
	var rec *recording
	var in io.Reader
	if name == "" || !isFile(name) {
		client, err := connect(name)
		if err != nil {
			if name != "" {
				return nil, usagef(`a recording is what "tcpbox run --log FILE" writes; the sandboxes are in "tcpbox ls"`, "there is neither a file nor a sandbox %q", name)
			}
			return nil, err
		}
		lines, err := client.Segments(c.Context, conn)
		if err != nil {
			return nil, err
		}
		rec, in = &recording{name: "the sandbox's answer", errs: streams.Err}, bytes.NewReader(lines)
	} else {
		var err error
		if rec, err = openRecording(name, streams); err != nil {
			return nil, err
		}
		in = rec.file
	}
	rec.onSegment = func(s statelog.Segment) error {
		rec.good++
		all.Segment(&s)
		return nil
	}
	err := rec.read(in, func(r *statelog.Record) error {
		all.Record(r)
		return nil
	})
	if err = errors.Join(err, rec.end()); err != nil {
		return nil, err
	}
	lad, err := all.Ladder()
	switch {
	case errors.Is(err, legs.ErrNoConn):
		return nil, usagef(`"tcpbox log" shows the numbers`, "nothing is known of a connection %d", conn)
	case errors.Is(err, legs.ErrNoSegments):
		return nil, usagef("the run needs --trace-segments", "of connection %d there are states, but no segments", conn)
	}
	return lad, err
}

// isFile reports whether a word means a file rather than a sandbox.
func isFile(name string) bool {
	if name == "-" || strings.Contains(name, "/") {
		return true
	}
	_, err := os.Stat(name)
	return err == nil
}

// ladderJSON is what ladder --json prints.
type ladderJSON struct {
	V        int           `json:"v"`
	Sandbox  string        `json:"sandbox"`
	Conn     tcpstate.Conn `json:"conn"`
	Guest    string        `json:"guest"`
	Remote   string        `json:"remote"`
	OpenedBy string        `json:"opened_by,omitempty"`
	Rungs    []rungJSON    `json:"rungs"`
}

type rungJSON struct {
	Time    string        `json:"time"`
	Segment *segmentJSON  `json:"segment,omitempty"`
	Steps   []ladderStep  `json:"steps,omitempty"`
	Notes   []ladderNotes `json:"notes,omitempty"`
}

type segmentJSON struct {
	Number  int          `json:"number"`
	Sender  tcpstate.Leg `json:"sender"`
	Flags   string       `json:"flags"`
	Seq     uint32       `json:"seq"`
	Ack     uint32       `json:"ack"`
	Payload int          `json:"payload"`
	Window  int          `json:"window"`
	Header  string       `json:"header"`
}

type ladderStep struct {
	Leg   tcpstate.Leg   `json:"leg"`
	From  tcpstate.State `json:"from"`
	To    tcpstate.State `json:"to"`
	Cause tcpstate.Cause `json:"cause"`
}

type ladderNotes struct {
	Kind legs.NoteKind `json:"kind"`
	Of   uint64        `json:"of,omitempty"`
}

func newLadderJSON(lad *legs.Ladder) ladderJSON {
	const nine = "2006-01-02T15:04:05.000000000Z"
	j := ladderJSON{V: 1, Sandbox: lad.Sandbox, Conn: lad.Conn, Guest: lad.Guest.String(), Remote: lad.Remote.String()}
	if lad.OpenedBy != 0 {
		j.OpenedBy = lad.OpenedBy.String()
	}
	for i := range lad.Rungs {
		r := &lad.Rungs[i]
		one := rungJSON{Time: r.Time.UTC().Format(nine)}
		if s := r.Segment; s != nil {
			one.Segment = &segmentJSON{r.Number, s.Sender, r.TCP.Flags.String(), r.Seq, r.Ack, s.Payload, r.Window, fmt.Sprintf("%x", s.Header)}
		}
		for _, s := range r.Steps {
			one.Steps = append(one.Steps, ladderStep{s.Leg, s.From, s.To, s.Cause})
		}
		for _, n := range r.Notes {
			one.Notes = append(one.Notes, ladderNotes{n.Kind, n.Of})
		}
		j.Rungs = append(j.Rungs, one)
	}
	return j
}
