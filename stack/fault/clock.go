package fault

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Clock tells the time and wakes.
type Clock interface {
	Now() time.Time

	// AfterFunc calls f in a goroutine of its own when d has passed, at once if d
	// is not above zero.
	AfterFunc(d time.Duration, f func()) Timer
}

// Timer is one that Stop ends. A call that has begun is not waited for.
type Timer interface{ Stop() bool }

// realClock is the machine's.
type realClock struct{}

func (realClock) Now() time.Time { return time.Now() }

// lastStretch is how long before it is due a timer of Go's hands over to the
// kernel's clock: Go sleeps in whole milliseconds where nothing else is to do.
const lastStretch = 1200 * time.Microsecond

func (realClock) AfterFunc(d time.Duration, f func()) Timer {
	due := time.Now().Add(d)
	return time.AfterFunc(d-lastStretch, func() {
		sleepUntil(due)
		f()
	})
}

// sleepUntil sleeps without the 50 us that the kernel may add to a sleep of a
// thread (PR_SET_TIMERSLACK), which is the thread's default again afterwards.
func sleepUntil(due time.Time) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	for rest := time.Until(due); rest > 0; rest = time.Until(due) {
		ts := unix.NsecToTimespec(int64(rest))
		_ = unix.Nanosleep(&ts, nil) // a signal ends it early: look again
	}
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0)
}
