package stack

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"tcpbox/stack/internal/netstack"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

// hosts are the hosts inside the stack: addresses that no packet leaves for.
// They are reachable whatever the policy says.
type hosts struct {
	mu    sync.RWMutex
	ports map[netip.Addr]map[uint16]*hostPort
	done  bool
}

// A hostPort is one port of a host inside the stack. Every other port of it
// refuses.
type hostPort struct {
	silent   bool // a black hole
	listener *listener
}

func (h *hosts) find(addr netip.AddrPort) (p *hostPort, isHost bool) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	ports, isHost := h.ports[addr.Addr()]
	return ports[addr.Port()], isHost
}

// add makes p reachable. If that succeeds it calls begin first, unless that is
// nil.
// silent reports whether a host has a port that is a black hole. Such a host
// answers no pings either.
func (h *hosts) silent(addr netip.Addr) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, p := range h.ports[addr] {
		if p.silent {
			return true
		}
	}
	return false
}

func (h *hosts) add(addr netip.AddrPort, p *hostPort, begin func()) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		return net.ErrClosed
	}
	if h.ports == nil {
		h.ports = make(map[netip.Addr]map[uint16]*hostPort)
	}
	if h.ports[addr.Addr()] == nil {
		h.ports[addr.Addr()] = make(map[uint16]*hostPort)
	}
	if h.ports[addr.Addr()][addr.Port()] != nil {
		return syscall.EADDRINUSE
	}
	if begin != nil {
		begin()
	}
	h.ports[addr.Addr()][addr.Port()] = p
	return nil
}

func (h *hosts) remove(addr netip.AddrPort) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.ports[addr.Addr()], addr.Port())
}

func (h *hosts) close() {
	h.mu.Lock()
	h.done = true
	var all []*listener
	for _, ports := range h.ports {
		for _, p := range ports {
			if p.listener != nil {
				all = append(all, p.listener)
			}
		}
	}
	h.mu.Unlock()
	for _, l := range all {
		_ = l.Close()
	}
}

// Listen makes a host inside the stack listen on addr. Its connections are
// Conn: each has CloseWrite and Reset. Closing the listener resets
// what nobody has accepted and leaves the rest alone.
func (g *Gateway) Listen(addr netip.AddrPort) (net.Listener, error) {
	l := &listener{g: g, addr: addr, accepted: make(chan *hostConn, acceptBacklog), done: make(chan struct{})}
	if err := g.hosts.add(addr, &hostPort{listener: l}, func() { l.ended = g.net.Listening(addr) }); err != nil {
		return nil, fmt.Errorf("stack: listen on %v: %w", addr, err)
	}
	return l, nil
}

// Refuse makes addr a host inside the stack that refuses every connection, on
// all its ports on which nothing else was set up.
func (g *Gateway) Refuse(addr netip.Addr) error {
	g.hosts.mu.Lock()
	defer g.hosts.mu.Unlock()
	if g.hosts.ports == nil {
		g.hosts.ports = make(map[netip.Addr]map[uint16]*hostPort)
	}
	if g.hosts.ports[addr] == nil {
		g.hosts.ports[addr] = make(map[uint16]*hostPort)
	}
	return nil
}

// Blackhole makes addr a port of a host inside the stack that answers nothing.
func (g *Gateway) Blackhole(addr netip.AddrPort) error {
	if err := g.hosts.add(addr, &hostPort{silent: true}, nil); err != nil {
		return fmt.Errorf("stack: black hole %v: %w", addr, err)
	}
	return nil
}

// serveHost serves a connection to a host inside the stack, or to an address of
// the sandbox's subnets that nobody has. It reports false if the destination
// is neither.
func (g *Gateway) serveHost(req *netstack.Request) bool {
	port, isHost := g.hosts.find(req.Dst())
	switch {
	case port != nil && port.silent:
		<-req.Context().Done() // until the guest stops asking
		req.Drop()
		return true
	case port != nil:
		port.listener.deliver(req)
		return true
	case isHost:
		req.Reset()
		return true
	}
	if g.inSubnets(req.Dst().Addr()) && !g.loopbackOf(req.Dst().Addr()).IsValid() {
		req.Unreachable(packet.HostUnreachable)
		return true
	}
	return false
}

// acceptBacklog is how many connections may wait for Accept.
const acceptBacklog = 1024

type listener struct {
	g        *Gateway
	addr     netip.AddrPort
	accepted chan *hostConn
	done     chan struct{}
	once     sync.Once
	ended    func()
}

// deliver completes the handshake and queues the connection.
func (l *listener) deliver(req *netstack.Request) {
	select {
	case <-l.done:
		req.Reset()
		return
	default:
	}
	l.g.admitted(req.ID(), tcpstate.Outbound, req.Src(), req.Dst(), RulePeer)
	accepted, err := req.Accept()
	if err != nil {
		return
	}
	c := l.g.hostConn(accepted)
	select {
	case l.accepted <- c:
		l.g.counters.established.Add(1)
	case <-l.done:
		_ = c.Reset()
	}
	select {
	case <-l.done: // closed meanwhile, and perhaps drained already
		l.drain()
	default:
	}
}

// drain resets the connections that nobody has accepted.
func (l *listener) drain() {
	for {
		select {
		case c := <-l.accepted:
			_ = c.Reset()
		default:
			return
		}
	}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.g.hosts.remove(l.addr)
		close(l.done)
		l.ended()
		l.drain()
	})
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.addr) }
