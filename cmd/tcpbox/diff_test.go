package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// runDiff runs tcpbox diff between hosts inside the stack, and returns what it
// prints and its exit status.
func runDiff(t *testing.T, script string, flags ...string) (out, errs string, status int) {
	t.Helper()
	args := append([]string{"diff", "-q", "--net", "none", "--peer", "web=http", "--peer", "bye=closer", "--peer", "stay=holder", "--peer", "no=refuse"}, flags...)
	cmd := exec.CommandContext(t.Context(), "tcpbox", append(args, "--", "bash", "-c", script)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Error(err)
	}
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

// TestDiffNamesTheFirstTransition: two values of fin-timeout part where the one
// timer runs out and the other has not, and nowhere before. The guest closes, and
// its peer never does; or the reverse. It is so each time.
func TestDiffNamesTheFirstTransition(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	needProgram(t, "bash")
	tests := []struct{ a, b, script, want string }{
		{
			"guest.fin-timeout=1s", "guest.fin-timeout=30s",
			`exec 3<>/dev/tcp/stay/80; exec 3>&-; sleep 6`,
			"they part at the guest's end of connection 1, to stay:80: FIN-WAIT-2 → CLOSED, timer fin-wait-2: only in a",
		},
		{
			"stack.fin-timeout=30s", "stack.fin-timeout=1s",
			`exec 3<>/dev/tcp/bye/80; sleep 6`,
			"they part at the stack's end of connection 1, to bye:80: FIN-WAIT-2 → TIME-WAIT, got FIN in a, FIN-WAIT-2 → CLOSED, timer fin-wait-2 in b",
		},
	}
	const times = 3
	var running sync.WaitGroup
	for _, tt := range tests {
		for range times {
			running.Go(func() {
				out, errs, status := runDiff(t, tt.script, "--parallel", "-a", tt.a, "-b", tt.b)
				if status != 1 || !strings.Contains(out, "\n"+tt.want+"\n") {
					t.Errorf("%s against %s: exit status %d, and\n%s%s\nwant status 1 and %q", tt.a, tt.b, status, out, errs, tt.want)
				}
			})
		}
	}
	running.Wait()
}

// TestDiffOfEqualSettings: equal settings never part, though the program opens
// connections at once and its timing is never the same.
func TestDiffOfEqualSettings(t *testing.T) {
	needSandbox(t)
	needProgram(t, "bash")
	const script = `tcpbox get http://web/; cat </dev/tcp/bye/80; cat </dev/tcp/no/80
		tcpbox get http://web/bytes/1000000 >/dev/null & tcpbox get http://web/ & cat </dev/tcp/bye/80 &
		exec 5<>/dev/tcp/stay/80; echo hello >&5; exec 5>&-; wait`
	connections := regexp.MustCompile(`\nconnections +(7 +7|8 +8)\n`)
	for i := range 6 {
		flags := []string{"-a", "fin-timeout=20s", "-b", "fin-timeout=20s"}
		if i%2 == 1 {
			flags = append(flags, "--parallel")
		}
		out, errs, status := runDiff(t, script, flags...)
		if status != 0 || !strings.HasSuffix(out, "\nno difference\n") || !connections.MatchString(out) {
			t.Errorf("%q: exit status %d, and\n%s%s\nwant 7 connections or 8, as bash may try an address twice, and no difference", flags, status, out, errs)
		}
	}
}

// TestDiffJSON: the same in JSON.
func TestDiffJSON(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	needProgram(t, "bash")
	out, errs, status := runDiff(t, `exec 3<>/dev/tcp/stay/80; exec 3>&-; sleep 6`, "--parallel", "--json", "-a", "guest.fin-timeout=1s", "-b", "guest.fin-timeout=30s")
	var got struct {
		V     int
		Same  bool
		First string
		A, B  struct {
			Settings    string
			Connections int
			Entered     map[string]map[string]int
		}
		Parts []struct {
			To, Leg string
			InA     int `json:"in_a"`
			Late    bool
			A, B    *struct {
				Steps []struct{ From, To, Cause string }
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || status != 1 {
		t.Fatalf("exit status %d: %v\n%s%s", status, err, out, errs)
	}
	if got.V != 1 || got.Same || got.A.Settings != "guest.fin-timeout=1s" || got.A.Entered["guest"]["CLOSED"] != 1 || got.B.Entered["guest"]["CLOSED"] != 0 || len(got.Parts) != 1 {
		t.Fatalf("got\n%s", out)
	}
	p := got.Parts[0]
	if p.To != "stay:80" || p.Leg != "guest" || p.InA != len(p.A.Steps)-1 || p.InA != len(p.B.Steps) || p.A.Steps[p.InA].Cause != "timer fin-wait-2" {
		t.Errorf("got\n%s", out)
	}
}
