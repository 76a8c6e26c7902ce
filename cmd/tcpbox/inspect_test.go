package main

import (
	"strings"
	"testing"
	"time"

	"tcpbox"
)

// TestInspectPids says of a command that has ended, while what it left in the
// background is served, that it has.
func TestInspectPids(t *testing.T) {
	for guest, want := range map[int]string{7: "guest 7\n", 0: "guest ended\n"} {
		var b strings.Builder
		if err := showSandbox(&b, tcpbox.Info{PID: 5, InitPID: 6, GuestPID: guest}, time.Now()); err != nil {
			t.Fatal(err)
		}
		if want := "tcpbox 5, init 6, " + want; !strings.Contains(b.String(), want) {
			t.Errorf("guest %d: want %q in:\n%s", guest, want, b.String())
		}
	}
}
