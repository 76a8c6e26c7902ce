package netstack

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	gvstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"tcpbox/stack/tcpstate"
)

// NewConn returns a number for a connection that Dial is to open, for whoever
// has something to tell about it first.
func (s *Stack) NewConn() tcpstate.Conn { return s.tracker.numbers.Next() }

// Dial opens a connection to the guest from src, whose port may be zero to let
// the stack pick one. It returns when the handshake is complete, and an errno
// otherwise: EADDRNOTAVAIL when no port is free, or when the one that was asked
// for has a connection to dst already.
func (s *Stack) Dial(ctx context.Context, conn tcpstate.Conn, src, dst netip.AddrPort) (*Conn, error) {
	if !s.admission.begin() {
		return nil, net.ErrClosed
	}
	defer s.admission.running.Done()
	if conn == 0 {
		conn = s.tracker.numbers.Next()
	}
	wq := new(waiter.Queue)
	tep, terr := s.ns.NewEndpoint(tcp.ProtocolNumber, netProtoOf(dst.Addr()), wq)
	if terr != nil {
		return nil, errnoOf(terr)
	}
	ep := tep.(*tcp.Endpoint)
	if src.Addr().IsValid() {
		// A port that an endpoint is bound to is taken for every destination,
		// and one that gVisor picks while it binds never comes out of
		// TIME-WAIT. One that it connects from is taken for that destination
		// alone. So the address and port are set without binding.
		ep.TransportEndpointInfo.ID.LocalAddress = toAddr(src.Addr())
		ep.TransportEndpointInfo.ID.LocalPort = src.Port()
	}
	rec := s.tracker.expect(conn, ep, dst)
	s.tracker.watch(rec, wq)
	connected, ch := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	wq.EventRegister(&connected)
	defer wq.EventUnregister(&connected)
	if terr := s.connect(ep, src, dst, ch); terr != nil {
		s.tracker.unexpect(rec)
		ep.Close()
		return nil, errnoOf(terr)
	}
	select {
	case <-ch:
	case <-ctx.Done():
		rec.abort(s.tracker, ep)
		return nil, ctx.Err()
	case <-s.ctx.Done():
		rec.abort(s.tracker, ep)
		return nil, net.ErrClosed
	}
	s.tracker.observe(rec, viaCall)
	if terr := ep.LastError(); terr != nil || rec.state() == tcpstate.Closed {
		ep.Close()
		s.tracker.observe(rec, viaCall)
		if terr == nil {
			return nil, syscall.ECONNRESET
		}
		return nil, rec.errno(terr)
	}
	return newConn(s, ep, wq, rec), nil
}

// connect sends the SYN. When all ports are taken it takes over that of the
// oldest TIME-WAIT, if that is allowed. woken is what a failure fills.
func (s *Stack) connect(ep *tcp.Endpoint, src netip.AddrPort, dst netip.AddrPort, woken <-chan struct{}) tcpip.Error {
	for {
		terr := s.connectOnce(ep, src, dst, woken)
		switch terr.(type) {
		case *tcpip.ErrConnectStarted:
			return nil
		case *tcpip.ErrNoPortAvailable:
		default:
			return terr
		}
		if !s.timeWait.reuse.Load() {
			return terr
		}
		delay := time.Duration(s.timeWait.delayNanos.Load())
		r := s.timeWait.waits.reusable(func(r *record) bool {
			return r.remote == dst && (!src.Addr().IsValid() || r.local.Addr() == src.Addr()) && s.picks(r.local.Port())
		}, delay, s.clock.NowMonotonic())
		if r == nil {
			return terr
		}
		s.end(r, endReuse)
		drain(woken) // Connect told of its failure
	}
}

// connectOnce sends the SYN, from a port that is not reserved if it is to pick one.
// gVisor knows of no such ports: while there are some they are tried here, beginning
// anywhere, as gVisor does itself.
func (s *Stack) connectOnce(ep *tcp.Endpoint, src netip.AddrPort, dst netip.AddrPort, woken <-chan struct{}) tcpip.Error {
	if src.Port() != 0 || s.reservedPorts.Load() == nil {
		return ep.Connect(fullAddr(dst))
	}
	first, last := s.ns.PortRange()
	n := int(last) - int(first) + 1
	rng := s.ns.SecureRNG()
	begin := int(rng.Uint32() % uint32(n))
	for i := range n {
		port := first + uint16((begin+i)%n)
		if s.reserved(port) {
			continue
		}
		ep.TransportEndpointInfo.ID.LocalPort = port
		terr := ep.Connect(fullAddr(dst))
		if _, taken := terr.(*tcpip.ErrBadLocalAddress); !taken {
			return terr
		}
		drain(woken) // Connect told of its failure
	}
	ep.TransportEndpointInfo.ID.LocalPort = 0
	return &tcpip.ErrNoPortAvailable{}
}

func drain(woken <-chan struct{}) {
	select {
	case <-woken:
	default:
	}
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

// bind gives the record of an active open its tuple, when its SYN leaves, whose
// sequence number is iss.
func (t *tracker) bind(id gvstack.TransportEndpointID, ep *tcp.Endpoint, iss uint32) *record {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.expected[ep]
	if r == nil {
		return nil
	}
	delete(t.expected, ep)
	r.mu.Lock()
	r.tuple, r.local, r.remote, r.bound = id, localOf(id), remoteOf(id), true
	r.mu.Unlock()
	t.records[id] = r
	t.numbers.Bind(r.id, tcpstate.Stack, r.remote, r.local, iss)
	return r
}
