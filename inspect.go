package tcpbox

import (
	"cmp"
	"context"
	"net/netip"
	"os"
	"syscall"
	"time"

	"tcpbox/stack"
)

// Info is everything that is in force in a sandbox. Its JSON form is part of
// the control API.
type Info struct {
	Name    string    `json:"name"`
	Kind    string    `json:"kind"` // KindGuest, KindAttached or KindServed
	Args    []string  `json:"args"` // of the guest
	Started time.Time `json:"started"`

	// Target is what an attached sandbox was attached to, "pid N" or a path in
	// quotes, and the path of a served one. NetNS is the inode of that namespace, as in /proc/PID/ns/net.
	Target string `json:"target,omitempty"`
	NetNS  uint64 `json:"netns,omitempty"`

	// Process ids as the host sees them: of this process, of the sandbox's
	// first process and of the guest; 0 for one that does not run. In an
	// attached sandbox the guest is the process that was named.
	PID      int `json:"pid"`
	InitPID  int `json:"init_pid"`
	GuestPID int `json:"guest_pid"`

	Interface string         `json:"interface"`
	MTU       int            `json:"mtu"`
	Addresses []netip.Prefix `json:"addresses"` // the guest's
	Gateways  []netip.Addr   `json:"gateways"`
	Peers     []PeerInfo     `json:"peers"`

	// Rules are in their order; the last line is what decides when none
	// matches.
	Policy []string `json:"policy"`

	// Knobs are what each leg made of the settings that were given.
	Knobs []KnobInfo `json:"knobs"`

	// Faults are what is to go wrong; Sandbox.Faults has their numbers and counts.
	Faults []string `json:"faults,omitempty"`

	Limits LimitsInfo `json:"limits"`

	Resolvers []netip.AddrPort `json:"resolvers"` // that names are forwarded to

	Ports []PortInfo `json:"ports"` // published

	GuestLeg GuestLegInfo `json:"guest_leg"`

	Stats Stats `json:"stats"`

	// Outer are the counters of the stack between the sandbox and the host, of a
	// sandbox that has two: connections that begin outside are counted here.
	Outer *Stats `json:"outer,omitempty"`
}

// The kinds of sandboxes.
const (
	KindGuest    = "guest"    // tcpbox runs a guest in it
	KindAttached = "attached" // it is a namespace that others made and live in
	KindServed   = "served"   // it is two devices, a container's and one of the host
)

// GuestLegInfo says how the kernel's sockets of the sandbox are followed.
type GuestLegInfo struct {
	// Watched: somebody reads the log, and wants this leg of it.
	Watched bool `json:"watched"`

	// Traced: the kernel itself tells of each change. If not, Why not.
	Traced bool   `json:"traced"`
	Why    string `json:"why,omitempty"`

	Endpoints int    `json:"endpoints"`  // followed now
	Untracked uint64 `json:"untracked"`  // not followed, for there were too many
	TraceLost uint64 `json:"trace_lost"` // events that the trace had no room for
	Corrected uint64 `json:"corrected"`  // states that a look has shown to be others
	LookNanos int64  `json:"look_nanos"` // of the processor's time, for looks at the kernel's list of sockets
}

// LimitsInfo are the limits in force.
type LimitsInfo struct {
	Connections int `json:"connections"`
	UDPFlows    int `json:"udp_flows"`
	Buffers     int `json:"buffers"`  // bytes; 0: no limit
	LogRate     int `json:"log_rate"` // records each second; 0: no limit
}

// limitsInfo fills in what is not said.
func (s *Sandbox) limitsInfo() LimitsInfo {
	l := s.Settings().Limits
	return LimitsInfo{
		Connections: cmp.Or(l.Connections, stack.DefaultMaxConnections), UDPFlows: cmp.Or(l.UDPFlows, stack.DefaultMaxFlows), Buffers: l.Buffers, LogRate: l.LogRate,
	}
}

// PeerInfo is a host inside the stack.
type PeerInfo struct {
	Name      string       `json:"name"`
	Kind      string       `json:"kind"`
	Port      uint16       `json:"port"`
	Addresses []netip.Addr `json:"addresses"`
}

// KnobInfo is a setting on one leg.
type KnobInfo struct {
	Leg     string `json:"leg"`
	Key     string `json:"key"`
	Applied bool   `json:"applied"`
	Text    string `json:"text"` // what was done, or why not
}

// Inspect returns everything that is in force.
func (s *Sandbox) Inspect() Info {
	in := s.info
	for _, r := range s.faults.Rules() {
		in.Faults = append(in.Faults, r.Fault.String())
	}
	in.Policy, in.Knobs, in.Limits = s.policyInWords(), s.knobInfo(), s.limitsInfo()
	in.Stats = s.gateway.Stats()
	if s.outer != nil {
		st := s.outer.Stats()
		in.Outer = &st
	}
	in.InitPID, in.GuestPID = s.inside.Pids()
	if s.lingers() {
		in.GuestPID = 0
	}
	in.Ports = s.published.info()
	in.GuestLeg = s.sockets.info()
	return in
}

// describe fills in what of Info does not change.
func (s *Sandbox) describe(cfg *Config, addrs addressPlan) {
	in := Info{
		Name: cfg.Name, Kind: s.info.Kind, Target: s.info.Target, NetNS: s.info.NetNS,
		Args: append([]string{}, cfg.Args...), Started: time.Now(), PID: os.Getpid(),
		Interface: s.inside.Device().Name(), MTU: s.inside.Device().MTU(),
		Addresses: addrs.guests, Gateways: addrs.gateways,
		Peers: []PeerInfo{}, Resolvers: append([]netip.AddrPort{}, s.resolvers...),
	}
	for i, p := range cfg.Peers {
		in.Peers = append(in.Peers, PeerInfo{Name: p.Name, Kind: p.Kind.String(), Port: p.Port, Addresses: addrs.peers[i]})
	}
	s.info = in
}

// knobInfo is what each leg made of the settings in force.
func (s *Sandbox) knobInfo() []KnobInfo {
	s.force.mu.Lock()
	defer s.force.mu.Unlock()
	all := []KnobInfo{}
	for _, o := range s.force.knobs.Outcomes {
		all = append(all, KnobInfo{Leg: o.Leg.String(), Key: o.Key, Applied: o.Applied, Text: o.Text})
	}
	return all
}

// Stop ends the guest, and with Config.Linger all that it has left: TERM, and
// KILL if that has not ended after grace. Of an attached namespace it ends the
// serving, at once. It returns when Wait has seen the end, or when ctx ends.
func (s *Sandbox) Stop(ctx context.Context, grace time.Duration) error {
	if err := s.end(syscall.SIGTERM); err != nil {
		return nil // it has ended
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	for {
		select {
		case <-s.exited:
			return nil
		case <-timer.C:
			_ = s.end(syscall.SIGKILL) // an error says that it has ended
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
