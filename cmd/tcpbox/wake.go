package main

import (
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// wakeAgain is how often a process that stops itself once more is woken.
const wakeAgain = time.Second

// wakeAfter has the kernel send SIGCONT to this process after d, and again from
// then on until stop is called. A process that is stopped cannot look at the
// clock itself, and tcpbox stops whenever its guest does.
//
// It is timer_create(2) with SIGEV_SIGNAL: nothing else of the kernel's can send
// a signal of one's choice at a time of one's choice.
func wakeAfter(d time.Duration) (stop func(), err error) {
	event := sigevent{signo: int32(unix.SIGCONT)}
	var id int32
	_, _, errno := unix.Syscall(unix.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC,
		uintptr(unsafe.Pointer(&event)), uintptr(unsafe.Pointer(&id)))
	if errno != 0 {
		return nil, errno
	}
	stop = sync.OnceFunc(func() { _, _, _ = unix.Syscall(unix.SYS_TIMER_DELETE, uintptr(id), 0, 0) })
	at := unix.ItimerSpec{Value: unix.NsecToTimespec(d.Nanoseconds()), Interval: unix.NsecToTimespec(wakeAgain.Nanoseconds())}
	_, _, errno = unix.Syscall6(unix.SYS_TIMER_SETTIME, uintptr(id), 0, uintptr(unsafe.Pointer(&at)), 0, 0, 0)
	if errno != 0 {
		stop()
		return nil, errno
	}
	return stop, nil
}

// sigevent is struct sigevent of a 64-bit Linux (uapi/asm-generic/siginfo.h).
type sigevent struct {
	value  uint64
	signo  int32
	notify int32 // SIGEV_SIGNAL, which is 0
	_      [48]byte
}
