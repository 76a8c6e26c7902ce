package guest

import (
	"os"

	"golang.org/x/sys/unix"
)

// reap waits for every process that has lost its parent, and for the guest.
// When the guest has ended it tells the caller and exits, and with it ends
// everything else in the sandbox.
func (s *initState) reap() {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WUNTRACED|unix.WCONTINUED, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			os.Exit(1) // ECHILD: somebody else took the guest, which cannot be
		}
		if pid != s.pid {
			continue
		}
		switch {
		case ws.Stopped():
			s.setStopped(true)
			s.ch.send(message{Op: opStopped, Ints: []int{int(ws.StopSignal())}})
		case ws.Continued():
			s.setStopped(false)
			s.ch.send(message{Op: opContinued})
		case ws.Exited():
			s.ch.send(message{Op: opExited, Ints: []int{ws.ExitStatus(), 0}})
			os.Exit(0)
		case ws.Signaled():
			s.ch.send(message{Op: opExited, Ints: []int{0, int(ws.Signal())}})
			os.Exit(0)
		}
	}
}
