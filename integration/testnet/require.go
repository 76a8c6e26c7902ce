package testnet

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// User is the ordinary user that unprivileged tests run as.
var User = &syscall.Credential{Uid: 4242, Gid: 4242}

// Require skips the test where it lacks the privilege to make namespaces, and
// fails it there when the environment promised the privilege with CI=true.
func Require(t testing.TB) {
	t.Helper()
	var reason string
	if os.Geteuid() != 0 {
		reason = "needs root, to make network namespaces"
	} else if err := onThread(func() error { return unix.Unshare(unix.CLONE_NEWNET) }); err != nil {
		reason = "cannot make a network namespace: " + err.Error()
	}
	if reason != "" {
		Unavailable(t, reason)
	}
}

// Unavailable skips the test for a reason, or fails it when CI=true.
func Unavailable(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s, which CI=true promises", reason)
	}
	t.Skip(reason)
}

// Dir returns a directory for the test's files that, unlike t.TempDir, every
// user can enter and read. It is removed when t ends.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tcpbox-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// A program that was told to end may be writing its last file.
		if err := poll(func() error { return os.RemoveAll(dir) }); err != nil {
			t.Errorf("testnet: %v", err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Patience bounds every wait of a test for a condition. It is no expectation
// of speed: only a hung test meets it.
const Patience = 30 * time.Second

// Eventually polls f until it returns nil, and fails the test with its last
// error if it never does.
func Eventually(t testing.TB, f func() error) {
	t.Helper()
	if err := poll(f); err != nil {
		t.Fatalf("still after %v: %v", Patience, err)
	}
}

func poll(f func() error) error {
	var err error
	for end := time.Now().Add(Patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = f(); err == nil {
			return nil
		}
	}
	return err
}

// Programs skips the test where one of the programs is not installed, or fails
// it when CI=true.
func Programs(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			Unavailable(t, "needs the program "+name)
		}
	}
}
