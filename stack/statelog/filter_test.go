package statelog

import (
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"tcpbox/stack/tcpstate"
)

// filtered are the records that the filters of these tests choose from.
func filtered() map[string]*Record {
	record := func(conn tcpstate.Conn, leg tcpstate.Leg, local, remote string, from, to tcpstate.State, kind tcpstate.CauseKind, which string) *Record {
		r := &Record{
			Time: testTime, Sandbox: "web", Conn: conn, Leg: leg, Local: netip.MustParseAddrPort(local),
			From: from, To: to, Cause: tcpstate.Cause{Kind: kind, Which: which}, Source: tcpstate.FromStack,
		}
		if remote != "" {
			r.Remote = netip.MustParseAddrPort(remote)
		}
		return r
	}
	const guest, server, guest6, server6 = "198.18.0.2:40001", "203.0.113.9:443", "[fd74::2]:40002", "[2001:db8::7]:80"
	return map[string]*Record{
		"syn":    record(5, tcpstate.Stack, server, guest, tcpstate.Closed, tcpstate.SynReceived, tcpstate.BySegment, "SYN"),
		"open":   record(5, tcpstate.Stack, server, guest, tcpstate.SynReceived, tcpstate.Established, tcpstate.BySegment, "ACK"),
		"reset":  record(5, tcpstate.Stack, server, guest, tcpstate.Established, tcpstate.Closed, tcpstate.BySegment, "RST"),
		"wait":   record(6, tcpstate.Guest, guest6, server6, tcpstate.FinWait2, tcpstate.TimeWait, tcpstate.BySegment, "FIN"),
		"over":   record(6, tcpstate.Guest, guest6, server6, tcpstate.TimeWait, tcpstate.Closed, tcpstate.ByTimer, "time-wait"),
		"reopen": record(7, tcpstate.Stack, server6, guest6, tcpstate.TimeWait, tcpstate.Closed, tcpstate.ByPolicy, "time-wait reopened"),
		"listen": record(1, tcpstate.Stack, "198.18.0.16:80", "", tcpstate.Closed, tcpstate.Listen, tcpstate.ByCall, "listen"),
		"dim":    record(9, tcpstate.Guest, "[::ffff:198.18.0.2]:1", "[::ffff:203.0.113.9]:443", tcpstate.Unknown, tcpstate.Established, 0, ""),
	}
}

func TestFilter(t *testing.T) {
	for _, row := range []struct {
		filter string
		want   string // of filtered, sorted
	}{
		{"", "dim listen open over reopen reset syn wait"},

		// A state is begun or ended. Every spelling is known.
		{"state time-wait", "over reopen wait"},
		{"state TIME_WAIT", "over reopen wait"},
		{"state = TIME-WAIT", "over reopen wait"},
		{"state SYN_RECV", "open syn"},
		{"state estab", "dim open reset"},
		{"from time-wait", "over reopen"},
		{"to time-wait", "wait"},
		{"from syn-recv to ESTABLISHED", "open"},
		{"from closed", "listen syn"},
		{"from unknown", "dim"},

		// Groups of ss(8), and states in a row, which mean any of them.
		{"state bucket", "open over reopen syn wait"},
		{"state connected", "dim open over reopen reset syn wait"},
		{"to synchronized", "dim open syn wait"},
		{"exclude connected", "listen"},
		{"state listen state fin-wait-2", "listen wait"},
		{"state listen state fin-wait-2 leg guest", "wait"},
		{"state closed and state established", "reset"},
		{"exclude time-wait exclude established", "listen syn"},
		{"state all", "dim listen open over reopen reset syn wait"},
		{"to != closed", "dim listen open syn wait"},

		// The guest's end is the source, whose leg ever it is.
		{"dport = :443", "dim open reset syn"},
		{"dport=443", "dim open reset syn"},
		{"dport eq :443 and leg guest", "dim"},
		{"sport = :40002", "over reopen wait"},
		{"dport = :80", "listen over reopen wait"},
		{"sport != :40001", "dim listen over reopen wait"},
		{"sport > :40001", "over reopen wait"},
		{"sport ge 40001", "open over reopen reset syn wait"},
		{"dport < :443", "listen over reopen wait"},
		{"dport <= :80 and sport lt :2", ""},
		{"port = :40001 or port = :1", "dim open reset syn"},
		{"dst 203.0.113.0/24", "dim open reset syn"},
		{"dst = 203.0.113.9:443", "dim open reset syn"},
		{"dst != 203.0.113.9", "listen over reopen wait"},
		{"dst 203.0.113.9:80", ""},
		{"dst :80", "listen over reopen wait"},
		{"src 198.18.0.2", "dim open reset syn"},
		{"src ::ffff:198.18.0.0/112", "dim open reset syn"},
		{"dst 2001:db8::/32", "over reopen wait"},
		{"dst [2001:db8::7]:80", "over reopen wait"},
		{"dst [2001:db8::]/32:80", "over reopen wait"},
		{"host 198.18.0.0/16", "dim listen open reset syn"},
		{"src *", "dim open over reopen reset syn wait"},

		{"leg stack", "listen open reopen reset syn"},
		{"leg != stack", "dim over wait"},
		{"conn 5", "open reset syn"},
		{"conn = #6", "over wait"},
		{"cause RST", "reset"},
		{"cause segment", "open reset syn wait"},
		{"cause time-wait", "over reopen"},
		{"cause reopened", "reopen"},
		{"cause unknown", "dim"},
		{"source stack conn 1", "listen"},

		// and binds closer than or; not closest.
		{"conn 1 or conn 6 and from time-wait", "listen over"},
		{"( conn 1 or conn 6 ) and not from time-wait", "listen wait"},
		{"(conn 1||conn 6)&&!(from time-wait)", "listen wait"},
		{"not not conn 1", "listen"},
		{"CONN 1 OR LEG GUEST", "dim listen over wait"},
	} {
		f, err := ParseFilter(row.filter)
		if err != nil {
			t.Errorf("ParseFilter(%q): %v", row.filter, err)
			continue
		}
		var got []string
		for name, r := range filtered() {
			if f.Match(r) {
				got = append(got, name)
			}
		}
		slices.Sort(got)
		if strings.Join(got, " ") != row.want {
			t.Errorf("%q matches %q, want %q", row.filter, got, row.want)
		}
		if !f.Match(&Record{Dropped: 1}) {
			t.Errorf("%q does not match a marker", row.filter)
		}
	}
}

func TestMatchState(t *testing.T) {
	for filter, want := range map[string]string{
		"state time-wait":   "wait",
		"exclude time-wait": "dim listen open over reopen reset syn",
		"to closed":         "over reopen reset",
	} {
		f, err := ParseFilter(filter)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for name, r := range filtered() {
			if f.MatchState(r, nil) {
				got = append(got, name)
			}
		}
		if slices.Sort(got); strings.Join(got, " ") != want {
			t.Errorf("%q matches the states of %q, want %q", filter, got, want)
		}
	}
}

func TestFilterErrors(t *testing.T) {
	for _, row := range []struct {
		filter string
		number int
		word   string // "": it ends too early
		known  string // one of Known
	}{
		{"state tme-wait", 2, "tme-wait", "time-wait"},
		{"stat time-wait", 1, "stat", "state"},
		{"leg stack and dprot = :443", 4, "dprot", "dport"},
		{"leg middle", 2, "middle", "stack"},
		{"cause RTS", 2, "RTS", "RST"},
		{"source wires", 2, "wires", "wire"},
		{"dport = :https", 3, ":https", ""},
		{"dport=:70000", 1, ":70000", ""},
		{"dst 203.0.113.0/33", 2, "203.0.113.0/33", ""},
		{"dst [::1", 2, "[::1", ""},
		{"dst fe80::1%eth0", 2, "fe80::1%eth0", ""},
		{"dst 1.2.3.4:", 2, "1.2.3.4:", ""},
		{"dst :x", 2, ":x", ""},
		{"dst > 1.2.3.4", 2, ">", ""},
		{"host db..example", 2, "db..example", ""},
		{"host db..", 2, "db..", ""},
		{"host .db", 2, ".db", ""},
		{"host state.", 2, "state.", ""},
		{"conn five", 2, "five", ""},
		{"conn 5 )", 3, ")", ""},
		{"( conn 5", 0, "", ""},
		{"conn 5 and", 0, "", ""},
		{"or conn 5", 1, "or", "state"},
		{"state", 0, "", "time-wait"},
		{"not", 0, "", ""},
		{"()", 1, ")", ""},
		{strings.Repeat("( ", 100), 66, "(", ""},
		{strings.Repeat("conn 1 ", 600), 1025, "conn", ""},
	} {
		_, err := ParseFilter(row.filter)
		var e *FilterError
		if !errors.As(err, &e) {
			t.Errorf("ParseFilter(%.40q) = %v, want a FilterError", row.filter, err)
			continue
		}
		if e.Word != row.word || e.Number != row.number || row.known != "" && !slices.Contains(e.Known, row.known) {
			t.Errorf("ParseFilter(%.40q): word %d, %q, of %q, want word %d, %q, and %q known", row.filter, e.Number, e.Word, e.Known, row.number, row.word, row.known)
		}
	}
}

func FuzzFilter(f *testing.F) {
	for _, seed := range []string{
		"state time-wait state established and dport = :443", "exclude bucket or (not src [::1]/64:80 && conn 5)",
		"from SYN_RECV to ESTAB leg guest cause RST source wire", "sport >= :1024 port!=80 host 203.0.113.0/24 dst *",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		filter, err := ParseFilter(text)
		if err != nil {
			var e *FilterError
			if !errors.As(err, &e) {
				t.Fatalf("ParseFilter(%q): %v is no FilterError", text, err)
			}
			return
		}
		again, err := ParseFilter(filter.String())
		if err != nil || !reflect.DeepEqual(filter, again) {
			t.Errorf("ParseFilter(%q) prints as %q, of which comes %q, %v", text, filter, again, err)
		}
	})
}

func TestFilteringAllocatesNothing(t *testing.T) {
	f, err := ParseFilter("( dst 203.0.113.0/24 or dst 2001:db8::/32 ) and not cause RST and cause reopened or sport > 50000")
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range filtered() {
		if n := testing.AllocsPerRun(100, func() { f.Match(r) }); n != 0 {
			t.Errorf("%s: Match allocates %v times", name, n)
		}
	}
}

func BenchmarkFilter(b *testing.B) {
	f, err := ParseFilter("state time-wait dport = :443 dst 203.0.113.0/24")
	if err != nil {
		b.Fatal(err)
	}
	r := filtered()["open"]
	b.ReportAllocs()
	for b.Loop() {
		f.Match(r)
	}
}

func BenchmarkReader(b *testing.B) {
	line := AppendJSON(nil, testRecord())
	r := NewReader(&repeated{text: line})
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Next(); err != nil {
			b.Fatal(err)
		}
	}
}

// repeated is a text without an end.
type repeated struct {
	text []byte
	at   int
}

func (r *repeated) Read(b []byte) (n int, err error) {
	for n < len(b) {
		m := copy(b[n:], r.text[r.at:])
		n += m
		r.at = (r.at + m) % len(r.text)
	}
	return n, nil
}
