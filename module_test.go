package tcpbox_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestAnotherModule builds examples/recorder as a module of its own, which
// imports package tcpbox through a replace directive, and runs it.
func TestAnotherModule(t *testing.T) {
	requireSandbox(t)
	if testing.Short() {
		t.Skip("building another module takes no part in a short run")
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	read := func(name string) string {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	mod, ok := strings.CutPrefix(read("go.mod"), "module tcpbox\n")
	if !ok {
		t.Fatal("go.mod does not begin with the module")
	}
	for name, text := range map[string]string{
		"go.mod":  "module recorder\n" + mod + "\nrequire tcpbox v0.0.0\n\nreplace tcpbox => " + here + "\n",
		"go.sum":  read("go.sum"),
		"main.go": read("examples/recorder/main.go"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-mod=mod", "-o", "recorder", ".")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run := exec.Command(filepath.Join(dir, "recorder"), self)
	run.Env = append(os.Environ(), guestMode+"=connect 203.0.113.7:443")
	var stderr bytes.Buffer
	run.Stderr = &stderr
	_ = run.Run() // the guest's status is the errno of its connect
	const want = "recorder: tcp 203.0.113.7:443\n"
	if got := run.ProcessState.ExitCode(); got != 111 || stderr.String() != want {
		t.Errorf("status %d, stderr %q; want 111 (ECONNREFUSED) and %q", got, &stderr, want)
	}
}
