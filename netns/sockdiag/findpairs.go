package sockdiag

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"tcpbox/netns"
	"tcpbox/stack/tcpstate"
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
		if err := ask(file, findRequest(p.Local, p.Remote)); err != nil {
			return nil, fmt.Errorf("sockdiag: find: %w", err)
		}
		_, err := receiveOne(file, func(payload []byte) error {
			s, err := parseSocket(payload, TCP)
			// Where there is no connection the kernel answers with who listens.
			if err == nil && s.State != tcpstate.Listen && s.State != tcpstate.Unknown {
				all[i] = Found{s, true}
			}
			return err
		})
		if err != nil && !errors.Is(err, syscall.ENOENT) {
			return nil, fmt.Errorf("sockdiag: find %v: %w", p.Local, err)
		}
	}
	return all, nil
}
