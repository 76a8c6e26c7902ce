package tcpbox

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"tcpbox/netns"
	"tcpbox/stack/dns"
	"tcpbox/stack/peer"
)

// The places in the subnet of the address that stands for the host's loopback,
// and of the first peer's.
const (
	hostPlace = 3
	firstPeer = 16
)

// HostName is the name, inside every sandbox, of the host's loopback. A
// connection to it goes on to the same port of 127.0.0.1 or ::1, but only where
// a rule allows @host: no Net does.
const HostName = "host.tcpbox.internal"

// An addressPlan says who has which address in the sandbox.
//
//	.1   gateway: the resolver; the guest's default route
//	.2   guest
//	.3   the host's loopback, as HostName
//	.16… peers, in their order
type addressPlan struct {
	gateways []netip.Addr
	guests   []netip.Prefix // the guest's addresses with the subnet's length
	subnets  []netip.Prefix
	loopback []netip.Addr   // what stands for the host's
	peers    [][]netip.Addr // by peer, then by family
}

func checkSubnet(p netip.Prefix, want4 bool) error {
	family, most := "6", 120
	if want4 {
		family, most = "4", 27
	}
	switch {
	case p.Addr().Is4() != want4:
		return fmt.Errorf("--subnet%s %v: not an IPv%s prefix", family, p, family)
	case p.Bits() > most:
		return fmt.Errorf("--subnet%s %v: too small; it needs a prefix of at most /%d", family, p, most)
	case p.Masked() != p:
		return fmt.Errorf("--subnet%s %v: it has host bits set; did you mean %v?", family, p, p.Masked())
	case p.Addr().IsLoopback() || p.Addr().IsMulticast() || p.Addr().IsUnspecified():
		return fmt.Errorf("--subnet%s %v: it cannot be used for hosts", family, p)
	}
	return nil
}

// nth returns the n-th address of a subnet.
func nth(p netip.Prefix, n int) netip.Addr {
	a := p.Addr()
	for range n {
		a = a.Next()
	}
	return a
}

// plan gives out the addresses. Peers with the same name share theirs.
func (c *Config) plan() (addressPlan, error) {
	var a addressPlan
	a.subnets = []netip.Prefix{c.Subnet4}
	if !c.NoIPv6 {
		a.subnets = append(a.subnets, c.Subnet6)
	}
	for _, s := range a.subnets {
		a.gateways = append(a.gateways, nth(s, 1))
		a.guests = append(a.guests, netip.PrefixFrom(nth(s, 2), s.Bits()))
		a.loopback = append(a.loopback, nth(s, hostPlace))
	}
	byName := map[string]int{}
	for _, p := range c.Peers {
		i, ok := byName[p.Name]
		if !ok {
			i = len(byName)
			byName[p.Name] = i
		}
		var addrs []netip.Addr
		for _, s := range a.subnets {
			at := nth(s, firstPeer+i)
			if !s.Contains(at.Next()) {
				return a, fmt.Errorf("subnet %v has no room for %d peers", s, len(c.Peers))
			}
			addrs = append(addrs, at)
		}
		a.peers = append(a.peers, addrs)
	}
	return a, nil
}

// link is the interface of the guest.
func (a addressPlan) link(c *Config, default6 bool) netns.Link {
	l := netns.Link{MTU: c.MTU, Addresses: a.guests, NoIPv6: c.NoIPv6}
	for _, g := range a.gateways {
		if g.Is4() || default6 {
			l.Gateways = append(l.Gateways, g)
		}
	}
	return l
}

// sources are the addresses that packets of the guest may come from.
func (a addressPlan) sources() []netip.Prefix {
	var s []netip.Prefix
	for _, g := range a.guests {
		s = append(s, netip.PrefixFrom(g.Addr(), g.Addr().BitLen()))
	}
	return s
}

// names are the host's name and the peers', with their addresses.
func (a addressPlan) names(peers []peer.Spec) []dns.Host {
	var hosts []dns.Host
	for _, addr := range a.loopback {
		hosts = append(hosts, dns.Host{Name: HostName, Addr: addr})
	}
	seen := map[string]bool{}
	for i, p := range peers {
		if seen[p.Name] {
			continue
		}
		seen[p.Name] = true
		for _, addr := range a.peers[i] {
			hosts = append(hosts, dns.Host{Name: p.Name, Addr: addr})
		}
	}
	return hosts
}

// NameFor returns the name that a sandbox gets when Config.Name is empty: that
// of its program and of this process.
func NameFor(args []string) string {
	if len(args) == 0 {
		return ""
	}
	base := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_', r == '.':
			return r
		}
		return '-'
	}, filepath.Base(args[0]))
	base = strings.TrimLeft(base, "-_.")
	if len(base) > 40 {
		base = base[:40]
	}
	if base == "" {
		base = "box"
	}
	return fmt.Sprintf("%s-%d", base, os.Getpid())
}
