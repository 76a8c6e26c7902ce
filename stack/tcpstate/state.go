// Package tcpstate is the vocabulary of TCP states that every part of tcpbox
// shares: the eleven states of RFC 9293, which of them may follow which, the
// three legs of a connection, and the Transition that records one change.
//
// It is a leaf: it imports nothing of tcpbox and anyone may import it. But for
// Numbers, by which the legs agree which connection they speak of, it holds
// words, not behaviour; the embedded stack produces transitions (package
// stack), the state log writes them down (package statelog).
package tcpstate

import "fmt"

// State is a TCP connection state of RFC 9293, section 3.3.2. The zero State
// is Unknown, which is never a state of a connection: it says that a state is
// not known.
type State uint8

// The states, in the order in which RFC 9293, section 3.3.2 lists them, with
// CLOSED first.
const (
	Unknown State = iota
	Closed
	Listen
	SynSent
	SynReceived
	Established
	FinWait1
	FinWait2
	CloseWait
	Closing
	LastAck
	TimeWait

	numStates
)

var stateNames = [numStates]string{
	Unknown:     "UNKNOWN",
	Closed:      "CLOSED",
	Listen:      "LISTEN",
	SynSent:     "SYN-SENT",
	SynReceived: "SYN-RECEIVED",
	Established: "ESTABLISHED",
	FinWait1:    "FIN-WAIT-1",
	FinWait2:    "FIN-WAIT-2",
	CloseWait:   "CLOSE-WAIT",
	Closing:     "CLOSING",
	LastAck:     "LAST-ACK",
	TimeWait:    "TIME-WAIT",
}

// All returns the eleven states of RFC 9293, without Unknown, in their order.
func All() []State {
	all := make([]State, 0, numStates-1)
	for s := Closed; s < numStates; s++ {
		all = append(all, s)
	}
	return all
}

// String returns the name as RFC 9293 spells it, such as "SYN-RECEIVED". A
// value that is no state prints as "State(n)".
func (s State) String() string {
	if s < numStates {
		return stateNames[s]
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// MarshalText implements encoding.TextMarshaler with the name of RFC 9293.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; it accepts what Parse
// accepts, and "UNKNOWN".
func (s *State) UnmarshalText(text []byte) error {
	if string(text) == stateNames[Unknown] {
		*s = Unknown
		return nil
	}
	p, err := Parse(string(text))
	if err != nil {
		return err
	}
	*s = p
	return nil
}
