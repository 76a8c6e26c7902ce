package sockwatch

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Of one processor's time, looks may take a hundredth, and those for owners,
// which cannot wait, a twentieth, whatever the guest does.
const (
	share       = 100
	urgentShare = 20
	soonest     = 2 * time.Millisecond
)

// budget bounds the time that looks take. It belongs to the goroutine that looks;
// allowed is called under the Watcher's lock.
type budget struct {
	next, nextUrgent time.Time
}

// begin makes the goroutine one whose time is counted, until what it returns is
// called.
func (*budget) begin() (end func()) {
	runtime.LockOSThread()
	return runtime.UnlockOSThread
}

// spent is the processor's time that this thread has had. A machine that is busy
// with other things makes a look no dearer.
func (*budget) spent() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// spend takes note of a look, by what was spent before it. It returns what the
// look has taken.
func (b *budget) spend(before time.Duration, urgent bool, now time.Time) time.Duration {
	cost := b.spent() - before
	factor := time.Duration(share)
	if urgent {
		factor = urgentShare
	}
	next := now.Add(max(soonest, factor*cost))
	b.nextUrgent = now.Add(max(soonest, urgentShare*cost))
	if next.After(b.next) {
		b.next = next
	}
	return cost
}

// allowed is when a look that is wanted at some time may be.
func (b *budget) allowed(at time.Time, urgent bool) time.Time {
	least := b.next
	if urgent {
		least = b.nextUrgent
	}
	if at.Before(least) {
		return least
	}
	return at
}
