package main

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"tcpbox"
)

// ender is what sends a signal to all that is to end with the sandbox.
func ender(box *tcpbox.Sandbox, linger bool) func(syscall.Signal) error {
	if linger {
		return box.SignalAll
	}
	return box.Signal
}

// lingers reports whether the guest has ended and others have not.
func lingers(box *tcpbox.Sandbox) bool {
	select {
	case <-box.Lingering():
		return true
	default:
		return false
	}
}

// attendLingering says it when the guest has ended and others have not, and
// lets a signal end those: TERM, and KILL at the second signal or after
// killAfter. The function it returns stops that.
func attendLingering(box *tcpbox.Sandbox, say *speaker) (stop func()) {
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		select {
		case <-box.Lingering():
		case <-done:
			return
		}
		signals := make(chan os.Signal, 2)
		notifyUnignored(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
		defer signal.Stop(signals)
		say.line("the command has ended; what it left in the background is served until it ends, or ^C")
		kill := time.NewTimer(0)
		kill.Stop()
		defer kill.Stop()
		next := syscall.SIGTERM
		for {
			select {
			case <-signals:
			case <-kill.C:
			case <-done:
				return
			}
			_ = box.SignalAll(next) // an error: all have ended
			next = syscall.SIGKILL
			kill.Reset(killAfter)
		}
	})
	return func() {
		close(done)
		running.Wait()
	}
}
