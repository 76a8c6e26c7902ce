package tcpbox_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"tcpbox"
	"tcpbox/policy"
	"tcpbox/policy/knob"
	"tcpbox/stack/peer"
	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
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
	// What a knob set before cannot have on a leg is no news of another one's change.
	if _, err := s.Set(parseSettings(t, "time-wait.timeout=5s")...); err != nil {
		t.Fatal(err)
	}
	changes, err := s.Set(parseSettings(t, "stack.syn-backlog=17")...)
	if err != nil || len(changes) != 1 || changes[0].Key != "syn-backlog" {
		t.Errorf("Set of syn-backlog behind one of time-wait.timeout: %v, %v", changes, err)
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
		"guest.fin-timeout: 9s > 7s", "stack.syn-backlog: 1024 > 16", "stack.fin-timeout: 60s > 7s",
		"guest.time-wait.timeout: 60s > 5s", "stack.time-wait.timeout: 60s > 5s", "stack.syn-backlog: 16 > 17",
		"guest.keepalive.count: 9 > 5", "guest.fin-timeout: 7s > 60s", "guest.time-wait.timeout: 5s > 60s", "stack.fin-timeout: 7s > 60s", "stack.time-wait.timeout: 5s > 60s", "stack.syn-backlog: 17 > 1024",
		"policy: net none > allow 192.0.2.1, net all", "limits.connections: 65536 > 9", "net.ipv4.tcp_no_metrics_save: 0 > 1",
		"guest.keepalive.count: 5 > 9", "policy: allow 192.0.2.1, net all > net none", "limits.connections: 9 > 65536", "net.ipv4.tcp_no_metrics_save: 1 > 0",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the log has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// churned is how many connections churn makes, churners how many at once.
const churned, churners = 500, 16

// churn makes connections to addr, so many and on until standard input ends, and
// says how many did not do what they should.
func churn(addr string) int {
	var made, failed atomic.Int64
	var told atomic.Bool
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		told.Store(true)
	}()
	var all sync.WaitGroup
	for range churners {
		all.Go(func() {
			for made.Add(1) <= churned || !told.Load() {
				if err := echoOnce(addr); err != nil {
					fmt.Println(err)
					failed.Add(1)
				}
			}
		})
	}
	all.Wait()
	return int(min(failed.Load(), 100))
}

func echoOnce(addr string) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := fmt.Fprint(c, "hello"); err != nil {
		return err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	if b, err := io.ReadAll(c); err != nil || string(b) != "hello" {
		return fmt.Errorf("%q, %w", b, err)
	}
	return nil
}

// TestChangesUnderLoad: 200 changes while 500 connections come and go. None is lost,
// and each endpoint's states are a chain without a gap.
func TestChangesUnderLoad(t *testing.T) {
	echo, err := peer.ParseSpec("echo=echo:7")
	if err != nil {
		t.Fatal(err)
	}
	in, tell, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer tell.Close()
	kept := &keeper{}
	s := box(t, "churn 198.18.0.16:7", tcpbox.Config{Peers: []peer.Spec{echo}, OnRecords: kept.keep, Stdin: in})
	in.Close()
	type result struct {
		status tcpbox.Status
		err    error
	}
	ended := make(chan result, 1)
	go func() {
		status, err := s.Wait()
		ended <- result{status, err}
	}()
	// One knob of each kind that connections meet, by turns with whole policies.
	turns := [][]string{
		{"stack.time-wait.timeout=1s", "stack.fin-timeout=5s"},
		{"guest.fin-timeout=9s", "stack.syn-backlog=64"},
		{"stack.time-wait.timeout=0", "guest.time-wait.reuse=on", "guest.keepalive.idle=60s"},
		{"stack.syn-backlog=256", "half-close-timeout=1h", "guest.rto.min=100ms"},
	}
	const changes = 200
	for i := range changes {
		var err error
		if i%5 == 4 {
			_, err = s.SetPolicy(tcpbox.Settings{
				Policy: policy.Policy{Net: policy.Net(i % 3)}, Limits: tcpbox.Limits{Connections: 1000 + i},
				Knobs: parseSettings(t, turns[i%len(turns)]...),
			})
		} else {
			_, err = s.Set(parseSettings(t, turns[i%len(turns)]...)...)
		}
		if err != nil {
			t.Fatalf("change %d: %v", i, err)
		}
	}
	tell.Close()
	if r := <-ended; r.err != nil || r.status.ExitCode() != 0 {
		t.Errorf("the guest ended with %v, %v", r.status, r.err)
	}
	type endpoint struct {
		conn tcpstate.Conn
		leg  tcpstate.Leg
	}
	states := map[endpoint]tcpstate.State{}
	made, set := 0, 0
	kept.mu.Lock()
	defer kept.mu.Unlock()
	for i := range kept.items {
		it := &kept.items[i]
		switch {
		case it.Dropped > 0:
			t.Errorf("%d records are missing", it.Dropped)
		case it.Set != nil:
			set++
		case it.IsTransition() && it.Transition.Leg == tcpstate.Stack:
			tr := it.Transition
			key := endpoint{tr.Conn, tr.Leg}
			if before, known := states[key]; known && before != tr.From || !known && tr.From != tcpstate.Closed {
				t.Errorf("%v leaves %v, and was in %v", key, tr.From, before)
			}
			states[key] = tr.To
			if tr.To == tcpstate.Established {
				made++
			}
		}
	}
	for key, state := range states {
		if state != tcpstate.Closed {
			t.Errorf("%v ends in %v", key, state)
		}
	}
	if made < churned || set < changes {
		t.Errorf("the log has %d connections and %d changes of settings; want at least %d and %d", made, set, churned, changes)
	}
}

// TestSetPolicyRoutesIPv6: a sandbox that was started where nothing is reached by IPv6
// has no default route of it, and gets one with the policy that needs it.
func TestSetPolicyRoutesIPv6(t *testing.T) {
	s := box(t, "wait", tcpbox.Config{Policy: policy.Policy{Net: policy.NetNone}})
	routed := func() bool {
		t.Helper()
		table, err := s.NS().ProcNet("ipv6_route")
		if err != nil {
			t.Fatal(err)
		}
		// Destination, its length, source, its length, next hop (ipv6_route in proc(5)).
		const toAll = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd746370626f00780000000000000001 "
		return strings.Contains(string(table), toAll)
	}
	if routed() {
		t.Fatal("with net none there is a default route of IPv6")
	}
	if _, err := s.Set(parseSettings(t, "stack.fin-timeout=5s")...); err != nil || routed() {
		t.Fatalf("a knob makes a default route of IPv6, or %v", err)
	}
	rule, err := policy.ParseRule(policy.Allow, "[2001:db8::1]:443")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is nothing to do
		if _, err := s.SetPolicy(tcpbox.Settings{Policy: policy.Policy{Rules: []policy.Rule{rule}}}); err != nil {
			t.Fatal(err)
		}
		if !routed() {
			t.Error("with a rule for an IPv6 address there is no default route of IPv6")
		}
	}
}

// TestSysctlAndKnob: whether a knob or a sysctl was the last to say what a parameter is,
// the kernel has that value, and so have Values; what neither says goes back.
func TestSysctlAndKnob(t *testing.T) {
	const name = "net.ipv4.tcp_fin_timeout"
	s := box(t, "wait", tcpbox.Config{
		Policy:  policy.Policy{Net: policy.NetNone},
		Sysctls: []knob.Sysctl{{Name: name, Value: "7", Source: "--sysctl"}},
	})
	holds := func(what, seconds, source string) {
		t.Helper()
		if got, err := s.NS().Sysctl(name); err != nil || got != seconds {
			t.Errorf("%s: %s is %q, %v; want %s", what, name, got, err, seconds)
		}
		values, err := s.Settings().Values()
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range values {
			if v.Key == "fin-timeout" && v.Leg == tcpstate.Guest && (v.Value != seconds+"s" || v.Source != source) {
				t.Errorf("%s: Values say %s from %s, want %ss from %s", what, v.Value, v.Source, seconds, source)
			}
		}
	}
	put := func(settings []knob.Setting, sysctls ...knob.Sysctl) {
		t.Helper()
		if _, err := s.SetPolicy(tcpbox.Settings{Policy: policy.Policy{Net: policy.NetNone}, Knobs: settings, Sysctls: sysctls}); err != nil {
			t.Fatal(err)
		}
	}
	holds("a sysctl at the start", "7", "--sysctl")
	if _, err := s.Set(parseSettings(t, "fin-timeout=9s")...); err != nil {
		t.Fatal(err)
	}
	holds("a knob after it", "9", "set")
	put(nil, knob.Sysctl{Name: name, Value: "5", Source: "box.yaml:3"})
	holds("a sysctl in the place of the knob", "5", "box.yaml:3")
	put(parseSettings(t, "guest.fin-timeout=60s"))
	holds("a knob, at its default, in the place of the sysctl", "60", "set")
	put(parseSettings(t, "guest.fin-timeout=8s"))
	holds("a knob alone", "8", "set")
	put(nil, knob.Sysctl{Name: name, Value: "5"})
	put(nil)
	holds("neither", "60", "default")

	// What fails takes both back.
	put(parseSettings(t, "fin-timeout=9s"))
	_, err := s.SetPolicy(tcpbox.Settings{
		Policy:  policy.Policy{Net: policy.NetNone},
		Sysctls: []knob.Sysctl{{Name: name, Value: "5"}, {Name: "net.ipv4.tcp_sack", Value: "many"}},
	})
	if err == nil || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("a value that the kernel does not take: %v", err)
	}
	holds("after what failed", "9", "set")
}
