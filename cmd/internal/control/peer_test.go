package control

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
)

// TestRefusedIsToldOf a few times, however often it happens.
func TestRefusedIsToldOf(t *testing.T) {
	var out strings.Builder
	l := &ownListener{log: slog.New(slog.NewTextHandler(&out, nil))}
	for range 10 * mostTold {
		l.tell(errors.New("a stranger"))
	}
	if got := strings.Count(out.String(), "a stranger"); got != mostTold || strings.Count(out.String(), "no more") != 1 {
		t.Errorf("told %d times, want %d:\n%s", got, mostTold, out.String())
	}
}
