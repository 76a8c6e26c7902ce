package legs

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"tcpbox/stack/tcpstate"
)

// runOf makes a run of lines as tell does, of one second each, that a sandbox
// ends at last. "wait N" lets N seconds pass; "+N" in front of a line makes it
// one of connection N.
func runOf(t *testing.T, lines ...string) *Run {
	t.Helper()
	var rs Runs
	entered := map[string]time.Time{}
	now := time.Unix(1000, 0)
	for _, line := range lines {
		var seconds float64
		if n, _ := fmt.Sscanf(line, "wait %g", &seconds); n == 1 {
			now = now.Add(time.Duration(seconds * float64(time.Second)))
			continue
		}
		r := tell(t, line)[0]
		now = now.Add(time.Millisecond)
		r.Time = now
		key := fmt.Sprint(r.Conn, r.Leg)
		if r.From != tcpstate.Closed {
			r.Age = now.Sub(entered[key])
		}
		entered[key] = now
		rs.Add(&r)
	}
	rs.EndAt(now.Add(time.Millisecond))
	late := tell(t, "1 guest FIN-WAIT-2 CLOSED segment RST")[0] // by the sandbox's end
	late.Time = now.Add(time.Second)
	rs.Add(&late)
	return rs.Run()
}

func TestCompare(t *testing.T) {
	closes := append(append([]string(nil), opened...),
		"1 guest ESTABLISHED FIN-WAIT-1 call close",
		"1 guest FIN-WAIT-1 FIN-WAIT-2 segment ACK",
		"1 stack ESTABLISHED CLOSE-WAIT segment FIN",
	)
	more := func(lines ...string) []string { return append(append([]string(nil), closes...), lines...) }
	swap := func(lines []string) []string { // the legs in another order, as they come
		swapped := append([]string(nil), lines...)
		swapped[len(swapped)-1], swapped[len(swapped)-2] = swapped[len(swapped)-2], swapped[len(swapped)-1]
		return swapped
	}
	conn := func(n int, lines []string) (out []string) {
		for _, l := range lines {
			if rest, is := strings.CutPrefix(l, "1 "); is {
				l = fmt.Sprint(n, " ", rest)
			}
			out = append(out, l)
		}
		return out
	}
	const timer = "1 guest FIN-WAIT-2 CLOSED timer fin-wait-2"
	tests := []struct {
		name string
		a, b []string
		want string // leg, index in a, index in b; "" for no difference
	}{
		{"the same", closes, closes, ""},
		{"the legs in another order", closes, swap(closes), ""},
		{"other times", closes, more("wait 20"), ""},
		{"a state that one has not", closes, more("1 guest FIN-WAIT-2 TIME-WAIT segment FIN", "wait 1"), ""},
		{"a state that one would have come to", more("wait 5"), more("1 guest FIN-WAIT-2 TIME-WAIT segment FIN", "wait 1"), "guest 4 4"},
		{"another cause", more("1 guest FIN-WAIT-2 CLOSED segment RST"), more(timer), "guest 4 4"},
		{"a cause that one does not know", more("1 guest FIN-WAIT-2 CLOSED"), more(timer), ""},
		{"a timer that one does not wait for", more("wait 1", timer), more("wait 1.2"), ""},
		{"a timer that one waits for in vain", more("wait 1", timer), more("wait 5"), "guest 4 4"},
		{"the same the other way", more("wait 5"), more("wait 1", timer), "guest 4 4"},
		{"a timer that is somewhat late", more("wait 1", timer), more("wait 1.4", timer), ""},
		{"a timer of another time", more("wait 1", timer), more("wait 2", timer), "guest 4 4 late"},
		{"a long timer, late by as much", more("wait 60", timer), more("wait 61", timer), ""},
		{"an ACK and a FIN in one", more("1 guest FIN-WAIT-2 TIME-WAIT segment FIN"), append(append([]string(nil), opened...),
			"1 guest ESTABLISHED FIN-WAIT-1 call close", "1 stack ESTABLISHED CLOSE-WAIT segment FIN", "1 guest FIN-WAIT-1 TIME-WAIT segment FIN-ACK"), ""},
		{"an ACK, and a FIN long after it", more("wait 3", "1 guest FIN-WAIT-2 TIME-WAIT segment FIN"), append(append([]string(nil), opened...),
			"1 guest ESTABLISHED FIN-WAIT-1 call close", "1 stack ESTABLISHED CLOSE-WAIT segment FIN", "1 guest FIN-WAIT-1 TIME-WAIT segment FIN-ACK"), "guest 3 3"},
		{"a leg that one has not", opened, append(append([]string(nil), opened[:1]...), opened[3:]...), ""},
		{"a leg that one has not for long", append(append([]string(nil), opened...), "wait 2"), append(append(append([]string(nil), opened[:1]...), opened[3:]...), "wait 2"), "upstream 0 0"},
		{"a connection more", append(append([]string(nil), closes...), conn(2, closes)...), closes, "none 0 0"},
		{
			"two connections in another order",
			append(append([]string(nil), opened...), conn(2, more("1 guest FIN-WAIT-2 TIME-WAIT segment FIN", "wait 9"))...),
			append(more("1 guest FIN-WAIT-2 TIME-WAIT segment FIN"), append(conn(2, opened), "wait 9")...), "",
		},
	}
	for _, tt := range tests {
		for i, runs := range [][2]*Run{{runOf(t, tt.a...), runOf(t, tt.b...)}, {runOf(t, tt.b...), runOf(t, tt.a...)}} {
			var got string
			if parts := Compare(runs[0], runs[1]); len(parts) > 0 {
				p := parts[0]
				got = fmt.Sprintf("%v %d %d", p.Leg, p.InA, p.InB)
				if p.Late {
					got += " late"
				}
			}
			if got != tt.want {
				t.Errorf("%s, way %d: they part at %q, want %q", tt.name, i+1, got, tt.want)
			}
		}
	}
}

// TestRunLeavesOutItsEnd: what happens when the sandbox is being ended is nobody's
// doing.
func TestRunLeavesOutItsEnd(t *testing.T) {
	run := runOf(t, append(append([]string(nil), opened...), "wait 3")...)
	if len(run.Lives) != 1 || run.Took < 3*time.Second || run.Took > 4*time.Second {
		t.Fatalf("%d connections in %v, want 1 in a little more than 3s", len(run.Lives), run.Took)
	}
	c := run.Lives[0].Course(tcpstate.Guest)
	if n := len(c.Steps); n != 2 || c.Still < 3*time.Second || run.Lives[0].To != peerEnd {
		t.Errorf("the guest's end made %d steps and waited %v, to %s; want 2, 3s and %s", n, c.Still, run.Lives[0].To, peerEnd)
	}
	if n := run.Entered(tcpstate.Guest, tcpstate.Closed); n != 0 {
		t.Errorf("CLOSED was entered %d times, want 0", n)
	}
}
