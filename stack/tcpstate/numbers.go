package tcpstate

import (
	"net/netip"
	"sync"
)

// numbersKept is how many connections Numbers remembers at least, and half of
// how many at most. What it is asked about is young: the SYN that opens a
// connection, and what follows on its heels.
const numbersKept = 1 << 14

// Numbers gives the connections of one sandbox their numbers, from 1, the same
// to each leg of a connection whichever sees it first. A connection is known by
// the guest's address, its peer's, and the sequence number of the first SYN,
// which tells it from the one before and the one after between the same two.
//
// The zero value is ready. Its methods may be called concurrently, also under
// locks of the packet path. It forgets the oldest.
type Numbers struct {
	mu         sync.Mutex
	last       Conn
	young, old map[opening]numbered
}

// numbered is a number, and the legs that have asked for it.
type numbered struct {
	conn Conn
	legs [numLegs]bool
}

// opening is what connections are told apart by.
type opening struct {
	guest, peer netip.AddrPort
	iss         uint32
}

// Next returns a new number, for what has no addresses yet, or will not have
// them: see Bind.
func (n *Numbers) Next() Conn {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last++
	return n.last
}

// Begin returns the number for an endpoint that begins on the leg: that of the
// connection between guest and peer whose first SYN, whoever sent it, had the
// sequence number iss. It is a new one if no other leg has been here before, or
// if this leg has: a SYN that comes late, a second time, begins a connection of
// its own where the first has ended already.
func (n *Numbers) Begin(leg Leg, guest, peer netip.AddrPort, iss uint32) Conn {
	o := opening{guest, peer, iss}
	n.mu.Lock()
	defer n.mu.Unlock()
	c, known := n.young[o]
	if !known {
		c, known = n.old[o]
	}
	if !known || c.legs[leg] {
		n.last++
		c = numbered{conn: n.last}
	}
	c.legs[leg] = true
	n.keepLocked(o, c)
	return c.conn
}

// Bind says that a number of Next is that of the connection that the leg begins
// with this SYN.
func (n *Numbers) Bind(c Conn, leg Leg, guest, peer netip.AddrPort, iss uint32) {
	n.mu.Lock()
	defer n.mu.Unlock()
	b := numbered{conn: c}
	b.legs[leg] = true
	n.keepLocked(opening{guest, peer, iss}, b)
}

func (n *Numbers) keepLocked(o opening, c numbered) {
	if n.young == nil || len(n.young) >= numbersKept {
		n.old, n.young = n.young, make(map[opening]numbered)
	}
	n.young[o] = c
}
