package knob

import (
	"strings"
	"testing"

	"tcpbox/stack/tcpstate"
)

func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for _, d := range Table() {
		if seen[d.Key] {
			t.Errorf("%s is in the table twice", d.Key)
		}
		seen[d.Key] = true
		if legOf(strings.Split(d.Key, ".")[0]) != 0 {
			t.Errorf("%s begins with a leg", d.Key)
		}
		for what, text := range map[string]string{"Does": d.Does, "Not": d.Not, "Source": d.Source} {
			if text == "" || strings.ContainsAny(text, "\n") || strings.HasSuffix(text, ".") {
				t.Errorf("%s: %s is %q, want one line without a full stop", d.Key, what, text)
			}
		}
		if _, err := ParseSetting(d.Key + "=" + d.Example()); err != nil {
			t.Errorf("%s: the default or the example does not parse: %v", d.Key, err)
		}
		carriers := 0
		for _, leg := range tcpstate.Legs() {
			l := d.Leg(leg)
			if l.Carries {
				carriers++
			}
			if l.Carries && d.Default == "" && l.Default == "" {
				t.Errorf("%s: nothing says what holds on the %v leg without a setting", d.Key, leg)
			}
			if l.Text == "" || (l.Existing != "") != l.Carries {
				t.Errorf("%s: the %v leg lacks a text, or says what existing connections do though it carries nothing: %+v", d.Key, leg, l)
			}
		}
		if carriers == 0 {
			t.Errorf("%s: no leg carries it", d.Key)
		}
		if got, ok := Lookup(d.Key); !ok || got.Key != d.Key {
			t.Errorf("Lookup(%q) = %v, %v", d.Key, got.Key, ok)
		}
		if l := d.Leg(0); l != (LegDef{}) {
			t.Errorf("%s: no leg carries %+v", d.Key, l)
		}
	}
	if _, ok := Lookup("time-wait"); ok {
		t.Error(`Lookup("time-wait") finds a knob`)
	}
}

// Which leg carries which knob, as the table shows it.
func TestWhoCarriesWhat(t *testing.T) {
	const guest, stack, upstream = tcpstate.Guest, tcpstate.Stack, tcpstate.Upstream
	for key, want := range map[string][]tcpstate.Leg{
		"time-wait.timeout":  {guest, stack},
		"time-wait.reuse":    {guest, stack},
		"fin-timeout":        {guest, stack, upstream},
		"half-close-timeout": {stack},
		"syn-backlog":        {guest, stack},
	} {
		d, ok := Lookup(key)
		if !ok {
			t.Errorf("there is no knob %s", key)
			continue
		}
		var got []tcpstate.Leg
		for _, leg := range tcpstate.Legs() {
			if d.Leg(leg).Carries {
				got = append(got, leg)
			}
		}
		if len(got) != len(want) || got[0] != want[0] || got[len(got)-1] != want[len(want)-1] {
			t.Errorf("%s is carried by %v, want %v", key, got, want)
		}
	}
}

func TestTableCannotBeChanged(t *testing.T) {
	for i, d := range Table() {
		if len(d.Words) > 0 {
			d.Words[0] = "changed"
		}
		Table()[i].Key = "changed"
	}
	if d, ok := Lookup("time-wait.reuse"); !ok || d.Words[0] != "off" {
		t.Errorf("a caller changed the table: %v", d.Words)
	}
}

func TestRange(t *testing.T) {
	for key, want := range map[string]string{
		"time-wait.timeout":  "a duration of 0 or more, such as 250ms or 5s",
		"time-wait.reuse":    "off, loopback or on",
		"fin-timeout":        "a duration from 1ms to 24h, such as 250ms or 5s",
		"half-close-timeout": "a duration of 0 or more, such as 250ms or 5s; 0 or never means never",
		"syn-backlog":        "a whole number from 1 to 1048576",
	} {
		if got := lookup(key).Range(); got != want {
			t.Errorf("%s: Range() = %q, want %q", key, got, want)
		}
	}
	for want, typ := range map[string]Type{"duration": Duration, "int": Int, "word": Word, "Type(0)": 0, "Type(9)": 9} {
		if got := typ.String(); got != want {
			t.Errorf("String() = %q, want %q", got, want)
		}
	}
}
