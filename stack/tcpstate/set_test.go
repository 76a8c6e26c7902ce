package tcpstate

import (
	"slices"
	"testing"
)

func TestParseSet(t *testing.T) {
	for _, row := range []struct {
		name string
		want []State // nil: no name of anything
	}{
		// One state, in every spelling.
		{"time-wait", []State{TimeWait}},
		{"TIME_WAIT", []State{TimeWait}},
		{"syn-recv", []State{SynReceived}},
		{"FIN_WAIT1", []State{FinWait1}},
		{"UNKNOWN", []State{Unknown}},

		// ss(8), STATE-FILTER.
		{"bucket", []State{SynReceived, TimeWait}},
		{"Bucket", []State{SynReceived, TimeWait}},
		{"connected", []State{SynSent, SynReceived, Established, FinWait1, FinWait2, CloseWait, Closing, LastAck, TimeWait}},
		{"synchronized", []State{SynReceived, Established, FinWait1, FinWait2, CloseWait, Closing, LastAck, TimeWait}},
		{"big", []State{Closed, Listen, SynSent, Established, FinWait1, FinWait2, CloseWait, Closing, LastAck}},
		{"all", append(All(), Unknown)},

		{"", nil},
		{"time wait", nil},
		{"biggest", nil},
	} {
		got, err := ParseSet(row.name)
		if want := SetOf(row.want...); got != want || (err == nil) != (row.want != nil) {
			t.Errorf("ParseSet(%q) = %v, %v, want %v", row.name, got.Names(), err, want.Names())
		}
	}
	if SetOf(State(200)) != 0 || SetOf(All()...).Has(State(200)) {
		t.Error("what is no state is in a set")
	}
}

func TestEveryNameIsParsed(t *testing.T) {
	for _, name := range SetNames() {
		set, err := ParseSet(name)
		if err != nil {
			t.Error(err)
		}
		if names := set.Names(); !slices.Equal(names, []string{name}) {
			t.Errorf("%q is printed as %q", name, names)
		}
	}
	for _, s := range All() {
		if got, err := Parse(s.Netstat()); got != s || err != nil {
			t.Errorf("Parse(%q) = %v, %v, want %v", s.Netstat(), got, err, s)
		}
	}
}

func FuzzParseSet(f *testing.F) {
	for _, name := range SetNames() {
		f.Add(name)
	}
	f.Add("SYN_RECV")
	f.Fuzz(func(t *testing.T, name string) {
		set, err := ParseSet(name)
		if err != nil {
			return
		}
		var again Set
		for _, n := range set.Names() {
			s, err := ParseSet(n)
			if err != nil {
				t.Errorf("ParseSet(%q) prints as %q: %v", name, n, err)
			}
			again |= s
		}
		if again != set || set == 0 {
			t.Errorf("ParseSet(%q) = %v, printed and read again %v", name, set.Names(), again.Names())
		}
	})
}
