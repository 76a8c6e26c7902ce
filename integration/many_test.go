package integration

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"tcpbox/integration/testnet"
)

// TestManySandboxes starts and ends 200 sandboxes in a row, of which every
// tenth is killed, and then 20 at once, of which half are. That no process, no
// device and no descriptor is left is what testnet looks for at the end of each
// test; a runtime directory may stay until the next command.
func TestManySandboxes(t *testing.T) {
	inARow, atOnce := 200, 20
	if testing.Short() {
		inARow, atOnce = 20, 5
	}
	n := testnet.New(t)
	runtimeDir := testnet.Dir(t)
	must(t, os.Chown(runtimeDir, ordinary.uid(), ordinary.uid()))
	must(t, os.Chmod(runtimeDir, 0o700))
	sandbox := func(name, script string) *exec.Cmd {
		cmd := ordinary.run(t.Context(), t, n, []string{"--net", "none", "--quiet", "--name", name}, "sh", "-c", script)
		cmd.Env = append(cmd.Env, "XDG_RUNTIME_DIR="+runtimeDir)
		cmd.Stderr = os.Stderr
		return cmd
	}
	// kill starts a sandbox and kills tcpbox when the guest runs.
	kill := func(name string) error {
		cmd := sandbox(name, "echo ready; exec sleep 1000")
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		line, err := bufio.NewReader(stdout).ReadString('\n')
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		if line != "ready\n" {
			return fmt.Errorf("the guest printed %q, %w", line, err)
		}
		return nil
	}
	one := func(i, every int) error {
		if i%every == 0 {
			return kill(fmt.Sprintf("killed-%d", i))
		}
		return sandbox(fmt.Sprintf("ended-%d", i), "exit 0").Run()
	}

	for i := range inARow {
		if err := one(i, 10); err != nil {
			t.Fatalf("sandbox %d: %v", i, err)
		}
	}
	var all sync.WaitGroup
	for i := range atOnce {
		all.Go(func() {
			if err := one(i, 2); err != nil {
				t.Errorf("sandbox %d of %d at once: %v", i, atOnce, err)
			}
		})
	}
	all.Wait()

	testnet.Eventually(t, n.NoProcesses)
	ls := n.Uplink.CommandAs(t.Context(), ordinary.cred, testnet.Binary(t), "ls")
	ls.Env = append(ls.Env, "XDG_RUNTIME_DIR="+runtimeDir)
	if got := testnet.Output(t, ls); strings.Contains(got, "\n") { // more than the heading
		t.Errorf("tcpbox ls shows %q", got)
	}
	if left, err := filepath.Glob(runtimeDir + "/*/*"); err != nil || len(left) > 0 {
		t.Errorf("the runtime directory holds %q, %v", left, err)
	}
}
