package legs

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

// history makes records of lines such as "1 stack CLOSED SYN-SENT ESTABLISHED",
// which is one for each change, or "dropped 3".
func history(t *testing.T, lines ...string) (records []statelog.Record) {
	t.Helper()
	for _, line := range lines {
		words := strings.Fields(line)
		at := time.Unix(int64(len(records)), 0)
		if words[0] == "dropped" {
			records = append(records, statelog.Record{Time: at, Dropped: 3})
			continue
		}
		var r statelog.Record
		if _, err := fmt.Sscan(words[0], &r.Conn); err != nil {
			t.Fatal(err)
		}
		if err := r.Leg.UnmarshalText([]byte(words[1])); err != nil {
			t.Fatal(err)
		}
		for i := 3; i < len(words); i++ {
			r.Time = at
			r.From, _ = tcpstate.Parse(words[i-1])
			r.To, _ = tcpstate.Parse(words[i])
			r.Cause = tcpstate.Cause{Kind: tcpstate.BySegment, Which: words[i][:3]}
			records = append(records, r)
		}
	}
	return records
}

func (c StateCount) text() string {
	return fmt.Sprintf("%v %v %d %d %d", c.Leg, c.State, c.Now, c.Peak, c.Entered)
}

func TestStat(t *testing.T) {
	const open, closeFirst = " stack CLOSED SYN-RECEIVED ESTABLISHED", " stack ESTABLISHED FIN-WAIT-1 FIN-WAIT-2 TIME-WAIT"
	for _, row := range []struct {
		name   string
		filter string
		lines  []string
		states []string // leg, state, now, peak, entered
		jumps  uint64
	}{
		{name: "nothing"},
		{
			name:  "two at once, one of which waits",
			lines: []string{"1" + open, "2" + open, "1" + closeFirst},
			states: []string{
				"stack SYN-RECEIVED 0 1 2", "stack ESTABLISHED 1 2 2", "stack FIN-WAIT-1 0 1 1",
				"stack FIN-WAIT-2 0 1 1", "stack TIME-WAIT 1 1 1",
			},
		},
		{
			name:  "what is closed is in no state",
			lines: []string{"1 stack ESTABLISHED CLOSED", "1 stack CLOSED SYN-RECEIVED CLOSED"},
			states: []string{
				"stack CLOSED 0 0 2", "stack SYN-RECEIVED 0 1 1",
			},
		},
		{
			name:   "legs are counted apart",
			lines:  []string{"1 guest CLOSED SYN-SENT", "1 upstream SYN-RECEIVED ESTABLISHED", "1 stack CLOSED SYN-RECEIVED"},
			states: []string{"guest SYN-SENT 1 1 1", "stack SYN-RECEIVED 1 1 1", "upstream ESTABLISHED 1 1 1"},
		},
		{
			name:   "a filter chooses what is counted, and the end of a state is seen all the same",
			filter: "state established", lines: []string{"1" + open, "2" + open, "1" + closeFirst},
			states: []string{"stack ESTABLISHED 1 2 2"},
		},
		{
			name:   "a connection",
			filter: "conn 2", lines: []string{"1" + open, "2" + open, "1" + closeFirst},
			states: []string{"stack SYN-RECEIVED 0 1 1", "stack ESTABLISHED 1 1 1"},
		},
		{
			name:   "a log with a hole",
			lines:  []string{"1" + open, "dropped 3", "1 stack TIME-WAIT CLOSED"},
			states: []string{"stack CLOSED 0 0 1", "stack SYN-RECEIVED 0 1 1", "stack ESTABLISHED 0 1 1"},
			jumps:  1,
		},
	} {
		f, err := statelog.ParseFilter(row.filter)
		if err != nil {
			t.Fatal(err)
		}
		s := NewStat(f)
		for _, r := range history(t, row.lines...) {
			s.Add(&r, nil)
		}
		rep := s.Report()
		var got []string
		for _, c := range rep.States {
			got = append(got, c.text())
		}
		if !slices.Equal(got, row.states) || rep.Jumps != row.jumps {
			t.Errorf("%s: %q, %d jumps, want %q, %d", row.name, got, rep.Jumps, row.states, row.jumps)
		}
	}
}

func TestCauses(t *testing.T) {
	s := NewStat(statelog.Filter{})
	for _, r := range history(t, "1 stack CLOSED SYN-RECEIVED ESTABLISHED FIN-WAIT-1 FIN-WAIT-2", "dropped 3") {
		s.Add(&r, nil)
	}
	rep := s.Report()
	if got := fmt.Sprint(rep.Causes); got != "[{segment FIN 2} {segment EST 1} {segment SYN 1}]" {
		t.Errorf("causes are %s", got)
	}
	if rep.Records != 4 || rep.Dropped != 3 || rep.Last.Sub(rep.First) != 4*time.Second {
		t.Errorf("%d records, %d dropped, %v to %v", rep.Records, rep.Dropped, rep.First, rep.Last)
	}
	for i := range 2 * maxCauses {
		r := statelog.Record{Leg: tcpstate.Stack, To: tcpstate.Closed, Cause: tcpstate.Cause{Which: fmt.Sprint(i)}}
		s.Add(&r, nil)
	}
	if n := len(s.Report().Causes); n > maxCauses+1 {
		t.Errorf("%d causes are kept", n)
	}
}

// Counts kept while folding are those of a table of all endpoints, whatever
// happens in whatever order, also what cannot be.
func TestStatIsATable(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a fixed seed
	s := NewStat(statelog.Filter{})
	table := map[endpoint]tcpstate.State{}
	var peak [numLegs][numStates]uint64
	for range 20_000 {
		r := statelog.Record{
			Conn: tcpstate.Conn(rnd.IntN(50)), Leg: tcpstate.Legs()[rnd.IntN(2)],
			From: tcpstate.State(rnd.IntN(numStates)), To: tcpstate.State(rnd.IntN(numStates)),
		}
		s.Add(&r, nil)
		table[endpoint{"", r.Conn, r.Leg}] = r.To
		var now uint64
		for key, state := range table {
			if key.leg == r.Leg && state == r.To {
				now++
			}
		}
		peak[r.Leg][r.To] = max(peak[r.Leg][r.To], now)
	}
	for _, c := range s.Report().States {
		var now uint64
		for key, state := range table {
			if key.leg == c.Leg && state == c.State {
				now++
			}
		}
		if c.Counted() && (c.Now != now || c.Peak != peak[c.Leg][c.State]) {
			t.Errorf("%v %v: %d, at most %d, want %d, %d", c.Leg, c.State, c.Now, c.Peak, now, peak[c.Leg][c.State])
		}
	}
}
