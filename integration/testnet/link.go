package testnet

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// AddAddr gives a namespace one more address, on its loopback device: Remote
// owns it from then on, whatever its range.
func (ns *Namespace) AddAddr(t testing.TB, addr netip.Addr) {
	t.Helper()
	if err := ns.addAddr("lo", netip.PrefixFrom(addr, addr.BitLen())); err != nil {
		t.Fatalf("testnet: %v", err)
	}
}

// AddRoute sends traffic of the namespace for dst to the gateway via.
func (ns *Namespace) AddRoute(t testing.TB, dst netip.Prefix, via netip.Addr) {
	t.Helper()
	if err := ns.addRoute(dst, via, unix.RTN_UNICAST); err != nil {
		t.Fatalf("testnet: %v", err)
	}
}

// AddBlackhole makes the namespace drop what it would send to dst, and what
// comes from there.
func (ns *Namespace) AddBlackhole(t testing.TB, dst netip.Prefix) {
	t.Helper()
	if err := ns.addRoute(dst, netip.Addr{}, unix.RTN_BLACKHOLE); err != nil {
		t.Fatalf("testnet: %v", err)
	}
}

// DelDefaultRoute takes the default route of a family away.
func (ns *Namespace) DelDefaultRoute(t testing.TB, six bool) {
	t.Helper()
	gw := Remote4
	if six {
		gw = Remote6
	}
	r := route(netip.PrefixFrom(unspecified(gw), 0), gw, unix.RTN_UNICAST)
	if err := ns.nl.RouteDel(r); err != nil {
		t.Fatalf("testnet: %s: delete the default route: %v", ns.name, err)
	}
}

// Devices returns the names of the namespace's network devices.
func (ns *Namespace) Devices() ([]string, error) {
	links, err := ns.nl.LinkList()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return names, nil
}

func (ns *Namespace) linkUp(name string) error {
	l, err := ns.nl.LinkByName(name)
	if err == nil {
		err = ns.nl.LinkSetUp(l)
	}
	if err != nil {
		return fmt.Errorf("%s: bring %s up: %w", ns.name, name, err)
	}
	return nil
}

func (ns *Namespace) addAddr(dev string, p netip.Prefix) error {
	l, err := ns.nl.LinkByName(dev)
	if err == nil {
		err = ns.nl.AddrAdd(l, &netlink.Addr{IPNet: ipNet(p), Flags: unix.IFA_F_NODAD})
	}
	if err == nil {
		err = poll(func() error { return ns.owns(p.Addr()) })
	}
	if err != nil {
		return fmt.Errorf("%s: add %s to %s: %w", ns.name, p, dev, err)
	}
	return nil
}

// owns reports an error unless packets to addr are the namespace's own. The
// kernel adds the route that says so after it has added an IPv6 address.
func (ns *Namespace) owns(addr netip.Addr) error {
	routes, err := ns.nl.RouteGet(addr.AsSlice())
	if err != nil {
		return err
	}
	for _, r := range routes {
		if r.Type == unix.RTN_LOCAL {
			return nil
		}
	}
	return fmt.Errorf("no local route to %v yet", addr)
}

func (ns *Namespace) addNeighbours(dev string, mac net.HardwareAddr, addrs []netip.Addr) error {
	l, err := ns.nl.LinkByName(dev)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		family := unix.AF_INET
		if a.Is6() {
			family = unix.AF_INET6
		}
		err := ns.nl.NeighSet(&netlink.Neigh{
			LinkIndex:    l.Attrs().Index,
			Family:       family,
			State:        unix.NUD_PERMANENT,
			IP:           a.AsSlice(),
			HardwareAddr: mac,
		})
		if err != nil {
			return fmt.Errorf("%s: add neighbour %s: %w", ns.name, a, err)
		}
	}
	return nil
}

// addNeighbourNet makes p a network of neighbours on dev.
func (ns *Namespace) addNeighbourNet(dev string, p netip.Prefix) error {
	l, err := ns.nl.LinkByName(dev)
	if err != nil {
		return err
	}
	r := route(p, netip.Addr{}, unix.RTN_UNICAST)
	r.LinkIndex = l.Attrs().Index
	if err := ns.nl.RouteAdd(r); err != nil {
		return fmt.Errorf("%s: add a route to %s: %w", ns.name, p, err)
	}
	return nil
}

func (ns *Namespace) addRoute(dst netip.Prefix, via netip.Addr, kind int) error {
	if err := ns.nl.RouteAdd(route(dst, via, kind)); err != nil {
		return fmt.Errorf("%s: add a route to %s: %w", ns.name, dst, err)
	}
	return nil
}

func route(dst netip.Prefix, via netip.Addr, kind int) *netlink.Route {
	r := &netlink.Route{Dst: ipNet(dst), Type: kind, Table: unix.RT_TABLE_MAIN}
	if via.IsValid() {
		r.Gw = via.AsSlice()
	}
	return r
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
