package statelog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"tcpbox/stack/tcpstate"
)

var testTime = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)

func testTransition() tcpstate.Transition {
	return tcpstate.Transition{
		Time: testTime, Conn: 17, Leg: tcpstate.Stack,
		Local:  netip.MustParseAddrPort("198.18.0.16:80"),
		Remote: netip.MustParseAddrPort("198.18.0.2:40001"),
		From:   tcpstate.Established, To: tcpstate.CloseWait,
		Cause:  tcpstate.Cause{Kind: tcpstate.BySegment, Which: "FIN"},
		Source: tcpstate.FromStack, Age: 1_234_567,
	}
}

func testRecord() Record {
	it := Item{Transition: testTransition()}
	return it.Record("web")
}

func testFacts() Record {
	return (&Item{Facts: &tcpstate.Facts{
		Time: testTime, Conn: 17, Direction: tcpstate.Outbound,
		Guest: netip.MustParseAddrPort("198.18.0.2:40001"), Peer: netip.MustParseAddrPort("198.18.0.16:80"),
		PID: 4711, Command: "my curl", Name: "web", Rule: "net public",
		Bytes: &tcpstate.Bytes{Outbound: 83}, Closed: &tcpstate.Ending{By: tcpstate.Guest, How: tcpstate.ByFIN},
		Path: &tcpstate.Path{RTT: 412 * time.Microsecond},
	}}).Record("web")
}

func TestTheFormOfALine(t *testing.T) {
	listener := testRecord()
	listener.Remote, listener.From, listener.To = netip.AddrPort{}, tcpstate.Closed, tcpstate.Listen
	listener.Cause, listener.Age = tcpstate.Cause{Kind: tcpstate.ByCall, Which: "listen"}, 0
	const begin = `{"v":1,"time":"2026-01-02T03:04:05.000000006Z","sandbox":"web","conn":17,"facts":{`
	tests := []struct {
		record Record
		want   string
	}{
		{testFacts(), begin + `"guest":"198.18.0.2:40001","peer":"198.18.0.16:80","direction":"outbound",` +
			`"pid":4711,"command":"my curl","name":"web","rule":"net public","bytes_out":83,"bytes_in":0,` +
			`"closed_by":"guest","closed_how":"FIN","rtt":0.000412000,"retransmits":0}}`},
		{Record{Time: testTime, Sandbox: "web", Conn: 17, Facts: &tcpstate.Facts{PID: 3}}, begin + `"pid":3}}`},
		{Record{Time: testTime, Sandbox: "web", Conn: 17, Facts: &tcpstate.Facts{}}, begin + `}}`},
		{testRecord(), `{"v":1,"time":"2026-01-02T03:04:05.000000006Z","sandbox":"web","conn":17,"leg":"stack",` +
			`"local":"198.18.0.16:80","remote":"198.18.0.2:40001","from":"ESTABLISHED","to":"CLOSE-WAIT",` +
			`"cause":"segment FIN","source":"stack","age":0.001234567}`},
		{listener, `{"v":1,"time":"2026-01-02T03:04:05.000000006Z","sandbox":"web","conn":17,"leg":"stack",` +
			`"local":"198.18.0.16:80","remote":"","from":"CLOSED","to":"LISTEN",` +
			`"cause":"call listen","source":"stack","age":0.000000000}`},
		{
			(&Item{Set: &tcpstate.Change{Time: testTime, Leg: tcpstate.Stack, Key: "fin-timeout", From: "1m", To: "5s"}}).Record("web"),
			`{"v":1,"time":"2026-01-02T03:04:05.000000006Z","sandbox":"web","set":{"leg":"stack","key":"fin-timeout","from":"1m","to":"5s"}}`,
		},
		{
			Record{Time: testTime, Sandbox: "web", Set: &tcpstate.Change{Key: "policy", To: "net none"}},
			`{"v":1,"time":"2026-01-02T03:04:05.000000006Z","sandbox":"web","set":{"key":"policy","to":"net none"}}`,
		},
		{
			Record{Time: testTime.In(time.FixedZone("", 3600)), Sandbox: "web", Dropped: 3},
			`{"v":1,"time":"2026-01-02T03:04:05.000000006Z","sandbox":"web","dropped":3}`,
		},
	}
	for _, tt := range tests {
		if got := string(AppendJSON(nil, tt.record)); got != tt.want+"\n" {
			t.Errorf("AppendJSON =\n%swant\n%s", got, tt.want)
		}
	}
}

// asJSON is a Record for encoding/json, to compare with.
type asJSON struct {
	V       int             `json:"v"`
	Time    string          `json:"time"`
	Sandbox string          `json:"sandbox"`
	Conn    tcpstate.Conn   `json:"conn"`
	Leg     tcpstate.Leg    `json:"leg"`
	Local   netip.AddrPort  `json:"local"`
	Remote  netip.AddrPort  `json:"remote"`
	From    tcpstate.State  `json:"from"`
	To      tcpstate.State  `json:"to"`
	Cause   tcpstate.Cause  `json:"cause"`
	Source  tcpstate.Source `json:"source"`
	Age     json.Number     `json:"age"`
}

func viaEncodingJSON(t *testing.T, r Record) string {
	t.Helper()
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	seconds := fmt.Sprintf("%d.%09d", r.Age/time.Second, r.Age%time.Second)
	if err := encoder.Encode(asJSON{1, r.Time.UTC().Format("2006-01-02T15:04:05.000000000Z07:00"), r.Sandbox, r.Conn, r.Leg, r.Local, r.Remote, r.From, r.To, r.Cause, r.Source, json.Number(seconds)}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func FuzzRecord(f *testing.F) {
	f.Add("web", uint64(17), byte(2), byte(5), byte(8), byte(1), "FIN", byte(1), int64(1_234_567), []byte{198, 18, 0, 16}, "eth0", int64(6))
	f.Add("<\x00\x1f\"\\\u2028\xff\x7f&>", uint64(math.MaxUint64), byte(3), byte(11), byte(1), byte(4), "rule \"x\"\t\b\f\r\n", byte(5), int64(math.MaxInt64), netip.IPv6Loopback().AsSlice(), "e\"\\", int64(1))
	f.Fuzz(func(t *testing.T, sandbox string, conn uint64, leg, from, to, kind byte, which string, source byte, age int64, raw []byte, zone string, nanos int64) {
		addr, _ := netip.AddrFromSlice(raw)
		if addr.Is6() && !addr.Is4In6() {
			addr = addr.WithZone(zone)
		}
		r := Record{
			Time: testTime.Add(time.Duration(nanos)), Sandbox: sandbox,
			Conn: tcpstate.Conn(conn), Leg: tcpstate.Leg(leg % 4), From: tcpstate.State(from % 12), To: tcpstate.State(to % 12),
			Cause: tcpstate.Cause{Kind: tcpstate.CauseKind(kind % 5), Which: which}, Source: tcpstate.Source(source % 6),
			Age: time.Duration(age & math.MaxInt64),
		}
		if addr.IsValid() {
			r.Local = netip.AddrPortFrom(addr, uint16(conn))
		}
		line := string(AppendJSON(nil, r))
		if want := viaEncodingJSON(t, r); line != want {
			t.Fatalf("AppendJSON =\n%sencoding/json:\n%s", line, want)
		}
		if !utf8.ValidString(sandbox) || !utf8.ValidString(which) || !utf8.ValidString(zone) {
			return // replaced in line
		}
		got, err := Parse([]byte(strings.TrimSuffix(line, "\n")))
		if err != nil {
			if zone != "" && addr.Zone() != "" {
				return // a zone that netip itself cannot read back
			}
			t.Fatalf("Parse(%s): %v", line, err)
		}
		if again := string(AppendJSON(nil, got)); again != line {
			t.Errorf("Parse and AppendJSON make\n%sof\n%s", again, line)
		}
	})
}

func TestEncodingAllocatesNothing(t *testing.T) {
	buffer := make([]byte, 0, 1024)
	r := testRecord()
	marker := Record{Time: testTime, Sandbox: "web", Dropped: 3}
	if n := testing.AllocsPerRun(1000, func() {
		buffer = AppendJSON(buffer[:0], r)
		buffer = AppendJSON(buffer[:0], marker)
	}); n != 0 {
		t.Errorf("AppendJSON allocates %v times", n)
	}
}

func TestReader(t *testing.T) {
	good := strings.TrimSuffix(string(AppendJSON(nil, testRecord())), "\n")
	marker := `{"v":1,"time":"2026-01-02T03:04:05Z","sandbox":"web","dropped":3}`
	change := func(from, to string) string {
		changed := strings.Replace(good, from, to, 1)
		if changed == good {
			t.Fatalf("%q is not in %s", from, good)
		}
		return changed
	}
	tests := []struct {
		what, line string
		want       string // "" for a record, else a part of the error
	}{
		{"a record", good, ""},
		{"a marker", marker, ""},
		{"blanks around it", "  " + good + " \r", ""},
		{"a number as other tools print it", change("0.001234567", "1.234567e-3"), ""},
		{"a state as other tools spell it", change("CLOSE-WAIT", "CLOSE_WAIT"), ""},
		{"text", "hello", "invalid character 'h'"},
		{"half a record", good[:40], "unexpected EOF"},
		{"two records", good + good, "something follows"},
		{"a list", "[" + good + "]", "cannot unmarshal array"},
		{"another version", change(`"v":1`, `"v":2`), "not of version 1: 2"},
		{"another version with more in it", change(`"v":1`, `"v":2,"mood":"fine"`), "not of version 1: 2"},
		{"no version", change(`"v":1,`, ``), `"v" is missing`},
		{"a field too many", change(`"v":1`, `"v":1,"mood":"fine"`), `unknown field "mood"`},
		{"a field too few", change(`"leg":"stack",`, ``), `"leg" is missing`},
		{"a field that is null", change(`"stack"`, `null`), `"leg" is missing`},
		{"no time", change(`"time":"2026-01-02T03:04:05.000000006Z",`, ``), `"time" is missing`},
		{"no sandbox", change(`"sandbox":"web",`, ``), `"sandbox" is missing`},
		{"another state", change("CLOSE-WAIT", "\\u001b[2J"), `"\x1b[2J" is not a TCP state`},
		{"another leg", change(`"stack"`, `"left"`), `"left" is not a leg`},
		{"another cause", change("segment FIN", "gravity"), `"gravity" is not a cause`},
		{"an age that is none", change("0.001234567", `"old"`), "invalid number"},
		{"an age of centuries", change("0.001234567", `1e300`), "out of range"},
		{"a marker of nothing", `{"v":1,"time":"2026-01-02T03:04:05Z","sandbox":"web","dropped":0}`, "is zero"},
		{"a marker with a leg", `{"v":1,"time":"2026-01-02T03:04:05Z","sandbox":"web","dropped":3,"leg":"stack"}`, `"leg" has no place`},
		{"a long line", strings.Repeat("x", MaxLineBytes), "longer than"},
		{"a very long line", strings.Repeat("x", 3*MaxLineBytes+5), "longer than"},
	}
	// Every line stands between two good ones, all in one log.
	var log strings.Builder
	for _, tt := range tests {
		log.WriteString(good + "\n" + tt.line + "\n\n")
	}
	log.WriteString(good[:100])
	r := NewReader(strings.NewReader(log.String()))
	line := 1
	for _, tt := range tests {
		if got, err := r.Next(); err != nil || got != testRecord() {
			t.Fatalf("before %s: %+v, %v, want the record", tt.what, got, err)
		}
		line++
		_, err := r.Next()
		var at *LineError
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.what, err)
		case tt.want != "" && !errors.As(err, &at):
			t.Errorf("%s: %v, want a LineError", tt.what, err)
		case tt.want != "" && (at.Line != line || !strings.Contains(at.Error(), tt.want)):
			t.Errorf("%s: %.200v, want line %d and %q", tt.what, err, line, tt.want)
		}
		line += 2
	}
	if _, err := r.Next(); !errors.Is(err, ErrUnfinished) {
		t.Errorf("the end of the log: %v, want ErrUnfinished", err)
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end of the log: %v, want io.EOF", err)
	}
}

func TestReaderReportsAReaderThatFails(t *testing.T) {
	broken := errors.New("broken")
	for _, begin := range []string{"", "{", strings.Repeat("x", 2*MaxLineBytes)} {
		r := NewReader(io.MultiReader(strings.NewReader(begin), failing{broken}))
		if _, err := r.Next(); !errors.Is(err, broken) {
			t.Errorf("Next() after %d bytes = %v, want the reader's error", len(begin), err)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func FuzzParse(f *testing.F) {
	f.Add(AppendJSON(nil, testRecord()))
	f.Add([]byte(`{"v":1,"time":"2026-01-02T03:04:05Z","sandbox":"web","set":{"leg":"stack","key":"fin-timeout","from":"1m","to":"5s"}}`))
	f.Add([]byte(`{"v":1,"time":"2026-01-02T03:04:05+01:00","sandbox":"\u2028","dropped":18446744073709551615}`))
	f.Add([]byte(`{"v":1,"time":"2026-01-02T03:04:05Z","sandbox":"","conn":1,"leg":"guest","local":"[fe80::1%e]:1","remote":"","from":"closed","to":"SYN_SENT","cause":"call connect","source":"wire","age":-1.5e-07}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := Parse(line)
		if err != nil {
			return
		}
		once := AppendJSON(nil, r)
		again, err := Parse(bytes.TrimSuffix(once, []byte("\n")))
		if err != nil {
			t.Fatalf("Parse(%s) works, but of what AppendJSON makes of it: %v", line, err)
		}
		if twice := AppendJSON(nil, again); !bytes.Equal(once, twice) {
			t.Errorf("Parse and AppendJSON make\n%sof\n%s", twice, once)
		}
	})
}

func BenchmarkAppendJSON(b *testing.B) {
	buffer := make([]byte, 0, 1024)
	r := testRecord()
	b.ReportAllocs()
	for b.Loop() {
		buffer = AppendJSON(buffer[:0], r)
	}
}

func BenchmarkParse(b *testing.B) {
	line := bytes.TrimSpace(AppendJSON(nil, testRecord()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(line); err != nil {
			b.Fatal(err)
		}
	}
}
