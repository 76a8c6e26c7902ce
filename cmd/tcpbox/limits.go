package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// How many files are open at once, with room for a few.
const (
	boxDescriptors = 48  // of a sandbox, before its first connection
	labDescriptors = 128 // of a lab; 71 were counted
)

// roomForABox is checkDescriptors for one sandbox.
func roomForABox() error {
	return checkDescriptors(boxDescriptors, "a sandbox without a connection")
}

// checkDescriptors finds out, before anything is opened for good, whether as many
// files can be as what needs. The Go runtime ends the process when it lacks one for
// itself, and that tells nobody what to do.
func checkDescriptors(needed int, what string) error {
	var opened []int
	defer func() {
		for _, fd := range opened {
			_ = unix.Close(fd)
		}
	}()
	for len(opened) < needed {
		fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 3)
		switch err {
		case nil:
			opened = append(opened, fd)
		case unix.EMFILE, unix.EINVAL: // EINVAL: the limit is below 3
			return &failure{
				text:  fmt.Sprintf("too few open files are allowed: %s needs %d", what, needed),
				hint:  `raise the limit, as with "ulimit -n 1024"; each connection needs some of its own`,
				cause: unix.EMFILE,
			}
		default: // the runtime has seen to it that 0 is open
			return nil
		}
	}
	return nil
}
