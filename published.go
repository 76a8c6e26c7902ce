package tcpbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"tcpbox/netns"
	"tcpbox/stack"
	"tcpbox/stack/upstream"
)

// PortInfo is a published port. Its JSON form is part of the control API.
type PortInfo struct {
	Proto string         `json:"proto"` // tcp or udp
	Host  netip.AddrPort `json:"host"`
	Guest netip.AddrPort `json:"guest"`

	// State is "listening" while the guest has its port, and else "waiting":
	// then who connects is refused.
	State string `json:"state"`

	// AcceptFrom are the clients that are let in; empty: all.
	AcceptFrom []netip.Prefix `json:"accept_from,omitempty"`

	Accepted uint64 `json:"accepted"` // connections; of UDP, datagrams
	Refused  uint64 `json:"refused"`  // because of AcceptFrom
}

// The states of a published port.
const (
	PortListening = "listening"
	PortWaiting   = "waiting"
)

// ErrNotPublished says that a port that is to be unpublished is not.
var ErrNotPublished = errors.New("it is not published")

// A published port is one of the host's and one of the guest's.
type publishedPort struct {
	spec  Publish // of one port
	host  netip.AddrPort
	guest netip.AddrPort

	tcp *upstream.Listener // one of the two
	udp *upstream.PacketPort

	inlet *stack.Inlet // of UDP, once it is served

	listening         atomic.Bool
	accepted, refused atomic.Uint64
}

// publisher owns the published ports of a sandbox.
type publisher struct {
	host   *upstream.Host
	addrs  addressPlan
	routed atomic.Bool // the guest has a default route of IPv6

	// Set once by serve.
	gateway *stack.Gateway
	ns      netns.NS
	life    context.Context

	kick    chan struct{} // look now whether the guest listens
	running sync.WaitGroup
	looking sync.Mutex // held while somebody looks

	mu       sync.Mutex
	ports    []*publishedPort
	watching bool
	closed   bool
}

func newPublisher(host *upstream.Host, addrs addressPlan, routed bool) *publisher {
	b := &publisher{host: host, addrs: addrs, kick: make(chan struct{}, 1)}
	b.routed.Store(routed)
	return b
}

// Publish makes ports of the guest reachable. All are bound or none is; how they
// stand when it returns is in the answer. The error is a *PublishError, of
// several joined, or net.ErrClosed when the sandbox has ended. ctx that has
// ended publishes nothing.
func (s *Sandbox) Publish(ctx context.Context, p Publish) ([]PortInfo, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if s.outer != nil {
		return nil, &PublishError{Spec: p.String(), Err: errors.New("what a container serves is reached at its own address"), Hint: "chain the plugin portmap to have it on a port of the host"}
	}
	if err := p.check(len(s.published.addrs.guests) == 1); err != nil {
		return nil, err
	}
	return s.published.publish(p)
}

// Unpublish takes published ports back, all or none, and returns what they
// were. p names them as they were asked for, or by the ports of the host that
// they got. Connections that stand go on.
func (s *Sandbox) Unpublish(p Publish) ([]PortInfo, error) {
	if err := p.check(false); err != nil {
		return nil, err
	}
	return s.published.unpublish(p)
}

// bind takes the host's ports, all or none.
func (b *publisher) bind(specs []Publish) ([]*publishedPort, error) {
	var ports []*publishedPort
	var errs []error
	for _, spec := range specs {
		for _, one := range spec.each() {
			p, err := b.bindOne(one)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			ports = append(ports, p)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.ports) + len(ports); n > MaxPublished {
		errs = append(errs, &PublishError{Spec: specs[len(specs)-1].String(), Err: fmt.Errorf("%d published ports are more than %d", n, MaxPublished)})
	}
	if b.closed {
		errs = append(errs, net.ErrClosed)
	}
	if len(errs) > 0 {
		for _, p := range ports {
			p.close()
		}
		return nil, errors.Join(errs...)
	}
	b.ports = append(b.ports, ports...)
	return ports, nil
}

func (b *publisher) bindOne(spec Publish) (*publishedPort, error) {
	guest, ok := b.addrs.guestOf(spec.host())
	if !ok {
		return nil, &PublishError{Spec: spec.String(), Err: errors.New("the sandbox has no IPv6")}
	}
	p := &publishedPort{spec: spec, guest: netip.AddrPortFrom(guest, spec.Port)}
	at := netip.AddrPortFrom(spec.host(), spec.HostPort)
	var err error
	if spec.UDP {
		if p.udp, err = b.host.BindPackets(at); err == nil {
			p.host = p.udp.Addr()
		}
	} else if p.tcp, err = b.host.Bind(at); err == nil {
		p.host = p.tcp.Addr()
	}
	if err != nil {
		return nil, bindError(spec, err)
	}
	return p, nil
}

// bindError says why a port cannot be had, and what to do.
func bindError(spec Publish, err error) error {
	e := &PublishError{Spec: spec.String(), Err: err}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		e.Err = fmt.Errorf("port %d of %v is in use: %w", spec.HostPort, spec.host(), syscall.EADDRINUSE)
		e.Hint = fmt.Sprintf("see who has it with \"ss -lnp sport = :%d\", or let tcpbox choose: 0:%d", spec.HostPort, spec.Port)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		e.Err = fmt.Errorf("%v is no address of this host: %w", spec.host(), syscall.EADDRNOTAVAIL)
		e.Hint = "\"ip address\" shows those it has"
	case errors.Is(err, syscall.EACCES):
		e.Err = fmt.Errorf("port %d is for root: %w", spec.HostPort, syscall.EACCES)
		e.Hint = fmt.Sprintf("take one from 1024 on, or let everybody have it: sysctl -w net.ipv4.ip_unprivileged_port_start=%d", spec.HostPort)
	}
	return e
}

// serve begins to carry what comes to the ports that are bound, and to look
// whether the guest listens.
func (b *publisher) serve(life context.Context, gateway *stack.Gateway, ns netns.NS) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gateway, b.ns, b.life = gateway, ns, life
	for _, p := range b.ports {
		b.serveLocked(p)
	}
	b.watchLocked()
}

func (b *publisher) serveLocked(p *publishedPort) {
	if p.tcp != nil {
		b.running.Go(func() { b.acceptAll(p) })
		return
	}
	udp := p.udp
	p.inlet = b.gateway.NewInlet(p.guest, func(data []byte, to stack.Client) error { return udp.Send(data, to.From, to.To) })
	b.running.Go(func() { b.receiveAll(p) })
}

// publish adds ports to those of a sandbox that runs.
func (b *publisher) publish(spec Publish) ([]PortInfo, error) {
	ports, err := b.bind([]Publish{spec})
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil, net.ErrClosed
	}
	for _, p := range ports {
		b.serveLocked(p)
	}
	b.watchLocked()
	b.mu.Unlock()
	b.look()
	return infoOf(ports), nil
}

// unpublish takes ports away, all or none.
func (b *publisher) unpublish(spec Publish) ([]PortInfo, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	left := slices.Clone(b.ports)
	var gone []*publishedPort
	for _, one := range spec.each() {
		i := slices.IndexFunc(left, func(p *publishedPort) bool { return p.is(one) })
		if i < 0 {
			return nil, &PublishError{Spec: one.String(), Err: ErrNotPublished, Hint: "\"tcpbox inspect\" shows what is"}
		}
		gone = append(gone, left[i])
		left = slices.Delete(left, i, i+1)
	}
	infos := infoOf(gone)
	b.ports = left
	for _, p := range gone {
		p.close()
	}
	return infos, nil
}

// is reports whether spec, of one port, names p: as it was asked for, or by the
// port that it got.
func (p *publishedPort) is(spec Publish) bool {
	return p.spec.UDP == spec.UDP && p.spec.Port == spec.Port && p.spec.host() == spec.host() &&
		(spec.HostPort == p.spec.HostPort || spec.HostPort == p.host.Port())
}

// shut has no port listen any more; what was accepted lives on.
func (b *publisher) shut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for _, p := range b.ports {
		p.close()
	}
	b.lookSoon() // which sees that it is over
}

// wait returns when nothing of the ports runs any more; the gateway has been
// closed, which ends what they had accepted.
func (b *publisher) wait() { b.running.Wait() }

func (b *publisher) info() []PortInfo {
	b.mu.Lock()
	defer b.mu.Unlock()
	return infoOf(b.ports)
}

func infoOf(ports []*publishedPort) []PortInfo {
	infos := make([]PortInfo, 0, len(ports))
	for _, p := range ports {
		in := PortInfo{
			Proto: "tcp", Host: p.host, Guest: p.guest, State: PortWaiting, AcceptFrom: p.spec.From,
			Accepted: p.accepted.Load(), Refused: p.refused.Load(),
		}
		if p.udp != nil {
			in.Proto = "udp"
		}
		if p.listening.Load() {
			in.State = PortListening
		}
		infos = append(infos, in)
	}
	return infos
}

func (p *publishedPort) close() {
	if p.tcp != nil {
		_ = p.tcp.Close()
	}
	if p.udp != nil {
		_ = p.udp.Close()
	}
	if p.inlet != nil {
		p.inlet.Close()
	}
}

// set opens or shuts the host's port.
func (p *publishedPort) set(listening bool) error {
	if p.listening.Load() == listening {
		return nil
	}
	var err error
	switch {
	case p.tcp != nil && listening:
		err = p.tcp.Open()
	case p.tcp != nil:
		err = p.tcp.Shut()
	case listening:
		err = p.udp.Open()
	default:
		err = p.udp.Shut()
	}
	if err == nil {
		p.listening.Store(listening)
	}
	return err
}

// maxInbound is how many connections may wait for the guest's answer, for each
// port. More wait in the host's kernel.
const maxInbound = 512

// acceptAll carries the connections of one port until it is closed.
func (b *publisher) acceptAll(p *publishedPort) {
	slots := make(chan struct{}, maxInbound)
	for {
		slots <- struct{}{}
		conn, err := p.tcp.Accept()
		if err != nil {
			return // closed
		}
		client := conn.RemoteAddr()
		if !p.spec.lets(client.Addr()) {
			p.refused.Add(1)
			_ = conn.Reset()
			<-slots
			continue
		}
		p.accepted.Add(1)
		b.running.Go(func() { b.carry(p, conn, client, slots) })
	}
}

// carry is one connection, from the client's to its end.
func (b *publisher) carry(p *publishedPort, conn *upstream.Conn, client netip.AddrPort, slots <-chan struct{}) {
	free := sync.OnceFunc(func() { <-slots })
	defer free()
	err := b.gateway.Deliver(b.life, conn, stack.Inbound{
		Client: client, Host: conn.LocalAddr(), As: b.seenAs(client), Guest: p.guest, OnAnswer: free,
	})
	if errors.Is(err, syscall.ECONNREFUSED) {
		b.lookSoon() // the guest has just stopped listening
	}
}

// receiveAll carries the datagrams of one port until it is closed.
func (b *publisher) receiveAll(p *publishedPort) {
	buf := make([]byte, 1<<16)
	for {
		n, from, to, err := p.udp.Receive(buf)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
		case !p.spec.lets(from.Addr()):
			p.refused.Add(1)
		default:
			p.accepted.Add(1)
			p.inlet.Deliver(stack.Client{From: from, To: to}, b.seenAs(from), buf[:n])
		}
	}
}

// seenAs is whom the guest sees: the client, or the gateway where the guest's
// kernel would drop packets of the client's address, or has no route for the
// answer.
func (b *publisher) seenAs(client netip.AddrPort) netip.AddrPort {
	a := client.Addr()
	if a.Is6() && !b.routed.Load() || !b.addrs.answers(a) {
		return netip.AddrPortFrom(b.addrs.gatewayOf(a), client.Port())
	}
	return client
}

// answers reports whether a guest takes packets from a and sends its answers to
// the gateway: a is no address of this host's or link's own, and none of the
// sandbox's.
func (a addressPlan) answers(client netip.Addr) bool {
	if client.Zone() != "" || !client.IsGlobalUnicast() {
		return false
	}
	if client.Is4() && (client.As4()[0] == 0 || client.As4()[0] >= 240) {
		return false
	}
	for _, s := range a.subnets {
		if s.Contains(client) {
			return false
		}
	}
	return true
}

// guestOf is the guest's address of the same family.
func (a addressPlan) guestOf(host netip.Addr) (netip.Addr, bool) {
	for _, g := range a.guests {
		if g.Addr().Is4() == host.Is4() {
			return g.Addr(), true
		}
	}
	return netip.Addr{}, false
}

// gatewayOf is the gateway's address of the same family.
func (a addressPlan) gatewayOf(client netip.Addr) netip.Addr {
	for _, g := range a.gateways {
		if g.Is4() == client.Is4() {
			return g
		}
	}
	return netip.Addr{}
}
