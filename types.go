package tcpbox

import (
	"tcpbox/netns"
	"tcpbox/netns/guest"
	"tcpbox/stack"
	"tcpbox/stack/tcpstate"
)

// These types belong to the rooms that make them, and are part of this
// package's interface: a program that uses tcpbox needs to import nothing else
// for them.
type (
	// User is a user and a group, by their numbers.
	User = guest.User

	// Status is how a guest ended.
	Status = guest.Status

	// LaunchError says what could not be done to start a guest, with a hint.
	LaunchError = guest.Error

	// AttachError says why a namespace cannot be served, with a hint.
	AttachError = netns.AttachError

	// ExecError says that the guest's program, or that of Sandbox.Exec, could
	// not be executed.
	ExecError = guest.ExecError

	// ExecConfig says what Sandbox.Exec starts.
	ExecConfig = guest.Exec

	// Command is what Sandbox.Exec has started.
	Command = guest.Command

	// PanicError is a defect of the embedded stack that a packet has met. The
	// guest was killed, for it has no network any more.
	PanicError = stack.PanicError

	// Conn is a connection that ends in the stack: what Listen accepts and Dial
	// returns.
	Conn = stack.Conn

	// Transition is one step of an endpoint from a TCP state to another.
	Transition = tcpstate.Transition

	// Refusal is something that the guest tried and did not get.
	Refusal = stack.Refusal

	// Stats are the counters of a sandbox's stack.
	Stats = stack.Stats

	// ConnVerb is what Sandbox.ConnDo can do.
	ConnVerb = stack.ConnVerb
)

// The verbs.
const (
	ConnRST    = stack.ConnRST    // RST to both ends, at once
	ConnClose  = stack.ConnClose  // what has come is delivered, then FIN to both ends
	ConnFreeze = stack.ConnFreeze // no byte moves between the legs
	ConnThaw   = stack.ConnThaw   // the bytes go on
)

// OpConfiguration is the Op of a LaunchError that says that the Config was
// wrong.
const OpConfiguration = guest.OpConfiguration

// What an AttachError matches.
var (
	ErrNoNamespace  = netns.ErrNoNamespace  // there is no such process, or no namespace at the path
	ErrOwnNamespace = netns.ErrOwnNamespace // it is this process's own, or the machine's
	ErrInUse        = netns.ErrInUse        // it has a network already
)

// ErrEnded is matched by the error of Sandbox.Exec and Sandbox.Dial when the
// sandbox has ended, and by that of Command.Wait when the sandbox has ended before
// the command, which was killed by that.
var ErrEnded = guest.ErrEnded
