package tcpbox

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"time"

	"tcpbox/netns/guest"
	"tcpbox/policy"
	"tcpbox/policy/knob"
	"tcpbox/stack"
	"tcpbox/stack/dns"
	"tcpbox/stack/peer"
	"tcpbox/stack/statelog"
)

// Defaults of Config.
const (
	// DefaultMTU lets the guest's kernel hand over large segments; TCP ends in
	// the stack, so it never reaches the outside.
	DefaultMTU = 65520

	// DrainTimeout is how long Wait goes on delivering what an ended guest had
	// sent.
	DrainTimeout = 30 * time.Second

	DefaultSubnet4 = "198.18.0.0/24"          // benchmarking range, RFC 2544: never routed
	DefaultSubnet6 = "fd74:6370:626f:78::/64" // unique local, RFC 4193
)

// Config says what to run and under which rules. The zero value of a field
// means what its comment says; the zero Config lacks only Args.
type Config struct {
	// Name names the sandbox in its log. Empty means what NameFor returns.
	Name string

	// Args are the guest's program and its arguments. A name without a slash
	// is looked for in the PATH of Env.
	Args []string

	// Env is the guest's environment, as in os.Environ. Nil means this
	// process's.
	Env []string

	// Dir is the guest's working directory, an absolute path. Empty means this
	// process's.
	Dir string

	// Root maps the guest's uid and gid to 0; it gains no power by it.
	Root bool

	// User runs the guest as someone else; only root can. Nil means as the
	// caller.
	User *guest.User

	// Hostname is the machine's name inside. Empty means the caller's.
	Hostname string

	// Hide are directories of the host that are empty for the guest.
	Hide []string

	// KeepFDs are inherited descriptors, beside 0, 1 and 2, that the guest
	// keeps under the same numbers.
	KeepFDs []int

	// The guest's descriptors 0, 1 and 2. Nil means /dev/null.
	Stdin, Stdout, Stderr *os.File

	// Linger goes on serving what the guest leaves in the background, until its
	// last process has ended; Status stays the guest's own. Without it the
	// guest's end is the end of all.
	Linger bool

	// ForwardSignals passes the signals that this process gets on to the guest,
	// each exactly once, and keeps job control working, from before the guest
	// starts until Wait or Close returns. It is for a process that runs one
	// guest and stands for it at the terminal.
	ForwardSignals bool

	// MTU of the sandbox's interface, in bytes. Zero means DefaultMTU.
	MTU int

	// Subnet4 and Subnet6 are the sandbox's own. The first address is the
	// gateway's, the second the guest's, the third stands for the host's
	// loopback (HostName); peers have those from the sixteenth on. The zero Prefix means DefaultSubnet4 and DefaultSubnet6.
	Subnet4, Subnet6 netip.Prefix

	// NoIPv6 switches IPv6 off inside.
	NoIPv6 bool

	// Policy decides what may be reached. The zero Policy reaches nothing but
	// Peers.
	Policy policy.Policy

	// DNS is the resolver that the guest sees.
	DNS DNS

	// Peers are hosts inside the stack, reachable by name under every Policy.
	Peers []peer.Spec

	// Publish are ports of the guest that can be reached from outside. The
	// host's ports are taken before anything is started; each listens while the
	// guest listens on its own.
	Publish []Publish

	// UDPTimeout ends a flow of UDP or ping after this long without a packet in
	// either direction. Zero means stack.DefaultUDPTimeout, which is 30 s.
	UDPTimeout time.Duration

	// Knobs are TCP settings per leg.
	Knobs []knob.Setting

	// Sysctls are written into the sandbox's network namespace as they are,
	// after what Knobs come to, and before the guest starts.
	Sysctls []knob.Sysctl

	// Limits bound what the guest can make grow.
	Limits Limits

	// Faults are what goes wrong between guest and stack, from the first packet on.
	// With the same FaultSeed the same packets go the same way.
	Faults    []policy.Fault
	FaultSeed uint64

	// OnRecords takes the state log, in order, in one goroutine of its own: each
	// TCP state transition, and a marker wherever some were lost because the
	// reader was too slow. It keeps nothing of the slice. Nil means that no one
	// reads. See statelog.Writer for one that writes them down.
	OnRecords func([]statelog.Item)

	// LogRoom is how many records of the state log may wait to be read; beyond that
	// some are lost, and counted. The room is taken from the start, about 200 bytes
	// for each. Zero means statelog.DefaultQueueItems, which is 16,384.
	LogRoom int

	// OnTransition is told of each TCP state transition, of every leg,
	// in order, in the goroutine of OnRecords and before it. What was lost
	// because the reader was too slow only OnRecords sees.
	OnTransition func(Transition)

	// TraceSegments keeps the headers of the TCP segments between guest and stack,
	// for Sandbox.Segments and OnSegments: of each connection the first and the
	// last 128, of 1024 connections at once.
	TraceSegments bool

	// OnSegments takes the segments of a connection, in the order in which they
	// passed, when it has ended, and of those that are open when the sandbox
	// does. It needs TraceSegments, and does not block.
	OnSegments func([]statelog.Segment)

	// NoGuestLeg does not follow the kernel's sockets of the sandbox: their states,
	// and whose they are. It is for those who count every microsecond of a
	// connection.
	NoGuestLeg bool

	// NoTrace leaves the kernel's own trace of its sockets out also where it is
	// allowed, which is to root: what the packets and a list of the sockets tell
	// is all, as for an ordinary user.
	NoTrace bool

	// BeforeStart is called when the network stands and the guest has not
	// started: what Listen adds there is there for the guest's first word. An
	// error ends the start.
	BeforeStart func(*Sandbox) error

	// OnRefused is told of each connection or packet that was refused. It must
	// not block.
	OnRefused func(stack.Refusal)

	// OnOutcome is told, before the guest starts, what each leg made of Knobs.
	OnOutcome func(knob.Outcome)

	// OnNote is told, after that, what Knobs say of themselves, as Settings.Notes.
	OnNote func(knob.Note)

	// Log gets what is worth knowing about the sandbox. Nil discards it.
	Log *slog.Logger
}

// DNS configures the resolver of the sandbox. The zero DNS forwards what it
// does not know to the host's resolvers, unless the Policy's Net is none.
type DNS struct {
	// None forwards nothing: only peers and Hosts have addresses.
	None bool

	// Servers are asked instead of the host's resolvers, under every Policy.
	Servers []netip.AddrPort

	// Hosts are additional names and their addresses.
	Hosts []dns.Host
}

// ConfigError is what is wrong with a Config: nothing has been started. Its
// faults are joined, and unwrap to what the packages that found them return
// (*policy.ParseError, *knob.Error).
type ConfigError struct{ Err error }

func (e *ConfigError) Error() string { return "tcpbox: " + e.Err.Error() }

// Unwrap returns the joined faults.
func (e *ConfigError) Unwrap() error { return e.Err }

// Check reports everything that is wrong with c, as a *ConfigError. Start does
// the same before anything else.
func (c Config) Check() error { return c.normalise() }

// normalise fills in defaults and reports everything that is wrong.
func (c *Config) normalise() error {
	var errs []error
	if len(c.Args) == 0 || c.Args[0] == "" {
		errs = append(errs, errors.New("no command to run"))
	}
	return asConfigError(append(errs, c.fill()...))
}

// asConfigError joins faults. Without any it returns nil.
func asConfigError(faults []error) error {
	if err := errors.Join(faults...); err != nil {
		return &ConfigError{err}
	}
	return nil
}

// fill is what normalise does of what is not about a guest.
func (c *Config) fill() (errs []error) {
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.MTU == 0 {
		c.MTU = DefaultMTU
	}
	if !c.Subnet4.IsValid() {
		c.Subnet4 = netip.MustParsePrefix(DefaultSubnet4)
	}
	if !c.Subnet6.IsValid() {
		c.Subnet6 = netip.MustParsePrefix(DefaultSubnet6)
	}
	if err := checkSubnet(c.Subnet4, true); err != nil {
		errs = append(errs, err)
	}
	if err := checkSubnet(c.Subnet6, false); err != nil && !c.NoIPv6 {
		errs = append(errs, err)
	}
	if err := peer.Check(c.Peers); err != nil {
		errs = append(errs, err)
	}
	if c.UDPTimeout < 0 {
		bad("the timeout of UDP flows is not negative")
	}
	for _, p := range c.Publish {
		if err := p.check(c.NoIPv6); err != nil {
			errs = append(errs, err)
		}
	}
	errs = append(errs, c.checkNames()...)
	if c.DNS.None && len(c.DNS.Servers) > 0 {
		bad("--dns none asks nobody, and --dns %v is to be asked; leave out one of them", c.DNS.Servers[0].Addr())
	}
	if c.Name == "" {
		c.Name = NameFor(c.Args)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.BeforeStart == nil {
		c.BeforeStart = func(*Sandbox) error { return nil }
	}
	if c.OnRefused == nil {
		c.OnRefused = func(stack.Refusal) {}
	}
	if c.OnOutcome == nil {
		c.OnOutcome = func(knob.Outcome) {}
	}
	if c.OnNote == nil {
		c.OnNote = func(knob.Note) {}
	}
	if len(errs) == 0 {
		errs = append(errs, c.checkAddresses()...)
	}
	if err := c.settings().Check(); err != nil {
		errs = append(errs, err)
	}
	return errs
}

// checkNames finds names that would stand for two things.
func (c *Config) checkNames() (errs []error) {
	const hostName = "the name stands for the host's loopback; choose another"
	peers := map[string]peer.Spec{}
	for _, p := range c.Peers {
		if p.Name == HostName {
			errs = append(errs, fmt.Errorf("--peer %s: %s", p, hostName))
		}
		peers[p.Name] = p
	}
	for _, h := range c.DNS.Hosts {
		if h.Name == HostName {
			errs = append(errs, fmt.Errorf("--add-host %s: %s", h, hostName))
		}
		if p, ok := peers[h.Name]; ok {
			errs = append(errs, fmt.Errorf("--add-host %s: the name stands for --peer %s; choose another", h, p))
		}
	}
	return errs
}

// checkAddresses gives the addresses out, and finds a resolver that would be the
// one that asks it.
func (c *Config) checkAddresses() (errs []error) {
	addrs, err := c.plan()
	if err != nil {
		return []error{err}
	}
	for _, server := range c.DNS.Servers {
		if slices.Contains(addrs.gateways, server.Addr()) {
			errs = append(errs, fmt.Errorf("--dns %v: it is the sandbox's own resolver; give one that the host can ask", server.Addr()))
		}
	}
	return errs
}
