package view

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"tcpbox/stack/legs"
	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

// rowsOf are rows that have everything that a row can have.
func rowsOf(t *testing.T) []legs.Row {
	t.Helper()
	at := func(seconds float64) time.Time { return time.Unix(1000, 0).Add(time.Duration(seconds * 1e9)) }
	var table legs.Table
	leg := func(conn tcpstate.Conn, leg tcpstate.Leg, local, remote string, to tcpstate.State, since float64) {
		r := statelog.Record{Time: at(since), Sandbox: "web", Conn: conn, Leg: leg, To: to, Local: netip.MustParseAddrPort(local)}
		if remote != "" {
			r.Remote = netip.MustParseAddrPort(remote)
		}
		table.Add(&r)
	}
	facts := func(f tcpstate.Facts) {
		table.Add(&statelog.Record{Time: at(0), Sandbox: "web", Conn: f.Conn, Facts: &f})
	}
	const guest, server, guest6, server6, host = "198.18.0.2:40001", "203.0.113.9:443", "[fd74::2]:40002", "[2001:db8:1:2:3:4:5:7]:8080", "192.0.2.1:50000"
	leg(5, tcpstate.Guest, guest, server, tcpstate.TimeWait, 90)
	leg(5, tcpstate.Stack, server, guest, tcpstate.Closed, 90)
	leg(5, tcpstate.Upstream, host, server, tcpstate.TimeWait, 90.2)
	facts(tcpstate.Facts{
		Conn: 5, Direction: tcpstate.Outbound, PID: 4711, Command: "curl", Name: "www.example.com", Rule: "allow 203.0.113.0/24:443",
		Bytes: &tcpstate.Bytes{Outbound: 517, Inbound: 1_234_567}, Closed: &tcpstate.Ending{By: tcpstate.Guest, How: tcpstate.ByFIN},
		Path: &tcpstate.Path{RTT: 12 * time.Millisecond},
	})
	leg(12, tcpstate.Stack, server6, guest6, tcpstate.SynReceived, 99.9)
	facts(tcpstate.Facts{Conn: 12, Direction: tcpstate.Outbound, Command: "a\x1b[31mb", PID: 3, Rule: "net public"})
	leg(13, tcpstate.Stack, "192.0.2.77:51515", "198.18.0.2:80", tcpstate.Established, 40)
	facts(tcpstate.Facts{Conn: 13, Direction: tcpstate.Inbound, Rule: "publish"})
	leg(14, tcpstate.Guest, "198.18.0.2:80", "", tcpstate.Listen, 1)
	return table.Rows(statelog.Filter{}, true)
}

// TestFrozenRows: a row says so as long as it is, and the column is there as long as
// a row is.
func TestFrozenRows(t *testing.T) {
	var table legs.Table
	add := func(f tcpstate.Facts, to tcpstate.State) string {
		f.Conn, f.Guest, f.Peer = 5, netip.MustParseAddrPort("198.18.0.2:40001"), netip.MustParseAddrPort("203.0.113.9:443")
		table.Add(&statelog.Record{Time: time.Unix(1000, 0), Conn: 5, Facts: &f})
		table.Add(&statelog.Record{Time: time.Unix(1000, 0), Conn: 5, Leg: tcpstate.Stack, To: to})
		return string(Line{}.Rows(nil, table.Rows(statelog.Filter{}, true), time.Unix(1001, 0)))
	}
	yes, no := true, false
	for _, row := range []struct {
		frozen *bool
		state  tcpstate.State
		want   bool
	}{
		{nil, tcpstate.Established, false},
		{&yes, tcpstate.Established, true},
		{nil, tcpstate.CloseWait, true},
		{&no, tcpstate.CloseWait, false},
		{&yes, tcpstate.Closed, false},
	} {
		text := add(tcpstate.Facts{Frozen: row.frozen}, row.state)
		if strings.Contains(text, "FROZEN") != row.want || strings.Contains(text, "frozen") != row.want {
			t.Errorf("frozen %v, %v: %q", row.want, row.state, text)
		}
	}
}

func TestARowOfFactsAlone(t *testing.T) {
	var table legs.Table
	f := tcpstate.Facts{Conn: 5, Guest: netip.MustParseAddrPort("198.18.0.2:40001"), Peer: netip.MustParseAddrPort("203.0.113.9:443"), Rule: "net public"}
	table.Add(&statelog.Record{Time: time.Unix(1000, 0), Conn: 5, Facts: &f})
	got := string(Line{}.Rows(nil, table.Rows(statelog.Filter{}, true), time.Unix(1001, 0)))
	if fields := strings.Fields(got[strings.IndexByte(got, '\n'):]); !slices.Equal(fields, []string{"#5", "-", "-", "-", "198.18.0.2:40001", "→", "203.0.113.9:443", "net", "public"}) {
		t.Errorf("a connection of which no state is known has the row %q", fields)
	}
}

func TestGoldenRows(t *testing.T) {
	rows := rowsOf(t)
	now := time.Unix(1100, 0)
	for _, tt := range []struct {
		name string
		line Line
	}{
		{"rows", Line{}},
		{"rows-60", Line{Width: 60}},
		{"rows-80", Line{Width: 80}},
		{"rows-120", Line{Width: 120}},
		{"rows-ascii", Line{Width: 120, ASCII: true, Netstat: true}},
		{"rows-color", Line{Width: 100, Color: true}},
	} {
		got := tt.line.Rows(nil, rows, now)
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
	}
}

func TestRowsFitAndAreHarmless(t *testing.T) {
	rows := rowsOf(t)
	for width := 70; width < 260; width++ {
		for line := range strings.Lines(string(Line{Width: width}.Rows(nil, rows, time.Unix(1100, 0)))) {
			line = strings.TrimSuffix(line, "\n")
			if n := utf8.RuneCountInString(line); n > width {
				t.Errorf("width %d: a line of %d: %s", width, n, line)
			}
			if strings.ContainsFunc(line, func(r rune) bool { return r < ' ' }) {
				t.Errorf("width %d: a control character in %q", width, line)
			}
		}
	}
	if got := string(Line{}.Rows(nil, nil, time.Now())); !strings.HasPrefix(got, "CONN GUEST STACK UPSTREAM AGE") || strings.Count(got, "\n") != 1 {
		t.Errorf("no rows: %q", got)
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0", 999: "999", 1000: "1.00k", 1234: "1.23k", 12345: "12.3k", 123456: "123k", 999999: "999k", 1000000: "1.00M",
		18446744073709551615: "18.4E",
	} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %s, want %s", n, got, want)
		}
	}
}
