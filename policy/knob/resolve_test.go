package knob

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"tcpbox/stack/tcpstate"
)

// fakeLeg carries all but the keys in cannot, and notes what it is asked and
// told.
type fakeLeg struct {
	cannot  map[string]string // key to why
	fail    error             // of Apply
	short   bool              // Plan breaks its contract
	asked   []string
	applied []string
}

func (l *fakeLeg) Plan(settings []Setting) []Outcome {
	var outcomes []Outcome
	for _, s := range settings {
		l.asked = append(l.asked, s.String())
		if why, ok := l.cannot[s.Key]; ok {
			outcomes = append(outcomes, Outcome{Text: why})
			continue
		}
		outcomes = append(outcomes, Outcome{Applied: true, Text: s.Canonical()})
	}
	if l.short {
		return outcomes[1:]
	}
	return outcomes
}

func (l *fakeLeg) Apply(settings []Setting) error {
	if l.fail != nil {
		return l.fail
	}
	for _, s := range settings {
		l.applied = append(l.applied, s.String())
	}
	return nil
}

func settings(t *testing.T, texts ...string) []Setting {
	t.Helper()
	var settings []Setting
	for _, text := range texts {
		s, err := ParseSetting(text)
		if err != nil {
			t.Fatal(err)
		}
		settings = append(settings, s)
	}
	return settings
}

// legs makes fake carriers for the legs named.
func legs(legs ...tcpstate.Leg) (map[tcpstate.Leg]*fakeLeg, map[tcpstate.Leg]Carrier) {
	fakes, carriers := map[tcpstate.Leg]*fakeLeg{}, map[tcpstate.Leg]Carrier{}
	for _, leg := range legs {
		fakes[leg] = &fakeLeg{}
		carriers[leg] = fakes[leg]
	}
	return fakes, carriers
}

func TestResolve(t *testing.T) {
	const notSet = " is not set: "
	constant := func(whose string) string { return "the " + whose + " is a constant of 60 s, for which there is no " }
	tests := []struct {
		rule     string
		settings []string
		want     []string // outcomes
	}{
		{"no settings, nothing done", nil, nil},
		{
			"a bare key sets every leg that can carry it",
			[]string{"fin-timeout=5s"},
			[]string{"guest.fin-timeout: 5s", "stack.fin-timeout: 5s", "upstream.fin-timeout: 5s"},
		},
		{
			"and says of each other why it cannot",
			[]string{"time-wait.timeout=5s"},
			[]string{
				"guest.time-wait.timeout: 5s",
				"stack.time-wait.timeout: 5s",
				"upstream.time-wait.timeout" + notSet + constant("host kernel's TIME-WAIT") + "socket option",
			},
		},
		{
			"so where only the value is at fault",
			[]string{"fin-timeout=2500ms"},
			[]string{
				"guest.fin-timeout" + notSet + "it takes whole seconds, not 2.5s", "stack.fin-timeout: 2.5s",
				"upstream.fin-timeout" + notSet + "it takes whole seconds, not 2.5s",
			},
		},
		{
			"so where only the value is at fault",
			[]string{"fin-timeout=10m"},
			[]string{"guest.fin-timeout: 10m", "stack.fin-timeout: 10m", "upstream.fin-timeout" + notSet + "it takes at most 2m, not 10m"},
		},
		{"a key with a leg sets that leg alone", []string{"stack.fin-timeout=5s"}, []string{"stack.fin-timeout: 5s"}},
		{
			"the later of the same key and leg wins",
			[]string{"stack.fin-timeout=5s", "stack.fin-timeout=6s"},
			[]string{"stack.fin-timeout: 6s"},
		},
		{
			"the later bare key wins",
			[]string{"syn-backlog=5", "syn-backlog=6"},
			[]string{"guest.syn-backlog: 6", "stack.syn-backlog: 6", "upstream.syn-backlog" + notSet + "the upstream leg dials and has no listener"},
		},
		{
			"one leg wins over every leg, before it",
			[]string{"guest.fin-timeout=5s", "fin-timeout=6s"},
			[]string{"guest.fin-timeout: 5s", "stack.fin-timeout: 6s", "upstream.fin-timeout: 6s"},
		},
		{
			"one leg wins over every leg, behind it",
			[]string{"fin-timeout=6s", "guest.fin-timeout=5s"},
			[]string{"guest.fin-timeout: 5s", "stack.fin-timeout: 6s", "upstream.fin-timeout: 6s"},
		},
		{
			"a bare key of which all is taken sets nothing",
			[]string{"fin-timeout=9s", "guest.fin-timeout=1s", "stack.fin-timeout=2s", "upstream.fin-timeout=3s"},
			[]string{"guest.fin-timeout: 1s", "stack.fin-timeout: 2s", "upstream.fin-timeout: 3s"},
		},
		{
			"a bare key whose one carrier is taken is no fault",
			[]string{"half-close-timeout=9s", "stack.half-close-timeout=never"},
			[]string{
				"guest.half-close-timeout" + notSet + lookup("half-close-timeout").Guest.Text, "stack.half-close-timeout: never",
				"upstream.half-close-timeout" + notSet + lookup("half-close-timeout").Upstream.Text,
			},
		},
		{
			"an overridden value that no leg would carry is no fault",
			[]string{"guest.fin-timeout=2500ms", "guest.fin-timeout=3s"},
			[]string{"guest.fin-timeout: 3s"},
		},
		{
			"the outcomes are in the order of the keys",
			[]string{"stack.syn-backlog=7", "stack.fin-timeout=1s", "guest.syn-backlog=8"},
			[]string{"guest.syn-backlog: 8", "stack.syn-backlog: 7", "stack.fin-timeout: 1s"},
		},
	}
	for _, tt := range tests {
		fakes, carriers := legs(tcpstate.Legs()...)
		plan, err := Resolve(settings(t, tt.settings...), carriers)
		if err != nil {
			t.Errorf("%s: Resolve(%q): %v", tt.rule, tt.settings, err)
			continue
		}
		var got, wantApplied []string
		for _, o := range plan.Outcomes {
			got = append(got, o.String())
			if o.Applied {
				wantApplied = append(wantApplied, o.Leg.String()+"."+o.Key+"="+o.Text)
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: Resolve(%q):\n%s\nwant\n%s", tt.rule, tt.settings, strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
		}
		for _, f := range fakes {
			if len(f.applied) > 0 {
				t.Errorf("%s: Resolve(%q) has applied %q", tt.rule, tt.settings, f.applied)
			}
		}
		if err := plan.Apply(); err != nil {
			t.Errorf("%s: Apply: %v", tt.rule, err)
		}
		var applied []string
		for _, leg := range tcpstate.Legs() {
			for _, text := range fakes[leg].applied {
				s, err := ParseSetting(text)
				if err != nil || s.Leg != leg {
					t.Errorf("%s: the %v leg was told %q", tt.rule, leg, text)
				}
				s.Text = ""
				applied = append(applied, s.String())
			}
		}
		slices.Sort(applied)
		slices.Sort(wantApplied)
		if !slices.Equal(applied, wantApplied) {
			t.Errorf("%s: applied %q, want what the outcomes say: %q", tt.rule, applied, wantApplied)
		}
	}
}

func TestResolveRefuses(t *testing.T) {
	tests := []struct {
		rule     string
		settings []Setting
		absent   []tcpstate.Leg          // legs without a carrier
		cannot   map[tcpstate.Leg]string // legs whose carrier says no to all
		faults   []string                // parts of each fault, in order
	}{
		{
			"a leg that cannot carry the key", settings(t, "guest.half-close-timeout=5s"), nil, nil,
			[]string{`"guest.half-close-timeout=5s": the guest leg cannot carry it: a kernel has no timer`},
		},
		{
			"a leg that cannot carry the value", settings(t, "upstream.fin-timeout=10m"), nil, nil,
			[]string{"the upstream leg cannot carry it: it takes at most 2m, not 10m"},
		},
		{
			"a leg that cannot carry the value", settings(t, "guest.fin-timeout=1ms"), nil, nil,
			[]string{"the guest leg cannot carry it: it takes whole seconds, not 1ms"},
		},
		{
			"a leg whose carrier cannot", settings(t, "guest.fin-timeout=5s"), nil,
			map[tcpstate.Leg]string{tcpstate.Guest: "/proc/sys is read-only"},
			[]string{"the guest leg cannot carry it: /proc/sys is read-only"},
		},
		{
			"a leg that is not there", settings(t, "upstream.fin-timeout=5s"),
			[]tcpstate.Leg{tcpstate.Upstream},
			nil,
			[]string{"the upstream leg cannot carry it: this sandbox has no such leg"},
		},
		{
			"a bare key that none can carry", settings(t, "half-close-timeout=5s"),
			[]tcpstate.Leg{tcpstate.Stack},
			nil,
			[]string{`"half-close-timeout=5s": no leg can carry it: guest: a kernel has no timer`},
		},
		{
			"a bare key that none can carry, once", settings(t, "half-close-timeout=5s", "half-close-timeout=6s"),
			[]tcpstate.Leg{tcpstate.Stack},
			nil,
			[]string{`"half-close-timeout=6s": no leg can carry it`},
		},
		{
			"all faults together", settings(t, "guest.half-close-timeout=5s", "upstream.syn-backlog=5", "upstream.time-wait.reuse=on", "fin-timeout=5s"), nil, nil,
			[]string{"guest.half-close-timeout=5s", "upstream.syn-backlog=5", "upstream.time-wait.reuse=on"},
		},
		{
			"no port to connect from", settings(t, "guest.port-range=40000-40003", "reserved-ports=40002-40009,80,39999-40001"), nil, nil,
			[]string{`"guest.reserved-ports=40002-40009,80,39999-40001": it reserves every port of guest.port-range=40000-40003, so that nothing can connect`},
		},
		{
			"no port of the default to connect from", settings(t, "reserved-ports=1-65535"), nil, nil,
			[]string{"it reserves every port of guest.port-range=32768-60999"},
		},
		{
			"no timeout between the bounds", settings(t, "rto.min=5s", "rto.max=2s"), nil, nil,
			[]string{`"stack.rto.min=5s": it is more than stack.rto.max=2s`},
		},
		{
			"settings made by hand",
			[]Setting{{Key: "nothing"}, {Key: "syn-backlog"}, {Key: "fin-timeout", Leg: 9, Duration: 1e9}},
			nil, nil,
			[]string{`no knob "nothing"`, "0 is less than 1", "Leg(9) is not a leg"},
		},
	}
	for _, tt := range tests {
		fakes, carriers := legs(tcpstate.Legs()...)
		for _, leg := range tt.absent {
			delete(carriers, leg)
		}
		for leg, why := range tt.cannot {
			fakes[leg].cannot = map[string]string{}
			for _, s := range tt.settings {
				fakes[leg].cannot[s.Key] = why
			}
		}
		plan, err := Resolve(tt.settings, carriers)
		var joined interface{ Unwrap() []error }
		if plan != nil || !errors.As(err, &joined) {
			t.Errorf("%s: Resolve(%v) = %v, %v; want joined faults", tt.rule, tt.settings, plan, err)
			continue
		}
		faults := joined.Unwrap()
		if len(faults) != len(tt.faults) {
			t.Errorf("%s: Resolve(%v): %v\nwant %d faults", tt.rule, tt.settings, err, len(tt.faults))
			continue
		}
		for _, want := range tt.faults {
			if !slices.ContainsFunc(faults, func(err error) bool {
				var fault *Error
				return errors.As(err, &fault) && fault.Hint != "" && strings.Contains(err.Error(), want)
			}) {
				t.Errorf("%s: Resolve(%v): %v\nwant a fault with %q and a hint", tt.rule, tt.settings, err, want)
			}
		}
	}
}

// One port that is free is enough.
func TestReservedPortsLeaveSome(t *testing.T) {
	_, carriers := legs(tcpstate.Legs()...)
	for _, texts := range [][]string{
		{"port-range=40000-40003", "reserved-ports=40000-40001,40003"},
		{"port-range=40000-40003", "reserved-ports=none"},
		{"reserved-ports=32768-60998"},
	} {
		if _, err := Resolve(settings(t, texts...), carriers); err != nil {
			t.Errorf("Resolve(%q) = %v", texts, err)
		}
	}
}

func TestHintNamesWhoCanCarryIt(t *testing.T) {
	_, carriers := legs(tcpstate.Legs()...)
	for text, want := range map[string]string{
		"guest.half-close-timeout=5s": "half-close-timeout is a duration of 0 or more, such as 250ms or 5s; 0 or never means never; the legs that can carry it: stack",
		"upstream.fin-timeout=10m":    "the legs that can carry it: guest (whole seconds), stack, upstream (whole seconds, at most 2m)",
	} {
		_, err := Resolve(settings(t, text), carriers)
		var fault *Error
		if !errors.As(err, &fault) || !strings.HasSuffix(fault.Hint, want) {
			t.Errorf("Resolve(%s): %+v, want a hint that ends in %q", text, fault, want)
		}
	}
}

// A carrier is asked once, with the settings that the table lets through.
func TestCarriersAreAskedWhatTheyCanAnswer(t *testing.T) {
	fakes, carriers := legs(tcpstate.Legs()...)
	if _, err := Resolve(settings(t, "half-close-timeout=5s", "fin-timeout=2500ms", "syn-backlog=7"), carriers); err != nil {
		t.Fatal(err)
	}
	for leg, want := range map[tcpstate.Leg][]string{
		tcpstate.Guest:    {"guest.syn-backlog=7"},
		tcpstate.Stack:    {"stack.half-close-timeout=5s", "stack.fin-timeout=2500ms", "stack.syn-backlog=7"},
		tcpstate.Upstream: nil,
	} {
		if !slices.Equal(fakes[leg].asked, want) {
			t.Errorf("the %v leg was asked %q, want %q", leg, fakes[leg].asked, want)
		}
	}
}

func TestResolveWithABrokenCarrier(t *testing.T) {
	fakes, carriers := legs(tcpstate.Stack)
	fakes[tcpstate.Stack].short = true
	if _, err := Resolve(settings(t, "stack.fin-timeout=5s", "stack.syn-backlog=7"), carriers); err == nil || !strings.Contains(err.Error(), "answers 2 settings with 1 outcomes") {
		t.Errorf("Resolve = %v, want that the carrier is found out", err)
	}
}

func TestApplyFails(t *testing.T) {
	fakes, carriers := legs(tcpstate.Legs()...)
	cause := fmt.Errorf("read-only file system")
	fakes[tcpstate.Stack].fail = cause
	plan, err := Resolve(settings(t, "fin-timeout=5s"), carriers)
	if err != nil {
		t.Fatal(err)
	}
	if err := plan.Apply(); !errors.Is(err, cause) || !strings.Contains(err.Error(), "the stack leg") {
		t.Errorf("Apply = %v, want the cause and the leg", err)
	}
	if len(fakes[tcpstate.Upstream].applied) != 0 {
		t.Error("Apply went on after a leg failed")
	}
}

// Bounds of the retransmission timeout are asked for together on the stack's leg alone.
func TestPossibleTimeouts(t *testing.T) {
	for _, texts := range [][]string{
		{"rto.min=2s", "rto.max=2s"},
		{"rto.min=60s"},
		{"rto.max=1s"},
		{"guest.rto.min=5s", "rto.max=2s"},
		{"guest.rto.min=5s", "guest.rto.max=2s"},
		{"rto.min=5s", "stack.rto.min=1s", "rto.max=2s"},
	} {
		if err := Possible(settings(t, texts...)); err != nil {
			t.Errorf("%v: %v", texts, err)
		}
	}
}
