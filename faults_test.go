package tcpbox_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"tcpbox"
	"tcpbox/policy"
	"tcpbox/stack/statelog"
)

// TestFaultsOfAConfig: what cannot be carried out is found before anything is
// started.
func TestFaultsOfAConfig(t *testing.T) {
	loss := parseFaults(t, "loss 5%")[0]
	cfg := tcpbox.Config{Args: []string{"true"}, Faults: slices.Repeat([]policy.Fault{loss}, 64)}
	if err := cfg.Check(); err != nil {
		t.Errorf("64 faults: %v", err)
	}
	cfg.Faults = append(cfg.Faults, loss)
	var wrong *tcpbox.ConfigError
	if err := cfg.Check(); !errors.As(err, &wrong) || !strings.Contains(err.Error(), "65 faults are more than the 64") {
		t.Errorf("65 faults: %v", err)
	}
	cfg.Faults = []policy.Fault{{Do: policy.FaultRate}}
	if err := cfg.Check(); !errors.As(err, &wrong) || !strings.Contains(err.Error(), `"rate" is not a fault`) {
		t.Errorf("a rate without a rate: %v", err)
	}
}

// TestFaultsSince: what goes and what comes is what the sandbox does, which keeps those
// whose order stays.
func TestFaultsSince(t *testing.T) {
	const a, b, c = "loss 1%", "delay 1ms", "drop udp"
	for _, tt := range []struct{ before, now, gone, come []string }{
		{nil, nil, nil, nil},
		{[]string{a, b}, []string{a, b}, nil, nil},
		{[]string{a}, []string{a, b, b}, nil, []string{b, b}},
		{[]string{a, b, c}, []string{b}, []string{a, c}, nil},
		{[]string{a, b}, []string{b, a}, []string{a}, []string{a}},
		{[]string{a, b, c}, []string{a, c, b}, []string{b}, []string{b}},
		{[]string{a, a}, []string{a}, []string{a}, nil},
		{[]string{a}, []string{c}, []string{a}, []string{c}},
	} {
		before, now := tcpbox.Settings{Faults: parseFaults(t, tt.before...)}, tcpbox.Settings{Faults: parseFaults(t, tt.now...)}
		gone, come := now.FaultsSince(before)
		if !slices.Equal(gone, parseFaults(t, tt.gone...)) || !slices.Equal(come, parseFaults(t, tt.come...)) {
			t.Errorf("from %v to %v goes %v and comes %v", tt.before, tt.now, gone, come)
		}
	}
}

func parseFaults(t *testing.T, texts ...string) []policy.Fault {
	t.Helper()
	var all []policy.Fault
	for _, text := range texts {
		f, err := policy.ParseFault(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f)
	}
	return all
}

// TestFaultsLive: faults are added, taken away and set together with the rest, in
// the order that was asked for; those that stay keep their numbers, a change of
// something else touches none, and the log has each change.
func TestFaultsLive(t *testing.T) {
	var mu sync.Mutex
	var log []string
	s := box(t, "wait", tcpbox.Config{
		Policy: policy.Policy{Net: policy.NetNone},
		Faults: parseFaults(t, "loss 1%", "delay 1ms"),
		OnRecords: func(items []statelog.Item) {
			mu.Lock()
			defer mu.Unlock()
			for i := range items {
				if c := items[i].Set; c != nil && strings.HasPrefix(c.Key, "fault.") {
					log = append(log, c.Key+": "+c.From+" > "+c.To)
				}
			}
		},
	})
	want := func(rules ...string) {
		t.Helper()
		var got []string
		for _, r := range s.Faults() {
			got = append(got, fmt.Sprintf("%d %v", r.ID, r.Fault))
		}
		if !slices.Equal(got, rules) {
			t.Errorf("in force: %q, want %q", got, rules)
		}
	}
	want("1 loss 1%", "2 delay 1ms")
	if id, err := s.AddFault(parseFaults(t, "dup 1%")[0]); err != nil || id != 3 {
		t.Errorf("AddFault = %d, %v", id, err)
	}
	if err := s.RemoveFault(1); err != nil {
		t.Error(err)
	}
	if err := s.RemoveFault(1); !errors.Is(err, tcpbox.ErrNoFault) {
		t.Errorf("RemoveFault twice: %v", err)
	}
	if _, err := s.Set(parseSettings(t, "stack.syn-backlog=16")...); err != nil {
		t.Error(err)
	}
	want("2 delay 1ms", "3 dup 1%")
	next := s.Settings()
	next.Faults = parseFaults(t, "delay 1ms", "mtu 1400", "dup 1%")
	if _, err := s.SetPolicy(next); err != nil {
		t.Error(err)
	}
	want("2 delay 1ms", "4 mtu 1400", "5 dup 1%")
	if in := s.Inspect(); !slices.Equal(in.Faults, []string{"delay 1ms", "mtu 1400", "dup 1%"}) {
		t.Errorf("inspect shows %q", in.Faults)
	}
	next.Faults = nil
	if _, err := s.SetPolicy(next); err != nil {
		t.Error(err)
	}
	want()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.AddFault(parseFaults(t, "drop")[0]); !errors.Is(err, tcpbox.ErrEnded) {
		t.Errorf("AddFault after the end: %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	wantLog := []string{
		"fault.3: none > dup 1%", "fault.1: loss 1% > none",
		"fault.3: dup 1% > none", "fault.4: none > mtu 1400", "fault.5: none > dup 1%",
		"fault.2: delay 1ms > none", "fault.4: mtu 1400 > none", "fault.5: dup 1% > none",
	}
	if !slices.Equal(log, wantLog) {
		t.Errorf("the log has %q, want %q", log, wantLog)
	}
}
