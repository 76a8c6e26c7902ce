package tcpstate

import (
	"fmt"
	"strings"
)

// Set is a set of states; Unknown may be one of them. The zero Set is empty.
type Set uint16

// SetOf returns the set of the given states. What is no state is left out.
func SetOf(states ...State) Set {
	var set Set
	for _, s := range states {
		if s < numStates {
			set |= 1 << s
		}
	}
	return set
}

// Has reports whether s is in the set.
func (set Set) Has(s State) bool { return s < numStates && set&(1<<s) != 0 }

// group is a set that ss(8) has a name for.
type group struct {
	name string
	set  Set
}

// groups are those of ss(8), section STATE-FILTER. "all" has Unknown too; the
// others have what is known to be of them.
var groups = func() []group {
	known := SetOf(All()...)
	connected := known &^ SetOf(Closed, Listen)
	bucket := SetOf(SynReceived, TimeWait) // those the kernel keeps in a small form
	return []group{
		{"all", known | SetOf(Unknown)},
		{"connected", connected},
		{"synchronized", connected &^ SetOf(SynSent)},
		{"bucket", bucket},
		{"big", known &^ bucket},
	}
}()

// ParseSet returns the states that name stands for: the one that Parse finds,
// "unknown", or a group of ss(8), which is all, connected, synchronized, bucket
// or big. Case does not matter.
func ParseSet(name string) (Set, error) {
	for _, g := range groups {
		if strings.EqualFold(name, g.name) {
			return g.set, nil
		}
	}
	if strings.EqualFold(name, stateNames[Unknown]) {
		return SetOf(Unknown), nil
	}
	s, err := Parse(name)
	if err != nil {
		return 0, fmt.Errorf("tcpstate: %q is neither a TCP state nor a group of them", name)
	}
	return SetOf(s), nil
}

// SetNames returns the names that ParseSet takes, each thing once: the states
// as RFC 9293 spells them but in small letters, unknown, and the groups.
func SetNames() []string {
	var names []string
	for _, s := range All() {
		names = append(names, strings.ToLower(stateNames[s]))
	}
	names = append(names, strings.ToLower(stateNames[Unknown]))
	for _, g := range groups {
		names = append(names, g.name)
	}
	return names
}

// Names returns the fewest names that ParseSet takes and that together are the
// set: a group's, or those of its states.
func (set Set) Names() []string {
	for _, g := range groups {
		if g.set == set {
			return []string{g.name}
		}
	}
	var names []string
	for s := range numStates {
		if set.Has(s) {
			names = append(names, strings.ToLower(stateNames[s]))
		}
	}
	return names
}

var netstatNames = [numStates]string{
	Unknown:     "UNKNOWN",
	Closed:      "CLOSE",
	Listen:      "LISTEN",
	SynSent:     "SYN_SENT",
	SynReceived: "SYN_RECV",
	Established: "ESTABLISHED",
	FinWait1:    "FIN_WAIT1",
	FinWait2:    "FIN_WAIT2",
	CloseWait:   "CLOSE_WAIT",
	Closing:     "CLOSING",
	LastAck:     "LAST_ACK",
	TimeWait:    "TIME_WAIT",
}

// Netstat returns the name as netstat(8) spells it, such as "SYN_RECV".
func (s State) Netstat() string {
	if s < numStates {
		return netstatNames[s]
	}
	return s.String()
}
