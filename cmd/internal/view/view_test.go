package view

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func readLog(t *testing.T, path string) []statelog.Record {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var records []statelog.Record
	for r := statelog.NewReader(file); ; {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return records
		}
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, rec)
	}
}

func TestGolden(t *testing.T) {
	records := readLog(t, "testdata/sample.jsonl")
	for _, tt := range []struct {
		name string
		line Line
	}{
		{"file", Line{}},
		{"80", Line{Width: 80}},
		{"100", Line{Width: 100}},
		{"120", Line{Width: 120}},
		{"color", Line{Width: 120, Color: true}},
		{"ascii", Line{Width: 80, ASCII: true}},
		{"netstat", Line{Width: 120, Netstat: true}},
	} {
		tt.line.Location = time.UTC
		got := tt.line.Header(nil)
		for _, r := range records {
			got = tt.line.Append(got, r)
		}
		path := filepath.Join("testdata", tt.name+".golden")
		if *update {
			if err := os.WriteFile(path, got, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: got\n%swant\n%s", tt.name, got, want)
		}
		if tt.line.ASCII && strings.ContainsFunc(string(got), func(r rune) bool { return r > '~' }) {
			t.Errorf("%s: not all of it is ASCII:\n%s", tt.name, got)
		}
	}
}

func TestLinesFit(t *testing.T) {
	for _, r := range readLog(t, "testdata/sample.jsonl") {
		for width := 80; width <= 140; width++ {
			got := strings.TrimSuffix(string(Line{Width: width}.Append(nil, r)), "\n")
			if n := utf8.RuneCountInString(got); n > width {
				t.Errorf("%d columns instead of %d: %s", n, width, got)
			}
		}
	}
}

func TestAge(t *testing.T) {
	for _, tt := range []struct {
		age  time.Duration
		want string
	}{
		{-1, "0µs"},
		{0, "0µs"},
		{999_999, "999µs"},
		{time.Millisecond, "1.00ms"},
		{1_769_999, "1.76ms"},
		{17_699_999, "17.6ms"},
		{999_999_999, "999ms"},
		{time.Second, "1.00s"},
		{59_999 * time.Millisecond, "59.9s"},
		{time.Minute, "1m00s"},
		{time.Hour - 1, "59m59s"},
		{time.Hour, "1h00m"},
		{100*time.Hour - 1, "99h59m"},
		{100 * time.Hour, "4d04h"},
		{999 * 24 * time.Hour, "999d00h"},
	} {
		if got := Age(tt.age, false); got != tt.want {
			t.Errorf("Age(%v) = %q, want %q", tt.age, got, tt.want)
		}
	}
	if got := Age(time.Microsecond, true); got != "1us" {
		t.Errorf("Age(1µs) in ASCII = %q, want 1us", got)
	}
}

func TestTheGuestStandsLeft(t *testing.T) {
	guest, server, host := netip.MustParseAddrPort("198.18.0.2:40001"), netip.MustParseAddrPort("192.0.2.7:443"), netip.MustParseAddrPort("10.0.0.1:5000")
	for _, tt := range []struct {
		leg           tcpstate.Leg
		local, remote netip.AddrPort
		want          string
	}{
		{tcpstate.Guest, guest, server, "198.18.0.2:40001 → 192.0.2.7:443"},
		{tcpstate.Stack, server, guest, "198.18.0.2:40001 → 192.0.2.7:443"},
		{tcpstate.Upstream, host, server, "10.0.0.1:5000 → 192.0.2.7:443"},
		{tcpstate.Stack, server, netip.AddrPort{}, " 192.0.2.7:443"},
		{tcpstate.Stack, netip.AddrPort{}, netip.AddrPort{}, "unknown"},
	} {
		got := string(Line{}.Append(nil, statelog.Record{Leg: tt.leg, Local: tt.local, Remote: tt.remote, From: tcpstate.Established}))
		if !strings.HasSuffix(got, tt.want+"\n") {
			t.Errorf("%v: %s, want it to end in %q", tt.leg, got, tt.want)
		}
	}
}

// Whatever stands in a record, which may come from a file of a stranger, is one
// line and harmless to a terminal.
func FuzzAppend(f *testing.F) {
	f.Add("FIN", "", byte(1), byte(2), byte(5), byte(8), int64(1000), 80, uint64(0))
	f.Add("\x1b[2J\n", "\x1b]0;x\a", byte(4), byte(9), byte(99), byte(77), int64(math.MinInt64), -5, uint64(1))
	f.Fuzz(func(t *testing.T, which, zone string, kind, leg, from, to byte, age int64, width int, dropped uint64) {
		r := statelog.Record{
			Dropped: dropped, Leg: tcpstate.Leg(leg), From: tcpstate.State(from), To: tcpstate.State(to),
			Cause:  tcpstate.Cause{Kind: tcpstate.CauseKind(kind), Which: which},
			Local:  netip.AddrPortFrom(netip.IPv6Loopback().WithZone(zone), 80),
			Remote: netip.MustParseAddrPort("198.18.0.2:40001"),
			Age:    time.Duration(age),
		}
		for _, line := range []Line{{Width: width}, {Width: width, ASCII: true}, {}} {
			got := line.Append(nil, r)
			text, found := strings.CutSuffix(string(got), "\n")
			if !found || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }) {
				t.Errorf("%q is not one printable line", got)
			}
		}
	})
}

func ExampleLine() {
	r := statelog.Record{
		Time: time.Date(2026, 1, 2, 3, 4, 5, 6_000_000, time.UTC), Conn: 7, Leg: tcpstate.Stack,
		Local: netip.MustParseAddrPort("198.18.0.16:80"), Remote: netip.MustParseAddrPort("198.18.0.2:40001"),
		From: tcpstate.SynReceived, To: tcpstate.Established,
		Cause: tcpstate.Cause{Kind: tcpstate.BySegment, Which: "ACK"}, Age: 412 * time.Microsecond,
	}
	fmt.Printf("%s", Line{Location: time.UTC}.Append(nil, r))
	// Output: 03:04:05.006    #7 stack    SYN-RECEIVED → ESTABLISHED   412µs got ACK      198.18.0.2:40001 → 198.18.0.16:80
}
