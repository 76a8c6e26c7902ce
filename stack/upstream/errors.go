package upstream

import (
	"errors"
	"syscall"
)

// Resource is something of which the host has only so much.
type Resource string

// The resources.
const (
	Dials       Resource = "dials"       // Host.MaxDials
	Conns       Resource = "connections" // Host.MaxConns
	Ports       Resource = "ports"       // ip_local_port_range, towards one destination
	Descriptors Resource = "descriptors" // RLIMIT_NOFILE, or fs.file-max
	Memory      Resource = "memory"      // of the kernel, for sockets
)

// ShortageError says that a dial failed for want of something of the host's,
// which says nothing about the destination: no answer to the guest would be
// true.
type ShortageError struct {
	Of  Resource
	Err syscall.Errno // what the kernel said, EAGAIN for a limit of the Host's
}

// Shortages that are a limit of the Host's own; compare with errors.Is.
var (
	ErrTooManyDials error = &ShortageError{Dials, syscall.EAGAIN}
	ErrTooManyConns error = &ShortageError{Conns, syscall.EAGAIN}
)

// Error says what is short, and where it is set.
func (e *ShortageError) Error() string {
	switch e.Of {
	case Dials:
		return "too many dials in progress"
	case Conns:
		return "too many connections"
	case Ports:
		return "no local port left for this destination: " + e.Err.Error() + "; see net.ipv4.ip_local_port_range"
	case Descriptors:
		return "no descriptor left: " + e.Err.Error() + "; see ulimit -n"
	}
	return "no " + string(e.Of) + " left: " + e.Err.Error()
}

// Unwrap returns the errno.
func (e *ShortageError) Unwrap() error { return e.Err }

// Shortage returns the name of the resource. Code that must not import this
// package finds a shortage by this method.
func (e *ShortageError) Shortage() string { return string(e.Of) }

// errElsewhere is a connection that does not end where it was dialled to: to
// itself, when the kernel gave it the local port that it was dialling (RFC
// 9293, section 3.5, simultaneous open), or to another address, as 0.0.0.0
// becomes the loopback. Nobody listens there, so it is refused.
type errElsewhere struct{ what string }

func (e *errElsewhere) Error() string { return e.what }
func (e *errElsewhere) Unwrap() error { return syscall.ECONNREFUSED }

// errNoSource is the kernel's EADDRNOTAVAIL when it is not about ports.
type errNoSource struct{}

func (errNoSource) Error() string { return "the host has no source address for it" }
func (errNoSource) Unwrap() error { return syscall.ENETUNREACH }

// shortage turns the errors that mean a shortage into a ShortageError and
// leaves the others as they are. EADDRNOTAVAIL is dial's to judge.
func shortage(err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err
	}
	switch errno {
	case syscall.EMFILE, syscall.ENFILE:
		return &ShortageError{Descriptors, errno}
	case syscall.ENOBUFS, syscall.ENOMEM:
		return &ShortageError{Memory, errno}
	}
	return err
}
