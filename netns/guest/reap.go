package guest

import (
	"os"

	"golang.org/x/sys/unix"
)

// reap waits for every process that has lost its parent, for commands, and for
// the guest. When the guest has ended it tells the caller and exits, and with
// it ends everything else in the sandbox; one that lingers waits for the last
// process.
func (s *initState) reap() {
	const events = unix.WEXITED | unix.WSTOPPED | unix.WCONTINUED
	for {
		// An error means that nothing is left to wait for; collect sees it.
		err := unix.Waitid(unix.P_ALL, 0, nil, events|unix.WNOWAIT, nil)
		if err == unix.EINTR {
			continue
		}
		s.report()
	}
}

// report tells the caller what there is to tell now, and exits if the sandbox
// has come to its end. It may be called at any time after the guest's start.
func (s *initState) report() {
	s.reporting.Lock() // so that messages keep their order
	defer s.reporting.Unlock()
	news, over := s.collect()
	for _, m := range news {
		_ = s.ch.send(m) // an error: the caller is dead, and soon so is init
	}
	s.wakeLocked(news)
	if over {
		os.Exit(0)
	}
}

// collect reaps what there is to reap, and returns what the caller is to know
// of it. over: the sandbox has come to its end.
//
// A pid is let go of only while s.mu is held, so that none in commands, and
// none that begin is about to enter there, is another process's.
func (s *initState) collect() (news []message, over bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG|unix.WUNTRACED|unix.WCONTINUED, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return news, true // ECHILD: nobody is left
		case pid == 0 && s.ended && s.config.Linger && !s.lingers:
			s.lingers = true
			return append(news, message{Op: opLingers}), false
		case pid == 0:
			return news, s.ended && !s.config.Linger
		}
		if m, ok := s.noteLocked(pid, ws); ok {
			news = append(news, m)
		}
	}
}

// noteLocked is told what has become of a process, and returns what the caller
// is to know of it.
func (s *initState) noteLocked(pid int, ws unix.WaitStatus) (news message, ok bool) {
	over := ws.Exited() || ws.Signaled()
	if id, isCommand := s.commands[pid]; isCommand {
		if !over {
			return message{}, false
		}
		delete(s.commands, pid)
		return message{Op: opEnded, Ints: append([]int{int(id)}, howEnded(ws)...)}, true
	}
	switch {
	case pid != s.pid || s.ended:
		return message{}, false
	case over:
		s.ended, s.stopped = true, false
		return message{Op: opExited, Ints: howEnded(ws)}, true
	case ws.Stopped():
		s.stopped = true
		s.stops++
		return message{Op: opStopped, Ints: []int{int(ws.StopSignal()), s.stops}}, true
	default:
		s.stopped = false
		return message{Op: opContinued}, true
	}
}

// howEnded is a code and a signal, one of which is zero.
func howEnded(ws unix.WaitStatus) []int {
	if ws.Signaled() {
		return []int{0, int(ws.Signal())}
	}
	return []int{ws.ExitStatus(), 0}
}
