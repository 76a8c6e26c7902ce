// Package integration tests the tcpbox binary from outside: in namespaces that
// the tests make, with real programs as guests and real servers to talk to.
package integration

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"testing"

	"tcpbox/integration/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

// caller is who runs tcpbox.
type caller struct {
	name string
	cred *syscall.Credential
}

var callers = []caller{{"root", nil}, {"user", testnet.User}}

// run returns the command "tcpbox run flags -- guest", to be run in Uplink.
func (c caller) run(ctx context.Context, t testing.TB, n *testnet.Net, flags []string, guest ...string) *exec.Cmd {
	t.Helper()
	args := append([]string{"run"}, flags...)
	args = append(append(args, "--"), guest...)
	cmd := n.Uplink.CommandAs(ctx, c.cred, testnet.Binary(t), args...)
	cmd.Dir = "/"
	return cmd
}

var root, ordinary = callers[0], callers[1]

// uid is the caller's.
func (c caller) uid() int {
	if c.cred == nil {
		return 0
	}
	return int(c.cred.Uid)
}

// outcome is how a command ended. code is -1 if a signal killed it.
type outcome struct {
	code           int
	stdout, stderr string
}

func (r outcome) String() string {
	return fmt.Sprintf("exit status %d, standard output %q, standard error %q", r.code, r.stdout, r.stderr)
}

// toEnd runs a command to its end.
func toEnd(t testing.TB, cmd *exec.Cmd) outcome {
	t.Helper()
	var stdout, stderr testnet.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}
