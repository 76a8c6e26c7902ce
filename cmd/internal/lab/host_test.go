package lab

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"tcpbox/integration/testnet"
)

// waits is a lab on a host of its own that does nothing for so long.
func waits(ms int) *Lab {
	return &Lab{Name: "waits", Where: OnHost, Variants: []Variant{{
		Name: "row", Group: Problem, Settings: []Setting{"host.net.ipv4.tcp_syn_retries=3"},
		Steps: []Step{{Name: "wait", Wait: &Wait{For: ms}}},
	}}}
}

// TestTheMachineIsNoHost: a namespace that is in use is not taken for a host.
func TestTheMachineIsNoHost(t *testing.T) {
	ask, err := json.Marshal(hostRow{Lab: waits(0)})
	if err != nil {
		t.Fatal(err)
	}
	h := &host{}
	before, err := h.Sysctl("net.ipv4.tcp_syn_retries")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := ServeHost(bytes.NewReader(ask), &out, nil); err != nil {
		t.Fatal(err)
	}
	var a hostAnswer
	if err := gob.NewDecoder(&out).Decode(&a); err != nil {
		t.Fatal(err)
	}
	if want := "not a new one"; !strings.Contains(a.NoHost, want) {
		t.Errorf("the answer is %+v, want that the namespace is %s", a, want)
	}
	if after, err := h.Sysctl("net.ipv4.tcp_syn_retries"); err != nil || after != before {
		t.Errorf("the machine's tcp_syn_retries was %s and is %s, %v", before, after, err)
	}
}

// TestAHostEndsWithItsRunner kills a runner while a row waits.
func TestAHostEndsWithItsRunner(t *testing.T) {
	as(t, func(t *testing.T, _ int, command func(string) *exec.Cmd) {
		text, err := json.Marshal(waits(60_000))
		if err != nil {
			t.Fatal(err)
		}
		cmd := command("lab-run")
		cmd.Stdin = bytes.NewReader(text)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		const below = 3 // the row's host, the sandbox's init, and its guest
		var all []int
		testnet.Eventually(t, func() error {
			children, err := testnet.Children()
			if err != nil {
				return err
			}
			all = nil
			for queue := children[cmd.Process.Pid]; len(queue) > 0; queue = queue[1:] {
				all = append(all, queue[0])
				queue = append(queue, children[queue[0]]...)
			}
			if len(all) < below {
				return fmt.Errorf("the runner has %d processes below it, want %d", len(all), below)
			}
			return nil
		})
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		testnet.Eventually(t, func() error {
			for _, pid := range all {
				if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil { // a zombie has none
					return fmt.Errorf("process %d, %s, has outlived the runner", pid, exe)
				}
			}
			return nil
		})
	})
}

// TestAHostTellsWhatHappened: the log comes whole out of the row's process.
func TestAHostTellsWhatHappened(t *testing.T) {
	l := Teardown()
	report, err := (&Runner{KeepLog: true}).Run(t.Context(), &l)
	if err != nil {
		t.Fatal(err)
	}
	told := hostAnswer{Measured: Figures{"ok": 0}, Again: true, Log: report.Rows[0].Log}
	if len(told.Log.Records) == 0 || len(told.Log.Segments) == 0 {
		t.Fatal("nothing happened")
	}
	var out bytes.Buffer
	if err := gob.NewEncoder(&out).Encode(told); err != nil {
		t.Fatal(err)
	}
	var heard hostAnswer
	if err := gob.NewDecoder(&out).Decode(&heard); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(heard, told) {
		t.Errorf("heard %+v, was told %+v", heard, told)
	}
}

// TestWithoutAHostARowIsSkipped: where none can be started the reason is told.
func TestWithoutAHostARowIsSkipped(t *testing.T) {
	r := &Runner{Host: []string{"/no/such/program"}}
	report, err := r.Run(t.Context(), waits(0))
	if err != nil {
		t.Fatal(err)
	}
	if row := &report.Rows[0]; row.Verdict() != Skip || !strings.Contains(row.Skipped, syscall.ENOENT.Error()) {
		t.Errorf("the row is %s %q %q, want it skipped with the reason", row.Verdict(), row.Skipped, row.Err)
	}
}

// TestOnlyAHostsLabHasAHost: what is the host's is refused elsewhere.
func TestOnlyAHostsLabHasAHost(t *testing.T) {
	for _, tt := range []struct {
		name   string
		breaks func(*Lab)
		want   string
	}{
		{"a setting of the host", func(l *Lab) { l.Settings = []Setting{"host.net.ipv4.a=1"} }, "only in a lab with where: host"},
		{"one that is set later", func(l *Lab) {
			l.Variants[0].Steps[0] = Step{Name: "x", Set: &Set{Settings: []Setting{"host.net.ipv4.a=1"}}}
		}, "only in a lab with where: host"},
		{"its sockets", func(l *Lab) { l.Variants[0].After = Figures{upstreamTimeWait: 1} }, "counted only in a lab with where: host"},
		{"its sockets, of a step", func(l *Lab) { l.Variants[0].Steps[0].Expect = Figures{noPort: 1} }, "counted only in a lab with where: host"},
		{"what it does not do", func(l *Lab) { l.Where = OnHost; l.Variants[0].Steps[0].In = InHost }, "the host does not do"},
	} {
		l := waits(0)
		l.Where, l.Variants[0].Settings = OnGuest, nil
		if err := l.Check(); err != nil {
			t.Fatal(err)
		}
		tt.breaks(l)
		if err := l.Check(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Check() = %v, want %q", tt.name, err, tt.want)
		}
	}
}
