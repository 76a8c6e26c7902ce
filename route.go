package tcpbox

import (
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

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
	some := cfg.Policy.Net != policy.NetNone
	for _, r := range cfg.Policy.Rules {
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
