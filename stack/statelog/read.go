package statelog

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"tcpbox/stack/tcpstate"
)

// MaxLineBytes is the longest line that a Reader takes. Lines that a Writer
// writes have about 300 bytes.
const MaxLineBytes = 64 << 10

// LineError says what is wrong with one line of a log. The Reader has passed
// over that line and can go on.
type LineError struct {
	Line int // from 1
	Err  error
}

// Error implements error.
func (e *LineError) Error() string { return fmt.Sprintf("statelog: line %d: %v", e.Line, e.Err) }

// Unwrap returns what is wrong without the line's number.
func (e *LineError) Unwrap() error { return e.Err }

// Faults of a line that callers may want to tell from others.
var (
	ErrLineTooLong = fmt.Errorf("longer than %d bytes", MaxLineBytes)
	ErrUnfinished  = errors.New("the last line has no end") // still being written, or cut off
	ErrVersion     = errors.New("not of version 1")
)

// Reader reads the records of a log, in constant memory.
type Reader struct {
	// OnSegment is called with each segment of the log, in its place among the
	// records. Nil passes over them, unread.
	OnSegment func(Segment) error

	in   *bufio.Reader
	line int
}

// NewReader returns a Reader of r, from which it may read ahead.
func NewReader(r io.Reader) *Reader {
	return &Reader{in: bufio.NewReaderSize(r, MaxLineBytes)}
}

// Next returns the next record; io.EOF at the end, a *LineError for a line that
// is no record, and any other error of the underlying reader as it is. After a
// *LineError it may be called again. Empty lines are passed over.
func (r *Reader) Next() (Record, error) {
	for {
		line, err := r.in.ReadSlice('\n')
		if len(line) > 0 {
			r.line++
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = r.in.ReadSlice('\n')
			}
			if err != nil && !errors.Is(err, io.EOF) {
				return Record{}, err
			}
			return Record{}, &LineError{r.line, ErrLineTooLong}
		case err != nil && !errors.Is(err, io.EOF):
			return Record{}, err
		case errors.Is(err, io.EOF) && len(line) == 0:
			return Record{}, io.EOF
		}
		text := bytes.TrimSpace(line)
		if len(text) == 0 {
			continue
		}
		var rec Record
		var parseErr error
		if isSegment(text) {
			if parseErr = r.segment(text); parseErr == nil {
				continue
			}
			var taken *takeError
			if errors.As(parseErr, &taken) {
				return Record{}, taken.err
			}
		} else if rec, parseErr = Parse(text); parseErr == nil {
			return rec, nil
		}
		if errors.Is(err, io.EOF) {
			parseErr = fmt.Errorf("%w: %w", ErrUnfinished, parseErr)
		}
		return Record{}, &LineError{r.line, parseErr}
	}
}

// segment gives the segment that line holds to OnSegment.
func (r *Reader) segment(line []byte) error {
	if r.OnSegment == nil && line[len(line)-1] == '}' {
		return nil
	}
	s, err := ParseSegment(line)
	if err != nil || r.OnSegment == nil {
		return err
	}
	if err := r.OnSegment(s); err != nil {
		return &takeError{err}
	}
	return nil
}

// takeError is an error of OnSegment.
type takeError struct{ err error }

func (e *takeError) Error() string { return e.err.Error() }

// fields is a line as it is decoded; nil is a field that is not there.
type fields struct {
	V       *int             `json:"v"`
	Time    *time.Time       `json:"time"`
	Sandbox *string          `json:"sandbox"`
	Dropped *uint64          `json:"dropped"`
	Conn    *tcpstate.Conn   `json:"conn"`
	Facts   *factsJSON       `json:"facts"`
	Set     *changeJSON      `json:"set"`
	Leg     *tcpstate.Leg    `json:"leg"`
	Local   *netip.AddrPort  `json:"local"`
	Remote  *netip.AddrPort  `json:"remote"`
	From    *stateText       `json:"from"`
	To      *stateText       `json:"to"`
	Cause   *tcpstate.Cause  `json:"cause"`
	Source  *tcpstate.Source `json:"source"`
	Age     *json.Number     `json:"age"`
}

// stateText is a State that is decoded fast when it is spelled as RFC 9293 does.
type stateText tcpstate.State

var stateByName = func() map[string]stateText {
	m := map[string]stateText{tcpstate.Unknown.String(): stateText(tcpstate.Unknown)}
	for _, s := range tcpstate.All() {
		m[s.String()] = stateText(s)
	}
	return m
}()

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *stateText) UnmarshalText(text []byte) error {
	if known, ok := stateByName[string(text)]; ok {
		*s = known
		return nil
	}
	return (*tcpstate.State)(s).UnmarshalText(text)
}

// Parse returns the record that line holds, which has nothing before or after
// it. All fields of its kind must be there and no others.
func Parse(line []byte) (Record, error) {
	var f fields
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&f)
	if f.V != nil && *f.V != Version {
		return Record{}, fmt.Errorf("%w: %d", ErrVersion, *f.V)
	}
	switch {
	case err != nil:
		return Record{}, err
	case decoder.InputOffset() != int64(len(line)):
		return Record{}, errors.New("something follows the record")
	case f.V == nil:
		return Record{}, missing("v")
	}
	return f.record()
}

// record checks that the right fields are there and returns the record.
func (f *fields) record() (Record, error) {
	type field struct {
		name  string
		there bool
	}
	transition := []field{
		{"leg", f.Leg != nil},
		{"local", f.Local != nil},
		{"remote", f.Remote != nil},
		{"from", f.From != nil},
		{"to", f.To != nil},
		{"cause", f.Cause != nil},
		{"source", f.Source != nil},
		{"age", f.Age != nil},
	}
	switch {
	case f.Time == nil:
		return Record{}, missing("time")
	case f.Sandbox == nil:
		return Record{}, missing("sandbox")
	}
	rec := Record{Time: f.Time.UTC(), Sandbox: *f.Sandbox}
	if err := checkYear(rec.Time); err != nil {
		return Record{}, err
	}
	if f.Dropped != nil {
		for _, field := range append(transition, field{"conn", f.Conn != nil}, field{"facts", f.Facts != nil}, field{"set", f.Set != nil}) {
			if field.there {
				return Record{}, fmt.Errorf("%q has no place beside \"dropped\"", field.name)
			}
		}
		if rec.Dropped = *f.Dropped; rec.Dropped == 0 {
			return Record{}, errors.New("\"dropped\" is zero")
		}
		return rec, nil
	}
	if f.Set != nil {
		for _, field := range append(transition, field{"conn", f.Conn != nil}, field{"facts", f.Facts != nil}) {
			if field.there {
				return Record{}, fmt.Errorf("%q has no place beside \"set\"", field.name)
			}
		}
		var err error
		rec.Set, err = f.Set.change(rec.Time)
		return rec, err
	}
	if f.Conn == nil {
		return Record{}, missing("conn")
	}
	rec.Conn = *f.Conn
	if f.Facts != nil {
		for _, field := range transition {
			if field.there {
				return Record{}, fmt.Errorf("%q has no place beside \"facts\"", field.name)
			}
		}
		var err error
		rec.Facts, err = f.Facts.facts(rec.Time, rec.Conn)
		return rec, err
	}
	for _, field := range transition {
		if !field.there {
			return Record{}, missing(field.name)
		}
	}
	rec.Leg, rec.Local, rec.Remote = *f.Leg, *f.Local, *f.Remote
	rec.From, rec.To, rec.Cause, rec.Source = tcpstate.State(*f.From), tcpstate.State(*f.To), *f.Cause, *f.Source
	var err error
	rec.Age, err = parseSeconds("age", f.Age.String())
	return rec, err
}

// checkYear refuses a time that RFC 3339, section 1, cannot write.
func checkYear(t time.Time) error {
	if y := t.Year(); y < 0 || y > 9999 {
		return fmt.Errorf("\"time\": the year %d cannot be written", y)
	}
	return nil
}

func missing(field string) error { return fmt.Errorf("%q is missing", field) }

// parseSeconds reads a JSON number of seconds. Nine decimals are kept exactly;
// others that tools make of them, such as 1.2e-05, as exactly as a float64 is.
func parseSeconds(field, text string) (time.Duration, error) {
	whole, fraction, _ := strings.Cut(strings.TrimPrefix(text, "-"), ".")
	seconds, err := strconv.ParseUint(whole, 10, 64)
	if err != nil || len(fraction) > 9 || strings.ContainsAny(fraction, "eE") {
		float, err := strconv.ParseFloat(text, 64)
		if ns := math.Round(float * 1e9); err == nil && math.Abs(ns) < math.MaxInt64 {
			return time.Duration(ns), nil
		}
		return 0, fmt.Errorf("%q: %q is out of range", field, text)
	}
	ns := uint64(0)
	if fraction != "" {
		if ns, err = strconv.ParseUint((fraction + "00000000")[:9], 10, 64); err != nil {
			return 0, fmt.Errorf("%q: %q is not a number", field, text)
		}
	}
	if seconds > (math.MaxInt64-ns)/uint64(time.Second) {
		return 0, fmt.Errorf("%q: %q is out of range", field, text)
	}
	d := time.Duration(seconds*uint64(time.Second) + ns)
	if text[0] == '-' {
		d = -d
	}
	return d, nil
}
