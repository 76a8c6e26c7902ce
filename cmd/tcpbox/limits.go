package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// neededDescriptors is how many files a sandbox has open before its first
// connection, with room for a few.
const neededDescriptors = 48

// checkDescriptors finds out, before anything is opened for good, whether that
// many files can be. The Go runtime ends the process when it lacks one for
// itself, and that tells nobody what to do.
func checkDescriptors() error {
	var opened []int
	defer func() {
		for _, fd := range opened {
			_ = unix.Close(fd)
		}
	}()
	for len(opened) < neededDescriptors {
		fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 3)
		switch err {
		case nil:
			opened = append(opened, fd)
		case unix.EMFILE, unix.EINVAL: // EINVAL: the limit is below 3
			return hinted(fmt.Sprintf("too few open files are allowed: a sandbox needs %d before its first connection", neededDescriptors),
				`raise the limit, as with "ulimit -n 1024"; each connection needs some of its own`)
		default: // the runtime has seen to it that 0 is open
			return nil
		}
	}
	return nil
}
