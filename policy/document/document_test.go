package document

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"tcpbox/policy"
	"tcpbox/policy/knob"
	"tcpbox/stack/tcpstate"
)

const whole = `version: 1
preset: linux
net: public                      # none | public | all: what happens when no rule matches
rules:                           # first match wins
  - allow 203.0.113.0/24:443
  - deny @private
  - "allow [2001:db8::]:80/tcp"
tcp:
  time-wait.timeout: 10s
  fin-timeout: 5s
  stack.syn-backlog: 256
  time-wait.reuse: on
sysctl: {net.ipv4.tcp_rfc1337: 1, net.ipv4.tcp_rmem: 4096 87380 6291456}
limits: {connections: 1000, udp-flows: 64, buffers: 64M}
dns: {servers: [192.0.2.53, "[2001:db8::53]:5353"], hosts: {db: 192.0.2.5, "Web.example.": [192.0.2.6, "2001:db8::6"]}}
faults: [loss 5%, "delay 100ms ±20ms out", drop first ack when stack=FIN-WAIT-1]
`

func TestParse(t *testing.T) {
	d, err := Parse("box.yaml", []byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	if d.Preset != "linux" || d.Net == nil || *d.Net != policy.NetPublic || d.Limits != (Limits{Connections: 1000, UDPFlows: 64, Buffers: 64 << 20}) {
		t.Errorf("Parse = %+v", d)
	}
	var rules []string
	for _, r := range d.Rules {
		rules = append(rules, r.String()+" "+r.Source)
	}
	if got := strings.Join(rules, ", "); got != "allow 203.0.113.0/24:443 box.yaml:5, deny @private box.yaml:6, allow [2001:db8::]:80/tcp box.yaml:7" {
		t.Errorf("rules: %s", got)
	}
	want := []knob.Setting{
		{Key: "time-wait.timeout", Duration: 10 * time.Second, Text: "10s", Source: "box.yaml:9"},
		{Key: "fin-timeout", Duration: 5 * time.Second, Text: "5s", Source: "box.yaml:10"},
		{Key: "syn-backlog", Leg: tcpstate.Stack, Int: 256, Text: "256", Source: "box.yaml:11"},
		{Key: "time-wait.reuse", Word: "on", Text: "on", Source: "box.yaml:12"},
	}
	if !reflect.DeepEqual(d.TCP, want) {
		t.Errorf("TCP = %+v\nwant %+v", d.TCP, want)
	}
	if len(d.Sysctls) != 2 || d.Sysctls[1].String() != "net.ipv4.tcp_rmem = 4096 87380 6291456" || d.Sysctls[1].Source != "box.yaml:13" {
		t.Errorf("Sysctls = %+v", d.Sysctls)
	}
	var faults []string
	for _, f := range d.Faults {
		faults = append(faults, f.String()+" "+f.Source)
	}
	if got := strings.Join(faults, ", "); got != "loss 5% box.yaml:16, delay 100ms ±20ms out box.yaml:16, drop first ack when stack=FIN-WAIT-1 box.yaml:16" {
		t.Errorf("faults: %s", got)
	}
	if d.DNS.Mode != DNSServers || d.DNS.Servers[0].String() != "192.0.2.53:53" || d.DNS.Servers[1].String() != "[2001:db8::53]:5353" {
		t.Errorf("DNS = %+v", d.DNS)
	}
	if len(d.DNS.Hosts) != 3 || d.DNS.Hosts[1].Name != "web.example" || d.DNS.Hosts[2].Addr.String() != "2001:db8::6" {
		t.Errorf("Hosts = %+v", d.DNS.Hosts)
	}
}

// unsourced is d without where it was written, and with values in one form.
func unsourced(d Document) Document {
	d.Rules, d.TCP, d.Sysctls = append([]Rule(nil), d.Rules...), append([]knob.Setting(nil), d.TCP...), append([]knob.Sysctl(nil), d.Sysctls...)
	for i := range d.Rules {
		d.Rules[i].Source = ""
	}
	for i := range d.TCP {
		d.TCP[i].Source = ""
	}
	for i := range d.Sysctls {
		d.Sysctls[i].Source = ""
	}
	d.Faults = append([]FaultRule(nil), d.Faults...)
	for i := range d.Faults {
		d.Faults[i].Source = ""
	}
	return d
}

// YAML and JSON are one document, and printing is the inverse of parsing.
func TestPrint(t *testing.T) {
	d, err := Parse("box.yaml", []byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse("", []byte(d.String()))
	if err != nil || !reflect.DeepEqual(unsourced(again), unsourced(d)) {
		t.Errorf("printed as\n%sit reads as %+v, %v", d, again, err)
	}
	for name, marshal := range map[string]func(any) ([]byte, error){
		"compact":  json.Marshal,
		"indented": func(v any) ([]byte, error) { return json.MarshalIndent(v, "", "\t") },
	} {
		data, err := marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		var again Document
		if err := json.Unmarshal(data, &again); err != nil || !reflect.DeepEqual(unsourced(again), unsourced(d)) {
			t.Errorf("%s JSON\n%s\nreads as %+v, %v", name, data, again, err)
		}
	}
	if got := (Document{}).String(); got != "version: 1\n" {
		t.Errorf("the zero Document prints as %q", got)
	}
}

// Ten mistakes are ten lines, and each leads to its mistake.
func TestTenMistakes(t *testing.T) {
	const text = `version: 2
preset: solaris
net: privat
rules:
  - alow 203.0.113.0/24:443
  - deny 203.0.113.5/24
tcp:
  fin-timout: 5s
  time-wait.timeout: 60
  stack.syn-backlog: lots
sysctl: {kernel.panic: 1, net.core.rmem_max: 4}
limit: {connections: 1000}
dns: {servers: none, hosts: {db: 192.0.2.555}}
`
	_, err := Parse("box.yaml", []byte(text))
	want := []string{
		`box.yaml:1:10: "2" is not a version that it reads; this tcpbox reads version 1`,
		`box.yaml:2:9: there is no preset "solaris"; the presets are bsd, legacy-web, linux, windows`,
		`box.yaml:3:6: "privat" is not a value of net; net is none, public or all`,
		`box.yaml:5:5: "alow 203.0.113.0/24:443" is not a rule; a rule is allow or deny and a pattern, such as: allow 203.0.113.0/24:443`,
		`box.yaml:6:5: "203.0.113.5/24": 203.0.113.5/24 has bits set behind its prefix; write 203.0.113.0/24 for the network, or 203.0.113.5 for the one address`,
		`box.yaml:8:3: fin-timout: there is no knob "fin-timout"; did you mean fin-timeout?`,
		`box.yaml:9:22: time-wait.timeout: "60" has no unit; time-wait.timeout is a duration of 0 or more, such as 250ms or 5s`,
		`box.yaml:10:22: stack.syn-backlog: "lots" is not a whole number, or too large for one; syn-backlog is a whole number from 1 to 1048576`,
		`box.yaml:11:10: "kernel.panic": it is not of a network namespace; only what begins with net. is the sandbox's own, such as net.ipv4.tcp_rfc1337`,
		`box.yaml:11:27: "net.core.rmem_max": it cannot be set for one sandbox: a namespace may only read it; leave it out`,
		`box.yaml:12:1: there is no key "limit"; did you mean limits?`,
		`box.yaml:13:34: "192.0.2.555" is not an address; such as: "db": 192.0.2.5`,
	}
	var got []string
	for _, fault := range faults(t, err) {
		got = append(got, fault.Error()+"; "+fault.Hint)
	}
	if len(got) != len(want) {
		t.Errorf("%d faults, want %d", len(got), len(want))
	}
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Errorf("fault %d is\n%s, want\n%s", i+1, got[i], want[i])
		}
	}
}

func faults(t *testing.T, err error) []*Fault {
	t.Helper()
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("%v is no joined error", err)
	}
	var all []*Fault
	for _, e := range joined.Unwrap() {
		var fault *Fault
		if !errors.As(e, &fault) {
			t.Fatalf("%v is no Fault", e)
		}
		all = append(all, fault)
	}
	return all
}

func TestFaults(t *testing.T) {
	for _, row := range []struct{ text, want string }{
		{"", "policy:1:1: there is nothing in it"},
		{"# only a comment\n", "policy:1:1: there is nothing in it"},
		{"net: all\n", "policy:1:1: the version is missing"},
		{"- version: 1\n", "policy:1:1: a policy is a mapping, not a list"},
		{"version\n", "policy:1:1: a policy is a mapping, not a single value"},
		{"version: 1\n---\nversion: 1\n", "policy:2:1: a second document begins here"},
		{"version: 1\nnet: all\nnet: none\n", `policy:3:1: "net" is given twice`},
		{"version: 1\nnet: &a all\n", "policy:2:6: an anchor (&) has no place"},
		{"version: 1\nnet: !!str all\n", "policy:2:6: a tag (!) has no place"},
		{"version: 1\nnet: |\n  all\n", "policy:2:6: a block of text has no place"},
		{"version: 1\nnet:\n", "policy:2:5: it has no value"},
		{"version: 1\nnet: [all]\n", "policy:2:6: net is a single value, not a list"},
		{"version: 1\nrules: allow @public\n", "policy:2:8: rules is a list, not a single value"},
		{"version: 1\nrules: [{allow: x}]\n", "policy:2:9: a rule is a single value, not a mapping"},
		{"version: 1\nrules: [allow]\n", `policy:2:9: "allow" is not a rule`},
		{"version: 1\nfaults: loss 5%\n", "policy:2:9: faults is a list, not a single value"},
		{"version: 1\nfaults: [[x]]\n", "policy:2:10: a fault is a single value, not a list"},
		{"version: 1\nfaults: [drop, los 5%]\n", `policy:2:16: "los 5%", at column 1 of it: "los" is not an action`},
		{"version: 1\ntcp: [x]\n", "policy:2:6: tcp is a mapping, not a list"},
		{"version: 1\ntcp: {fin-timeout: [5s]}\n", "policy:2:20: fin-timeout is a single value, not a list"},
		{"version: 1\ntcp: {a=b: c}\n", `policy:2:7: a=b: there is no knob "a=b"`},
		{"version: 1\ntcp: {fin-timeout: 5s, fin-timeout: 6s}\n", `policy:2:24: "fin-timeout" is given twice`},
		{"version: 1\nlimits: {connections: 0}\n", `policy:2:23: "0" is not a limit of connections`},
		{"version: 1\nlimits: {buffers: 64MB}\n", `policy:2:19: "64MB" is not a limit of buffers`},
		{"version: 1\nlimits: {conections: 5}\n", `policy:2:10: there is no limit "conections"`},
		{"version: 1\ndns: {servers: x}\n", "policy:2:16: that is no list of servers"},
		{"version: 1\ndns: {servers: [\"fe80::1%eth0\"]}\n", `policy:2:17: "fe80::1%eth0" is not a server`},
		{"version: 1\ndns: {hosts: {-a: 192.0.2.1}}\n", `policy:2:15: "-a" is not a name`},
		{"version: 1\ndns: {names: x}\n", `policy:2:7: there is no key of dns "names"`},
		{"version: 1\ntcp: {fin-timeout: 5s}\nsysctl: {net.ipv4.tcp_fin_timeout: 6}\n", "policy:3:1: sysctl net.ipv4.tcp_fin_timeout and fin-timeout=5s set the same parameter"},
		{"version: 1\n\tnet: all\n", "policy:2:1: "},
		{"version: 1\nnet: \"all\n", "policy:"},
		{"version: \xff\n", "policy:1:1: the file is not text"},
		{strings.Repeat("#", maxSize+1), "policy:1:1: the file is larger"},
		{"version: 1\nnet: " + strings.Repeat("[", 20) + strings.Repeat("]", 20) + "\n", "nested too deep"},
	} {
		_, err := Parse("", []byte(row.text))
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("Parse(%.60q): %v, want %s", row.text, err, row.want)
		}
	}
}

func TestSettingsOfAPreset(t *testing.T) {
	d, err := Parse("w.yaml", []byte("version: 1\npreset: windows\ntcp: {time-wait.timeout: 5s, stack.syn-retries: 3}\n"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range d.Settings() {
		got = append(got, s.String()+" ("+s.Source+")")
	}
	want := "syn-retries=2 (preset windows), keepalive.interval=1s (preset windows), keepalive.count=10 (preset windows), port-range=49152-65535 (preset windows), " +
		"time-wait.timeout=5s (w.yaml:3), stack.syn-retries=3 (w.yaml:3)"
	if strings.Join(got, ", ") != want {
		t.Errorf("Settings() = %s\nwant %s", strings.Join(got, ", "), want)
	}
}

// Flags win over the document key by key, and their rules come first.
func TestOver(t *testing.T) {
	parse := func(text string) Document {
		d, err := Parse("", []byte("version: 1\n"+text))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	under := parse(`preset: bsd
net: all
rules: [deny @private]
tcp: {stack.fin-timeout: 5s, guest.fin-timeout: 6s, syn-backlog: 7}
sysctl: {net.ipv4.tcp_sack: 0, net.ipv4.tcp_rfc1337: 1}
limits: {connections: 5, udp-flows: 6}
dns: {servers: none, hosts: {db: 192.0.2.5}}
`)
	over := parse(`net: none
rules: [allow 192.0.2.1]
tcp: {fin-timeout: 8s, stack.syn-backlog: 9}
sysctl: {net.ipv4.tcp_sack: 1}
limits: {connections: 50}
dns: {servers: host, hosts: {web: 192.0.2.6}}
`)
	want := parse(`preset: bsd
net: none
rules: [allow 192.0.2.1, deny @private]
tcp: {syn-backlog: 7, fin-timeout: 8s, stack.syn-backlog: 9}
sysctl: {net.ipv4.tcp_rfc1337: 1, net.ipv4.tcp_sack: 1}
limits: {connections: 50, udp-flows: 6}
dns: {servers: host, hosts: {web: 192.0.2.6, db: 192.0.2.5}}
`)
	if got := over.Over(under); got.String() != want.String() {
		t.Errorf("Over =\n%swant\n%s", got, want)
	}
	if got := (Document{}).Over(under); got.String() != under.String() {
		t.Errorf("nothing over it =\n%swant\n%s", got, under)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte(`{"version": 1, "net": "none", "rules": ["allow @public"], "tcp": {"fin-timeout": "5s"}}`))
	f.Add([]byte("version: 1\ntcp:\n  ? a\n  : b\n"))
	f.Add([]byte("version: 1\nfaults: [hold 3s synack 'dst=[2001:db8::5]:80', rate 1.5mbit]\n"))
	f.Add([]byte("{version: 1, sysctl: {net.ipv4.x: ' '}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := Parse("f", data)
		if err != nil {
			for _, fault := range faults(t, err) {
				if fault.Line < 1 || fault.Column < 1 || fault.Message == "" || strings.ContainsAny(fault.Error()+fault.Hint, "\n\x1b") {
					t.Fatalf("%#v is not one line with a place", fault)
				}
			}
			return
		}
		for _, print := range []func() ([]byte, error){
			func() ([]byte, error) { return []byte(d.String()), nil },
			d.MarshalJSON,
		} {
			text, err := print()
			if err != nil {
				t.Fatal(err)
			}
			again, err := Parse("", text)
			if err != nil || !reflect.DeepEqual(unsourced(again), unsourced(d)) {
				t.Fatalf("%q prints as\n%s\nwhich reads as %+v, %v", data, text, again, err)
			}
		}
	})
}
