package netns

import (
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkEnter is one socket from another namespace.
func BenchmarkEnter(b *testing.B) {
	o, err := New()
	if err != nil {
		b.Skip(err)
	}
	defer o.Close()
	var ns int
	if err := o.Do(func() (err error) {
		ns, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	}); err != nil {
		b.Fatal(err)
	}
	defer unix.Close(ns)
	for b.Loop() {
		fds, errs, err := enter(ns, -1, []errand{socketErrand(unix.AF_INET, unix.SOCK_DGRAM, 0)})
		if err != nil || errs[0] != nil {
			b.Fatal(err, errs)
		}
		unix.Close(fds[0])
	}
}
