package guest

import (
	"fmt"
	"syscall"
)

// Status is how a guest ended.
type Status struct {
	Code   int            // what it gave to exit, if Signal is zero
	Signal syscall.Signal // what killed it, or zero
}

// ExitCode is the status that a shell would see: the guest's own, or 128 plus
// the number of the signal that killed it.
func (s Status) ExitCode() int {
	if s.Signal != 0 {
		return 128 + int(s.Signal)
	}
	return s.Code
}

func (s Status) String() string {
	if s.Signal != 0 {
		return fmt.Sprintf("killed by signal %d (%v)", int(s.Signal), s.Signal)
	}
	return fmt.Sprintf("exit status %d", s.Code)
}
