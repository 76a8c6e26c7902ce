package reach

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"tcpbox/integration/testnet"
)

// An inhabitant is a shell in a network namespace that tcpbox did not make. It
// ends when its standard input does.
type inhabitant struct {
	*running
	pid   int // of a process in the namespace
	stdin io.WriteCloser
	asked int
}

// inhabit starts a shell by a command that gives it a namespace.
func inhabit(t *testing.T, n *testnet.Net, cmd *exec.Cmd) *inhabitant {
	t.Helper()
	cmd.Dir = "/"
	stdin, err := cmd.StdinPipe()
	must(t, err)
	in := &inhabitant{running: begin(t, cmd), stdin: stdin}
	in.ask("true") // it runs, in its namespace
	pid := cmd.Process.Pid
	uplink, err := n.Uplink.Inode()
	must(t, err)
	if link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid)); err != nil || link == fmt.Sprintf("net:[%d]", uplink) {
		if pid, err = n.Inside(pid); err != nil {
			t.Fatal(err)
		}
	}
	in.pid = pid
	return in
}

// unshared is a shell in a namespace that the caller made with unshare(1).
func unshared(t *testing.T, n *testnet.Net, c caller) *inhabitant {
	t.Helper()
	testnet.Programs(t, "unshare")
	return inhabit(t, n, n.Uplink.CommandAs(t.Context(), c.cred, "unshare", "-Urn", "sh"))
}

// ask runs a script in the shell and returns what it printed, without the last
// line end.
func (in *inhabitant) ask(script string) string {
	in.t.Helper()
	in.asked++
	end := fmt.Sprintf("-- end of %d --\n", in.asked)
	before := len(in.stdout.String())
	if _, err := io.WriteString(in.stdin, script+"\necho; echo '"+strings.TrimSuffix(end, "\n")+"'\n"); err != nil {
		in.t.Fatal(err)
	}
	in.prints(end)
	return strings.TrimRight(strings.TrimSuffix(in.stdout.String()[before:], end), "\n")
}

// devices lists the interfaces of its namespace.
func (in *inhabitant) devices() string {
	in.t.Helper()
	return in.ask("ip -o link | awk -F ': ' '{printf \"%s \", $2}'")
}

// leave ends the shell.
func (in *inhabitant) leave() {
	in.t.Helper()
	in.stdin.Close()
	in.wait()
}

// tcpbox returns a command of tcpbox in n's uplink.
func (c caller) tcpbox(t *testing.T, n *testnet.Net, args ...string) *exec.Cmd {
	t.Helper()
	cmd := n.Uplink.CommandAs(t.Context(), c.cred, testnet.Binary(t), args...)
	cmd.Env = append(cmd.Env, "XDG_RUNTIME_DIR=")
	cmd.Dir = "/"
	return cmd
}

// runtimeDir is where the control sockets of the caller are.
func (c caller) runtimeDir() string {
	if c.cred == nil {
		return "/run/tcpbox"
	}
	return filepath.Join(os.TempDir(), "tcpbox-"+strconv.Itoa(c.uid()))
}

// serving is a "tcpbox attach" whose network is up.
type serving struct {
	*running
	name string
}

// attach serves a target, which comes last in args.
func (c caller) attach(t *testing.T, n *testnet.Net, args ...string) *serving {
	t.Helper()
	return awaitServing(t, c.tcpbox(t, n, append([]string{"attach", "--ready-fd", "3"}, args...)...))
}

// awaitServing starts a command that has --ready-fd 3.
func awaitServing(t *testing.T, cmd *exec.Cmd) *serving {
	t.Helper()
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	cmd.ExtraFiles = append([]*os.File{w}, cmd.ExtraFiles...)
	p := begin(t, cmd)
	w.Close()
	name, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatalf("tcpbox attach did not get ready (%v): exit status %d, %s", err, p.wait(), p.stderr)
	}
	return &serving{p, strings.TrimSuffix(name, "\n")}
}

// ends waits for its end, and checks the exit status.
func (s *serving) ends(want int) {
	s.t.Helper()
	if got := s.wait(); got != want {
		s.t.Errorf("tcpbox attach: exit status %d, want %d; it wrote %s", got, want, s.stderr)
	}
}
