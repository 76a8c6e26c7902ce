package document

import (
	"slices"
	"strings"
	"testing"

	"tcpbox/policy/knob"
	"tcpbox/stack/tcpstate"
)

// everything is a leg that takes what it is given.
type everything struct{ leg tcpstate.Leg }

func (e everything) Plan(settings []knob.Setting) (out []knob.Outcome) {
	for _, s := range settings {
		out = append(out, knob.Outcome{Leg: e.leg, Key: s.Key, Applied: true})
	}
	return out
}

func (everything) Apply([]knob.Setting) error { return nil }

// TestLegacyWeb: each of its three settings says in one line what it really does,
// and which legs cannot have it; the settings of another preset are silent.
func TestLegacyWeb(t *testing.T) {
	notes := func(name string) (keys []string) {
		legs := map[tcpstate.Leg]knob.Carrier{}
		for _, leg := range tcpstate.Legs() {
			legs[leg] = everything{leg}
		}
		plan, err := knob.Resolve(Presets[name], legs)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range plan.Notes(nil) {
			if strings.Contains(n.Text, "\n") {
				t.Errorf("%s: %q is more than a line", n.Key, n.Text)
			}
			keys = append(keys, n.Key)
		}
		return keys
	}
	if got, want := notes("legacy-web"), []string{"time-wait.reuse", "time-wait.recycle", "fin-timeout"}; !slices.Equal(got, want) {
		t.Errorf("notes of %v, want of %v", got, want)
	}
	if got := notes("windows"); len(got) != 0 {
		t.Errorf("windows has notes of %v", got)
	}
}
