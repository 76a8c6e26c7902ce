package tcpbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"tcpbox/netns"
	"tcpbox/netns/guest"
	"tcpbox/netns/sockdiag"
	"tcpbox/netns/sockwatch"
	"tcpbox/policy"
	"tcpbox/stack"
	"tcpbox/stack/dns"
	"tcpbox/stack/fault"
	"tcpbox/stack/relay"
	"tcpbox/stack/tcpstate"
	"tcpbox/stack/upstream"
	"tcpbox/tun"
)

// Init must be called first in main, and in TestMain: Start executes the
// program again to become a sandbox's first process, and Init is where that
// begins. In every other process it does nothing.
func Init() { guest.Init() }

// Sandbox is a running guest, or an attached namespace, with its stack. Its
// methods may be called concurrently.
type Sandbox struct {
	name    string
	inside  inside
	guest   *guest.Sandbox // inside, if it is a guest; else nil
	gateway *stack.Gateway
	paired  bool           // a second stack, and not the host's sockets, is where connections go on
	outer   *stack.Gateway // that stack; else nil
	faults  *fault.Device
	numbers *tcpstate.Numbers
	host    *upstream.Host
	owned   *upstream.Addresses
	log     *recorder
	trace   *segmentTrace    // nil without Config.TraceSegments
	finder  *sockdiag.Finder // of the host's sockets
	names   names
	force   force
	hosts   *hostTable

	sockets   *guestSockets      // nil without
	opening   *sockwatch.Opening // until sockets has it; nil without
	published *publisher

	info      Info // what of it does not change
	resolvers []netip.AddrPort

	diag *slog.Logger

	linger    bool // Config.Linger
	unwatched bool // Config.NoGuestLeg

	life    context.Context // ends in Close
	cancel  context.CancelFunc
	running sync.WaitGroup // the gateway, the resolver, the peers

	mu     sync.Mutex
	runErr error // why the gateway ended, if by itself

	unforward func() // undoes the forwarding of signals; nil if there is none
	exitOnce  sync.Once
	exited    chan struct{}
	endedAt   time.Time // written before exited is closed
	closeOnce sync.Once
	closeErr  error
}

// Start makes a sandbox and starts the guest in it. ctx bounds the starting
// only. If Start fails, nothing is left of what it made. An error may match
// *ConfigError, *guest.Error, which has a hint, or *guest.ExecError.
func Start(ctx context.Context, cfg Config) (*Sandbox, error) {
	if err := cfg.normalise(); err != nil {
		return nil, err
	}
	return begin(ctx, &cfg, cfg.open)
}

// inside is what a stack serves: a guest, or a namespace that others live in.
type inside interface {
	Device() tun.Device
	NS() netns.NS
	Wait() (Status, error)
	Signal(sig syscall.Signal) error
	Pids() (first, guest int)
	Done() <-chan struct{} // closed when Wait would return
	Close() error
}

var _, _, _ inside = (*guest.Sandbox)(nil), (*attached)(nil), (*served)(nil)

// opener makes s.inside. What it returns is called when all else stands, and
// lets the network be used.
type opener func(ctx context.Context, s *Sandbox, addrs addressPlan) (start func() error, err error)

// begin makes a sandbox.
func begin(ctx context.Context, cfg *Config, open opener) (*Sandbox, error) {
	addrs, err := cfg.plan()
	if err != nil {
		return nil, fmt.Errorf("tcpbox: %w", err)
	}
	return beginAt(ctx, cfg, addrs, false, open)
}

// beginAt is begin with the addresses given out. paired: open makes s.outer.
func beginAt(ctx context.Context, cfg *Config, addrs addressPlan, paired bool, open opener) (*Sandbox, error) {
	s := &Sandbox{name: cfg.Name, paired: paired, diag: cfg.Log, linger: cfg.Linger, unwatched: cfg.NoGuestLeg, exited: make(chan struct{}), numbers: new(tcpstate.Numbers)}
	s.life, s.cancel = context.WithCancel(context.Background())
	if err := s.start(ctx, cfg, addrs, open); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// start opens everything in order; Close undoes what there is.
func (s *Sandbox) start(ctx context.Context, cfg *Config, addrs addressPlan, open opener) error {
	s.trace = newSegmentTrace(cfg)
	s.log = newRecorder(cfg.Name, cfg.LogRoom, s.trace.reads(cfg.readers()), func() {
		s.diag.Warn("more happens than the limit of the log lets through; what is beyond is left out, and marked in it", "sandbox", s.name)
	})
	s.force.policy.Store(&cfg.Policy)
	s.force.before = map[string]string{}
	s.log.limit(cfg.Limits.LogRate)
	if !cfg.NoGuestLeg && !cfg.NoTrace {
		s.opening = sockwatch.Open() // which takes as long as all that follows
		defer s.opening.Close()
	}

	var err error
	if s.owned, err = upstream.NewAddresses(nil); err != nil {
		return fmt.Errorf("tcpbox: %w", err)
	}
	s.host = newHost(s.owned, &s.force)
	s.watchHost()
	routed := needsDefault6(cfg)
	if g := addrs.gatewayOf(netip.IPv6Unspecified()); !routed {
		s.force.unrouted = g
	}
	s.published = newPublisher(s.host, addrs, routed)
	if _, err := s.published.bind(cfg.Publish); err != nil {
		return fmt.Errorf("tcpbox: %w", err)
	}

	if err := s.resolveKnobs(cfg); err != nil {
		return err
	}
	start, err := open(ctx, s, addrs)
	if err != nil {
		return err
	}
	decide := func(_ context.Context, r policy.Request) policy.Verdict {
		return s.force.policy.Load().Decide(r, s.owned)
	}
	s.faults = newFaults(cfg, s.watchDevice(cfg, s.inside.Device()), s.inside.Device())
	s.gateway, err = stack.New(stack.Config{
		Device: s.faults, Addrs: addrs.gateways, Guest: addrs.sources(), Subnets: addrs.subnets,
		Loopback: addrs.loopback, UDPTimeout: cfg.UDPTimeout, Limits: cfg.Limits.ofGateway(),
		Decide: decide, OnRefused: cfg.OnRefused, Sink: s.log.Push, Numbers: s.numbers, Log: cfg.Log,
		Facts: s.log.PushFacts, NameOf: s.names.find, Paired: s.paired,
	})
	if err != nil {
		return fmt.Errorf("tcpbox: %w", err)
	}
	if err := s.tune(cfg); err != nil {
		return fmt.Errorf("tcpbox: %w", err)
	}
	if err := s.serveNames(cfg, addrs); err != nil {
		return fmt.Errorf("tcpbox: %w", err)
	}
	if err := s.servePeers(cfg, addrs); err != nil {
		return fmt.Errorf("tcpbox: %w", err)
	}
	s.describe(cfg, addrs)
	s.running.Go(func() { s.runGateway() })
	s.published.serve(s.life, s.gateway, s.inside.NS())
	if err := cfg.BeforeStart(s); err != nil {
		return fmt.Errorf("tcpbox: before the start: %w", err)
	}
	return start()
}

// open makes the guest's namespaces. Its program starts last.
func (c *Config) open(ctx context.Context, s *Sandbox, addrs addressPlan) (start func() error, err error) {
	s.guest, err = guest.New(ctx, guest.Config{
		Args: c.Args, Env: c.Env, Dir: c.Dir, Root: c.Root, User: c.User,
		Hostname: c.Hostname, Link: addrs.link(c, needsDefault6(c)),
		Defaults: guestDefaults(), Etc: etcFiles(addrs, ownName(c)), Hide: c.Hide, KeepFDs: c.KeepFDs,
		Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr, Linger: c.Linger, Log: c.Log,
	})
	if err != nil {
		return nil, err
	}
	s.inside = s.guest
	s.info.Kind = KindGuest
	return func() error {
		if c.ForwardSignals {
			s.unforward = s.guest.ForwardSignals()
		}
		return s.guest.Start()
	}, nil
}

// newHost makes the uplink. When a connection stands, it asks once more
// whether the host has come to own its far end. Only who meant the host has
// come as far as the loopback.
func newHost(owned *upstream.Addresses, force *force) *upstream.Host {
	return &upstream.Host{
		MaxDials: maxDials,
		Confirm: func(network string, _, remote netip.AddrPort) error {
			v := force.policy.Load().Decide(policy.Request{Proto: protoOf(network), Dst: remote, Host: remote.Addr().IsLoopback()}, owned)
			if !v.Allow {
				return fmt.Errorf("refused by %s: %w", v.Rule, syscall.ECONNREFUSED)
			}
			return nil
		},
	}
}

func protoOf(network string) policy.Proto {
	switch network {
	case "udp":
		return policy.UDP
	case "icmp":
		return policy.ICMP
	}
	return policy.TCP
}

// maxDials bounds the dials in progress on host sockets; the gateway's own
// limit on what is pending is above it.
const maxDials = 8192

// runGateway runs the gateway to its end. If it ends by itself, the inside has
// lost its network for good and is ended too.
func (s *Sandbox) runGateway() {
	err := s.gateway.Run(s.life, s.uplink())
	if err == nil || s.life.Err() != nil || s.isGone(err) {
		return
	}
	if a, ok := s.inside.(*attached); ok {
		err = a.explain(err)
	}
	s.mu.Lock()
	s.runErr = err
	s.mu.Unlock()
	_ = s.end(syscall.SIGKILL)
}

// uplink is where connections of the gateway go on.
func (s *Sandbox) uplink() stack.Uplink {
	if s.outer != nil {
		return s.outer.Across()
	}
	return uplink{s.host}
}

// uplink gives the gateway the host's sockets.
type uplink struct{ *upstream.Host }

var (
	_ stack.Uplink = uplink{}
	_ relay.Conn   = (*upstream.Conn)(nil)
)

// Name returns the sandbox's name.
func (s *Sandbox) Name() string { return s.name }

// Signal sends a signal to the guest. For an attached namespace see Attach.
func (s *Sandbox) Signal(sig syscall.Signal) error { return s.inside.Signal(sig) }

// NS is the way into the sandbox's network namespace.
func (s *Sandbox) NS() netns.NS { return s.inside.NS() }

// Stats returns the gateway's counters.
func (s *Sandbox) Stats() stack.Stats { return s.gateway.Stats() }

// Wait waits until the guest, or the attached namespace, has ended and what it
// had sent is delivered, and closes the sandbox. An upstream that does not take
// its bytes is given up after DrainTimeout.
func (s *Sandbox) Wait() (Status, error) {
	status, err := s.inside.Wait()
	s.exitOnce.Do(func() {
		s.endedAt = time.Now()
		close(s.exited)
	})
	s.published.shut() // nobody is left to listen
	s.mu.Lock()
	runErr := s.runErr
	s.mu.Unlock()
	drained := err == nil && runErr == nil && !released(s.inside) && s.life.Err() == nil
	if drained {
		ctx, cancel := context.WithTimeout(s.life, DrainTimeout)
		s.gateway.Drain(ctx)
		cancel()
	}
	if runErr != nil {
		err = runErr // the guest was killed because of it
	}
	err = errors.Join(err, s.Close())
	if drained && !s.broken() {
		if n := s.gateway.Cut(); n > 0 {
			s.diag.Warn("connections cut that still had bytes to deliver", "sandbox", s.name, "connections", n)
		}
	}
	return status, err
}

// Exited is closed when Wait has seen the guest end, and with Config.Linger the
// last process; Wait may then still be delivering what they sent, which Close
// cuts short.
func (s *Sandbox) Exited() <-chan struct{} { return s.exited }

// EndedAt is when Wait saw the guest end: what the log has of later is the
// delivery of what it left, and the sandbox's own end. It is zero before Exited is
// closed.
func (s *Sandbox) EndedAt() time.Time {
	select {
	case <-s.exited:
		return s.endedAt
	default:
		return time.Time{}
	}
}

// Close kills the guest, but no process of an attached namespace, resets all
// connections and returns when nothing of the sandbox is left. It is safe to call twice.
func (s *Sandbox) Close() error {
	s.closeOnce.Do(func() {
		s.cancel()
		var errs []error
		if s.published != nil {
			s.published.shut()
		}
		if s.gateway != nil && !s.broken() {
			errs = append(errs, s.gateway.Close())
		}
		if s.outer != nil && !s.broken() {
			errs = append(errs, s.outer.Close())
		}
		if s.inside != nil {
			errs = append(errs, s.inside.Close())
		}
		if s.unforward != nil {
			s.unforward() // also gives the terminal back
		}
		if !s.broken() {
			s.running.Wait()
			if s.published != nil {
				s.published.wait()
			}
		}
		if s.sockets != nil {
			errs = append(errs, s.sockets.watcher.Close())
		}
		if s.host != nil {
			errs = append(errs, s.host.Close())
		}
		if s.finder != nil {
			errs = append(errs, s.finder.Close())
		}
		if s.owned != nil {
			errs = append(errs, s.owned.Close())
		}
		if s.log != nil {
			s.log.Close()
			s.trace.close()
		}
		s.closeErr = errors.Join(errs...)
	})
	return s.closeErr
}

// broken reports whether the stack has panicked. Its locks may be held for
// ever, so nothing of it is waited for: the caller is expected to exit soon.
func (s *Sandbox) broken() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	var p *stack.PanicError
	return errors.As(s.runErr, &p)
}

func hostnameOf(cfg *Config) string {
	if cfg.Hostname != "" {
		return cfg.Hostname
	}
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}

// ResolverPort is the port on which the resolver listens, on the gateway's
// addresses.
const ResolverPort = 53

// serveNames starts the resolver on the gateway's addresses.
func (s *Sandbox) serveNames(cfg *Config, addrs addressPlan) error {
	forward, err := forwarders(cfg)
	if err != nil {
		return err
	}
	s.resolvers = forward
	s.hosts = newHostTable(cfg, addrs)
	server, err := dns.New(dns.Config{Hosts: s.hosts.all, Local: addrs.subnets, Forward: forward, Log: cfg.Log, OnQuery: s.names.learn})
	if err != nil {
		return err
	}
	s.hosts.server = server
	for _, a := range addrs.gateways {
		at := netip.AddrPortFrom(a, ResolverPort)
		packets, err := s.gateway.ListenPacket(at)
		if err != nil {
			return err
		}
		streams, err := s.gateway.Listen(at)
		if err != nil {
			_ = packets.Close()
			return err
		}
		s.running.Go(func() { _ = server.ServePacket(s.life, packets) })
		s.running.Go(func() { _ = server.ServeStream(s.life, streams) })
	}
	return nil
}

// hostResolvConf is where the host says which resolvers it uses.
const hostResolvConf = "/etc/resolv.conf"

// forwarders are the resolvers that the sandbox's resolver may ask.
func forwarders(cfg *Config) ([]netip.AddrPort, error) {
	switch {
	case cfg.DNS.None:
		return nil, nil
	case len(cfg.DNS.Servers) > 0:
		return cfg.DNS.Servers, nil
	case cfg.Policy.Net == policy.NetNone:
		return nil, nil
	}
	servers, err := dns.HostResolvers(hostResolvConf)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return servers, err
}
