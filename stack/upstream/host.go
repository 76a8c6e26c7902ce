// Package upstream is the host's side of a sandbox: the sockets on which the
// guest's connections continue into the world. A Host dials them, within
// limits; a Conn is one of them, a relay.Conn whose Reset really sends RST;
// Addresses knows which addresses are the host's own.
//
// What may be dialled is decided elsewhere, before. Begin with Host, whose zero
// value works.
package upstream

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"tcpbox/stack/relay"
	"tcpbox/stack/tcpstate"
)

// Limits of a Host that names none.
const (
	DefaultMaxDials = 1024
	DefaultMaxConns = 65536
)

// Socket makes a socket as socket(2) does and returns its descriptor, which
// is the caller's to close. It is how a Host and an Addresses are put into
// another network namespace than the process's own.
type Socket func(domain, typ, proto int) (fd int, err error)

// Host dials host sockets. Set the fields before the first dial; the methods
// may be called concurrently. The zero Host has the default limits.
type Host struct {
	// MaxDials is how many dials may be in progress at once; zero means
	// DefaultMaxDials. One more fails with ErrTooManyDials.
	MaxDials int

	// MaxConns is how many connections may be open or being dialled at once;
	// zero means DefaultMaxConns. One more fails with ErrTooManyConns.
	MaxConns int

	// Confirm, if set, is asked when a connection stands and before anybody has
	// it. An error resets it, and the dial returns that error. It is the place
	// to ask again what may have changed since the dial was allowed, such as
	// whether the address has become one of the host's own. network is "tcp",
	// "udp" or "icmp".
	Confirm func(network string, local, remote netip.AddrPort) error

	// Socket makes the sockets. Nil means socket(2), in the namespace of the
	// calling thread.
	Socket Socket

	// Sink takes the changes of state of the connections' sockets, as far as they
	// are known: see leg. Nil means that nobody asks, and that the kernel is not
	// asked either.
	Sink tcpstate.Sink

	// Find says what has become of a socket that was released: its state, Closed if
	// there is none, and in TIME-WAIT how much of that is left. Nil means that this
	// is not known.
	Find func(local, remote netip.AddrPort) (state tcpstate.State, left time.Duration, err error)

	dialing atomic.Int64
	open    atomic.Int64 // dials included
	flows   atomic.Int64 // datagram sockets
	stats   counters
	knobs   knobs
	resets  watcher
	after   afterlife
}

// DialTCP connects a new socket to dst. It waits until the connection stands,
// has failed, or ctx ends, which gives it up at once and leaves nothing. id and
// src name the guest's connection and are not seen by dst.
//
// An error is one of the kernel's, whatever wraps it, and means for the guest:
//
//	ECONNREFUSED               RST
//	ENETUNREACH                network unreachable (also: no source address,
//	                           no such address family)
//	EHOSTUNREACH               host unreachable
//	EACCES, EPERM              prohibited, by a route or a filter of the host
//	EINVAL                     a blackhole route: silence
//	ETIMEDOUT                  silence, which has lasted long enough
//	a *ShortageError           the host has run out of something; it says
//	                           nothing about dst, so drop the SYN and count it
//	the cause of ctx's end     nobody asks any more
func (h *Host) DialTCP(ctx context.Context, id tcpstate.Conn, src, dst netip.AddrPort) (relay.Conn, error) {
	c, err := h.dialTCP(ctx, id, dst)
	h.stats.count(ctx, err)
	if err != nil {
		return nil, fmt.Errorf("upstream: dial %v: %w", dst, err)
	}
	return c, nil
}

// admit takes a place among the dials and the connections.
func (h *Host) admit() error {
	maxDials, maxConns := int64(h.MaxDials), int64(h.MaxConns)
	if maxDials == 0 {
		maxDials = DefaultMaxDials
	}
	if maxConns == 0 {
		maxConns = DefaultMaxConns
	}
	if h.open.Add(1) > maxConns {
		h.open.Add(-1)
		return ErrTooManyConns
	}
	if h.dialing.Add(1) > maxDials {
		h.dialing.Add(-1)
		h.open.Add(-1)
		return ErrTooManyDials
	}
	return nil
}

// Close ends the watching of connections, after which AfterReset and Sink are told
// of nothing any more. It does not touch the connections: whoever has one closes
// it. A Host that has never been asked to watch one needs no Close.
func (h *Host) Close() error {
	h.after.close()
	return h.resets.close()
}
