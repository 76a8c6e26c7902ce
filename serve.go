package tcpbox

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"tcpbox/netns"
	"tcpbox/policy"
	"tcpbox/stack"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun"
)

// ServeConfig says which devices to serve, and how.
type ServeConfig struct {
	// Container is the device in the container's namespace, and Host the one in
	// this process's. Serve owns both, also when it fails.
	Container, Host tun.Device

	// Addresses are the container's, at least one. It may send from no other.
	Addresses []netip.Addr

	// NetNS is the path of the container's namespace, such as
	// /run/netns/blue or /proc/7/ns/net. It must lead there as long as the
	// sandbox lives for the guest's leg to be known.
	NetNS string

	// Config says how it is served. Of its fields those that are about a guest,
	// and those that are about a subnet, a resolver, peers and ports, have no
	// meaning here and must be zero.
	Config
}

// Serve carries the traffic between two devices, one in a container's namespace and
// one in the host's, to which the host's kernel routes the container's addresses.
// Each ends in a stack of its own, and each stack is the other's uplink:
//
//	container ── Container ── stack ══ stack ── Host ── host's kernel ── world
//	 (guest)                 (stack)  (upstream)
//
// Whoever connects, the container or the world, is decided about and dialled on,
// and only then accepted; either end sees the other's own address. In brackets are
// the names of the legs: the outer connection is the upstream leg, whoever began
// it. What is set on the stack leg holds for both stacks.
//
// The Policy is asked for what the container begins. What the world begins is
// carried if it is for one of Addresses. UDP and pings pass by the same rules.
// Names are not touched: the container asks whom it likes, if the Policy lets it.
//
// ctx bounds the starting only. The devices are down or up, and have their
// addresses and routes, by whoever made them. Wait returns when the container's
// device is gone, which is the end of its namespace, or when Stop or a Signal of
// TERM or KILL ends the serving; its Status is always zero. Nothing that Serve
// keeps open keeps the namespace alive, if the devices do not: a device of a
// namespace that was made elsewhere and moved there does not.
func Serve(ctx context.Context, cfg ServeConfig) (*Sandbox, error) {
	if err := cfg.normalise(); err != nil {
		return nil, errors.Join(err, cfg.close())
	}
	if ctx.Err() != nil {
		return nil, errors.Join(fmt.Errorf("tcpbox: serve %s: %w", cfg.Name, context.Cause(ctx)), cfg.close())
	}
	ns, err := netns.Visit(cfg.NetNS)
	if err != nil {
		return nil, errors.Join(err, cfg.close())
	}
	var addrs addressPlan
	for _, a := range cfg.Addresses {
		addrs.guests = append(addrs.guests, netip.PrefixFrom(a, a.BitLen()))
	}
	s, err := beginAt(ctx, &cfg.Config, addrs, true, func(_ context.Context, s *Sandbox, addrs addressPlan) (func() error, error) {
		return cfg.open(s, ns)
	})
	if err != nil {
		return nil, errors.Join(err, cfg.close())
	}
	return s, nil
}

func (c *ServeConfig) close() (err error) {
	for _, d := range []tun.Device{c.Container, c.Host} {
		if d != nil {
			err = errors.Join(err, d.Close())
		}
	}
	return err
}

// Check reports everything that is wrong with c, as a *ConfigError. Serve does the
// same before anything else.
func (c ServeConfig) Check() error { return c.normalise() }

func (c *ServeConfig) normalise() error {
	var errs []error
	if c.Container == nil || c.Host == nil {
		errs = append(errs, errors.New("there is no device to serve"))
	}
	if len(c.Addresses) == 0 {
		errs = append(errs, errors.New("the container has no address"))
	}
	for _, a := range c.Addresses {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() {
			errs = append(errs, fmt.Errorf("a container cannot have the address %v", a))
		}
	}
	if c.hasGuest() || c.Subnet4.IsValid() || c.Subnet6.IsValid() || c.MTU != 0 || c.NoIPv6 ||
		len(c.Peers) > 0 || len(c.Publish) > 0 || len(c.DNS.Servers) > 0 || len(c.DNS.Hosts) > 0 {
		errs = append(errs, errors.New("a container has processes, devices and names of its own: what the configuration says of a guest, a subnet, a resolver, peers or ports has no meaning"))
	}
	if c.Name == "" {
		c.Name = NameFor([]string{"container"})
	}
	c.DNS.None = true
	return asConfigError(append(errs, c.Config.fill()...))
}

// hasGuest reports whether c says anything of a guest.
func (c *Config) hasGuest() bool {
	return len(c.Args) > 0 || c.Env != nil || c.Dir != "" || c.Root || c.User != nil || c.Hostname != "" || len(c.Hide) > 0 ||
		len(c.KeepFDs) > 0 || c.Stdin != nil || c.Stdout != nil || c.Stderr != nil || c.Linger || c.ForwardSignals
}

// open makes the outer gateway, which runs when all else stands.
func (c *ServeConfig) open(s *Sandbox, ns *netns.Visitor) (start func() error, err error) {
	s.inside = &served{device: c.Container, ns: ns, end: make(chan struct{})}
	s.info.Kind, s.info.Target, s.info.NetNS = KindServed, c.NetNS, ns.Inode()
	s.outer, err = stack.New(stack.Config{
		Device: c.Host, Paired: true, UDPTimeout: c.UDPTimeout, Limits: c.Limits.ofGateway(),
		Decide: c.decideInbound, Sink: s.pushOuter, Facts: s.pushOuterFacts, Numbers: s.numbers, Log: c.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("tcpbox: %w", err)
	}
	return func() error {
		s.running.Go(func() { s.runOuter() })
		return nil
	}, nil
}

// ruleInbound stands in the place of a rule for what the world begins.
const ruleInbound = "inbound"

func (c *ServeConfig) decideInbound(_ context.Context, r policy.Request) policy.Verdict {
	return policy.Verdict{Allow: slices.Contains(c.Addresses, r.Dst.Addr()), Rule: ruleInbound}
}

// pushOuter takes the transitions of the outer stack, whose connections are those
// that go on outside.
func (s *Sandbox) pushOuter(t tcpstate.Transition) {
	t.Leg = tcpstate.Upstream
	s.log.Push(t)
}

// pushOuterFacts takes what the outer stack, which takes the world for its guest,
// knows of the connections that the world begins.
func (s *Sandbox) pushOuterFacts(f *tcpstate.Facts) { s.log.PushFacts(fromOutside(f)) }

// carried are the connections that are relayed now, by either stack.
func (s *Sandbox) carried() []*tcpstate.Facts {
	all := s.gateway.Carried()
	if s.outer != nil {
		for _, f := range s.outer.Carried() {
			all = append(all, fromOutside(f))
		}
	}
	return all
}

func fromOutside(of *tcpstate.Facts) *tcpstate.Facts {
	f := *of
	f.Guest, f.Peer = f.Peer, f.Guest
	if f.Direction == tcpstate.Outbound {
		f.Direction = tcpstate.Inbound
	}
	if f.Bytes != nil {
		f.Bytes = &tcpstate.Bytes{Outbound: f.Bytes.Inbound, Inbound: f.Bytes.Outbound}
	}
	if f.Closed != nil {
		c := *f.Closed
		switch c.By {
		case tcpstate.Guest:
			c.By = tcpstate.Upstream
		case tcpstate.Upstream:
			c.By = tcpstate.Guest
		}
		f.Closed = &c
	}
	return &f
}

// runOuter runs the outer gateway to its end, which is the end of all.
func (s *Sandbox) runOuter() {
	err := s.outer.Run(s.life, s.gateway.Across())
	if err == nil || s.life.Err() != nil {
		return
	}
	if errors.Is(err, tun.ErrGone) {
		err = fmt.Errorf("tcpbox: the host's interface was deleted: %w", err)
	}
	s.mu.Lock()
	s.runErr = err
	s.mu.Unlock()
	_ = s.end(syscall.SIGKILL)
}

// isGone reports whether err is the end of a served namespace, and ends the
// serving then.
func (s *Sandbox) isGone(err error) bool {
	if _, ok := s.inside.(*served); !ok || !errors.Is(err, tun.ErrGone) {
		return false
	}
	_ = s.end(syscall.SIGTERM) // it takes it
	return true
}

// served is the inside of a namespace that others made and move about in, of which
// nothing is held but a device.
type served struct {
	device tun.Device
	ns     *netns.Visitor
	end    chan struct{}
	once   sync.Once
}

func (s *served) Device() tun.Device { return s.device }

func (s *served) NS() netns.NS { return s.ns }

// Wait waits for the end of the device, or for a signal.
func (s *served) Wait() (Status, error) {
	<-s.end
	return Status{}, nil
}

// Done is closed when Wait returns.
func (s *served) Done() <-chan struct{} { return s.end }

// Signal takes the signals that end a process as the request to end the serving.
func (s *served) Signal(sig syscall.Signal) error {
	if sig != syscall.SIGTERM && sig != syscall.SIGKILL {
		return fmt.Errorf("tcpbox: signal %v: %w", sig, ErrNoGuest)
	}
	s.once.Do(func() { close(s.end) })
	return nil
}

// Pids returns none: the container's processes are others' business.
func (s *served) Pids() (first, guest int) { return 0, 0 }

func (s *served) Close() error {
	_ = s.Signal(syscall.SIGTERM) // it takes it
	return errors.Join(s.device.Close(), s.ns.Close())
}
