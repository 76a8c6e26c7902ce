package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"tcpbox/stack/statelog"
)

// maxDamageTold is how many damaged lines are told of one by one. A file that
// is no log at all has millions.
const maxDamageTold = 20

// recording is a state log that is read: a file, or standard input, or what a
// sandbox sends.
type recording struct {
	name   string
	file   *os.File
	live   io.ReadCloser // nil unless it is a sandbox that sends
	opened bool          // by us
	older  []older       // what was written before, and has not been read yet
	errs   io.Writer
	good   uint64
	bad    uint64
	damage error // the first damaged line

	onSegment func(statelog.Segment) error // nil passes over them
}

// openRecording opens FILE, and with it what was written before it was rotated, or
// takes standard input for "-".
func openRecording(name string, streams Streams) (*recording, error) {
	if name == "-" {
		return &recording{name: "standard input", file: streams.In, errs: streams.Err}, nil
	}
	f, err := os.Open(name)
	if err == nil {
		var st fs.FileInfo
		if st, err = f.Stat(); err == nil && st.IsDir() {
			err = syscall.EISDIR
		}
		if err != nil {
			f.Close() //nolint:gosec // nothing was written
		}
	}
	if err != nil {
		return nil, cannotRead(name, err)
	}
	return &recording{name: name, file: f, opened: true, older: openOlder(name, f, streams.Err), errs: streams.Err}, nil
}

// cannotRead says why a recording cannot be read.
func cannotRead(name string, err error) error {
	hint := `a recording is what "tcpbox run --log FILE" writes`
	var errno syscall.Errno
	if errors.As(err, &errno) {
		err = errno
	}
	return usagef(hint, "cannot read %q: %v", name, err)
}

// read gives each record to take, until the end or until take or reading fails.
// Damaged lines are told and passed over; it is an error if there is nothing
// else. Earlier files of a rotated recording come first.
func (r *recording) read(in io.Reader, take func(*statelog.Record) error) error {
	if err := r.readOlder(take); err != nil {
		return err
	}
	return r.readFrom(in, take)
}

func (r *recording) readFrom(in io.Reader, take func(*statelog.Record) error) error {
	reader := statelog.NewReader(in)
	reader.OnSegment = r.onSegment
	for {
		rec, err := reader.Next()
		var line *statelog.LineError
		switch {
		case err == nil:
			r.good++
			if err := take(&rec); err != nil {
				return err
			}
		case errors.As(err, &line):
			r.damaged(line)
		case errors.Is(err, io.EOF):
			return nil
		case errors.As(err, new(*printError)):
			return err
		default:
			return fmt.Errorf("read %s: %w", r.name, err)
		}
	}
}

// damaged tells of a line that is no record.
func (r *recording) damaged(line *statelog.LineError) {
	if r.bad++; r.bad == 1 {
		r.damage = line
	}
	switch {
	case r.bad <= maxDamageTold:
		fmt.Fprintf(r.errs, "tcpbox: warning: %s: line %d: %s; passed over\n", printable(r.name), line.Line, oneLine(printableText(line.Err.Error())))
	case r.bad == maxDamageTold+1:
		fmt.Fprintf(r.errs, "tcpbox: warning: %s: there are more such lines, which are only counted\n", printable(r.name))
	}
}

// end closes the recording and says whether it was one.
func (r *recording) end() error {
	if r.live != nil {
		r.live.Close()
	}
	for _, o := range r.older {
		o.file.Close() //nolint:gosec // nothing was written
	}
	if r.opened {
		r.file.Close() //nolint:gosec // nothing was written
	}
	if r.bad > maxDamageTold {
		fmt.Fprintf(r.errs, "tcpbox: warning: %s: %d damaged lines in all\n", printable(r.name), r.bad)
	}
	if r.good > 0 || r.bad == 0 {
		return nil
	}
	hint := `a recording is what "tcpbox run --log FILE" writes; see docs/state-log.md`
	if errors.Is(r.damage, statelog.ErrVersion) {
		hint = fmt.Sprintf("this tcpbox reads version %d; a newer one may read it", statelog.Version)
	}
	return usagef(hint, "%s holds no record that can be read", printable(r.name))
}

// printableText takes out of a message what a terminal would obey.
func printableText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// parseFilter reads the words of a command line that are a filter.
func parseFilter(words []string) (statelog.Filter, error) {
	f, err := statelog.ParseFilter(strings.Join(words, " "))
	var fault *statelog.FilterError
	if errors.As(err, &fault) {
		return f, filterUsage(fault)
	}
	return f, err
}

// filterUsage adds to a fault of a filter what the word was meant to be.
func filterUsage(fault *statelog.FilterError) error {
	hint := `see "tcpbox help log"`
	var small []string
	for _, k := range fault.Known {
		small = append(small, strings.ToLower(k))
	}
	if near := nearest(strings.ToLower(fault.Word), small); near != "" && len(fault.Word) < 64 {
		for _, k := range fault.Known {
			if strings.ToLower(k) == near {
				hint = fmt.Sprintf("did you mean %q?", k)
			}
		}
	} else if len(fault.Known) > 0 {
		hint = "it is one of " + strings.Join(fault.Known, ", ")
	}
	return usagef(hint, "%s", strings.TrimPrefix(fault.Error(), "statelog: "))
}
