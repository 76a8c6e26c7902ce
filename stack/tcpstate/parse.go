package tcpstate

import (
	"fmt"
	"strings"
)

// other spellings that people know from netstat(8) and ss(8), in the folded
// form of fold: FIN_WAIT1, SYN_RECV, SYN-RECV, estab, unconn.
var otherSpellings = map[string]State{
	"synrecv":   SynReceived,
	"synrcvd":   SynReceived,
	"estab":     Established,
	"close":     Closed,
	"unconn":    Closed,
	"listening": Listen,
}

// Parse returns the state that name spells, as RFC 9293 does ("FIN-WAIT-1") or
// as netstat(8) and ss(8) do ("FIN_WAIT1", "fin-wait-1", "SYN_RECV"). Case
// does not matter.
func Parse(name string) (State, error) {
	folded := fold(name)
	for s := Closed; s < numStates; s++ {
		if fold(stateNames[s]) == folded {
			return s, nil
		}
	}
	if s, ok := otherSpellings[folded]; ok {
		return s, nil
	}
	return Unknown, fmt.Errorf("tcpstate: %q is not a TCP state; the states are %s", name, strings.Join(stateNames[Closed:], ", "))
}

// fold takes away what spellings differ in: case, hyphens and underscores.
func fold(name string) string {
	return strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(name))
}
