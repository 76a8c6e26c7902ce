package guest

import (
	"bytes"
	"errors"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ForwardSignals makes this process stand for the guest before its parent, as
// a program in the foreground does that runs one sandbox. Call it before
// Start.
//
// INT, QUIT, TERM, HUP, USR1, USR2, TSTP, WINCH and CONT are passed on, unless
// the guest was sent the same one: the terminal's signals go to the whole
// process group. When the guest stops, this process stops itself, and what
// continues it continues the guest. When the guest has exited and others linger,
// only TSTP still has an effect, on this process alone.
//
// The function it returns undoes that. Call it after Wait: it also gives the
// terminal back to this process's group, if a shell in the sandbox had taken
// it. It may be called twice.
func (s *Sandbox) ForwardSignals() (stop func()) {
	f := &forwarder{
		s:        s,
		signals:  make(chan os.Signal, 256),
		quit:     make(chan struct{}),
		done:     make(chan struct{}),
		terminal: openTerminal(),
		waker:    newWaker(s.ch),
	}
	f.terminal.noteFront()
	s.mu.Lock()
	f.terminal.assumeFront(s.front)
	s.mu.Unlock()
	notify(f.signals)
	// The kernel sends it to the whole group when the guest reads from the
	// terminal in the background. Not to be stopped by it, but by suspend,
	// keeps what suspend arranges.
	if !signal.Ignored(unix.SIGTTIN) {
		signal.Notify(f.signals, unix.SIGTTIN)
	}
	go f.run()
	return sync.OnceFunc(f.close)
}

// forwarder is what ForwardSignals starts.
type forwarder struct {
	s        *Sandbox
	signals  chan os.Signal
	quit     chan struct{}
	done     chan struct{}
	terminal *terminal // nil without one
	waker    *waker

	lingers bool      // the guest has exited
	stop    int       // the guest's latest stop that was told, from 1
	resumed time.Time // when this process was last continued after one
}

func (f *forwarder) close() {
	signal.Stop(f.signals)
	close(f.quit)
	<-f.done
	f.terminal.reclaim()
	f.terminal.close()
	f.waker.close()
}

// run lasts until close.
func (f *forwarder) run() {
	defer close(f.done)
	events := f.s.events
	for {
		select {
		case <-f.quit:
			return
		case sig := <-f.signals:
			f.signal(sig.(syscall.Signal))
		case m, open := <-events:
			switch {
			case !open:
				events = nil
			case m.Op == opStopped && len(m.Ints) == 2:
				f.stop = m.Ints[1]
				f.suspend(syscall.Signal(m.Ints[0]))
			case m.Op == opLingers:
				f.lingers = true
				f.terminal.reclaim()
			}
		}
	}
}

func (f *forwarder) signal(sig syscall.Signal) {
	if f.lingers {
		if sig == unix.SIGTSTP {
			unix.Kill(unix.Getpid(), unix.SIGSTOP) // to be continued in the background
		}
		return
	}
	switch sig {
	case unix.SIGTTIN:
		return // the guest has had it
	case unix.SIGCONT:
		if time.Since(f.resumed) < lately {
			return // the same continuation, seen twice
		}
	}
	f.s.ch.send(message{Op: opForward, Ints: []int{int(sig), f.stop}})
}

// suspend stops this process as the guest was stopped, so that a shell sees a
// stopped job, and returns when it has been continued: by a shell, which means
// the guest too, or because the guest goes on or has died by somebody else's
// doing (waker).
//
// Who continued it cannot be told, nor whether the guest has stopped again
// since. Init knows: it is asked to continue the guest after this very stop.
func (f *forwarder) suspend(sig syscall.Signal) {
	select {
	case <-f.s.started: // the guest was quicker than Start
	case <-f.quit:
		return
	}
	_, guest := f.s.Pids()
	f.waker.arm()
	defer f.waker.disarm()
	f.terminal.noteGuest(guest)
	switch sig {
	case unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
		if hasShell() {
			break
		}
		fallthrough // the kernel would not heed it (setpgid(2), orphaned)
	default:
		sig = unix.SIGSTOP
	}
	if !f.stopSelf(sig, guest) {
		return // overtaken: this process was stopped as well, and both go on
	}
	f.resumed = time.Now()
	f.terminal.awaitFront()
	f.terminal.giveBack()
	f.forget(unix.SIGCONT, unix.SIGTSTP, unix.SIGTTIN)
	f.s.ch.send(message{Op: opResume, Ints: []int{f.stop}})
}

// forget drops signals of these kinds that this process has received by now. One
// that made it stop or go on has done its work; the kernel drops what is
// pending of them as well (signal(7)).
func (f *forwarder) forget(kinds ...syscall.Signal) {
	settle()
	for range len(f.signals) {
		if sig := <-f.signals; !slices.Contains(kinds, sig.(syscall.Signal)) {
			f.signal(sig.(syscall.Signal))
		}
	}
}

// settle waits until the signals that this process has received are in the
// channels that they go to, which signal.Stop says of its own.
func settle() {
	if signal.Ignored(unix.SIGCONT) {
		return // a handler would undo that
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGCONT)
	signal.Stop(c)
}

// stopSelf stops this process with the default action of sig, and returns true
// when it has been continued. It returns false, at once, if the guest has been
// meanwhile.
//
// The signal goes to this thread: so it is stopped before the call returns, and
// what comes after the call comes after the stop. It is pending while the
// reasons not to stop are looked for, for a SIGCONT cancels it then.
func (f *forwarder) stopSelf(sig syscall.Signal, guest int) bool {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, tid := unix.Getpid(), unix.Gettid()
	if sig == unix.SIGSTOP { // which cannot be blocked
		if !isStopped(guest) {
			return false
		}
		_ = unix.Tgkill(pid, tid, sig) // cannot fail for a thread of its own
		return true
	}
	handler := defaultAction(sig)
	defer setAction(sig, handler)
	unblock, err := blockSignal(sig)
	if err != nil {
		return false
	}
	_ = unix.Tgkill(pid, tid, sig) // cannot fail for a thread of its own
	if !isStopped(guest) {
		ignored := sigaction{handler: 1} // SIG_IGN: drops what is pending
		setAction(sig, &ignored)
		unblock()
		return false
	}
	unblock() // stops here
	return true
}

// blockSignal keeps a signal from the calling thread until the function that
// it returns is called.
func blockSignal(sig syscall.Signal) (unblock func(), err error) {
	var old unix.Sigset_t
	set := unix.Sigset_t{Val: [16]uint64{1 << (sig - 1)}}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &set, &old); err != nil {
		return nil, err
	}
	return func() { _ = unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil) }, nil
}

// hasShell says whether this process has a parent that does job control: one
// in its session, but not in its group.
func hasShell() bool {
	parent := unix.Getppid()
	theirs, err1 := unix.Getsid(parent)
	ours, err2 := unix.Getsid(0)
	group, err3 := unix.Getpgid(parent)
	return errors.Join(err1, err2, err3) == nil && theirs == ours && group != unix.Getpgrp()
}

// isStopped says whether a process is. Where /proc does not tell, it is.
func isStopped(pid int) bool {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return pid == 0
	}
	// The name before it may hold anything.
	i := bytes.LastIndex(data, []byte(") "))
	return i < 0 || bytes.HasPrefix(data[i+2:], []byte("T"))
}

// defaultAction sets a signal's action to the default, which signal.Reset does
// not do once there has been a handler, and returns the old one.
func defaultAction(sig syscall.Signal) *sigaction {
	var zero, old sigaction
	unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&zero)), uintptr(unsafe.Pointer(&old)), 8, 0, 0)
	return &old
}

func setAction(sig syscall.Signal, action *sigaction) {
	unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(action)), 0, 8, 0, 0)
}
