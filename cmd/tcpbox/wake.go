package main

import (
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A wake that comes just when the process stops itself is lost: the stop drops the
// SIGCONT that is pending (signal(7)), and with it a timer that repeats, for the
// kernel sets that again when its signal is taken. So there are many that do not.
const (
	wakes     = 64
	wakeAgain = 250 * time.Millisecond // from one to the next
)

// wakeAfter has the kernel send SIGCONT to this process after d, and again and
// again for a quarter of a minute, which is longer than killAfter, until stop is
// called. A process that is stopped cannot look at the clock itself, and tcpbox
// stops whenever its guest does.
//
// It is timer_create(2) with SIGEV_SIGNAL: nothing else of the kernel's can send
// a signal of one's choice at a time of one's choice.
func wakeAfter(d time.Duration) (stop func(), err error) {
	var timers []int32
	stop = sync.OnceFunc(func() {
		for _, id := range timers {
			_, _, _ = unix.Syscall(unix.SYS_TIMER_DELETE, uintptr(id), 0, 0)
		}
	})
	for i := range wakes {
		id, err := wakeOnce(d + time.Duration(i)*wakeAgain)
		switch {
		case err != nil && len(timers) == 0:
			return nil, err
		case err != nil: // RLIMIT_SIGPENDING: those that there are have to do
			return stop, nil
		}
		timers = append(timers, id)
	}
	return stop, nil
}

// wakeOnce makes one timer.
func wakeOnce(d time.Duration) (id int32, err error) {
	event := sigevent{signo: int32(unix.SIGCONT)}
	_, _, errno := unix.Syscall(unix.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC,
		uintptr(unsafe.Pointer(&event)), uintptr(unsafe.Pointer(&id)))
	if errno != 0 {
		return 0, errno
	}
	at := unix.ItimerSpec{Value: unix.NsecToTimespec(d.Nanoseconds())}
	_, _, errno = unix.Syscall6(unix.SYS_TIMER_SETTIME, uintptr(id), 0, uintptr(unsafe.Pointer(&at)), 0, 0, 0)
	if errno != 0 {
		_, _, _ = unix.Syscall(unix.SYS_TIMER_DELETE, uintptr(id), 0, 0)
		return 0, errno
	}
	return id, nil
}

// sigevent is struct sigevent of a 64-bit Linux (uapi/asm-generic/siginfo.h).
type sigevent struct {
	value  uint64
	signo  int32
	notify int32 // SIGEV_SIGNAL, which is 0
	_      [48]byte
}
