package relay

import (
	"errors"
	"fmt"
)

// Side is one of the two connections that Join joins. The zero Side is
// neither of them.
type Side uint8

// The sides.
const (
	Neither Side = iota
	Guest
	Upstream
)

// String returns "neither", "guest" or "upstream".
func (s Side) String() string {
	switch s {
	case Neither:
		return "neither"
	case Guest:
		return "guest"
	case Upstream:
		return "upstream"
	}
	return fmt.Sprintf("Side(%d)", uint8(s))
}

// End says how a joined connection ended. The zero End is unknown.
type End uint8

// The ends.
const (
	ByFIN     End = iota + 1 // both sides sent FIN, and both were passed on
	ByRST                    // one side was reset, and so the other was
	ByTimeout                // half-closed and idle for HalfCloseTimeout; both sides were reset
	ByError                  // another error, or the end of the context; both sides were reset
)

// String returns "fin", "rst", "timeout" or "error", and "unknown" for the
// zero End.
func (e End) String() string {
	switch e {
	case 0:
		return "unknown"
	case ByFIN:
		return "fin"
	case ByRST:
		return "rst"
	case ByTimeout:
		return "timeout"
	case ByError:
		return "error"
	}
	return fmt.Sprintf("End(%d)", uint8(e))
}

// ErrHalfCloseTimeout is the Err of a Result whose End is ByTimeout.
var ErrHalfCloseTimeout = errors.New("relay: half-closed and idle for too long")

// Result is what became of a joined connection.
type Result struct {
	Outbound int64 // bytes from the guest to the upstream
	Inbound  int64 // bytes from the upstream to the guest

	// First is the side that sent FIN or RST first, Neither if none had when
	// something else ended the connection: a Handle, if FirstBy is not zero.
	First Side

	// FirstBy says which of the two that was; zero if nobody closed it.
	FirstBy End

	End End

	// By is, when End is ByRST or ByError, the side whose RST or error ended
	// the connection; Neither when the context or a Handle did.
	By Side

	// Err is nil when End is ByFIN and both sides closed without complaint.
	// Otherwise it wraps what was met: a reset matches syscall.ECONNRESET or
	// syscall.EPIPE, the end of the context matches its cause.
	Err error
}

// String returns one line, such as "fin, guest first, 512 out, 1024 in".
func (r Result) String() string {
	s := fmt.Sprintf("%v, %v first, %d out, %d in", r.End, r.First, r.Outbound, r.Inbound)
	if r.Err != nil {
		s += ": " + r.Err.Error()
	}
	return s
}
