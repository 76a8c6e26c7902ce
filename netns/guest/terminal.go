package guest

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is the controlling terminal, and what is to be done about the
// process group in its foreground. A shell in the sandbox makes a group of its
// own there, of which the caller's shell knows nothing: it gives the terminal
// to this process's group, and expects it back from that. A nil terminal does
// nothing.
type terminal struct {
	fd    int
	front bool // this process's group was in the foreground when last looked
	guest int  // the guest's group, if it was in the foreground when it stopped
}

func openTerminal() *terminal {
	fd, err := unix.Open("/dev/tty", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	return &terminal{fd: fd}
}

func (t *terminal) close() {
	if t != nil {
		unix.Close(t.fd)
	}
}

// group is the one in the foreground, or 0.
func (t *terminal) group() int {
	group, err := unix.IoctlGetInt(t.fd, unix.TIOCGPGRP)
	if err != nil {
		return 0
	}
	return group
}

// noteFront looks, at the start and when this process is continued.
func (t *terminal) noteFront() {
	if t != nil {
		t.front = t.group() == unix.Getpgrp()
	}
}

// awaitFront is noteFront for a guest whose own group had the terminal when it
// stopped: it must not read before it has it again, and a shell's continuation
// may be told a moment before this process's group is in the foreground.
func (t *terminal) awaitFront() {
	t.noteFront()
	if t == nil || t.guest == 0 {
		return
	}
	for end := time.Now().Add(sameSignal); !t.front && time.Now().Before(end); t.noteFront() {
		time.Sleep(time.Millisecond)
	}
}

// assumeFront is called after noteFront when it is known that this process's
// group was in the foreground before the guest took it over.
func (t *terminal) assumeFront(front bool) {
	if t != nil && front {
		t.front = true
	}
}

// inFront reports whether this process's group is in the foreground of its
// terminal.
func inFront() bool {
	t := openTerminal()
	defer t.close()
	t.noteFront()
	return t != nil && t.front
}

// noteGuest is called when the guest has stopped.
func (t *terminal) noteGuest(pid int) {
	if t == nil {
		return
	}
	t.guest = 0
	group, err := unix.Getpgid(pid)
	if pid > 0 && err == nil && group != unix.Getpgrp() && group == t.group() {
		t.guest = group
	}
}

// giveBack puts the guest's group in the foreground again, if the caller's
// shell has put this process's there.
func (t *terminal) giveBack() {
	if t != nil && t.front && t.guest > 0 {
		t.setGroup(t.guest)
		t.guest = 0
	}
}

// reclaim puts this process's group in the foreground if the group that is
// there has died, as that of a shell in the sandbox has. A living one is the
// caller's, for example its shell's.
func (t *terminal) reclaim() {
	if t == nil || !t.front {
		return
	}
	group := t.group()
	if group == unix.Getpgrp() || group > 0 && unix.Kill(-group, 0) != unix.ESRCH {
		return
	}
	t.setGroup(unix.Getpgrp())
}

// setGroup changes the foreground from the background. That would stop this
// process, unless the thread has the signal blocked (tcsetpgrp(3)).
func (t *terminal) setGroup(group int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	unblock, err := blockSignal(unix.SIGTTOU)
	if err != nil {
		return
	}
	defer unblock()
	for unix.IoctlSetPointerInt(t.fd, unix.TIOCSPGRP, group) == unix.EINTR {
	}
}
