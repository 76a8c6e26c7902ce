package legs

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

const (
	guestEnd, peerEnd = "198.18.0.2:40001", "203.0.113.9:443"
	hostEnd           = "192.0.2.1:50000"
)

// tell makes records of lines as history does, with ends and causes: "1 stack
// ESTABLISHED CLOSE-WAIT segment FIN". Words before the states are one leg each.
func tell(t *testing.T, lines ...string) (records []statelog.Record) {
	t.Helper()
	for i, line := range lines {
		words := strings.Fields(line)
		r := statelog.Record{Time: time.Unix(int64(i), 0), Sandbox: "web"}
		if _, err := fmt.Sscan(words[0], &r.Conn); err != nil {
			t.Fatal(err)
		}
		if err := r.Leg.UnmarshalText([]byte(words[1])); err != nil {
			t.Fatal(err)
		}
		r.From, _ = tcpstate.Parse(words[2])
		r.To, _ = tcpstate.Parse(words[3])
		if err := r.Cause.UnmarshalText([]byte(strings.Join(append(words[4:], "unknown")[:max(1, len(words)-4)], " "))); err != nil {
			t.Fatal(err)
		}
		local, remote := guestEnd, peerEnd
		switch r.Leg {
		case tcpstate.Stack:
			local, remote = remote, local
		case tcpstate.Upstream:
			local = hostEnd
		}
		r.Local = netip.MustParseAddrPort(local)
		if r.To != tcpstate.Listen {
			r.Remote = netip.MustParseAddrPort(remote)
		}
		records = append(records, r)
	}
	return records
}

var opened = []string{
	"1 guest CLOSED SYN-SENT call connect",
	"1 upstream CLOSED SYN-SENT call connect",
	"1 upstream SYN-SENT ESTABLISHED segment SYN-ACK",
	"1 stack CLOSED SYN-RECEIVED segment SYN",
	"1 guest SYN-SENT ESTABLISHED segment SYN-ACK",
	"1 stack SYN-RECEIVED ESTABLISHED segment ACK",
}

func TestARowHasThreeLegs(t *testing.T) {
	var table Table
	for _, r := range tell(t, append(opened, "1 guest ESTABLISHED FIN-WAIT-1 call close", "1 stack ESTABLISHED CLOSE-WAIT segment FIN")...) {
		table.Add(&r)
	}
	rows := table.Rows(statelog.Filter{}, false)
	if len(rows) != 1 {
		t.Fatalf("%d rows, want 1", len(rows))
	}
	r := rows[0]
	got := fmt.Sprint(r.Conn, r.Leg(tcpstate.Guest).State, r.Leg(tcpstate.Stack).State, r.Leg(tcpstate.Upstream).State, r.Guest, r.Peer, r.HostLocal, r.Direction, r.Closed, r.Since().Unix())
	want := fmt.Sprint(1, " ", tcpstate.FinWait1, tcpstate.CloseWait, tcpstate.Established, guestEnd, peerEnd, hostEnd, " ", tcpstate.Outbound, "guest FIN", 7)
	if strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(want, " ", "") {
		t.Errorf("the row is %s, want %s", got, want)
	}
}

func TestWhoClosedFirst(t *testing.T) {
	for _, row := range []struct {
		line string
		want string
	}{
		{"1 stack ESTABLISHED CLOSE-WAIT segment FIN", "guest FIN"},
		{"1 guest ESTABLISHED FIN-WAIT-1 call close", "guest FIN"},
		{"1 upstream ESTABLISHED FIN-WAIT-1 call shutdown", "guest FIN"},
		{"1 stack ESTABLISHED FIN-WAIT-1 call shutdown", "upstream FIN"},
		{"1 guest ESTABLISHED CLOSE-WAIT segment FIN", "upstream FIN"},
		{"1 upstream ESTABLISHED CLOSE-WAIT segment FIN", "upstream FIN"},
		{"1 stack ESTABLISHED CLOSED segment RST", "guest RST"},
		{"1 stack ESTABLISHED CLOSED call abort", "upstream RST"},
		{"1 upstream ESTABLISHED CLOSED segment RST", "upstream RST"},
		{"1 stack ESTABLISHED CLOSED timer retransmission", "stack timeout"},
		{"1 stack ESTABLISHED CLOSED policy stopped", "stack stop"},
		{"1 stack ESTABLISHED CLOSED policy conn rst", "stack RST"},
		{"1 upstream ESTABLISHED CLOSED policy conn rst", "stack RST"},
		{"1 stack ESTABLISHED FIN-WAIT-1 policy conn close", "stack FIN"},
		{"1 upstream ESTABLISHED FIN-WAIT-1 policy conn close", "stack FIN"},
		{"1 stack ESTABLISHED CLOSED unknown", "<nil>"},
		{"1 guest ESTABLISHED CLOSED unknown", "<nil>"},
	} {
		var table Table
		var last *Row
		for _, r := range tell(t, append(opened, row.line)...) {
			last = table.Add(&r)
		}
		if got := fmt.Sprint(last.Closed); got != row.want {
			t.Errorf("%s: closed by %s, want %s", row.line, got, row.want)
		}
		facts := statelog.Record{Sandbox: "web", Conn: 1, Facts: &tcpstate.Facts{Closed: &tcpstate.Ending{By: tcpstate.Guest, How: tcpstate.ByError}}}
		if last = table.Add(&facts); last.Closed.String() != "guest error" {
			t.Errorf("%s: what the facts say is not believed: %v", row.line, last.Closed)
		}
	}
	var table Table
	var last *Row
	for _, r := range tell(t, opened[3], opened[5], "1 stack ESTABLISHED FIN-WAIT-1 call close") {
		last = table.Add(&r)
	}
	if got := last.Closed.String(); got != "stack FIN" {
		t.Errorf("a host inside the stack closed, and the row says %s", got)
	}
}

func TestATableIsBounded(t *testing.T) {
	table := Table{MaxRows: 3, MaxEnded: 2}
	add := func(line string) *Row {
		r := tell(t, line)[0]
		return table.Add(&r)
	}
	for i := 1; i <= 5; i++ {
		if got, want := add(fmt.Sprintf("%d stack CLOSED SYN-RECEIVED", i)) != nil, i <= 3; got != want {
			t.Errorf("connection %d has a row: %v, want %v", i, got, want)
		}
	}
	for i := 1; i <= 3; i++ {
		add(fmt.Sprintf("%d stack SYN-RECEIVED CLOSED", i))
	}
	if rows := table.Rows(statelog.Filter{}, false); len(rows) != 0 {
		t.Errorf("%d connections live on, want none", len(rows))
	}
	rows := table.Rows(statelog.Filter{}, true)
	if len(rows) != 2 || rows[0].Conn != 2 || rows[1].Conn != 3 {
		t.Errorf("those that have ended are %v, want 2 and 3", rows)
	}
	if m := table.Missed(); m != (Missed{Records: 2, Ended: 1}) {
		t.Errorf("missed %+v", m)
	}
	add("2 guest FIN-WAIT-2 TIME-WAIT") // seen late
	if rows := table.Rows(statelog.Filter{}, false); len(rows) != 1 || rows[0].Conn != 2 {
		t.Errorf("those that live are %v, want 2", rows)
	}
	add("2 guest TIME-WAIT CLOSED")
	for i := 10; i < 10_000; i++ {
		add(fmt.Sprintf("%d stack CLOSED SYN-RECEIVED", i))
		add(fmt.Sprintf("%d stack SYN-RECEIVED CLOSED", i))
	}
	if len(table.rows) != 2 || len(table.ended) != 2 {
		t.Errorf("%d rows and %d that have ended are kept, want 2", len(table.rows), len(table.ended))
	}
}

func TestRowsThatAFilterChooses(t *testing.T) {
	var table Table
	for _, r := range tell(t, append(opened,
		"1 guest ESTABLISHED FIN-WAIT-1 call close",
		"1 guest FIN-WAIT-1 TIME-WAIT segment FIN-ACK",
		"2 guest CLOSED LISTEN call listen",
		"3 guest CLOSED SYN-SENT call connect",
	)...) {
		table.Add(&r)
	}
	table.Add(&statelog.Record{Sandbox: "web", Conn: 1, Facts: &tcpstate.Facts{PID: 5, Command: "curl", Name: "www.example.com"}})
	for filter, want := range map[string]string{
		"":                                "1 2 3",
		"state time-wait":                 "1",
		"exclude time-wait":               "2 3",
		"state established":               "1",
		"leg guest state established":     "",
		"leg stack state established":     "1",
		"leg guest exclude time-wait":     "2 3",
		"state listen":                    "2",
		"state syn-sent state listen":     "2 3",
		"dport = :443":                    "1 3",
		"sport = :40001":                  "1 2 3",
		"leg upstream sport = :50000":     "1",
		"pid 5":                           "1",
		"not pid 5":                       "2 3",
		"command curl":                    "1",
		"host example.com":                "1",
		"host ample.com":                  "",
		"host www.example.com. and pid 5": "1",
		"closed-by guest":                 "1",
		"closed-by fin":                   "1",
		"closed-by upstream":              "",
		"conn 3":                          "3",
		"port = :443 and pid 5":           "1",
	} {
		f, err := statelog.ParseFilter(filter)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range table.Rows(f, false) {
			got = append(got, fmt.Sprint(r.Conn))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q chooses %v, want %s", filter, got, want)
		}
	}
}
