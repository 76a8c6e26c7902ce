package netstack

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/time/rate"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gvstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"tcpbox/policy/knob"
	"tcpbox/stack/tcpstate"
)

// Stack is one embedded TCP/IP stack on one device.
type Stack struct {
	ns         *gvstack.Stack
	clock      tcpip.Clock
	random     io.Reader
	link       *link
	tracker    *tracker
	admission  *admission
	forwarder  atomic.Pointer[tcp.Forwarder]
	live       live
	orphans    *orphans
	synFlood   synFlood
	synOptions synOptions
	log        *slog.Logger
	rto        rto

	receiveBuffer atomic.Int64 // bytes; see BufferBytes
	sendBuffer    atomic.Int64

	reservedPorts atomic.Pointer[[]knob.PortRange] // nil: none

	timeWait  *timeWaitOptions
	ender     *ender
	counters  counters
	icmpLimit *rate.Limiter
	addrs     []netip.Addr
	guest     []netip.Prefix
	onSYN     func(*Request)
	onOther   func(Other)
	onUDP     func(Datagram) bool
	ownUDP    func(src, dst netip.AddrPort) bool
	onEcho    func(Echo) bool
	onNoPort  func(guest, remote netip.AddrPort)

	onEchoReply func(Echo) bool
	onPathError func(PathError)

	settling   settling
	fragments  fragments
	fragmentID atomic.Uint32
	flushes    flushes

	ctx    context.Context // ends in Close
	cancel context.CancelFunc

	runMu     sync.Mutex
	running   sync.WaitGroup
	closed    bool
	closeOnce sync.Once
	closeErr  error
}

// New makes a Stack. It owns cfg.Device from then on, also when it fails.
// Nothing is read from the device before Run.
func New(cfg Config) (*Stack, error) {
	s := &Stack{
		clock: cfg.Clock, random: cfg.Random, icmpLimit: newICMPLimiter(),
		addrs: cfg.Addrs, guest: cfg.Guest, onSYN: cfg.OnSYN, onOther: cfg.OnOther,
		onUDP: cfg.OnUDP, ownUDP: cfg.OwnUDP, onEcho: cfg.OnEcho, onNoPort: cfg.OnNoPort,
		onEchoReply: cfg.OnEchoReply, onPathError: cfg.OnPathError,
		timeWait: &timeWaitOptions{}, log: cfg.Log,
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.clock == nil {
		s.clock = tcpip.NewStdClock()
	}
	s.synFlood.looked = s.clock.NowMonotonic()
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.tracker = newTracker(s.clock, cfg.Sink, s.timeWait, cfg.Numbers)
	s.orphans = &s.tracker.orphans
	s.tracker.unpark = s.redeliver
	s.ender = s.tracker.ender
	if cfg.MaxPending == 0 {
		cfg.MaxPending = DefaultMaxPending
	}
	if cfg.SYNBacklog == 0 {
		cfg.SYNBacklog = DefaultSYNBacklog
	}
	s.admission = newAdmission(s, cfg.MaxPending)
	s.SetSYNBacklog(cfg.SYNBacklog)
	s.link = newLink(cfg.Device, s)
	if err := s.build(); err != nil {
		s.cancel()
		_ = cfg.Device.Close()
		return nil, fmt.Errorf("netstack: %w", err)
	}
	return s, nil
}

// build assembles gVisor. Handlers and probe come before the interface, for
// gVisor does not synchronise them with packets.
func (s *Stack) build() error {
	s.ns = gvstack.New(gvstack.Options{
		NetworkProtocols: []gvstack.NetworkProtocolFactory{
			ipv4.NewProtocol,
			// A TUN has neither neighbours nor routers: no solicitations.
			ipv6.NewProtocolWithOptions(ipv6.Options{}),
		},
		TransportProtocols: []gvstack.TransportProtocolFactory{
			tcp.NewProtocolProbe(s.tracker.probe), udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6,
		},
		Clock:     s.clock,
		SecureRNG: s.random,
	})
	s.tracker.stack = s.ns
	if err := s.setDefaults(); err != nil {
		return err
	}
	s.ns.SetTransportProtocolHandler(tcp.ProtocolNumber, s.admission.handle)
	s.ns.SetTransportProtocolHandler(udp.ProtocolNumber, s.handleUDP)
	if err := s.ns.CreateNIC(nicID, s.link); err != nil {
		return fmt.Errorf("create the interface: %v", err)
	}
	// Every address is the stack's: it stands for the whole world.
	if err := s.ns.SetPromiscuousMode(nicID, true); err != nil {
		return fmt.Errorf("take every address: %v", err)
	}
	if err := s.ns.SetSpoofing(nicID, true); err != nil {
		return fmt.Errorf("speak as every address: %v", err)
	}
	for _, a := range s.addrs {
		pa := tcpip.ProtocolAddress{Protocol: netProtoOf(a), AddressWithPrefix: toAddr(a).WithPrefix()}
		if err := s.ns.AddProtocolAddress(nicID, pa, gvstack.AddressProperties{}); err != nil {
			return fmt.Errorf("add address %v: %v", a, err)
		}
	}
	s.ns.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nicID},
		{Destination: header.IPv6EmptySubnet, NIC: nicID},
	})
	return nil
}

// Run carries packets until the Stack is closed (nil), or the device is gone
// (tun.ErrGone) or fails. It is called once.
func (s *Stack) Run() error {
	s.runMu.Lock()
	if s.closed {
		s.runMu.Unlock()
		return nil
	}
	s.running.Add(3)
	s.runMu.Unlock()
	// The sweeper's time begins here, and not when its goroutine does: on a clock
	// that is advanced by hand much may have passed by then.
	tick := make(chan struct{}, 1)
	go s.sweep(tick, s.clock.AfterFunc(sweepEvery, func() {
		s.settling.busy.Add(1)
		tick <- struct{}{}
	}))
	go s.endCondemned()
	defer s.running.Done()
	return s.link.run()
}

// Close resets all connections, closes the device and returns when everything
// has ended, the calls of OnSYN included: they must not call it. It is safe to
// call twice.
func (s *Stack) Close() error {
	s.closeOnce.Do(func() { s.closeErr = s.close() })
	return s.closeErr
}

// Stopping says that connections which are reset from now on are so because the
// Stack is about to be closed, whoever does it.
func (s *Stack) Stopping() { s.tracker.stopping.Store(true) }

func (s *Stack) close() error {
	s.runMu.Lock()
	s.closed = true
	s.runMu.Unlock()
	s.Stopping()
	s.admission.close()
	s.cancel()
	ended := make(chan struct{})
	go func() {
		s.admission.running.Wait()
		close(ended)
	}()
	// A handshake that was just about to begin has no endpoint yet, so this
	// is done again until the last one has ended.
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for done := false; !done; {
		s.abortAll()
		select {
		case <-ended:
			done = true
		case <-again.C:
		}
	}
	s.abortAll()
	err := s.link.dev.Close()
	s.running.Wait()
	s.settling.mu.Lock()
	s.settling.over = true
	s.ns.Destroy()
	s.settling.mu.Unlock()
	return err
}

func (s *Stack) abortAll() {
	for _, ep := range s.ns.RegisteredEndpoints() {
		ep.Abort()
	}
}

// sweepEvery is how often the sweeper looks, on the Stack's clock.
const sweepEvery = time.Second

// sweep looks at all endpoints once a second. It finds nothing new, the
// tracker having been told of everything; it ends what gVisor would keep for
// ever, and dials that nobody waits for.
func (s *Stack) sweep(tick <-chan struct{}, timer tcpip.Timer) {
	defer s.running.Done()
	defer timer.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-tick:
		}
		s.sweepOnce()
		timer.Reset(sweepEvery)
		s.settling.busy.Add(-1)
	}
}

func (s *Stack) sweepOnce() {
	now := s.clock.Now()
	for _, r := range s.tracker.snapshot() {
		s.tracker.observe(r, viaSweep)
		if why := s.stuck(r, now); why != endNone && s.endOrphan(r, why) {
			s.counters.orphansEnded.Add(1)
		}
	}
	s.admission.giveUpSilent()
	s.synFlood.look(s.clock, s.counters.droppedSYNs, s.log)
}

// Listening logs that a host inside the stack listens on local, and returns
// what logs that it has ended.
func (s *Stack) Listening(local netip.AddrPort) (ended func()) {
	return s.tracker.listening(s.tracker.numbers.Next(), tcpstate.Transition{Local: local})
}

// ListenUDP opens a socket on one of the stack's addresses.
func (s *Stack) ListenUDP(local netip.AddrPort) (net.PacketConn, error) {
	fa := fullAddr(local)
	c, err := gonet.DialUDP(s.ns, &fa, nil, netProtoOf(local.Addr()))
	if err != nil {
		return nil, fmt.Errorf("netstack: listen on udp %v: %w", local, syscall.EADDRINUSE)
	}
	return c, nil
}
