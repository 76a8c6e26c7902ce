package integration

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"tcpbox/integration/testnet"
	"tcpbox/stack/tcpstate"
)

// box is a sandbox whose guest does nothing. The test makes sockets in the
// sandbox's namespace itself and so holds both ends of a connection.
type box struct {
	*testnet.Namespace
	cmd    *exec.Cmd
	stderr *testnet.Buffer
	log    string // path of the state log
	pid    int    // of the process that was found in the namespace
	end    func() // ends the sandbox and waits for that; t's end does it too
}

// start runs a sandbox in n's uplink until t ends.
func start(t testing.TB, n *testnet.Net, c caller, flags ...string) *box {
	t.Helper()
	b := &box{stderr: new(testnet.Buffer), log: filepath.Join(testnet.Dir(t), "log")}
	f, err := os.Create(b.log)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := os.Chmod(b.log, 0o666); err != nil {
		t.Fatal(err)
	}
	flags = append([]string{"--log", b.log}, flags...)
	// The end of its standard input ends it.
	b.cmd = c.run(context.Background(), t, n, flags, "sh", "-c", "echo ready; cat >/dev/null")
	b.cmd.Stderr = b.stderr
	stdin, err := b.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := b.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b.end = sync.OnceFunc(func() {
		stdin.Close()
		if err := b.cmd.Wait(); err != nil {
			t.Errorf("tcpbox run: %v", err)
		}
	})
	t.Cleanup(func() {
		b.end()
		if t.Failed() {
			t.Logf("tcpbox wrote:\n%s", b.stderr)
		}
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the guest printed %q, %v, want ready; tcpbox wrote:\n%s", line, err, b.stderr)
	}
	if b.pid, err = n.Inside(b.cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	b.Namespace = n.Of(t, b.pid)
	return b
}

// record is one line of the JSON log, as its documentation gives it.
type record struct {
	V       int            `json:"v"`
	Time    time.Time      `json:"time"`
	Sandbox string         `json:"sandbox"`
	Conn    uint64         `json:"conn"`
	Leg     tcpstate.Leg   `json:"leg"`
	Local   netip.AddrPort `json:"local"`
	Remote  netip.AddrPort `json:"remote"`
	From    tcpstate.State `json:"from"`
	To      tcpstate.State `json:"to"`
	Cause   string         `json:"cause"`
	Source  string         `json:"source"`
	Age     float64        `json:"age"` // seconds
}

// records reads what the log holds now. A last line that is not complete yet
// is left out.
func (b *box) records(t testing.TB) []record {
	t.Helper()
	text, err := os.ReadFile(b.log)
	if err != nil {
		t.Fatal(err)
	}
	var all []record
	for line := range bytes.Lines(text) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break
		}
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		if r.To != tcpstate.Unknown {
			all = append(all, r)
		}
	}
	return all
}

// path returns the states that the stack's endpoint towards the guest's
// address went through.
func (b *box) path(t testing.TB, guest netip.AddrPort) []tcpstate.State {
	t.Helper()
	var states []tcpstate.State
	for _, r := range b.records(t) {
		if r.Leg == tcpstate.Stack && r.Remote == guest {
			states = append(states, r.To)
		}
	}
	return states
}
