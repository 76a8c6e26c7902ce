package netns

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestVisit: a visitor finds its way in by the path, and only into the namespace
// that was there.
func TestVisit(t *testing.T) {
	first, second := own(t), own(t)
	path := t.TempDir() + "/net"
	lead := func(to *Own) {
		t.Helper()
		_ = os.Remove(path)
		if err := os.Symlink(pathOf(t, to).Path, path); err != nil {
			t.Fatal(err)
		}
	}
	lead(first)
	v, err := Visit(path)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	const name = "net.ipv4.tcp_fin_timeout"
	if err := v.SetSysctl(name, "33"); err != nil {
		t.Error(err)
	}
	if got, err := first.Sysctl(name); got != "33" || err != nil {
		t.Errorf("Sysctl() = %q, %v; want 33", got, err)
	}
	open := 0
	for round := range 3 {
		s, err := v.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		if got := filesOpen(t); round == 0 {
			open = got
		} else if got > open {
			t.Errorf("%v descriptors are open, %v before", got, open)
		}
	}

	lead(second)
	if _, err := v.Sysctl(name); !errors.Is(err, ErrNoNamespace) {
		t.Errorf("with another namespace at the path: %v, want ErrNoNamespace", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := v.ProcNet("dev"); !errors.Is(err, ErrNoNamespace) {
		t.Errorf("with nothing at the path: %v, want ErrNoNamespace", err)
	}
	lead(first)
	if got, err := v.Sysctl(name); got != "33" || err != nil {
		t.Errorf("at the path again: %q, %v", got, err)
	}
	if _, err := Visit(fmt.Sprintf("/proc/%d/ns/net", os.Getpid())); !errors.Is(err, ErrOwnNamespace) {
		t.Errorf("our own: %v, want ErrOwnNamespace", err)
	}
}
