package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tcpbox/tun"
)

// errNotAvailable is the code by which STATUS says that ADD would fail: version 1.1.0
// of the specification, "Error".
const errNotAvailable uint = 50

// Codes of the plugin's own; the specification leaves those from 100 on to it.
const (
	codeInterface uint = 100 // the container has an interface of that name already
	codeDevice    uint = 101 // no TUN device can be made
	codeNetwork   uint = 102 // addresses or routes cannot be set
	codeStack     uint = 103 // the stack process does not start, or does not answer
	codeUnhealthy uint = 104 // CHECK has found something else than ADD left
	codeExists    uint = 105 // the attachment is there already
)

// wiring is what ADD makes and CHECK looks for.
type wiring struct {
	attachment
	mtu       int
	addresses []netip.Addr
	routes    []*types.Route // in the container
}

// newWiring takes addresses and routes from the answer of IPAM. Every family has a
// route to everywhere if IPAM names no route at all: the device leads to all
// there is.
func newWiring(a attachment, mtu int, r *types100.Result) (*wiring, error) {
	w := &wiring{attachment: a, mtu: mtu, routes: r.Routes}
	for _, ip := range r.IPs {
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return nil, invalid("IPAM has given out the address %q", ip.Address.String())
		}
		w.addresses = append(w.addresses, addr.Unmap())
	}
	if len(w.addresses) == 0 {
		return nil, invalid("IPAM has given out no address")
	}
	if len(w.routes) == 0 {
		for _, a := range w.addresses {
			everywhere := net.IPNet{IP: make(net.IP, a.BitLen()/8), Mask: net.CIDRMask(0, a.BitLen())}
			if !w.routesTo(everywhere) {
				w.routes = append(w.routes, &types.Route{Dst: everywhere})
			}
		}
	}
	return w, nil
}

func (w *wiring) routesTo(dst net.IPNet) bool {
	for _, r := range w.routes {
		if r.Dst.String() == dst.String() {
			return true
		}
	}
	return false
}

func alone(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

func (w *wiring) has6() bool {
	for _, a := range w.addresses {
		if a.Is6() {
			return true
		}
	}
	return false
}

// devices are the two descriptors, which the stack process inherits. Both devices
// are gone when both processes have closed them.
type devices struct{ container, host *os.File }

func (d *devices) close() {
	for _, f := range []*os.File{d.container, d.host} {
		if f != nil {
			f.Close()
		}
	}
}

// make makes both devices in the host's namespace, which is the calling thread's,
// moves the container's, and configures both. A device that was made inside would
// keep the container's namespace alive.
func (w *wiring) make(inside ns.NetNS) (d *devices, err error) {
	d = &devices{}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if d.container, err = openTUN(w.passing()); err != nil {
		return d, err
	}
	if d.host, err = openTUN(w.hostDevice()); err != nil {
		return d, err
	}
	link, err := netlink.LinkByName(w.passing())
	if err == nil {
		err = netlink.LinkSetNsFd(link, int(inside.Fd()))
	}
	if err != nil {
		return d, network("move the interface into the container", err)
	}
	if err := inside.Do(func(ns.NetNS) error { return w.configureInside() }); err != nil {
		return d, err
	}
	return d, w.configureHost()
}

func openTUN(name string) (*os.File, error) {
	fd, _, err := tun.Open(tun.Options{Name: name})
	if err != nil {
		var e *tun.OpenError
		hint := ""
		if errors.As(err, &e) {
			hint = e.Hint()
		}
		return nil, types.NewError(codeDevice, err.Error(), hint)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func network(what string, err error) *types.Error {
	return types.NewError(codeNetwork, what+": "+err.Error(), "")
}

// configureInside runs in the container's namespace.
func (w *wiring) configureInside() error {
	link, err := netlink.LinkByName(w.passing())
	if err == nil {
		err = netlink.LinkSetName(link, w.IfName)
	}
	if errors.Is(err, unix.EEXIST) {
		return exists(w.IfName)
	}
	if err != nil {
		return network("name the container's interface", err)
	}
	if err := quiet(w.IfName, w.has6()); err != nil {
		return err
	}
	if lo, err := netlink.LinkByName("lo"); err == nil {
		_ = netlink.LinkSetUp(lo) // the plugin loopback does as well
	}
	if err := w.up(link); err != nil {
		return err
	}
	for _, a := range w.addresses {
		addr := &netlink.Addr{IPNet: alone(a), Flags: unix.IFA_F_NODAD}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return network(fmt.Sprintf("address %v", a), err)
		}
	}
	for _, r := range w.routes {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: &r.Dst, Scope: netlink.SCOPE_LINK, MTU: r.MTU, AdvMSS: r.AdvMSS, Priority: r.Priority}
		if r.Table != nil {
			route.Table = *r.Table
		}
		if err := netlink.RouteAdd(route); err != nil {
			return network("route "+r.Dst.String(), err)
		}
	}
	return nil
}

func exists(ifname string) error {
	return types.NewError(codeInterface, fmt.Sprintf("the container has an interface %q already", ifname), "")
}

// configureHost gives the host's kernel a way to the container. The device has no
// address, so the source has to be said, or the kernel takes that of any other.
func (w *wiring) configureHost() error {
	name := w.hostDevice()
	link, err := netlink.LinkByName(name)
	if err != nil {
		return network("the host's interface", err)
	}
	if err := quiet(name, w.has6()); err != nil {
		return err
	}
	if err := sysctl("net/ipv4/conf/"+name+"/forwarding", "1"); err != nil {
		return network("forward what comes from the container", err)
	}
	if w.has6() {
		if err := sysctl("net/ipv6/conf/"+name+"/forwarding", "1"); err != nil {
			return network("forward what comes from the container", err)
		}
	}
	if err := w.up(link); err != nil {
		return err
	}
	for _, a := range w.addresses {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: alone(a), Scope: netlink.SCOPE_LINK, Src: hostSource(a)}
		if err := netlink.RouteAdd(route); err != nil {
			return network(fmt.Sprintf("route to the container's %v", a), err)
		}
	}
	return nil
}

func (w *wiring) up(link netlink.Link) error {
	if err := netlink.LinkSetMTU(link, w.mtu); err != nil {
		return network(fmt.Sprintf("mtu %d", w.mtu), err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return network("bring the interface up", err)
	}
	return nil
}

// quiet keeps the kernel from sending anything of its own on a device.
func quiet(name string, six bool) error {
	conf := "net/ipv6/conf/" + name + "/"
	settings := [][2]string{{"accept_ra", "0"}, {"accept_dad", "0"}, {"router_solicitations", "0"}, {"addr_gen_mode", "1"}}
	if six {
		settings = append(settings, [2]string{"disable_ipv6", "0"})
	}
	for _, s := range settings {
		if err := sysctl(conf+s[0], s[1]); err != nil && (six || !errors.Is(err, fs.ErrNotExist)) {
			return network("prepare the interface", err)
		}
	}
	return nil
}

// sysctl writes a parameter of the calling thread's namespace.
func sysctl(path, value string) error {
	return os.WriteFile("/proc/sys/"+path, []byte(value), 0)
}

// hostSource is the address by which the host speaks to containers: the one that it
// would take to the world, or else any that is its own. Nil: it has none.
func hostSource(to netip.Addr) net.IP {
	family, world := netlink.FAMILY_V4, net.IPv4(1, 1, 1, 1) // nothing is sent there
	if to.Is6() {
		family, world = netlink.FAMILY_V6, net.ParseIP("2606:4700::1")
	}
	if routes, err := netlink.RouteGet(world); err == nil {
		for _, r := range routes {
			if r.Src != nil && !r.Src.IsLoopback() {
				return r.Src
			}
		}
	}
	addrs, err := netlink.AddrList(nil, family)
	if err != nil {
		return nil
	}
	for _, a := range addrs {
		if a.IP.IsGlobalUnicast() && !strings.HasPrefix(a.Label, "tbx") && !a.IP.Equal(to.AsSlice()) {
			return a.IP
		}
	}
	return nil
}

// check reports what is not as make has left it. inside is the container's
// namespace.
func (w *wiring) check(inside ns.NetNS) error {
	if err := inside.Do(func(ns.NetNS) error { return w.checkInside() }); err != nil {
		return err
	}
	link, err := netlink.LinkByName(w.hostDevice())
	if err != nil {
		return unhealthy("the host's interface %s: %v", w.hostDevice(), err)
	}
	for _, a := range w.addresses {
		if !hasRoute(link, a.Is6(), alone(a)) {
			return unhealthy("the host has no route to the container's %v", a)
		}
	}
	return nil
}

func (w *wiring) checkInside() error {
	link, err := netlink.LinkByName(w.IfName)
	if err != nil {
		return unhealthy("the container's interface %s: %v", w.IfName, err)
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		return unhealthy("the container's interface %s is down", w.IfName)
	}
	for _, a := range w.addresses {
		if !hasAddress(link, a) {
			return unhealthy("the container's interface has not the address %v any more", a)
		}
	}
	for _, r := range w.routes {
		if !hasRoute(link, r.Dst.IP.To4() == nil, &r.Dst) {
			return unhealthy("the container has no route %s any more", r.Dst.String())
		}
	}
	return nil
}

func hasAddress(link netlink.Link, a netip.Addr) bool {
	addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return false
	}
	for _, has := range addrs {
		if has.IP.Equal(a.AsSlice()) {
			return true
		}
	}
	return false
}

func hasRoute(link netlink.Link, six bool, dst *net.IPNet) bool {
	family := netlink.FAMILY_V4
	if six {
		family = netlink.FAMILY_V6
	}
	filter := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Table: unix.RT_TABLE_UNSPEC}
	routes, err := netlink.RouteListFiltered(family, filter, netlink.RT_FILTER_OIF|netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE)
	return err == nil && len(routes) > 0
}

func unhealthy(format string, args ...any) error {
	return types.NewError(codeUnhealthy, fmt.Sprintf(format, args...), "")
}

// sweepHost removes the host's interface of an attachment whose process is gone, if
// it is there: it cannot be, but that another process holds it.
func sweepHost(a attachment) error {
	link, err := netlink.LinkByName(a.hostDevice())
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return network("remove the host's interface "+a.hostDevice(), err)
	}
	return nil
}
