package tcpbox

import (
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tcpbox/netns"
	"tcpbox/policy"
)

// needsDefault6 reports whether the guest gets a default route for IPv6. When
// the host has none, a guest that has one would try IPv6 first and wait for
// nothing; peers are in the sandbox's own subnet and need no route.
func needsDefault6(cfg *Config) bool {
	if cfg.NoIPv6 {
		return false
	}
	for _, p := range cfg.Publish {
		if p.host().Is6() && !p.host().IsLoopback() {
			return true // who comes is to be answered
		}
	}
	return reaches6(cfg.Policy)
}

// reaches6 reports whether a policy lets the guest come anywhere by IPv6 from this
// host.
func reaches6(p policy.Policy) bool {
	some := p.Net != policy.NetNone
	for _, r := range p.Rules {
		if r.Action() != policy.Allow {
			continue
		}
		// Only an IPv6 address has more than one colon.
		if strings.Count(r.Pattern(), ":") > 1 {
			return true
		}
		some = some || strings.HasPrefix(r.Pattern(), "@") // a group is of both families
	}
	return some && hostHasDefault6()
}

// routeIPv6 gives the guest the default route of IPv6 that it was started without, if
// what is in force now needs it. force.mu is held.
func (s *Sandbox) routeIPv6(p policy.Policy) {
	if !s.force.unrouted.IsValid() || !reaches6(p) {
		return
	}
	if err := netns.AddDefaultRoute(s.inside.NS(), s.info.Interface, s.force.unrouted); err != nil {
		s.diag.Warn("nothing is reached by IPv6: the sandbox was started without a default route of IPv6, and gets none now", "sandbox", s.name, "err", err)
		return
	}
	s.force.unrouted = netip.Addr{}
	s.published.routed.Store(true)
}

// hostHasDefault6 reports whether this process's network namespace has a
// default route for IPv6. If that cannot be found out, it says yes: a wait is
// better than a wrong refusal.
func hostHasDefault6() bool {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return true
	}
	for _, r := range routes {
		if r.Dst == nil || (r.Dst.IP.IsUnspecified() && isZeroMask(r.Dst.Mask)) {
			return r.Type == unix.RTN_UNICAST
		}
	}
	return false
}

func isZeroMask(mask []byte) bool {
	for _, b := range mask {
		if b != 0 {
			return false
		}
	}
	return true
}
