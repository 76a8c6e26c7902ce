package tcpbox_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"tcpbox"
	"tcpbox/policy"
	"tcpbox/policy/knob"
	"tcpbox/stack/statelog"
)

func parseSettings(t *testing.T, texts ...string) []knob.Setting {
	t.Helper()
	var all []knob.Setting
	for _, text := range texts {
		s, err := knob.ParseSetting(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

// TestSetPolicy: rules, knobs and sysctls change at once while the guest runs,
// what fails changes nothing, what is no longer set goes back, and the log has it
// all.
func TestSetPolicy(t *testing.T) {
	var mu sync.Mutex
	var log []string
	s := box(t, "wait", tcpbox.Config{
		Policy: policy.Policy{Net: policy.NetNone},
		Knobs:  parseSettings(t, "guest.fin-timeout=9s"),
		OnRecords: func(items []statelog.Item) {
			mu.Lock()
			defer mu.Unlock()
			for i := range items {
				if c := items[i].Set; c != nil {
					leg := ""
					if c.Leg != 0 {
						leg = c.Leg.String() + "."
					}
					log = append(log, leg+c.Key+": "+c.From+" > "+c.To)
				}
			}
		},
	})
	sysctl := func(name, want string) {
		t.Helper()
		if got, err := s.NS().Sysctl(name); err != nil || got != want {
			t.Errorf("%s is %q, %v; want %s", name, got, err, want)
		}
	}
	sysctl("net.ipv4.tcp_fin_timeout", "9")

	if _, err := s.Set(parseSettings(t, "stack.syn-backlog=16", "fin-timeout=7s")...); err != nil {
		t.Fatal(err)
	}
	sysctl("net.ipv4.tcp_fin_timeout", "7") // the key without a leg wins over that of the guest
	rule, err := policy.ParseRule(policy.Allow, "192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	next := tcpbox.Settings{
		Policy:  policy.Policy{Net: policy.NetAll, Rules: []policy.Rule{rule}},
		Knobs:   parseSettings(t, "guest.keepalive.count=5"),
		Sysctls: []knob.Sysctl{{Name: "net.ipv4.tcp_no_metrics_save", Value: "1"}},
		Limits:  tcpbox.Limits{Connections: 9},
	}
	if _, err := s.SetPolicy(next); err != nil {
		t.Fatal(err)
	}
	sysctl("net.ipv4.tcp_fin_timeout", "60")
	sysctl("net.ipv4.tcp_keepalive_probes", "5")
	sysctl("net.ipv4.tcp_no_metrics_save", "1")
	if got := strings.Join(s.Inspect().Policy, ", "); got != "allow 192.0.2.1, net all" {
		t.Errorf("the policy in force is %s", got)
	}

	// A sysctl that the kernel refuses, behind what it takes: nothing changes.
	wrong := next
	wrong.Policy.Net = policy.NetNone
	wrong.Knobs = parseSettings(t, "guest.keepalive.count=6")
	wrong.Sysctls = []knob.Sysctl{{Name: "net.ipv4.tcp_no_metrics_save", Value: "0"}, {Name: "net.ipv4.tcp_sack", Value: "many"}}
	if _, err := s.SetPolicy(wrong); err == nil || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("SetPolicy with a wrong sysctl: %v", err)
	}
	wrong.Sysctls = []knob.Sysctl{{Name: "kernel.panic", Value: "1"}}
	var fault *tcpbox.ConfigError
	if _, err := s.SetPolicy(wrong); !errors.As(err, &fault) {
		t.Errorf("SetPolicy of what is not the sandbox's: %v", err)
	}
	sysctl("net.ipv4.tcp_keepalive_probes", "5")
	sysctl("net.ipv4.tcp_no_metrics_save", "1")
	sysctl("net.ipv4.tcp_sack", "1")
	if got := s.Settings(); got.Policy.Net != policy.NetAll || got.Limits.Connections != 9 || len(got.Knobs) != 1 {
		t.Errorf("after two that failed there is in force %+v", got)
	}

	// What is no longer set goes back to what it was.
	if _, err := s.SetPolicy(tcpbox.Settings{}); err != nil {
		t.Fatal(err)
	}
	sysctl("net.ipv4.tcp_keepalive_probes", "9")
	sysctl("net.ipv4.tcp_no_metrics_save", "0")

	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.Set(parseSettings(t, "fin-timeout=5s")...); !errors.Is(err, tcpbox.ErrEnded) {
		t.Errorf("Set of a sandbox that has ended: %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	var got []string
	for _, line := range log {
		if !strings.HasPrefix(line, "upstream.") {
			got = append(got, line)
		}
	}
	want := []string{
		"guest.fin-timeout: 9s > 7s", "stack.syn-backlog: 1024 > 16", "stack.fin-timeout: 1m > 7s",
		"guest.keepalive.count: 9 > 5", "guest.fin-timeout: 7s > 1m", "stack.syn-backlog: 16 > 1024", "stack.fin-timeout: 7s > 1m",
		"policy: net none > allow 192.0.2.1, net all", "limits.connections: 65536 > 9", "net.ipv4.tcp_no_metrics_save: 0 > 1",
		"guest.keepalive.count: 5 > 9", "policy: allow 192.0.2.1, net all > net none", "limits.connections: 9 > 65536", "net.ipv4.tcp_no_metrics_save: 1 > 0",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the log has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
