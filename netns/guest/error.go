package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
)

// Error says what could not be done, and what the person in front of the
// machine can do about it.
type Error struct {
	Op   string // such as "mount /proc"
	Err  error  // unwraps to a syscall.Errno where the kernel said no
	Hint string // the next step, or empty
}

func (e *Error) Error() string { return "guest: " + e.Op + ": " + e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// OpConfiguration is the Op of an Error that a Config has: nothing was started.
const OpConfiguration = "configuration"

// ErrInitDied is matched by the error of Wait when the sandbox ended without
// its guest's status being known: its init was killed.
var ErrInitDied = errors.New("the sandbox's init process died")

const initDiedHint = "it does not end by itself: somebody killed it, or the kernel did for want of memory; see \"dmesg\""

// ExecError says that the guest's program could not be executed.
type ExecError struct {
	Name string // as in Config.Args
	Err  error  // a syscall.Errno
}

func (e *ExecError) Error() string {
	if errors.Is(e.Err, fs.ErrNotExist) {
		return fmt.Sprintf("guest: %q: command not found", e.Name)
	}
	return fmt.Sprintf("guest: execute %q: %v", e.Name, e.Err)
}

func (e *ExecError) Unwrap() error { return e.Err }

// Status is the exit status that a shell gives in this case: 127 for a program
// that does not exist, 126 for one that cannot be executed.
func (e *ExecError) Status() int {
	if errors.Is(e.Err, fs.ErrNotExist) {
		return 127
	}
	return 126
}

// fault is an Error on its way from init to the caller.
type fault struct {
	Op, Text, Hint string
	Errno          syscall.Errno
	Exec           string // the program, for an ExecError
}

// asFault takes an error apart. A nil error gives a nil fault.
func asFault(err error) *fault {
	if err == nil {
		return nil
	}
	f := &fault{Text: err.Error()}
	errors.As(err, &f.Errno)
	var e *Error
	var x *ExecError
	switch {
	case errors.As(err, &x):
		f.Exec, f.Text = clip(x.Name), ""
	case errors.As(err, &e):
		f.Op, f.Text, f.Hint = clip(e.Op), e.Err.Error(), e.Hint
	}
	f.Text = clip(f.Text)
	return f
}

// clip shortens what a program's name or a path has made too long for a
// message.
func clip(text string) string {
	const most = 4 << 10
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// err is the inverse of asFault, but for the chain between text and errno.
func (f *fault) err() error {
	switch {
	case f == nil:
		return nil
	case f.Exec != "":
		return &ExecError{Name: f.Exec, Err: f.Errno}
	case f.Op != "":
		return &Error{Op: f.Op, Err: f.cause(), Hint: f.Hint}
	}
	return f.cause()
}

func (f *fault) cause() error {
	if f.Errno == 0 {
		return errors.New(f.Text)
	}
	return &carried{text: f.Text, errno: f.Errno}
}

// carried is an error whose text was made in another process.
type carried struct {
	text  string
	errno syscall.Errno
}

func (c *carried) Error() string { return c.text }

func (c *carried) Unwrap() error { return c.errno }
