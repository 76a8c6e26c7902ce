package statelog

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

func someSegment() Segment {
	src, dst := netip.MustParseAddrPort("198.18.0.2:40001"), netip.MustParseAddrPort("198.18.0.16:80")
	b := packet.Build{Src: src, Dst: dst, Flags: packet.SYN, Seq: 7, Window: 100, Options: packet.MSS(1460)}.Bytes()
	return Segment{
		Time: time.Unix(1, 5).UTC(), Sandbox: `w"eb`, Conn: 17, Sender: tcpstate.Guest, Src: src, Dst: dst,
		Header: b[20:], Partial: true, Payload: 900, GSOSize: 300, Skipped: 3, Lost: true,
	}
}

const segmentLine = `{"v":1,"time":"1970-01-01T00:00:01.000000005Z","sandbox":"w\"eb","conn":17,"segment":"guest","src":"198.18.0.2:40001","dst":"198.18.0.16:80","header":"9c4100500000000700000000600200646ef30000020405b4","partial":true,"payload":900,"gso":300,"skipped":3,"lost":true}` + "\n"

func TestSegmentIsItsOwnInverse(t *testing.T) {
	s := someSegment()
	line := AppendSegment(nil, &s)
	if string(line) != segmentLine {
		t.Errorf("AppendSegment = %s want %s", line, segmentLine)
	}
	got, err := ParseSegment(bytes.TrimSpace(line))
	if err != nil || !reflect.DeepEqual(got, s) {
		t.Errorf("ParseSegment = %+v, %v, want %+v", got, err, s)
	}
	if h, err := got.TCP(); err != nil || h.MSS != 1460 || h.Seq != 7 {
		t.Errorf("TCP = %+v, %v", h, err)
	}
}

func TestParseSegmentRefuses(t *testing.T) {
	for _, row := range []struct{ old, replacement, want string }{
		{`"v":1`, `"v":2`, "not of version 1: 2"},
		{`"payload":900,`, ``, `"payload" is missing`},
		{`"payload":900`, `"payload":-1`, "impossible length"},
		{`"payload":900`, `"payload":900,"x":1`, "unknown field"},
		{`"guest"`, `"upstream"`, "sends none"},
		{`198.18.0.2:40001`, ``, "no address"},
		{`198.18.0.2:40001`, `198.18.0.2:4001`, "other ports"},
		{`9c41`, `9z41`, "invalid byte"},
		{`020405b4"`, `020405b400"`, "something follows it"},
		{`020405b4"`, `0204"`, "cut short"},
		{`1970-`, `10000-`, "time"},
		{"}\n", "}{}", "something follows the segment"},
	} {
		line := strings.Replace(segmentLine, row.old, row.replacement, 1)
		if _, err := ParseSegment([]byte(strings.TrimSpace(line))); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("ParseSegment(%s) = %v, want %q", line, err, row.want)
		}
	}
}

// A log with segments is read by those who want them and by those who do not.
func TestReaderAndSegments(t *testing.T) {
	rec := Record{Time: time.Unix(1, 0).UTC(), Sandbox: `"segment":`, Dropped: 3}
	log := string(AppendJSON(nil, rec)) + segmentLine + strings.Replace(segmentLine, "9c41", "zz", 1) + segmentLine + string(AppendJSON(nil, rec)) + segmentLine[:50]
	read := func(take func(Segment) error) (records, damaged int, err error) {
		r := NewReader(strings.NewReader(log))
		r.OnSegment = take
		for {
			_, err := r.Next()
			var line *LineError
			switch {
			case err == nil:
				records++
			case errors.As(err, &line):
				damaged++
			case errors.Is(err, io.EOF):
				return records, damaged, nil
			default:
				return records, damaged, err
			}
		}
	}
	if records, damaged, err := read(nil); records != 2 || damaged != 1 || err != nil {
		t.Errorf("without: %d records, %d damaged, %v", records, damaged, err)
	}
	segments := 0
	if records, damaged, err := read(func(Segment) error { segments++; return nil }); records != 2 || damaged != 2 || segments != 2 || err != nil {
		t.Errorf("with: %d records, %d segments, %d damaged, %v", records, segments, damaged, err)
	}
	full := errors.New("full")
	if _, _, err := read(func(Segment) error { return full }); !errors.Is(err, full) {
		t.Errorf("a taker that fails: %v", err)
	}
}

func TestWriterWritesSegments(t *testing.T) {
	var out bytes.Buffer
	s := someSegment()
	w := NewWriter(&out, WriterOptions{BufferBytes: 3 * len(segmentLine)})
	w.WriteSegments([]Segment{s, s, s, s, s}) // at once: there is room for three
	if err := w.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	w.WriteSegments([]Segment{s})
	if out.String() != strings.Repeat(segmentLine, 3) || w.LostSegments() != 3 || w.Lost() != 0 {
		t.Errorf("wrote %q, %d segments lost, %d records lost", out.String(), w.LostSegments(), w.Lost())
	}
}

func FuzzParseSegment(f *testing.F) {
	f.Add([]byte(segmentLine[:len(segmentLine)-1]))
	f.Fuzz(func(t *testing.T, line []byte) {
		s, err := ParseSegment(line)
		if err != nil {
			return
		}
		again, err := ParseSegment(bytes.TrimSpace(AppendSegment(nil, &s)))
		if err != nil || !reflect.DeepEqual(again, s) {
			t.Errorf("%+v was read again as %+v, %v", s, again, err)
		}
	})
}
