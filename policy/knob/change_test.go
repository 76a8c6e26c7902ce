package knob

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"tcpbox/stack/tcpstate"
)

func TestSince(t *testing.T) {
	for _, row := range []struct {
		rule         string
		old, new     []string
		guest, stack string // what the legs are given
		changes      []string
	}{
		{rule: "the same is nothing to do", old: []string{"fin-timeout=5s"}, new: []string{"fin-timeout=5000ms"}},
		{
			rule: "a new value, from the default",
			new:  []string{"stack.fin-timeout=5s"}, stack: "stack.fin-timeout=5s",
			changes: []string{"stack.fin-timeout: 60s > 5s: 5s; only connections made from then on follow"},
		},
		{
			rule: "a new value, from an old one",
			old:  []string{"syn-backlog=5"}, new: []string{"syn-backlog=6"},
			guest: "guest.syn-backlog=6", stack: "stack.syn-backlog=6",
			changes: []string{"guest.syn-backlog: 5 > 6: 6; from the next SYN on", "stack.syn-backlog: 5 > 6: 6; from the next SYN on", "upstream.syn-backlog is not changed: the upstream leg dials and has no listener"},
		},
		{
			rule: "what is no longer set goes back to the default",
			old:  []string{"stack.syn-backlog=5", "guest.fin-timeout=7s"}, new: []string{"stack.syn-backlog=5"},
			guest:   "guest.fin-timeout=60s",
			changes: []string{"guest.fin-timeout: 7s > 60s: the default; those that are closed from then on follow; those already closed keep the time they began with"},
		},
		{
			rule:    "what has no default stays, and that is said",
			old:     []string{"guest.congestion-control=reno"},
			changes: []string{"guest.congestion-control is not changed: there is no default to go back to: reno stays until the sandbox ends"},
		},
		{
			rule:    "so on a leg that has no default of its own",
			old:     []string{"upstream.port-range=40000-40009"},
			changes: []string{"upstream.port-range is not changed: there is no default to go back to: 40000-40009 stays until the sandbox ends"},
		},
		{
			rule: "what has no default is set from it",
			new:  []string{"guest.congestion-control=reno"}, guest: "guest.congestion-control=reno",
			changes: []string{"guest.congestion-control: its default > reno: reno; only connections made from then on follow"},
		},
	} {
		fakes, carriers := legs(tcpstate.Legs()...)
		plan := func(texts []string) *Plan {
			p, err := Resolve(settings(t, texts...), carriers)
			if err != nil {
				t.Fatalf("%s: %v", row.rule, err)
			}
			return p
		}
		diff, changes := plan(row.new).Since(plan(row.old))
		if err := diff.Apply(); err != nil {
			t.Fatalf("%s: %v", row.rule, err)
		}
		var got []string
		for _, c := range changes {
			if c.Key == "fin-timeout" && !c.Applied {
				continue
			}
			got = append(got, c.String())
		}
		if !slices.Equal(got, row.changes) {
			t.Errorf("%s: changes\n%s\nwant\n%s", row.rule, strings.Join(got, "\n"), strings.Join(row.changes, "\n"))
		}
		if g, s := strings.Join(fakes[tcpstate.Guest].applied, " "), strings.Join(fakes[tcpstate.Stack].applied, " "); g != row.guest || s != row.stack {
			t.Errorf("%s: the guest is given %q, the stack %q; want %q, %q", row.rule, g, s, row.guest, row.stack)
		}
	}
}

// If a leg fails, those before it get back what they had.
func TestSinceIsAllOrNothing(t *testing.T) {
	fakes, carriers := legs(tcpstate.Legs()...)
	plan := func(texts ...string) *Plan {
		p, err := Resolve(settings(t, texts...), carriers)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	old := plan("guest.fin-timeout=7s")
	diff, _ := plan("fin-timeout=8s", "syn-backlog=9").Since(old)
	fakes[tcpstate.Stack].fail = errors.New("no room")
	if err := diff.Apply(); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("Apply = %v", err)
	}
	want := "guest.fin-timeout=8s guest.syn-backlog=9 guest.fin-timeout=7s guest.syn-backlog=1024"
	if got := strings.Join(fakes[tcpstate.Guest].applied, " "); got != want {
		t.Errorf("the guest is given %q, want %q", got, want)
	}
	if got := fakes[tcpstate.Upstream].applied; len(got) != 0 {
		t.Errorf("upstream is given %q after the stack has failed", got)
	}
}
