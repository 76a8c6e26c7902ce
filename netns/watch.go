package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lookEvery is how often it is looked whether a path, or a process, has another
// namespace than before. The end of a process is noticed at once.
const lookEvery = 250 * time.Millisecond

// Watch returns nil when the namespace has come to its end: when the path by
// which it was named leads there no more, or, if it was named by a process, when
// no process lives in it any more. It returns the context's cause if ctx ends
// before.
//
// The processes of others that this process may not look at are not seen.
func (a *Attached) Watch(ctx context.Context) error {
	if a.target.Path != "" {
		return a.watchPath(ctx)
	}
	a.mu.RLock()
	pidfd, err := unix.FcntlInt(uintptr(a.pidfd), unix.F_DUPFD_CLOEXEC, 0)
	a.mu.RUnlock()
	at := fmt.Sprintf("/proc/%d/ns/net", a.target.PID)
	for {
		if err == nil {
			err = a.awaitLeft(ctx, pidfd, at)
		}
		if err != nil {
			return err
		}
		if pidfd, at = a.another(); pidfd < 0 {
			return nil
		}
	}
}

func (a *Attached) watchPath(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if now, err := idAt(a.target.Path); err != nil || now != a.id {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// awaitLeft waits until a process has ended, or the one that has its namespace
// at the path has gone to another. It closes the process's descriptor.
func (a *Attached) awaitLeft(ctx context.Context, pidfd int, at string) error {
	if err := unix.SetNonblock(pidfd, true); err != nil { // for the poller
		unix.Close(pidfd)
		return fmt.Errorf("netns: watch a process: %w", err)
	}
	f := os.NewFile(uintptr(pidfd), "process")
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	over := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer over()
	for {
		if err := f.SetReadDeadline(time.Now().Add(lookEvery)); err != nil {
			return err
		}
		if ctx.Err() != nil { // after the deadline was set: it may have undone that of over
			return context.Cause(ctx)
		}
		err := raw.Read(func(fd uintptr) bool { return ended(int(fd)) })
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		// What cannot be looked at may still be there.
		if now, err := idAt(at); err == nil && now != a.id || errors.Is(err, os.ErrNotExist) {
			return nil
		}
	}
}

// another finds a process that lives in the namespace, and returns a descriptor
// of it, or -1, and the path of its namespace: a thread may be in another than
// its process. A process that is started while /proc is read may be missed; so
// that its parent's end does not hide it, /proc is read twice.
func (a *Attached) another() (pidfd int, at string) {
	for range 2 {
		paths, err := filepath.Glob("/proc/[0-9]*/task/[0-9]*/ns/net")
		if err != nil {
			return -1, "" // the pattern is right
		}
		for _, path := range paths {
			if now, err := idAt(path); err != nil || now != a.id {
				continue
			}
			pid, err := strconv.Atoi(strings.Split(path, "/")[2])
			if err != nil || pid == os.Getpid() {
				continue
			}
			pidfd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				continue // it has ended
			}
			// The number may have become another's meanwhile.
			if now, err := idAt(path); err == nil && now == a.id && !ended(pidfd) {
				return pidfd, path
			}
			unix.Close(pidfd)
		}
	}
	return -1, ""
}
