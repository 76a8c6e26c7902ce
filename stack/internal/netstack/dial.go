package netstack

import (
	"context"
	"net/netip"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	gvstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"tcpbox/stack/tcpstate"
)

// Dial opens a connection to the guest from src, whose port may be zero to let
// the stack pick one. It returns when the handshake is complete, and an errno
// otherwise: EADDRNOTAVAIL when no port is free.
func (s *Stack) Dial(ctx context.Context, conn tcpstate.Conn, src, dst netip.AddrPort) (*Conn, error) {
	if conn == 0 {
		conn = s.tracker.newConn()
	}
	wq := new(waiter.Queue)
	tep, terr := s.ns.NewEndpoint(tcp.ProtocolNumber, netProtoOf(dst.Addr()), wq)
	if terr != nil {
		return nil, errnoOf(terr)
	}
	ep := tep.(*tcp.Endpoint)
	if terr := ep.Bind(fullAddr(src)); terr != nil {
		ep.Close()
		return nil, errnoOf(terr)
	}
	// gVisor picks the port while it connects, and by then the SYN has left:
	// the record is found by the egress of the SYN, under its tuple, so the
	// tuple is completed there.
	rec := s.tracker.expect(conn, ep, dst)
	s.tracker.watch(rec, wq)
	connected, ch := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	wq.EventRegister(&connected)
	defer wq.EventUnregister(&connected)
	rec.call.Store(uint32(callConnect))
	terr = ep.Connect(fullAddr(dst))
	if _, started := terr.(*tcpip.ErrConnectStarted); !started && terr != nil {
		s.tracker.unexpect(rec)
		ep.Close()
		return nil, errnoOf(terr)
	}
	rec.call.Store(uint32(callNone))
	select {
	case <-ch:
	case <-ctx.Done():
		rec.call.Store(uint32(callAbort))
		ep.Close()
		s.tracker.observe(rec, viaCall)
		return nil, ctx.Err()
	}
	s.tracker.observe(rec, viaCall)
	if terr := ep.LastError(); terr != nil || rec.state() == tcpstate.Closed {
		ep.Close()
		s.tracker.observe(rec, viaCall)
		if terr == nil {
			return nil, syscall.ECONNREFUSED
		}
		return nil, errnoOf(terr)
	}
	return newConn(s, ep, wq, rec), nil
}

// expect begins the record of an active open, whose local port is not known
// before its SYN leaves.
func (t *tracker) expect(conn tcpstate.Conn, ep *tcp.Endpoint, dst netip.AddrPort) *record {
	r := &record{id: conn, remote: dst}
	r.last.Store(uint32(tcpstate.Closed))
	r.ep.Store(ep)
	t.mu.Lock()
	t.expected[ep] = r
	t.live[r] = struct{}{}
	t.mu.Unlock()
	return r
}

// unexpect drops the record of an active open that sent nothing.
func (t *tracker) unexpect(r *record) {
	t.mu.Lock()
	delete(t.expected, r.ep.Load())
	t.mu.Unlock()
	t.forget(r)
}

// bind gives the record of an active open its tuple, when its SYN leaves.
func (t *tracker) bind(id gvstack.TransportEndpointID, ep *tcp.Endpoint) *record {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.expected[ep]
	if r == nil {
		return nil
	}
	delete(t.expected, ep)
	r.tuple, r.local, r.remote = id, localOf(id), remoteOf(id)
	t.records[id] = r
	return r
}
