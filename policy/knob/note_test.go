package knob

import (
	"slices"
	"strings"
	"testing"

	"tcpbox/stack/tcpstate"
)

// What settings say of themselves, and when they keep silent.
func TestNotes(t *testing.T) {
	const (
		fin       = "fin-timeout is FIN-WAIT-2's and does not shorten TIME-WAIT, which is time-wait.timeout"
		listeners = "time-wait.reuse is for who connects and does nothing for listeners, which is time-wait.newer-syn"
		delay     = "guest.time-wait.reuse-delay does nothing while guest.time-wait.reuse is off"
		probes    = "the stack sends no probes while stack.keepalive is off, whatever keepalive.idle, keepalive.interval and keepalive.count are"
	)
	for _, tt := range []struct {
		settings []string
		sysctls  []Sysctl
		want     []string
	}{
		{},
		{settings: []string{"time-wait.timeout=5s"}},

		// fin-timeout, of any leg, once.
		{settings: []string{"fin-timeout=5s"}, want: []string{fin}},
		{settings: []string{"stack.fin-timeout=5s"}, want: []string{fin}},
		{settings: []string{"guest.fin-timeout=5s", "stack.fin-timeout=6s"}, want: []string{fin}},

		// Reuse is for who connects, and on the guest needs timestamps.
		{settings: []string{"time-wait.reuse=off"}},
		{settings: []string{"time-wait.reuse=on"}, want: []string{listeners}},
		{settings: []string{"guest.time-wait.reuse=loopback"}, want: []string{listeners}},
		{settings: []string{"time-wait.reuse=on", "timestamps=off"}, want: []string{listeners, noReuse}},
		{settings: []string{"time-wait.reuse=on", "stack.timestamps=off"}, want: []string{listeners}},
		{settings: []string{"stack.time-wait.reuse=on", "stack.timestamps=off"}, want: []string{listeners}},
		{settings: []string{"time-wait.reuse=on"}, sysctls: []Sysctl{{Name: "net.ipv4.tcp_timestamps", Value: "0"}}, want: []string{listeners, noReuse}},
		{settings: []string{"time-wait.reuse=on"}, sysctls: []Sysctl{{Name: "net.ipv4.tcp_timestamps", Value: "2"}}, want: []string{listeners}},
		{settings: []string{"timestamps=off"}, want: []string{noReuse}}, // for the default of reuse is loopback
		{settings: []string{"timestamps=off", "time-wait.reuse=off"}},
		{settings: []string{"timestamps=on"}},

		// What does nothing without another knob.
		{settings: []string{"guest.time-wait.reuse-delay=2s"}},
		{settings: []string{"guest.time-wait.reuse-delay=2s", "guest.time-wait.reuse=off"}, want: []string{delay}},
		{settings: []string{"stack.keepalive.idle=5s", "stack.keepalive.count=2"}, want: []string{probes}},
		{settings: []string{"stack.keepalive.idle=5s", "stack.keepalive=on"}},
		{settings: []string{"guest.keepalive.idle=5s"}},
	} {
		_, carriers := legs(tcpstate.Legs()...)
		plan, err := Resolve(settings(t, tt.settings...), carriers)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, n := range plan.Notes(tt.sysctls) {
			got = append(got, n.Text)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%q with %v say %q, want %q", tt.settings, tt.sysctls, got, tt.want)
		}
	}
}

// Nobody has written what a preset sets.
func TestNotesOfPreset(t *testing.T) {
	preset := settings(t, "fin-timeout=5s")
	preset[0].Source = "preset windows"
	_, carriers := legs(tcpstate.Legs()...)
	plan, err := Resolve(preset, carriers)
	if err != nil {
		t.Fatal(err)
	}
	if got := plan.Notes(nil); len(got) > 0 {
		t.Errorf("a preset says %q", got)
	}
}

// The conditions of the table speak of knobs and words that there are.
func TestSaysMeansSomething(t *testing.T) {
	for _, d := range Table() {
		for _, says := range d.says {
			for _, value := range says.values {
				if _, err := ParseSetting(d.Key + "=" + value); err != nil {
					t.Errorf("%s: %v", d.Key, err)
				}
			}
			if says.with == "" {
				continue
			}
			for _, leg := range tcpstate.Legs() {
				if says.leg != 0 && says.leg != leg {
					continue
				}
				key, values, _ := strings.Cut(says.with, "=")
				for value := range strings.SplitSeq(values, ",") {
					if s, err := ParseSetting(leg.String() + "." + key + "=" + value); err != nil || lookup(key).Type != Word || !lookup(key).Leg(leg).Carries {
						t.Errorf("%s: %q: %v, %v", d.Key, says.with, s, err)
					}
				}
			}
		}
	}
}
