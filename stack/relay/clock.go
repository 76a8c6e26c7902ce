package relay

import "time"

// Clock is the time that a relay lives in.
type Clock interface {
	Now() time.Time

	// AfterFunc calls f in a goroutine of its own after d, as time.AfterFunc
	// does. stop reports whether it kept f from being called.
	AfterFunc(d time.Duration, f func()) (stop func() bool)
}

type systemClock struct{}

func (systemClock) Now() time.Time { return time.Now() }

func (systemClock) AfterFunc(d time.Duration, f func()) (stop func() bool) {
	return time.AfterFunc(d, f).Stop
}
