package netns

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Link says what the interface of a namespace looks like once it is up. The
// zero value of a field leaves out what it would have set.
type Link struct {
	// Name is the interface's name; it exists already.
	Name string

	// MTU is in bytes. Zero keeps what the driver chose.
	MTU int

	// Addresses are the guest's own, each with the length of the prefix that
	// is reached through the interface. IPv6 addresses are usable at once:
	// nobody else can have them, so they are not probed for duplicates.
	Addresses []netip.Prefix

	// Gateways are where a default route leads to, at most one of each
	// family. Without a gateway of a family it has no default route.
	Gateways []netip.Addr

	// NoIPv6 disables IPv6 in the namespace, on lo as well.
	NoIPv6 bool
}

// Check reports everything that is wrong with l.
func (l Link) Check() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("netns: link: "+format, args...))
	}
	// RFC 8200, section 5: IPv6 needs 1280 bytes; RFC 791 needs 68 for IPv4.
	least := 68
	for _, a := range l.Addresses {
		switch {
		case !a.IsValid() || a.Addr().Zone() != "" || a.Addr().Is4In6():
			bad("address %q is not usable", a)
		case a.Addr().Is6() && l.NoIPv6:
			bad("address %s is IPv6, which is disabled", a)
		case a.Addr().Is6():
			least = 1280
		}
	}
	if l.MTU != 0 && (l.MTU < least || l.MTU > 65535) {
		bad("mtu %d is not between %d and 65535", l.MTU, least)
	}
	seen := map[bool]bool{}
	for _, g := range l.Gateways {
		switch {
		case !g.IsValid() || g.Zone() != "" || g.Is4In6():
			bad("gateway %q is not usable", g)
			continue
		case g.Is6() && l.NoIPv6:
			bad("gateway %s is IPv6, which is disabled", g)
		}
		if seen[g.Is6()] {
			bad("gateway %s is the second of its family", g)
		}
		seen[g.Is6()] = true
	}
	return errors.Join(errs...)
}

// Before returns the sysctls that must be written before the interface is
// made, so that it begins the way it shall be: it does not forward, listens to
// no router, asks for none, and makes no address of its own.
func (l Link) Before() []Sysctl {
	s := []Sysctl{{"net.ipv4.ip_forward", "0"}}
	if l.NoIPv6 {
		return append(s,
			Sysctl{"net.ipv6.conf.all.disable_ipv6", "1"},
			Sysctl{"net.ipv6.conf.default.disable_ipv6", "1"})
	}
	return append(s,
		Sysctl{"net.ipv6.conf.all.forwarding", "0"},
		Sysctl{"net.ipv6.conf.default.disable_ipv6", "0"},
		Sysctl{"net.ipv6.conf.default.accept_ra", "0"},
		Sysctl{"net.ipv6.conf.default.accept_dad", "0"},
		Sysctl{"net.ipv6.conf.default.router_solicitations", "0"},
		Sysctl{"net.ipv6.conf.default.addr_gen_mode", "1"}) // IN6_ADDR_GEN_MODE_NONE
}

// Up brings up lo and the interface in the network namespace of the calling
// thread, and gives the interface its addresses and routes. It is one message
// to the kernel with many requests in it, which are carried out in order.
func (l Link) Up() error {
	if err := l.Check(); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netns: link %s: netlink: %w", l.Name, err)
	}
	defer unix.Close(fd)
	return l.upThrough(fd)
}

// upThrough is Up in the namespace of a netlink socket, which blocks and has no
// request in flight.
func (l Link) upThrough(fd int) error {
	index, err := linkIndex(fd, l.Name)
	if err != nil {
		return fmt.Errorf("netns: link %s: %w", l.Name, err)
	}
	var b batch
	b.linkUp("lo", 1, 0)
	b.linkUp(l.Name, index, l.MTU)
	for _, a := range l.Addresses {
		b.address(index, a)
	}
	for _, g := range l.Gateways {
		b.defaultRoute(index, g)
	}
	if err := b.send(fd); err != nil {
		return err
	}
	for _, a := range l.Addresses {
		if err := awaitLocal(fd, a.Addr()); err != nil {
			return err
		}
	}
	return nil
}

// AddDefaultRoute gives a namespace a default route through an interface of it. There
// must not be one of the gateway's family.
func AddDefaultRoute(ns NS, link string, gateway netip.Addr) error {
	socket, err := ns.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer socket.Close()
	fd := int(socket.Fd()) // which makes it block, as send wants it
	index, err := linkIndex(fd, link)
	if err != nil {
		return fmt.Errorf("netns: link %s: %w", link, err)
	}
	var b batch
	b.defaultRoute(index, gateway)
	return b.send(fd)
}

// linkIndex asks through fd, for SIOCGIFINDEX works on every kind of socket.
func linkIndex(fd int, name string) (int32, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, fmt.Errorf("name %q: %w", name, err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return 0, err
	}
	return int32(ifr.Uint32()), nil
}
