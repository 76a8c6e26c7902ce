package main

import (
	"fmt"
	"math"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// parseDescriptor reads the number of a descriptor that tcpbox has inherited and
// that is not open in the one mode that would be of no use.
func parseDescriptor(text string, useless int, purpose, redirection string) (int, error) {
	fd, err := parseInt(text, 0, math.MaxInt32, "descriptor")
	if err != nil {
		return -1, err
	}
	hint := fmt.Sprintf("open it for tcpbox, as in: "+strings.ReplaceAll(redirection, "%s", "%d"), fd)
	// Descriptors of our own are closed on exec, so they are no one's.
	own, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	if err != nil || own&unix.FD_CLOEXEC != 0 {
		return -1, usagef(hint, "descriptor %d is not open", fd)
	}
	mode, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil || mode&unix.O_ACCMODE == useless {
		return -1, usagef(hint, "descriptor %d is not open for %s", fd, purpose)
	}
	return fd, nil
}

// tellReady writes the sandbox's name to a descriptor and closes it, unless it
// is a standard one.
func tellReady(fd int, name string, say *speaker) {
	line := []byte(name + "\n")
	if _, err := unix.Write(fd, line); err != nil {
		say.warn(fmt.Sprintf("--ready-fd %d: %v", fd, err))
	}
	if fd > 2 {
		unix.Close(fd)
	}
}

// atEOF calls f once when a descriptor reads end of file, or fails. What comes
// before that is thrown away. The function it returns stops that.
//
// The descriptor may be shared with others, so it is not made non-blocking.
func atEOF(fd int, f func()) (stop func()) {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		f()
		return func() {}
	}
	var running sync.WaitGroup
	running.Go(func() {
		if awaitEOF(fd, wake) {
			f()
		}
	})
	return func() {
		_, _ = unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // any number but 0
		running.Wait()
		unix.Close(wake)
	}
}

// awaitEOF reports whether it was the end of file that ended it, and not wake.
func awaitEOF(fd, wake int) bool {
	buf := make([]byte, 4096)
	for {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}
		if _, err := unix.Poll(p, -1); err != nil && err != unix.EINTR {
			return true
		}
		if p[1].Revents != 0 {
			return false
		}
		if p[0].Revents == 0 {
			continue
		}
		n, err := unix.Read(fd, buf)
		if n == 0 && err == nil || err != nil && err != unix.EINTR && err != unix.EAGAIN {
			return true
		}
	}
}
