package statelog

import (
	"context"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"tcpbox/stack/tcpstate"
)

func TestFactsAreReadAsTheyWereWritten(t *testing.T) {
	for _, r := range []Record{
		testFacts(),
		{Time: testTime, Sandbox: "web", Conn: 17, Facts: &tcpstate.Facts{Time: testTime, Conn: 17}},
	} {
		line := strings.TrimSuffix(string(AppendJSON(nil, r)), "\n")
		got, err := Parse([]byte(line))
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("Parse(%s) = %+v, %v, want %+v", line, got, err, r)
		}
	}
}

func TestFaultsOfFacts(t *testing.T) {
	const begin = `{"v":1,"time":"2026-01-02T03:04:05Z","sandbox":"web"`
	for line, want := range map[string]string{
		begin + `,"conn":1,"facts":{"bytes_out":1}}`:                       "belong together",
		begin + `,"conn":1,"facts":{"closed_how":"FIN"}}`:                  "belong together",
		begin + `,"conn":1,"facts":{"rtt":1}}`:                             "belong together",
		begin + `,"conn":1,"facts":{"rtt":1e99,"retransmits":0}}`:          "out of range",
		begin + `,"conn":1,"facts":{"pid":-1}}`:                            "not the number of a process",
		begin + `,"conn":1,"facts":{"pid":4294967296}}`:                    "not the number of a process",
		begin + `,"conn":1,"facts":{"colour":"red"}}`:                      "unknown field",
		begin + `,"conn":1,"facts":{"closed_by":"me","closed_how":"FIN"}}`: "not a leg",
		begin + `,"facts":{}}`:                                             `"conn" is missing`,
		begin + `,"conn":1,"facts":{},"leg":"stack"}`:                      `"leg" has no place beside "facts"`,
		begin + `,"conn":1,"facts":{},"dropped":1}`:                        `has no place beside "dropped"`,
		begin + `,"conn":1,"facts":null}`:                                  `"leg" is missing`,
	} {
		if _, err := Parse([]byte(line)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%s): %v, want something with %q", line, err, want)
		}
	}
}

func TestFactsAreChosenByWhatIsKnown(t *testing.T) {
	known := testFacts().Facts
	line := Record{Time: testTime, Sandbox: "web", Conn: 17, Facts: &tcpstate.Facts{Bytes: &tcpstate.Bytes{}}}
	for filter, want := range map[string]bool{
		"": true, "conn 17": true, "conn 18": false, "dport = :80": true, "sport = :80": false, "pid 4711": true,
		"command curl": false, "host web": true, "closed-by guest": true, "closed-by rst": false, "not closed-by rst": true,
		"state established": false, "leg stack": false, "cause unknown": false, "source unknown": false,
	} {
		f, err := ParseFilter(filter)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.MatchKnown(&line, known); got != want {
			t.Errorf("%q chooses facts: %v, want %v", filter, got, want)
		}
		if again, err := ParseFilter(f.String()); err != nil || again.String() != f.String() {
			t.Errorf("%q is printed as %q, which is read as %v, %v", filter, f, again, err)
		}
	}
}

func FuzzFacts(f *testing.F) {
	f.Add(4711, "curl", "web", "net public", byte(1), uint64(83), uint64(1211), byte(1), byte(1), int64(412_000), uint32(3), byte(7))
	f.Add(0, "", "", "", byte(0), uint64(0), uint64(0), byte(0), byte(0), int64(0), uint32(0), byte(8))
	f.Add(0, "", "", "", byte(0), uint64(0), uint64(0), byte(0), byte(0), int64(0), uint32(0), byte(24))
	f.Add(0, "a\"b", "\x00", "\xff", byte(2), uint64(0), uint64(1), byte(3), byte(5), int64(0), uint32(0), byte(0))
	f.Fuzz(func(t *testing.T, pid int, command, name, rule string, direction byte, out, in uint64, by, how byte, rtt int64, again uint32, has byte) {
		facts := &tcpstate.Facts{
			Time: testTime, Conn: 5, PID: int(uint32(pid) >> 1), Command: command, Name: name, Rule: rule,
			Direction: tcpstate.Direction(direction % 3),
		}
		if has&1 != 0 {
			facts.Bytes = &tcpstate.Bytes{Outbound: out, Inbound: in}
		}
		if has&2 != 0 {
			facts.Closed = &tcpstate.Ending{By: tcpstate.Leg(by % 4), How: tcpstate.How(how % 6)}
		}
		if has&4 != 0 {
			facts.Path = &tcpstate.Path{RTT: time.Duration(max(0, rtt)), Retransmits: again}
		}
		if has&8 != 0 {
			frozen := has&16 != 0
			facts.Frozen = &frozen
		}
		line := AppendJSON(nil, Record{Time: testTime, Sandbox: "web", Conn: 5, Facts: facts})
		got, err := Parse(line[:len(line)-1])
		if err != nil {
			t.Fatalf("Parse(%s): %v", line, err)
		}
		if utf8.ValidString(command) && utf8.ValidString(name) && utf8.ValidString(rule) && !reflect.DeepEqual(got.Facts, facts) {
			t.Errorf("Parse(%s) = %+v, want %+v", line, got.Facts, facts)
		}
	})
}

func TestFactsKeepTheirPlaceInTheQueue(t *testing.T) {
	q := NewQueue(4)
	q.Push(testTransition())
	q.PushFacts(testFacts().Facts)
	q.Push(testTransition())
	q.Push(testTransition())
	q.PushFacts(testFacts().Facts) // does not fit
	q.Close()
	var kinds []string
	if err := q.Run(context.Background(), func(items []Item) {
		for _, it := range items {
			switch {
			case it.Dropped > 0:
				kinds = append(kinds, "marker")
			case it.Facts != nil:
				kinds = append(kinds, "facts")
			default:
				kinds = append(kinds, it.Transition.To.String())
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(kinds, " "), "CLOSE-WAIT facts CLOSE-WAIT CLOSE-WAIT marker"; got != want {
		t.Errorf("the queue gives %s, want %s", got, want)
	}
}

func TestEncodingFactsAllocatesNothing(t *testing.T) {
	buffer := make([]byte, 0, 1024)
	r := testFacts()
	if n := testing.AllocsPerRun(1000, func() { buffer = AppendJSON(buffer[:0], r) }); n != 0 {
		t.Errorf("AppendJSON allocates %v times", n)
	}
}
