package sockdiag

import (
	"net/netip"

	"tcpbox/netns"
)

// Pair is a connection by the addresses of its two ends, the socket's own
// first. Those of IPv4 are given as such, whatever family the socket is of.
type Pair struct{ Local, Remote netip.AddrPort }

// Found is what Find has found of a Pair.
type Found struct {
	Socket
	OK bool // false: there is no such connection
}

// Find looks connections of TCP up, one by one: unlike Dump it does not go
// through the whole machine's, and it misses none. The answers are in the order
// of the pairs. It opens one socket in ns and closes it again; see Finder for one
// that stays open.
func Find(ns netns.NS, pairs []Pair) ([]Found, error) {
	file, err := open(ns)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	all := make([]Found, len(pairs))
	for i, p := range pairs {
		s, ok, err := lookUp(file, p)
		if err != nil {
			return nil, err
		}
		all[i] = Found{s, ok}
	}
	return all, nil
}
