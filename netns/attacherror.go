package netns

import (
	"errors"

	"golang.org/x/sys/unix"

	"tcpbox/tun"
)

// Errors that an AttachError matches, for callers that branch on it.
var (
	// ErrNoNamespace: what was named has no network namespace.
	ErrNoNamespace = errors.New("no network namespace")

	// ErrOwnNamespace: it is the caller's own, or the machine's.
	ErrOwnNamespace = errors.New("it is the network of tcpbox itself, or of the machine")

	// ErrInUse: the namespace has a network already.
	ErrInUse = errors.New("the namespace has a network already")
)

// AttachError says why a namespace cannot be served, and what the person in
// front of the machine can do about it. Nothing was changed.
type AttachError struct {
	Target string // as in Target.String
	Err    error
	Hint   string // the next step, or empty
}

func (e *AttachError) Error() string { return "netns: attach to " + e.Target + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *AttachError) Unwrap() error { return e.Err }

// because is an error with a text of its own that matches another.
type because struct {
	text string
	is   error
}

func (b *because) Error() string { return b.text }

func (b *because) Unwrap() error { return b.is }

// notPermitted is the next step for who may not enter.
const notPermitted = "an ordinary user can serve a namespace that belongs to a user namespace of their own, as \"unshare -Urn\" and bwrap make it; for any other, run as root"

// explainEnter makes what a person can use of an error of enter.
func explainEnter(t Target, err error) error {
	var in *enterError
	if errors.As(err, &in) && (errors.Is(in, unix.EPERM) || errors.Is(in, unix.EINVAL)) {
		return &AttachError{t.String(), &because{"you may not enter this namespace", in}, notPermitted}
	}
	return &AttachError{t.String(), err, ""}
}

// explainTUN does the same of the error of the errand that makes the device.
func explainTUN(t Target, name string, err error) error {
	var e *errandError
	if !errors.As(err, &e) {
		return &AttachError{t.String(), err, ""}
	}
	if e.step == stepAttach && (e.errno == unix.EBUSY || e.errno == unix.EEXIST) {
		return inUse(t, name)
	}
	open := &tun.OpenError{Op: stepName(e.step), Name: name, Err: e.errno}
	return &AttachError{t.String(), open, open.Hint()}
}

// inUse says that an interface of the name is there.
func inUse(t Target, name string) error {
	text := "the namespace has an interface " + name + " already: a tcpbox serves it"
	return &AttachError{t.String(), &because{text, ErrInUse}, inUseHint}
}

const inUseHint = "a namespace is served once; see \"tcpbox ls\", and end the other one with \"tcpbox stop\""
