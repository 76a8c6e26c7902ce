package tcpstate

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, row := range []struct {
		name string
		want State
	}{
		{"FIN-WAIT-1", FinWait1}, // RFC 9293
		{"FIN_WAIT1", FinWait1},  // netstat(8)
		{"fin-wait-1", FinWait1}, // ss(8)
		{"SYN_RECV", SynReceived},
		{"syn-recv", SynReceived},
		{"SYN-RECEIVED", SynReceived},
		{"ESTAB", Established},
		{"established", Established},
		{"UNCONN", Closed},
		{"CLOSE", Closed},
		{"TIME_WAIT", TimeWait},
		{"listening", Listen},
		{"", Unknown},
		{"UNKNOWN", Unknown},
		{"TIME WAIT", Unknown},
		{strings.Repeat("x", 1000), Unknown},
	} {
		got, err := Parse(row.name)
		if got != row.want || (err == nil) != (row.want != Unknown) {
			t.Errorf("Parse(%.40q) = %v, %v, want %v", row.name, got, err, row.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range All() {
		f.Add(s.String())
	}
	f.Add("SYN_RECV")
	f.Fuzz(func(t *testing.T, name string) {
		s, err := Parse(name)
		if err != nil {
			return
		}
		if again, err := Parse(s.String()); err != nil || again != s {
			t.Errorf("Parse(%q) = %v, but Parse(%q) = %v, %v", name, s, s, again, err)
		}
	})
}

func TestTextIsItsOwnInverse(t *testing.T) {
	type all struct {
		State  State
		Leg    Leg
		Source Source
		Cause  Cause
	}
	for _, want := range []all{
		{},
		{TimeWait, Stack, FromStack, Cause{BySegment, "FIN"}},
		{SynReceived, Guest, FromWire, Cause{ByTimer, "time-wait"}},
		{Closed, Upstream, FromSocket, Cause{ByPolicy, "time-wait.reuse"}},
		{Listen, 0, FromDiag, Cause{ByCall, ""}},
	} {
		b, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got all
		if err := json.Unmarshal(b, &got); err != nil || got != want {
			t.Errorf("%s became %+v, %v, want %+v", b, got, err, want)
		}
	}
}

func TestStringsNeverPanic(t *testing.T) {
	for i := range 256 {
		for _, s := range []string{State(i).String(), Leg(i).String(), Source(i).String(), CauseKind(i).String()} {
			if s == "" {
				t.Errorf("value %d has no name", i)
			}
		}
	}
}

// Every arrow of RFC 9293, section 3.3.2, figure 5 is legal, and what cannot
// be is not.
func TestLegal(t *testing.T) {
	for _, row := range []struct {
		path  string
		legal bool
	}{
		{"CLOSED SYN-SENT ESTABLISHED FIN-WAIT-1 FIN-WAIT-2 TIME-WAIT CLOSED", true},
		{"CLOSED LISTEN SYN-RECEIVED ESTABLISHED CLOSE-WAIT LAST-ACK CLOSED", true},
		{"CLOSED SYN-SENT SYN-RECEIVED ESTABLISHED FIN-WAIT-1 CLOSING TIME-WAIT CLOSED", true},
		{"CLOSED SYN-RECEIVED FIN-WAIT-1 TIME-WAIT CLOSED", true},
		{"ESTABLISHED CLOSED", true},
		{"ESTABLISHED TIME-WAIT", false},
		{"CLOSE-WAIT FIN-WAIT-1", false},
		{"LAST-ACK TIME-WAIT", false},
		{"FIN-WAIT-2 CLOSING", false},
		{"CLOSED ESTABLISHED", false},
		{"TIME-WAIT ESTABLISHED", false},
	} {
		names := strings.Fields(row.path)
		for i := 1; i < len(names); i++ {
			from, _ := Parse(names[i-1])
			to, _ := Parse(names[i])
			if Legal(from, to) != row.legal {
				t.Errorf("Legal(%v, %v) = %v, want %v", from, to, !row.legal, row.legal)
			}
		}
	}
	for i := range 256 {
		if Legal(Unknown, State(i)) || Legal(State(i), Unknown) {
			t.Errorf("a transition between UNKNOWN and %v is legal", State(i))
		}
	}
	for _, s := range All() {
		if s != Closed && !Legal(s, Closed) {
			t.Errorf("a reset does not lead from %v to CLOSED", s)
		}
	}
}
