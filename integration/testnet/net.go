// Package testnet builds, for one test, a small internet out of two network
// namespaces, so that a sandbox with real egress can be tested without a packet
// reaching any network of the machine:
//
//	sandbox ── tcpbox ── Uplink ── uplink0 ═══ veth ═══ remote0 ── Remote
//	                     10.77.0.2, fd00:77::2      10.77.0.1, fd00:77::1
//	                                                Public4, Public6, … on lo
//
// Uplink is where tcpbox runs: it takes the place of the host. Remote is the
// world: it owns the addresses that a test gives it, and answers for the rest
// as a router would, by silence or by ICMP errors. Neither namespace has a
// name or a bind mount; both end with the last descriptor and process in them.
//
// A program that uses it calls Init first in TestMain.
package testnet

import (
	"crypto/rand"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The addresses of the two ends of the veth. Remote's are the default gateways
// of Uplink, and where its resolv.conf points.
var (
	Uplink4 = netip.MustParseAddr("10.77.0.2")
	Uplink6 = netip.MustParseAddr("fd00:77::2")
	Remote4 = netip.MustParseAddr("10.77.0.1")
	Remote6 = netip.MustParseAddr("fd00:77::1")
)

// Addresses that Remote owns from the start. They are ordinary public ones, so
// that a default policy lets them through.
var (
	Public4 = netip.MustParseAddr("8.8.4.4")
	Public6 = netip.MustParseAddr("2001:4860:4860::8844")
)

// Public addresses that nobody owns. What Remote makes of a packet to one is
// below. The kernel answers within the sender's own connect call; over IPv6
// connect heeds such an answer only when it repeats the SYN, after a second.
var (
	Silent4      = netip.MustParseAddr("8.8.5.1") // drops it
	Silent6      = netip.MustParseAddr("2001:4860:5::1")
	Unreachable4 = netip.MustParseAddr("8.8.6.1")        // ICMP host unreachable
	Unreachable6 = netip.MustParseAddr("2001:4860:6::1") // ICMP address unreachable
	Prohibited4  = netip.MustParseAddr("8.8.7.1")        // ICMP administratively prohibited
	Prohibited6  = netip.MustParseAddr("2001:4860:7::1")
	NoRoute4     = netip.MustParseAddr("8.8.8.1") // ICMP network unreachable
	NoRoute6     = netip.MustParseAddr("2001:4860:8::1")
)

// Silent returns the n'th of 200 silent addresses of the family of Silent4 or,
// with six, of Silent6.
func Silent(six bool, n int) netip.Addr {
	if six {
		a := Silent6.As16()
		a[15] = byte(n + 1)
		return netip.AddrFrom16(a)
	}
	a := Silent4.As4()
	a[3] = byte(n + 1)
	return netip.AddrFrom4(a)
}

// Net is the pair of namespaces of one test.
type Net struct {
	Uplink *Namespace
	Remote *Namespace

	id  string // in the environment of every process started in it
	dir string
}

// New builds a Net that lives until t ends. When t ends it also checks that
// the test has left no process, device, descriptor or goroutine behind; for
// that reason a test that calls New must not be parallel.
func New(t testing.TB) *Net {
	t.Helper()
	Require(t)
	n := &Net{id: rand.Text()}
	n.checkLeaks(t)
	n.dir = Dir(t)
	n.Uplink = n.newNamespace(t, "uplink")
	n.Remote = n.newNamespace(t, "remote")
	if err := n.connect(); err != nil {
		t.Fatalf("testnet: %v", err)
	}
	t.Cleanup(func() { n.checkDevices(t) })
	n.SetResolvers(t, Remote4)
	return n
}

// SetResolvers rewrites the resolv.conf that processes started in Uplink from
// now on see. Without an address the file is empty.
func (n *Net) SetResolvers(t testing.TB, resolvers ...netip.Addr) {
	t.Helper()
	var text []byte
	for _, r := range resolvers {
		text = fmt.Appendf(text, "nameserver %s\n", r)
	}
	if err := os.WriteFile(n.resolvConf(), text, 0o644); err != nil {
		t.Fatalf("testnet: %v", err)
	}
}

func (n *Net) resolvConf() string { return filepath.Join(n.dir, "resolv.conf") }

// quiet holds the sysctls that keep a namespace from sending anything by
// itself, and Remote from limiting its ICMP errors.
var quiet = []struct{ name, value string }{
	{"net/ipv6/conf/default/addr_gen_mode", "1"}, // no link-local address
	{"net/ipv6/conf/default/accept_dad", "0"},
	{"net/ipv6/conf/default/accept_ra", "0"},
	{"net/ipv6/conf/default/router_solicitations", "0"},
	{"net/ipv4/conf/all/rp_filter", "0"},
	{"net/ipv4/conf/default/rp_filter", "0"},
	{"net/ipv4/icmp_ratelimit", "0"},
	{"net/ipv6/icmp/ratelimit", "0"},
}

// connect joins the two namespaces by a veth and gives them their addresses
// and routes. Neighbours are permanent: no ARP and no neighbour solicitation
// for the gateway is ever on the link.
func (n *Net) connect() error {
	for _, ns := range []*Namespace{n.Uplink, n.Remote} {
		for _, s := range quiet {
			if err := ns.SetSysctl(s.name, s.value); err != nil {
				return err
			}
		}
		if err := ns.linkUp("lo"); err != nil {
			return err
		}
	}
	for _, name := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		if err := n.Remote.SetSysctl(name, "1"); err != nil {
			return err
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "uplink0"
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "remote0", PeerNamespace: netlink.NsFd(n.Remote.fd())}
	if err := n.Uplink.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("add the veth: %w", err)
	}
	ends := []struct {
		ns, peer *Namespace
		dev, dst string
		addrs    []netip.Addr
		peers    []netip.Addr
	}{
		{n.Uplink, n.Remote, "uplink0", "remote0", []netip.Addr{Uplink4, Uplink6}, []netip.Addr{Remote4, Remote6}},
		{n.Remote, n.Uplink, "remote0", "uplink0", []netip.Addr{Remote4, Remote6}, []netip.Addr{Uplink4, Uplink6}},
	}
	for _, e := range ends {
		if err := e.ns.linkUp(e.dev); err != nil {
			return err
		}
		for _, a := range e.addrs {
			bits := 24
			if a.Is6() {
				bits = 64
			}
			if err := e.ns.addAddr(e.dev, netip.PrefixFrom(a, bits)); err != nil {
				return err
			}
		}
	}
	for _, e := range ends {
		peer, err := e.peer.nl.LinkByName(e.dst)
		if err != nil {
			return err
		}
		if err := e.ns.addNeighbours(e.dev, peer.Attrs().HardwareAddr, e.peers); err != nil {
			return err
		}
	}
	for _, gw := range []netip.Addr{Remote4, Remote6} {
		if err := n.Uplink.addRoute(netip.PrefixFrom(unspecified(gw), 0), gw, unix.RTN_UNICAST); err != nil {
			return err
		}
	}
	for _, a := range []netip.Addr{Public4, Public6} {
		if err := n.Remote.addAddr("lo", netip.PrefixFrom(a, a.BitLen())); err != nil {
			return err
		}
	}
	for _, r := range []struct {
		v4, v6 netip.Addr
		kind   int
	}{
		{Silent4, Silent6, unix.RTN_BLACKHOLE},
		{Unreachable4, Unreachable6, unix.RTN_UNREACHABLE},
		{Prohibited4, Prohibited6, unix.RTN_PROHIBIT},
	} {
		for _, p := range []netip.Prefix{netip.PrefixFrom(r.v4, 24), netip.PrefixFrom(r.v6, 64)} {
			if p.Addr() == Unreachable6 {
				continue
			}
			if err := n.Remote.addRoute(p.Masked(), netip.Addr{}, r.kind); err != nil {
				return err
			}
		}
	}
	// Over IPv6 an unreachable route answers "no route to destination". What
	// says "address unreachable" is a neighbour that does not answer.
	for _, s := range []struct{ name, value string }{{"mcast_solicit", "1"}, {"retrans_time_ms", "10"}} {
		if err := n.Remote.SetSysctl("net/ipv6/neigh/remote0/"+s.name, s.value); err != nil {
			return err
		}
	}
	return n.Remote.addNeighbourNet("remote0", netip.PrefixFrom(Unreachable6, 64).Masked())
}

func unspecified(a netip.Addr) netip.Addr {
	if a.Is6() {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}
