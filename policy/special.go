package policy

import (
	"net/netip"
	"slices"
)

// Range is a range of addresses that are not public.
type Range struct {
	Prefix  netip.Prefix
	Name    string
	RFC     string // where it is set aside
	Private bool   // it belongs to @private
}

// specialRanges are the IANA IPv4 and IPv6 Special-Purpose Address Registries
// as of 9 October 2025 (RFC 6890, RFC 8190), all of them whether or not IANA
// calls them globally reachable, and behind each registry what else is not
// global unicast.
var specialRanges = []Range{
	// IPv4.
	{pfx("0.0.0.0/8"), "this network", "RFC 791, section 3.2", false},
	{pfx("0.0.0.0/32"), "this host on this network", "RFC 1122, section 3.2.1.3", false},
	{pfx("10.0.0.0/8"), "private use", "RFC 1918", true},
	{pfx("100.64.0.0/10"), "shared address space", "RFC 6598", true},
	{pfx("127.0.0.0/8"), "loopback", "RFC 1122, section 3.2.1.3", false},
	{pfx("169.254.0.0/16"), "link-local", "RFC 3927", true},
	{pfx("172.16.0.0/12"), "private use", "RFC 1918", true},
	{pfx("192.0.0.0/24"), "IETF protocol assignments", "RFC 6890, section 2.1", false},
	{pfx("192.0.0.0/29"), "IPv4 service continuity prefix", "RFC 7335", false},
	{pfx("192.0.0.8/32"), "IPv4 dummy address", "RFC 7600", false},
	{pfx("192.0.0.9/32"), "Port Control Protocol anycast", "RFC 7723", false},
	{pfx("192.0.0.10/32"), "TURN anycast", "RFC 8155", false},
	{pfx("192.0.0.170/32"), "NAT64/DNS64 discovery", "RFC 8880; RFC 7050, section 2.2", false},
	{pfx("192.0.0.171/32"), "NAT64/DNS64 discovery", "RFC 8880; RFC 7050, section 2.2", false},
	{pfx("192.0.2.0/24"), "documentation (TEST-NET-1)", "RFC 5737", false},
	{pfx("192.31.196.0/24"), "AS112-v4", "RFC 7535", false},
	{pfx("192.52.193.0/24"), "AMT", "RFC 7450", false},
	{pfx("192.88.99.0/24"), "6to4 relay anycast, deprecated", "RFC 7526", false},
	{pfx("192.88.99.2/32"), "6a44 relay anycast", "RFC 6751", false},
	{pfx("192.168.0.0/16"), "private use", "RFC 1918", true},
	{pfx("192.175.48.0/24"), "direct delegation AS112 service", "RFC 7534", false},
	{pfx("198.18.0.0/15"), "benchmarking", "RFC 2544", false},
	{pfx("198.51.100.0/24"), "documentation (TEST-NET-2)", "RFC 5737", false},
	{pfx("203.0.113.0/24"), "documentation (TEST-NET-3)", "RFC 5737", false},
	{pfx("240.0.0.0/4"), "reserved", "RFC 1112, section 4", false},
	{pfx("255.255.255.255/32"), "limited broadcast", "RFC 8190; RFC 919, section 7", false},
	// Not in the registry.
	{pfx("224.0.0.0/4"), "multicast", "RFC 5771", false},

	// IPv6.
	{pfx("::1/128"), "loopback", "RFC 4291, section 2.5.3", false},
	{pfx("::/128"), "unspecified", "RFC 4291, section 2.5.2", false},
	{pfx("::ffff:0:0/96"), "IPv4-mapped", "RFC 4291, section 2.5.5.2", false},
	{pfx("64:ff9b::/96"), "IPv4-IPv6 translation", "RFC 6052", false},
	{pfx("64:ff9b:1::/48"), "IPv4-IPv6 translation, local use", "RFC 8215", false},
	{pfx("100::/64"), "discard-only", "RFC 6666", false},
	{pfx("100:0:0:1::/64"), "dummy IPv6 prefix", "RFC 9780", false},
	{pfx("2001::/23"), "IETF protocol assignments", "RFC 2928", false},
	{pfx("2001::/32"), "Teredo", "RFC 4380; RFC 8190", false},
	{pfx("2001:1::1/128"), "Port Control Protocol anycast", "RFC 7723", false},
	{pfx("2001:1::2/128"), "TURN anycast", "RFC 8155", false},
	{pfx("2001:1::3/128"), "DNS-SD service registration anycast", "RFC 9665", false},
	{pfx("2001:2::/48"), "benchmarking", "RFC 5180, erratum 1752", false},
	{pfx("2001:3::/32"), "AMT", "RFC 7450", false},
	{pfx("2001:4:112::/48"), "AS112-v6", "RFC 7535", false},
	{pfx("2001:10::/28"), "ORCHID, deprecated", "RFC 4843", false},
	{pfx("2001:20::/28"), "ORCHIDv2", "RFC 7343", false},
	{pfx("2001:30::/28"), "drone remote ID", "RFC 9374", false},
	{pfx("2001:db8::/32"), "documentation", "RFC 3849", false},
	{pfx("2002::/16"), "6to4", "RFC 3056", false},
	{pfx("2620:4f:8000::/48"), "direct delegation AS112 service", "RFC 7534", false},
	{pfx("3fff::/20"), "documentation", "RFC 9637", false},
	{pfx("5f00::/16"), "segment routing (SRv6) SIDs", "RFC 9602", false},
	{pfx("fc00::/7"), "unique local", "RFC 4193; RFC 8190", true},
	{pfx("fe80::/10"), "link-local", "RFC 4291, section 2.5.6", true},
	// Not in the registry.
	{pfx("::/96"), "IPv4-compatible, deprecated", "RFC 4291, section 2.5.5.1", false},
	{pfx("::ffff:0:0:0/96"), "IPv4-translated, obsolete", "RFC 2765, section 2.1", false},
	{pfx("fec0::/10"), "site-local, deprecated", "RFC 3879", true},
	{pfx("ff00::/8"), "multicast", "RFC 4291, section 2.7", false},
	// Global unicast is allocated from 2000::/3 alone; this is the rest.
	{pfx("::/3"), "not global unicast", "RFC 4291, section 2.4; RFC 3513, section 4", false},
	{pfx("4000::/2"), "not global unicast", "RFC 4291, section 2.4; RFC 3513, section 4", false},
	{pfx("8000::/1"), "not global unicast", "RFC 4291, section 2.4; RFC 3513, section 4", false},
}

// special4 and special6 are specialRanges by family, the longest prefix first,
// so that the first that contains an address is the one that describes it.
var special4, special6 = splitRanges(specialRanges)

// pfx is for the tables of this package, whose prefixes are constant.
func pfx(text string) netip.Prefix { return netip.MustParsePrefix(text) }

func splitRanges(ranges []Range) (v4, v6 []Range) {
	for _, r := range ranges {
		if r.Prefix.Addr().Is4() {
			v4 = append(v4, r)
		} else {
			v6 = append(v6, r)
		}
	}
	byLength := func(a, b Range) int { return b.Prefix.Bits() - a.Prefix.Bits() }
	slices.SortStableFunc(v4, byLength)
	slices.SortStableFunc(v6, byLength)
	return v4, v6
}

// SpecialRanges returns the ranges that are not public, IPv4 first, in the
// order of the IANA registries. They overlap; the longest prefix that contains
// an address describes it. The slice is the caller's.
func SpecialRanges() []Range { return slices.Clone(specialRanges) }

// special returns the range that a is in, or nil if a is global unicast. The
// address has no zone and is not IPv4-mapped.
func special(a netip.Addr) *Range {
	ranges := special6
	if a.Is4() {
		ranges = special4
	}
	for i := range ranges {
		if ranges[i].Prefix.Contains(a) {
			return &ranges[i]
		}
	}
	return nil
}
