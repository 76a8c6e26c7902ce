package tcpbox

import (
	"context"
	"syscall"
)

// Exec starts a command beside the guest and returns once it runs. It is
// confined as the guest is, in a session of its own, with the guest's
// environment, directory and ids as far as cfg does not say otherwise. It ends
// with the sandbox at the latest; with Config.Linger it keeps the sandbox as
// any other process does.
//
// ctx bounds the starting only. An error may match *ExecError, *LaunchError,
// ErrEnded or ErrNoGuest.
func (s *Sandbox) Exec(ctx context.Context, cfg ExecConfig) (*Command, error) {
	if s.guest == nil {
		return nil, &LaunchError{Op: "exec", Err: ErrNoGuest, Hint: "enter the namespace itself, with nsenter(1)"}
	}
	return s.guest.Exec(ctx, cfg)
}

// Lingering is closed when the guest has ended while others live on, which
// Config.Linger allows. Of an attached namespace it is nil.
func (s *Sandbox) Lingering() <-chan struct{} {
	if s.guest == nil {
		return nil
	}
	return s.guest.Lingering()
}

// SignalAll sends a signal to every process in the sandbox. An error that
// matches os.ErrProcessDone says that there is none any more, one that matches
// ErrNoGuest that the processes are not tcpbox's.
func (s *Sandbox) SignalAll(sig syscall.Signal) error {
	if s.guest == nil {
		return &LaunchError{Op: "signal", Err: ErrNoGuest}
	}
	return s.guest.SignalAll(sig)
}

// end sends a signal to whatever keeps the sandbox.
func (s *Sandbox) end(sig syscall.Signal) error {
	if s.linger {
		return s.guest.SignalAll(sig)
	}
	return s.inside.Signal(sig)
}

// lingers reports whether the guest has ended and others have not.
func (s *Sandbox) lingers() bool {
	select {
	case <-s.Lingering():
		return true
	default:
		return false
	}
}
