package integration

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
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
	stderr *buffer
	log    string // path of the state log
	pid    int    // of the process that was found in the namespace
	end    func() // ends the sandbox and waits for that; t's end does it too
}

// start runs a sandbox in n's uplink until t ends.
func start(t testing.TB, n *testnet.Net, c caller, flags ...string) *box {
	t.Helper()
	b := &box{stderr: new(buffer), log: filepath.Join(testnet.Dir(t), "log")}
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
	if b.pid, err = inSandbox(n, b.cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	b.Namespace = n.Of(t, b.pid)
	return b
}

// inSandbox returns a descendant of the process pid that is in another network
// namespace than n's uplink.
func inSandbox(n *testnet.Net, pid int) (int, error) {
	uplink, err := n.Uplink.Inode()
	if err != nil {
		return 0, err
	}
	outside := fmt.Sprintf("net:[%d]", uplink)
	children, err := childrenOf()
	if err != nil {
		return 0, err
	}
	for queue := children[pid]; len(queue) > 0; queue = queue[1:] {
		p := queue[0]
		if link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", p)); err == nil && link != outside {
			return p, nil
		}
		queue = append(queue, children[p]...)
	}
	return 0, fmt.Errorf("process %d has no descendant in another network namespace", pid)
}

// childrenOf returns the children of every process of the machine.
func childrenOf() (map[int][]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := make(map[int][]int)
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended meanwhile
		}
		pid, err1 := strconv.Atoi(strings.Split(path, "/")[2])
		// "pid (name) state ppid …"; the name may hold anything.
		f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if len(f) < 2 {
			continue
		}
		ppid, err2 := strconv.Atoi(f[1])
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		children[ppid] = append(children[ppid], pid)
	}
	return children, nil
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

// buffer is a bytes.Buffer for a process that writes while a test reads.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
