package testnet

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// Main is all of a TestMain whose tests start the tcpbox binary.
func Main(m *testing.M) {
	Init()
	heedSignals()
	code := m.Run()
	if built != "" {
		os.RemoveAll(built)
	}
	os.Exit(code)
}

// heedSignals undoes that HUP and INT are ignored, as nohup(1) and a shell's
// background jobs leave them: what a test starts would inherit it.
func heedSignals() {
	for _, sig := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT} {
		if signal.Ignored(sig) {
			signal.Notify(make(chan os.Signal, 1), sig) // the default returns with exec
		}
	}
}

// built is the directory of the binary, if a test has needed it.
var built string

// build builds the binary once, where every user can run it.
var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "tcpbox-bin-")
	if err != nil {
		return "", err
	}
	built = dir
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "tcpbox")
	cmd := exec.Command("go", "build", "-o", bin, "tcpbox/cmd/tcpbox")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build tcpbox: %w\n%s", err, out)
	}
	return bin, nil
})

// Binary returns the path of the tcpbox binary. A program that uses it has Main.
func Binary(t testing.TB) string {
	t.Helper()
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}
