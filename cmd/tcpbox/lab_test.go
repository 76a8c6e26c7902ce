package main

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"

	"tcpbox"
)

// TestLabIsEndedBySignal sends this process the signals that end a lab.
func TestLabIsEndedBySignal(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		ctx, stop := untilSignal(t.Context())
		if err := syscall.Kill(syscall.Getpid(), sig); err != nil {
			t.Fatal(err)
		}
		<-ctx.Done()
		var told strings.Builder
		status := report(&told, labError(context.Cause(ctx), &told))
		stop()
		if want := "tcpbox: the lab was ended before its verdict: " + sig.String() + "\n"; status != 128+int(sig) || told.String() != want {
			t.Errorf("%v: exit status %d, %q; want %d, %q", sig, status, told.String(), 128+int(sig), want)
		}
	}
}

// TestLabCannotRun: nothing of where in tcpbox it happened is told.
func TestLabCannotRun(t *testing.T) {
	var told strings.Builder
	err := &tcpbox.LaunchError{Op: "make control socket", Err: errors.New("too many open files"), Hint: "raise the limit"}
	status := report(&told, labError(err, &told))
	const want = "tcpbox: error: the lab cannot run here: make control socket: too many open files\ntcpbox: hint: raise the limit\n"
	if status != exitInternal || told.String() != want {
		t.Errorf("exit status %d, %q, want %q", status, told.String(), want)
	}
}
