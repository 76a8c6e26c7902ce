package tcpbox

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"tcpbox/stack/dns"
)

// hostTable are the hosts inside the stack, by name: peers, and what Listen
// has added.
type hostTable struct {
	mu      sync.Mutex
	server  *dns.Server
	subnets []netip.Prefix
	all     []dns.Host
	peers   map[string][]netip.Addr
	next    int // the place in the subnets of the next host
}

// newHostTable gives out the addresses behind those of the peers.
func newHostTable(cfg *Config, addrs addressPlan) *hostTable {
	t := &hostTable{
		subnets: addrs.subnets, peers: make(map[string][]netip.Addr),
		all: append(addrs.names(cfg.Peers), cfg.DNS.Hosts...),
	}
	for i, p := range cfg.Peers {
		t.peers[p.Name] = addrs.peers[i]
	}
	t.next = firstPeer + len(t.peers)
	return t
}

// addresses returns those of the host called name, which is made if there is
// none.
func (t *hostTable) addresses(name string) ([]netip.Addr, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if addrs := t.peers[name]; addrs != nil {
		return addrs, nil
	}
	for _, h := range t.all {
		if h.Name == name {
			return nil, fmt.Errorf("the name stands for %v; choose another", h.Addr)
		}
	}
	var addrs []netip.Addr
	all := slices.Clone(t.all)
	for _, s := range t.subnets {
		at := nth(s, t.next)
		if !s.Contains(at.Next()) {
			return nil, fmt.Errorf("subnet %v has no room for another host", s)
		}
		addrs = append(addrs, at)
		all = append(all, dns.Host{Name: name, Addr: at})
	}
	if err := t.server.SetHosts(all); err != nil {
		return nil, err
	}
	t.all, t.peers[name] = all, addrs
	t.next++
	return addrs, nil
}

// Listen makes a host inside the stack listen on "NAME:PORT", TCP over IPv4 and
// IPv6. The guest reaches it by its name, under every Policy; nothing of it
// exists outside the sandbox. The name may be that of one of Config.Peers, or of
// an earlier Listen, with another port. Every port of the host without a
// listener refuses.
//
// Connections are stack.Conn. Closing the listener, which Close of the sandbox
// does too, leaves those that were accepted alone. To be there before the guest
// asks, call Listen in Config.BeforeStart.
func (s *Sandbox) Listen(address string) (net.Listener, error) {
	l, err := s.listen(address)
	if err != nil {
		return nil, fmt.Errorf("tcpbox: listen on %q: %w", address, err)
	}
	return l, nil
}

func (s *Sandbox) listen(address string) (net.Listener, error) {
	name, portText, err := net.SplitHostPort(address)
	if err != nil {
		return nil, errors.New("expected NAME:PORT, such as api.test:80")
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return nil, fmt.Errorf("%q is not a port from 1 to 65535", portText)
	}
	addrs, err := s.hosts.addresses(strings.ToLower(strings.TrimSuffix(name, ".")))
	if err != nil {
		return nil, err
	}
	l := &hostListener{name: hostAddr(address), accepted: make(chan net.Conn), done: make(chan struct{})}
	for _, a := range addrs {
		err := s.gateway.Refuse(a) // its other ports
		var one net.Listener
		if err == nil {
			one, err = s.gateway.Listen(netip.AddrPortFrom(a, uint16(port)))
		}
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		l.each = append(l.each, one)
		l.running.Go(func() { l.take(one) })
	}
	return l, nil
}

// hostListener accepts from the listeners of both families.
type hostListener struct {
	name     hostAddr
	each     []net.Listener
	accepted chan net.Conn
	done     chan struct{}
	once     sync.Once
	running  sync.WaitGroup
}

// take passes connections on until its listener is closed.
func (l *hostListener) take(from net.Listener) {
	for {
		c, err := from.Accept()
		if err != nil {
			l.shut()
			return // the listener was closed
		}
		select {
		case l.accepted <- c:
		case <-l.done:
			_ = c.(Conn).Reset() // nobody will have it
			return
		}
	}
}

func (l *hostListener) shut() { l.once.Do(func() { close(l.done) }) }

// Accept implements net.Listener.
func (l *hostListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	case <-l.done:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.name, Err: net.ErrClosed}
	}
}

// Close implements net.Listener. It resets what nobody has accepted.
func (l *hostListener) Close() error {
	l.shut()
	var errs []error
	for _, one := range l.each {
		errs = append(errs, one.Close())
	}
	l.running.Wait()
	return errors.Join(errs...)
}

// Addr implements net.Listener: it is the address that Listen was given.
func (l *hostListener) Addr() net.Addr { return l.name }

// hostAddr is the address of a host inside a sandbox, by its name.
type hostAddr string

// Network implements net.Addr.
func (hostAddr) Network() string { return "tcp" }

// String implements net.Addr.
func (a hostAddr) String() string { return string(a) }
