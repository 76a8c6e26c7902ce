package knob

import (
	"testing"

	"tcpbox/stack/tcpstate"
)

// TestSysctlAsKnob: what every knob writes for every kind of value is read back as that
// value, however it is spaced.
func TestSysctlAsKnob(t *testing.T) {
	more := map[string][]string{
		"reserved-ports": {"none", "80,9000-9010"}, "port-range": {"40000-49999"}, "receive-buffer": {"64k-4M", "4097-4098"},
		"rto.min": {"250us", "1ms", "5s"}, "rto.max": {"1500ms", "1s"}, "fin-timeout": {"1s", "2m"},
	}
	for i := range table {
		d := &table[i]
		if d.sysctls == nil {
			continue
		}
		for _, value := range append(append([]string{d.Example()}, d.Words...), more[d.Key]...) {
			want := Setting{Key: d.Key, Leg: tcpstate.Guest}
			if d.parse(&want, value) != "" || d.Guest.outside(want) != "" {
				continue
			}
			for _, sysctl := range d.sysctls(want) {
				sysctl.Value, sysctl.Source = "\t"+sysctl.Value+" ", "--sysctl"
				got, ok := sysctl.Knob()
				if !ok || got.Key != d.Key || got.Leg != tcpstate.Guest || got.Canonical() != want.Canonical() || got.Source != "--sysctl" {
					t.Errorf("%q is %v, %v; want %v", sysctl, got, ok, want)
				}
			}
		}
	}
	for _, sysctl := range []Sysctl{
		{Name: "net.ipv4.tcp_no_metrics_save", Value: "1"},
		{Name: "net.ipv4.tcp_sack", Value: "7"},
		{Name: "net.ipv4.tcp_sack", Value: ""},
		{Name: "net.ipv4.tcp_rmem", Value: "1 2"},
		{Name: "net.ipv4.tcp_rmem", Value: "8192 65536 4194304"}, // the knob has 4096 in front
		{Name: "net.ipv4.tcp_fin_timeout", Value: "many"},
	} {
		if got, ok := sysctl.Knob(); ok {
			t.Errorf("%v is the knob %v", sysctl, got)
		}
	}
}

// TestValuesUnderSysctls: a parameter that is written over the knobs is what holds on the
// guest's leg, and on no other.
func TestValuesUnderSysctls(t *testing.T) {
	s, err := ParseSetting("stack.sack=on")
	if err != nil {
		t.Fatal(err)
	}
	s.Source = "--tcp"
	plan, err := Resolve([]Setting{s}, map[tcpstate.Leg]Carrier{tcpstate.Stack: anything{}})
	if err != nil {
		t.Fatal(err)
	}
	type held struct{ value, source string }
	got := map[string]held{}
	for _, v := range plan.Values([]Sysctl{
		{Name: "net.ipv4.tcp_sack", Value: "0", Source: "--sysctl"},
		{Name: "net.ipv4.tcp_tw_reuse", Value: "1", Source: "box.yaml:3"},
		{Name: "net.ipv4.tcp_fin_timeout", Value: "7"},
		{Name: "net.ipv4.tcp_ecn", Value: "3"},
		{Name: "net.ipv4.tcp_no_metrics_save", Value: "1"},
	}) {
		got[v.Leg.String()+"."+v.Key] = held{v.Value, v.Source}
	}
	for name, want := range map[string]held{
		"guest.sack":            {"off", "--sysctl"},
		"stack.sack":            {"on", "--tcp"},
		"guest.time-wait.reuse": {"on", "box.yaml:3"},
		"guest.fin-timeout":     {"7s", "set"},
		"stack.fin-timeout":     {"60s", "default"},
		"guest.ecn":             {"net.ipv4.tcp_ecn = 3", "set"},
		"guest.timestamps":      {"on", "default"},
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
}

// TestIsSysctl: no knob, with or without a leg in front, looks like a sysctl.
func TestIsSysctl(t *testing.T) {
	for i := range table {
		for _, name := range []string{table[i].Key, "guest." + table[i].Key} {
			if IsSysctl(name) {
				t.Errorf("%s is taken for a sysctl", name)
			}
		}
	}
	for name, want := range map[string]bool{"kernel.hostname": true, "net.ipv4.tcp_sack": true, "kernel": false, "hostname.kernel": false} {
		if IsSysctl(name) != want {
			t.Errorf("IsSysctl(%q) is %v", name, !want)
		}
	}
}
