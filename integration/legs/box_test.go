package legs

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"tcpbox/integration/testnet"
)

//go:embed interpreter.py
var interpreter string

// box is a sandbox whose guest is a Python that runs what it is told.
type box struct {
	n      *testnet.Net
	name   string
	log    string // path
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	out    *bufio.Reader
	stderr testnet.Buffer
}

// startBox starts a sandbox that lives until the test ends.
func startBox(t testing.TB, n *testnet.Net, name string, cred *syscall.Credential, flags ...string) *box {
	t.Helper()
	b := &box{n: n, name: fmt.Sprintf("%s-%d", name, os.Getpid()), log: newLog(t)}
	args := append([]string{"run", "--quiet", "--net", "none", "--name", b.name, "--log", b.log}, flags...)
	b.cmd = n.Uplink.CommandAs(context.WithoutCancel(t.Context()), cred, testnet.Binary(t), append(args, "--", "python3", "-c", interpreter)...)
	b.cmd.Dir = "/"
	b.cmd.Stderr = &b.stderr
	var err error
	b.stdin, err = b.cmd.StdinPipe()
	must(t, err)
	stdout, err := b.cmd.StdoutPipe()
	must(t, err)
	b.out = bufio.NewReader(stdout)
	must(t, b.cmd.Start())
	t.Cleanup(func() {
		b.stdin.Close()
		if err := b.cmd.Wait(); err != nil {
			t.Errorf("%s: %v: %s", b.name, err, b.stderr.String())
		}
	})
	return b
}

// newLog makes an empty file that every user may write.
func newLog(t testing.TB) string {
	t.Helper()
	path := filepath.Join(testnet.Dir(t), "log")
	must(t, os.WriteFile(path, nil, 0o666))
	must(t, os.Chmod(path, 0o666))
	return path
}

// do has the guest run a program, whose result it reads into result.
func (b *box) do(t testing.TB, program string, result any) {
	t.Helper()
	text, err := json.Marshal(program)
	must(t, err)
	_, err = b.stdin.Write(append(text, '\n'))
	must(t, err)
	line, err := b.out.ReadBytes('\n')
	if err == nil && result != nil {
		err = json.Unmarshal(line, result)
	}
	if err != nil {
		t.Fatalf("%s: %v: %s", b.name, err, b.stderr.String())
	}
}

// tcpbox runs another tcpbox command beside the sandbox, as who runs it.
func (b *box) tcpbox(t testing.TB, cred *syscall.Credential, args ...string) string {
	t.Helper()
	cmd := b.n.Uplink.CommandAs(t.Context(), cred, testnet.Binary(t), args...)
	cmd.Dir = "/"
	return testnet.Output(t, cmd)
}

// dialSoon connects from the remote host, from any port if src is zero. The guest
// listens; the host's port does so soon after.
func dialSoon(t testing.TB, n *testnet.Net, src, dst netip.AddrPort) (c *net.TCPConn, err error) {
	for deadline := time.Now().Add(testnet.Patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if c, err = n.Remote.DialTCP(t.Context(), src, dst); err == nil {
			return c, nil
		}
	}
	return nil, err
}
