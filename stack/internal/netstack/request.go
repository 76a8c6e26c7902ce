package netstack

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"syscall"

	gvstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

// ErrBacklogFull is returned by Request.Accept when the guest stopped asking
// while as many handshakes were half-open as the SYN backlog allows.
var ErrBacklogFull = errors.New("netstack: the SYN backlog is full")

var errEnded = errors.New("netstack: the request has ended already")

// A Request is a connection that the guest asks for: its SYN has arrived and
// nothing has been answered. Exactly one of Accept, Reset, Drop and
// Unreachable ends it; later calls do nothing.
type Request struct {
	stack   *Stack
	fr      *tcp.ForwarderRequest
	id      gvstack.TransportEndpointID
	pending *pendingSYN
	conn    tcpstate.Conn
	src     netip.AddrPort
	dst     netip.AddrPort
	ended   atomic.Bool
}

// ID is the number of the connection.
func (r *Request) ID() tcpstate.Conn { return r.conn }

// Src is the guest's end.
func (r *Request) Src() netip.AddrPort { return r.src }

// Dst is where the guest wants to go.
func (r *Request) Dst() netip.AddrPort { return r.dst }

// Context ends when the guest stops asking, resets, or the Stack closes.
func (r *Request) Context() context.Context { return r.pending.ctx }

// Accept completes the handshake and returns the connection. It waits for room
// in the SYN backlog and then for the guest's ACK. The error is an errno, ErrBacklogFull, or says
// that the request had ended.
func (r *Request) Accept() (*Conn, error) {
	if !r.ended.CompareAndSwap(false, true) {
		return nil, errEnded
	}
	s := r.stack
	defer s.admission.done(r.id)
	defer r.fr.Complete(false)
	if !s.admission.enterHalfOpen(r.pending) {
		return nil, ErrBacklogFull
	}
	defer s.admission.leaveHalfOpen()

	if s.ns.FindTransportEndpoint(netProtoOfTuple(r.id), tcp.ProtocolNumber, r.id, nicID) != nil {
		// Meanwhile the stack itself has connected from there to the guest.
		return nil, syscall.EADDRINUSE
	}

	wq := new(waiter.Queue)
	rec := s.tracker.track(r.conn, r.id, nil)
	s.tracker.watch(rec, wq)
	tep, err := r.fr.CreateEndpoint(wq)
	if err != nil {
		s.tracker.observe(rec, viaCall)
		s.tracker.forget(rec)
		return nil, rec.errno(err)
	}
	return newConn(s, tep.(*tcp.Endpoint), wq, rec), nil
}

// Reset refuses the connection with an RST, as a host does on a port where
// nobody listens.
func (r *Request) Reset() { r.end(true) }

// Drop answers nothing. The guest's kernel asks again until its own timer
// gives up.
func (r *Request) Drop() { r.end(false) }

// DropOver is Drop because of a limit of its owner's, so that it counts as part
// of a flood of SYNs.
func (r *Request) DropOver() {
	if !r.ended.Load() {
		r.stack.counters.dropOwner.Add(1)
	}
	r.Drop()
}

// Unreachable refuses the connection with the ICMP error of that kind, which
// ends the guest's connect at once.
func (r *Request) Unreachable(kind packet.Kind) {
	if r.ended.Load() {
		return
	}
	r.stack.unreachable(r.pending.syn, kind, r.dst.Addr())
	r.end(false)
}

func (r *Request) end(reset bool) {
	if !r.ended.CompareAndSwap(false, true) {
		return
	}
	r.fr.Complete(reset)
	r.stack.admission.done(r.id)
}
