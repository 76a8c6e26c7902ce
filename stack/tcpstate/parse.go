package tcpstate

import (
	"fmt"
	"strings"
)

// spellings holds every folded spelling of each state: that of RFC 9293 and
// those that people know from netstat(8) and ss(8).
var spellings = func() map[string]State {
	m := map[string]State{
		"synrecv":   SynReceived,
		"synrcvd":   SynReceived,
		"estab":     Established,
		"close":     Closed,
		"unconn":    Closed,
		"listening": Listen,
	}
	for s := Closed; s < numStates; s++ {
		m[fold(stateNames[s])] = s
	}
	return m
}()

// Parse returns the state that name spells, as RFC 9293 does ("FIN-WAIT-1") or
// as netstat(8) and ss(8) do ("FIN_WAIT1", "fin-wait-1", "SYN_RECV"). Case
// does not matter.
func Parse(name string) (State, error) {
	if len(name) <= 2*len("SYN-RECEIVED") { // no spelling is longer
		if s, ok := spellings[fold(name)]; ok {
			return s, nil
		}
	}
	return Unknown, fmt.Errorf("tcpstate: %q is not a TCP state; the states are %s", name, strings.Join(stateNames[Closed:], ", "))
}

var separators = strings.NewReplacer("-", "", "_", "")

// fold takes away what spellings differ in: case, hyphens and underscores.
func fold(name string) string { return strings.ToLower(separators.Replace(name)) }
