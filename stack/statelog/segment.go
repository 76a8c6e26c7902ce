package statelog

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

// Segment is the other kind of line: the header of a TCP segment that passed
// between guest and stack.
type Segment struct {
	Time    time.Time // when it passed
	Sandbox string
	Conn    tcpstate.Conn // 0: no number was given
	Sender  tcpstate.Leg  // Guest or Stack
	Src     netip.AddrPort
	Dst     netip.AddrPort

	// Header are the bytes of the TCP header, from 20 to 60.
	Header []byte

	// Partial: the checksum in Header is not complete, it was left to the device.
	Partial bool

	Payload int // bytes behind the header
	GSOSize int // payload of each segment, if it is a super-segment; else 0

	// Skipped is how many segments of the connection passed just before this one
	// and were not kept.
	Skipped uint64

	// Lost: it was dropped on its way on purpose, and never arrived.
	Lost bool
}

// TCP reads the header.
func (s *Segment) TCP() (packet.TCPHeader, error) {
	_, _, h, err := packet.ParseTCP(s.Header)
	return h, err
}

// maxPayload is the payload of the longest super-segment.
const maxPayload = 0xffff

// check finds what cannot be in a segment.
func (s *Segment) check() error {
	switch {
	case s.Sender != tcpstate.Guest && s.Sender != tcpstate.Stack:
		return fmt.Errorf("\"segment\": %v sends none here", s.Sender)
	case !s.Src.IsValid() || !s.Dst.IsValid():
		return errors.New("an end of the segment has no address")
	case s.Payload < 0 || s.Payload > maxPayload || s.GSOSize < 0 || s.GSOSize > maxPayload:
		return errors.New("a payload of an impossible length")
	}
	src, dst, _, err := packet.ParseTCP(s.Header)
	switch {
	case err != nil:
		return fmt.Errorf("\"header\": %w", err)
	case len(s.Header) != int(s.Header[12]>>4)*4:
		return errors.New("\"header\": something follows it")
	case src != s.Src.Port() || dst != s.Dst.Port():
		return errors.New("\"header\": it has other ports than \"src\" and \"dst\"")
	}
	return nil
}

// AppendSegment appends s as one line of the log, with its line end, and returns
// the extended buffer.
func AppendSegment(b []byte, s *Segment) []byte {
	b = append(b, `{"v":1,"time":"`...)
	b = appendTime(b, s.Time)
	b = append(b, `","sandbox":`...)
	b = appendString(b, s.Sandbox)
	b = append(b, `,"conn":`...)
	b = strconv.AppendUint(b, uint64(s.Conn), 10)
	b = append(b, `,"segment":"`...)
	b = append(b, s.Sender.String()...)
	b = append(b, `","src":`...)
	b = appendAddrPort(b, s.Src)
	b = append(b, `,"dst":`...)
	b = appendAddrPort(b, s.Dst)
	b = append(b, `,"header":"`...)
	b = hex.AppendEncode(b, s.Header)
	b = append(b, `","partial":`...)
	b = strconv.AppendBool(b, s.Partial)
	b = append(b, `,"payload":`...)
	b = strconv.AppendInt(b, int64(s.Payload), 10)
	b = append(b, `,"gso":`...)
	b = strconv.AppendInt(b, int64(s.GSOSize), 10)
	b = append(b, `,"skipped":`...)
	b = strconv.AppendUint(b, s.Skipped, 10)
	b = append(b, `,"lost":`...)
	b = strconv.AppendBool(b, s.Lost)
	return append(b, "}\n"...)
}

// segmentKey is in every line of a segment and in no other: within a string the
// quotes would be escaped.
var segmentKey = []byte(`"segment":`)

// isSegment reports whether a line is to be read by ParseSegment.
func isSegment(line []byte) bool { return bytes.Contains(line, segmentKey) }

// segmentFields is a segment's line as it is decoded; nil is a field that is not
// there.
type segmentFields struct {
	V       *int            `json:"v"`
	Time    *time.Time      `json:"time"`
	Sandbox *string         `json:"sandbox"`
	Conn    *tcpstate.Conn  `json:"conn"`
	Sender  *tcpstate.Leg   `json:"segment"`
	Src     *netip.AddrPort `json:"src"`
	Dst     *netip.AddrPort `json:"dst"`
	Header  *string         `json:"header"`
	Partial *bool           `json:"partial"`
	Payload *int            `json:"payload"`
	GSOSize *int            `json:"gso"`
	Skipped *uint64         `json:"skipped"`
	Lost    *bool           `json:"lost"`
}

// ParseSegment returns the segment that line holds, which has nothing before or
// after it. All fields must be there and no others.
func ParseSegment(line []byte) (Segment, error) {
	var f segmentFields
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&f)
	if f.V != nil && *f.V != Version {
		return Segment{}, fmt.Errorf("%w: %d", ErrVersion, *f.V)
	}
	switch {
	case err != nil:
		return Segment{}, err
	case decoder.InputOffset() != int64(len(line)):
		return Segment{}, errors.New("something follows the segment")
	}
	for _, field := range []struct {
		name  string
		there bool
	}{
		{"v", f.V != nil},
		{"time", f.Time != nil},
		{"sandbox", f.Sandbox != nil},
		{"conn", f.Conn != nil},
		{"segment", f.Sender != nil},
		{"src", f.Src != nil},
		{"dst", f.Dst != nil},
		{"header", f.Header != nil},
		{"partial", f.Partial != nil},
		{"payload", f.Payload != nil},
		{"gso", f.GSOSize != nil},
		{"skipped", f.Skipped != nil},
		{"lost", f.Lost != nil},
	} {
		if !field.there {
			return Segment{}, missing(field.name)
		}
	}
	header, err := hex.DecodeString(*f.Header)
	if err != nil {
		return Segment{}, fmt.Errorf("\"header\": %w", err)
	}
	s := Segment{
		Time: f.Time.UTC(), Sandbox: *f.Sandbox, Conn: *f.Conn, Sender: *f.Sender, Src: *f.Src, Dst: *f.Dst,
		Header: header, Partial: *f.Partial, Payload: *f.Payload, GSOSize: *f.GSOSize, Skipped: *f.Skipped, Lost: *f.Lost,
	}
	if err := checkYear(s.Time); err != nil {
		return Segment{}, err
	}
	return s, s.check()
}

// WriteSegments takes segments to be written behind what was handed over before.
// It never waits, and counts what does not fit.
func (w *Writer) WriteSegments(segments []Segment) {
	w.mu.Lock()
	for i := range segments {
		w.addSegmentLocked(&segments[i])
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *Writer) addSegmentLocked(s *Segment) {
	if w.closed {
		w.lostSegments++
		return
	}
	before := len(w.pending)
	w.pending = AppendSegment(w.pending, s)
	if len(w.pending) > w.opt.BufferBytes {
		w.pending = w.pending[:before]
		w.lostSegments++
	}
}

// LostSegments returns how many segments did not fit. A trace that lacks some is
// no reason to doubt the records.
func (w *Writer) LostSegments() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lostSegments
}
