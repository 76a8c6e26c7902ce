package lab

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"tcpbox/policy/knob"
)

func TestLabsAreWellMade(t *testing.T) {
	names := map[string]bool{}
	for _, l := range Labs() {
		if err := l.Check(); err != nil {
			t.Errorf("%s: %v", l.Name, err)
		}
		if names[l.Name] {
			t.Errorf("two labs are called %s", l.Name)
		}
		names[l.Name] = true
		if found, ok := Find(l.Name); !ok || found.Title != l.Title {
			t.Errorf("Find(%q) = %q, %v", l.Name, found.Title, ok)
		}
		if l.Title == "" || !strings.HasSuffix(l.Question, "?") || len(l.Story) == 0 || len(l.Moral) == 0 ||
			len(l.Production) == 0 || len(l.Sources) == 0 || l.Setup == "" {
			t.Errorf("%s: a part of the story is missing", l.Name)
		}
		for _, v := range l.Variants {
			if n := utf8.RuneCountInString(v.Title); n == 0 || n > titleWidth {
				t.Errorf("%s, %s: a title of %d characters, want 1 to %d", l.Name, v.Name, n, titleWidth)
			}
			if n := utf8.RuneCountInString(v.Note); n == 0 || n > noteWidth {
				t.Errorf("%s, %s: a note of %d characters, want 1 to %d", l.Name, v.Name, n, noteWidth)
			}
			if v.Why == "" {
				t.Errorf("%s, %s: no reason", l.Name, v.Name)
			}
			if (v.Group == Belief) != (v.Belief != "") {
				t.Errorf("%s, %s: of group %s, with the belief %q", l.Name, v.Name, v.Group, v.Belief)
			}
		}
	}
	if _, ok := Find("no-such-lab"); ok {
		t.Error("Find finds a lab that there is not")
	}
}

func TestALabIsData(t *testing.T) {
	for _, l := range Labs() {
		var b bytes.Buffer
		if err := l.WriteJSON(&b); err != nil {
			t.Fatal(err)
		}
		var back Lab
		dec := json.NewDecoder(&b)
		dec.DisallowUnknownFields()
		if err := dec.Decode(&back); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(back, l) {
			t.Errorf("%s is not the same after writing and reading:\n%+v\n%+v", l.Name, back, l)
		}
	}
}

func TestCheckReportsEveryFault(t *testing.T) {
	connect := func() *Connect { return &Connect{To: "web:80", Times: 1, Close: ClientClose} }
	for _, tt := range []struct {
		name   string
		breaks func(*Lab)
		want   string
	}{
		{"no name", func(l *Lab) { l.Name = "" }, "no name"},
		{"no rows", func(l *Lab) { l.Variants = nil }, "no rows"},
		{"a row twice", func(l *Lab) { l.Variants = append(l.Variants, l.Variants[0]) }, `row 2: the name "row" is empty or taken`},
		{"a bad peer", func(l *Lab) { l.Peers = []string{"web=htp"} }, `did you mean "http"?`},
		{"two peers on a port", func(l *Lab) { l.Peers = []string{"web=http", "web=echo"} }, "want the same port"},
		{"a knob that there is not", func(l *Lab) { l.Settings = []Setting{"fin-timeot=1s"} }, "fin-timeot"},
		{"a row's knob out of range", func(l *Lab) { l.Variants[0].Settings = []Setting{"fin-timeout=-1s"} }, "row row: knob"},
		{"no steps", func(l *Lab) { l.Variants[0].Steps = nil }, "no steps"},
		{"no such group", func(l *Lab) { l.Variants[0].Group = "x" }, `no group "x"`},
		{"a count that nothing makes", func(l *Lab) { l.Variants[0].After = Figures{"x": 1} }, `nothing counts "x"`},
		{"a step that does nothing", func(l *Lab) { l.Variants[0].Steps[0].Connect = nil }, "exactly one thing"},
		{"a step that does two things", func(l *Lab) { l.Variants[0].Steps[0].Fetch = &Fetch{} }, "exactly one thing"},
		{"a step twice", func(l *Lab) { l.Variants[0].Steps = append(l.Variants[0].Steps, l.Variants[0].Steps[0]) }, `step 2: the name "first" is empty or taken`},
		{"no such time", func(l *Lab) { l.Variants[0].Steps[0].When = "later" }, `no time "later"`},
		{"no such close", func(l *Lab) { l.Variants[0].Steps[0].Connect.Close = "slam" }, `"slam"`},
		{"not once", func(l *Lab) { l.Variants[0].Steps[0].Connect.Times = 0 }, "0 times"},
		{"too often", func(l *Lab) { l.Variants[0].Steps[0].Connect.Times = maxTimes + 1 }, "1048577 times"},
	} {
		l := Lab{Name: "lab", Peers: []string{"web=http"}, Variants: []Variant{{
			Name: "row", Group: Problem, Steps: []Step{{Name: "first", Connect: connect()}},
		}}}
		if err := l.Check(); err != nil {
			t.Fatalf("the lab is at fault before it is broken: %v", err)
		}
		tt.breaks(&l)
		if err := l.Check(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Check() = %v, want %q", tt.name, err, tt.want)
		}
	}
	bad := Lab{Settings: []Setting{"x=1"}, Peers: []string{"y"}}
	if err := bad.Check(); strings.Count(err.Error(), "\n") != 3 {
		t.Errorf("Check() = %v, want four faults", err)
	}
}

func TestARowsSettingsGoBeforeTheLabs(t *testing.T) {
	l := Lab{Settings: []Setting{"net.ipv4.a=1", "fin-timeout=60s", "net.ipv4.b=2"}}
	v := Variant{Settings: []Setting{"net.ipv4.b=3", "fin-timeout=1s"}}
	all, own := l.settings(&v)
	want := []Setting{"net.ipv4.a=1", "net.ipv4.b=3", "fin-timeout=1s"}
	if !reflect.DeepEqual(all, want) {
		t.Errorf("settings = %q, want %q", all, want)
	}
	if len(own) != 2 || !own["net.ipv4.b=3"] || own["net.ipv4.a=1"] {
		t.Errorf("the row's own settings are %v", own)
	}
	if name, value, ok := Setting("net.ipv4.ip_local_port_range=1 2").Sysctl(); name != "net.ipv4.ip_local_port_range" || value != "1 2" || !ok {
		t.Errorf("Sysctl() = %q, %q, %v", name, value, ok)
	}
	if _, _, ok := Setting("fin-timeout=1s").Sysctl(); ok {
		t.Error("a knob is taken for a sysctl")
	}
}

// TestKnobsNameTheirLabs: the lab that shows a knob is one that there is.
func TestKnobsNameTheirLabs(t *testing.T) {
	for _, d := range knob.Table() {
		if _, known := Find(d.Lab); d.Lab != "" && !known {
			t.Errorf("%s is shown by %q, which is no lab", d.Key, d.Lab)
		}
	}
}
