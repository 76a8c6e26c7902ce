package policy

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// hostOwns is a host with a fixed set of addresses.
type hostOwns []netip.Addr

func (h hostOwns) Owns(addr netip.Addr) bool { return slices.Contains(h, addr) }

// hostOf makes a host of addresses.
func hostOf(texts ...string) hostOwns {
	var h hostOwns
	for _, text := range texts {
		h = append(h, netip.MustParseAddr(text))
	}
	return h
}

// rules makes rules of lines like those of Policy.String.
func rules(t testing.TB, lines ...string) []Rule {
	t.Helper()
	var rules []Rule
	for _, line := range lines {
		action := Deny
		word, pattern, _ := strings.Cut(line, " ")
		if word == "allow" {
			action = Allow
		}
		r, err := ParseRule(action, pattern)
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, r)
	}
	return rules
}

func request(proto Proto, dst string) Request {
	if proto == ICMP {
		return Request{Proto: proto, Dst: netip.AddrPortFrom(netip.MustParseAddr(dst), 0)}
	}
	return Request{Proto: proto, Dst: netip.MustParseAddrPort(dst)}
}

// What each Net says of each kind of address, IPv4 and IPv6 alike.
func TestNet(t *testing.T) {
	const (
		public = iota // allowed under public and all
		closed        // allowed under all alone
		never         // refused always
		noTCP         // refused always for TCP, otherwise closed
	)
	h := hostOf("198.41.0.4", "10.0.0.7", "2001:503:ba3e::2:30", "fd00::7")
	tests := []struct {
		kind   string
		v4, v6 string // empty: the family has none
		want   int
	}{
		{"global unicast", "1.1.1.1", "2606:4700:4700::1111", public},
		{"global unicast, first and last of the space", "1.0.0.0", "2000::", public},
		{"global unicast, last of the space", "223.255.255.255", "3fff:ffff::1", public},
		{"the host's own global address", "198.41.0.4", "2001:503:ba3e::2:30", closed},
		{"the host's own private address", "10.0.0.7", "fd00::7", closed},
		{"metadata", "169.254.169.254", "fd00:ec2::254", closed},
		{"metadata for containers", "169.254.170.2", "fd00:ec2::23", closed},
		{"metadata in a public range", "168.63.129.16", "", closed},
		{"metadata in shared address space", "100.100.100.200", "fd00:100::100:200", closed},
		{"private use", "10.1.2.3", "fc00::1", closed},
		{"private use", "172.31.255.255", "fdff::1", closed},
		{"private use; site-local", "192.168.1.1", "fec0::1", closed},
		{"shared address space", "100.64.0.1", "", closed},
		{"link-local", "169.254.1.1", "fe80::1", closed},
		{"loopback", "127.0.0.1", "::1", never},
		{"loopback, last", "127.255.255.255", "", never},
		{"unspecified", "0.0.0.0", "::", never},
		{"this network", "0.0.0.1", "", closed},
		{"multicast", "224.0.0.1", "ff02::1", noTCP},
		{"multicast, last", "239.255.255.255", "ffff::1", noTCP},
		{"limited broadcast", "255.255.255.255", "", noTCP},
		{"reserved", "240.0.0.1", "4000::1", closed},
		{"reserved", "255.255.255.254", "e000::1", closed},
		{"protocol assignments", "192.0.0.1", "2001:1::4", closed},
		{"service continuity; mapping", "192.0.0.2", "", closed},
		{"dummy address", "192.0.0.8", "100:0:0:1::1", closed},
		{"PCP anycast", "192.0.0.9", "2001:1::1", closed},
		{"TURN anycast", "192.0.0.10", "2001:1::2", closed},
		{"NAT64 discovery; NAT64", "192.0.0.170", "64:ff9b::", closed},
		{"NAT64 discovery; local NAT64", "192.0.0.171", "64:ff9b:1::", closed},
		{"documentation", "192.0.2.1", "2001:db8::1", closed},
		{"documentation", "198.51.100.1", "3fff::1", closed},
		{"documentation", "203.0.113.1", "3fff:fff::1", closed},
		{"AS112", "192.31.196.1", "2001:4:112::1", closed},
		{"AMT", "192.52.193.1", "2001:3::1", closed},
		{"6to4 relay; 6to4", "192.88.99.1", "2002:101:101::1", closed},
		{"6a44 relay; Teredo", "192.88.99.2", "2001:0:101:101::1", closed},
		{"direct delegation AS112", "192.175.48.1", "2620:4f:8000::1", closed},
		{"benchmarking", "198.18.0.1", "2001:2::1", closed},
		{"benchmarking, last", "198.19.255.255", "2001:2:0:ffff::1", closed},
		{"discard-only", "", "100::1", closed},
		{"DNS-SD registration", "", "2001:1::3", closed},
		{"ORCHID", "", "2001:10::1", closed},
		{"ORCHIDv2", "", "2001:20::1", closed},
		{"drone remote ID", "", "2001:30::1", closed},
		{"SRv6", "", "5f00::1", closed},
		{"IPv4-compatible", "", "::1.1.1.1", closed},
		{"IPv4-translated", "", "::ffff:0:1.1.1.1", closed},
	}
	for _, tt := range tests {
		for _, text := range []string{tt.v4, tt.v6} {
			if text == "" {
				continue
			}
			addr := netip.MustParseAddr(text)
			for _, proto := range []Proto{TCP, UDP, ICMP} {
				for _, net := range []Net{NetNone, NetPublic, NetAll} {
					req := Request{Proto: proto, Dst: netip.AddrPortFrom(addr, 443)}
					refusedAlways := tt.want == never || tt.want == noTCP && proto == TCP
					want := !refusedAlways && (net == NetAll || net == NetPublic && tt.want == public)
					v := Policy{Net: net}.Decide(req, h)
					if v.Allow != want {
						t.Errorf("%s: net %v, %v to %v: %+v, want allow %v", tt.kind, net, proto, addr, v, want)
					}
					if isNever := strings.HasPrefix(v.Rule, "never "); isNever != refusedAlways {
						t.Errorf("%s: net %v, %v to %v: rule %q, want one that no flag changes: %v", tt.kind, net, proto, addr, v.Rule, refusedAlways)
					}
					if !refusedAlways && v.Rule != "net "+net.String() {
						t.Errorf("%s: net %v, %v to %v: rule %q", tt.kind, net, proto, addr, v.Rule)
					}
				}
			}
		}
	}
}

// The first rule that matches decides, and Net when none does.
func TestRuleOrder(t *testing.T) {
	h := hostOf("198.41.0.4")
	tests := []struct {
		why   string
		rules []string
		net   Net
		proto Proto
		dst   string
		rule  string // the one that decides, "" for the Net
		allow bool
	}{
		{"the first match wins", []string{"allow 10.0.0.5", "deny 10.0.0.0/8"}, NetAll, TCP, "10.0.0.5:80", "allow 10.0.0.5", true},
		{"the first match wins", []string{"deny 10.0.0.0/8", "allow 10.0.0.5"}, NetAll, TCP, "10.0.0.5:80", "deny 10.0.0.0/8", false},
		{"the first match wins", []string{"allow [fd00::5]:80", "deny fd00::/8"}, NetAll, TCP, "[fd00::5]:80", "allow [fd00::5]:80", true},
		{"the first match wins", []string{"deny fd00::/8", "allow fd00::5"}, NetAll, TCP, "[fd00::5]:80", "deny fd00::/8", false},
		{"no rule matches", []string{"deny 10.0.0.0/8", "deny fd00::/8"}, NetPublic, TCP, "1.1.1.1:80", "", true},
		{"no rule matches", []string{"deny 10.0.0.0/8", "deny fd00::/8"}, NetNone, TCP, "1.1.1.1:80", "", false},
		{"a rule opens what Net closes", []string{"allow 10.0.0.5:80"}, NetNone, TCP, "10.0.0.5:80", "allow 10.0.0.5:80", true},
		{"a rule closes what Net opens", []string{"deny 1.1.1.1"}, NetAll, TCP, "1.1.1.1:80", "deny 1.1.1.1", false},

		{"an IPv4 rule is not about IPv6", []string{"deny 0.0.0.0/0"}, NetAll, TCP, "[2606:4700::1]:80", "", true},
		{"an IPv6 rule is not about IPv4", []string{"deny ::/0"}, NetAll, TCP, "1.1.1.1:80", "", true},
		{"a mapped address is IPv4", []string{"deny ::/0"}, NetAll, TCP, "[::ffff:1.1.1.1]:80", "", true},
		{"a mapped address is IPv4", []string{"allow 1.1.1.1"}, NetNone, TCP, "[::ffff:1.1.1.1]:80", "allow 1.1.1.1", true},
		{"a mapped rule is IPv4", []string{"deny ::ffff:1.1.1.1"}, NetAll, TCP, "1.1.1.1:80", "deny 1.1.1.1", false},
		{"a zone does not count", []string{"allow fe80::1"}, NetNone, TCP, "[fe80::1%eth0]:80", "allow fe80::1", true},

		{"the port", []string{"allow 10.0.0.5:80"}, NetNone, TCP, "10.0.0.5:81", "", false},
		{"the ends of a range belong to it", []string{"allow 10.0.0.5:80-90"}, NetNone, TCP, "10.0.0.5:80", "allow 10.0.0.5:80-90", true},
		{"the ends of a range belong to it", []string{"allow 10.0.0.5:80-90"}, NetNone, TCP, "10.0.0.5:90", "allow 10.0.0.5:80-90", true},
		{"beyond the range", []string{"allow 10.0.0.5:80-90"}, NetNone, TCP, "10.0.0.5:91", "", false},
		{"a port is of TCP and UDP", []string{"allow 10.0.0.5:53"}, NetNone, UDP, "10.0.0.5:53", "allow 10.0.0.5:53", true},
		{"a rule with a port is not about ICMP", []string{"deny 1.1.1.1:1-65535"}, NetAll, ICMP, "1.1.1.1", "", true},
		{"a rule without a port is about ICMP", []string{"deny 1.1.1.1"}, NetAll, ICMP, "1.1.1.1", "deny 1.1.1.1", false},

		{"the protocol", []string{"allow 10.0.0.5/udp"}, NetNone, TCP, "10.0.0.5:53", "", false},
		{"the protocol", []string{"allow 10.0.0.5/udp"}, NetNone, UDP, "10.0.0.5:53", "allow 10.0.0.5/udp", true},
		{"the protocol", []string{"deny fd00::5/icmp"}, NetAll, ICMP, "fd00::5", "deny fd00::5/icmp", false},

		{"no rule opens loopback", []string{"allow 0.0.0.0/0", "allow ::/0", "allow @host"}, NetAll, TCP, "127.0.0.1:80", "never loopback", false},
		{"no rule opens loopback", []string{"allow ::/127"}, NetAll, TCP, "[::1]:80", "never loopback", false},
		{"no rule opens loopback", []string{"allow 126.0.0.0/7"}, NetAll, TCP, "[::ffff:127.0.0.1]:80", "never loopback", false},
		{"no rule opens the unspecified address", []string{"allow 0.0.0.0"}, NetAll, TCP, "0.0.0.0:80", "never unspecified", false},
		{"no rule opens the unspecified address", []string{"allow ::"}, NetAll, UDP, "[::]:80", "never unspecified", false},
		{"no rule opens TCP to multicast", []string{"allow 224.0.0.0/4"}, NetAll, TCP, "224.0.0.1:80", "never tcp to multicast", false},
		{"no rule opens TCP to multicast", []string{"allow ff00::/8"}, NetAll, TCP, "[ff02::1]:80", "never tcp to multicast", false},
		{"no rule opens TCP to broadcast", []string{"allow 255.255.255.255"}, NetAll, TCP, "255.255.255.255:80", "never tcp to broadcast", false},
		{"UDP to multicast is as the rules say", []string{"allow 224.0.0.251:5353/udp"}, NetNone, UDP, "224.0.0.251:5353", "allow 224.0.0.251:5353/udp", true},
	}
	for _, tt := range tests {
		v := Policy{tt.net, rules(t, tt.rules...)}.Decide(request(tt.proto, tt.dst), h)
		rule := tt.rule
		if rule == "" {
			rule = "net " + tt.net.String()
		}
		if v.Allow != tt.allow || v.Rule != rule {
			t.Errorf("%s: %q, net %v: Decide(%v %v) = %+v, want allow %v by %q", tt.why, tt.rules, tt.net, tt.proto, tt.dst, v, tt.allow, rule)
		}
	}
}

// Allow rules take a group narrowly, deny rules take it widely.
func TestGroups(t *testing.T) {
	h := hostOf("198.41.0.4", "10.0.0.7", "169.254.170.2", "2001:503:ba3e::2:30", "fd00::7", "fd00:ec2::23")
	tests := []struct {
		kind   string
		v4, v6 string
		allow  string // the groups whose allow rule matches
		deny   string // the groups whose deny rule matches
	}{
		{"global unicast", "1.1.1.1", "2606:4700::1", "@public", "@public"},
		{"private", "192.168.0.1", "fd00::1", "@private", "@private"},
		{"shared; site-local", "100.64.0.1", "fec0::1", "@private", "@private"},
		{"link-local", "169.254.1.1", "fe80::1", "@private", "@private"},
		{"the host's, global", "198.41.0.4", "2001:503:ba3e::2:30", "@host", "@public @host"},
		{"the host's, private", "10.0.0.7", "fd00::7", "@host", "@private @host"},
		{"metadata, private", "169.254.169.254", "fd00:ec2::254", "@metadata", "@private @metadata"},
		{"metadata, public", "168.63.129.16", "", "@metadata", "@public @metadata"},
		{"metadata, special", "192.0.0.192", "", "@metadata", "@metadata"},
		{"metadata that the host serves", "169.254.170.2", "fd00:ec2::23", "@metadata", "@private @host @metadata"},
		{"documentation", "192.0.2.1", "2001:db8::1", "", ""},
		{"benchmarking", "198.18.0.1", "2001:2::1", "", ""},
		{"reserved", "240.0.0.1", "4000::1", "", ""},
	}
	for _, tt := range tests {
		for _, addr := range []string{tt.v4, tt.v6} {
			if addr == "" {
				continue
			}
			for _, g := range []string{"@public", "@private", "@host", "@metadata"} {
				req := request(ICMP, addr)
				if got, want := (Policy{NetNone, rules(t, "allow "+g)}).Decide(req, h).Allow, strings.Contains(tt.allow, g); got != want {
					t.Errorf("%s: allow %s matches %s: %v, want %v", tt.kind, g, addr, got, want)
				}
				if got, want := !(Policy{NetAll, rules(t, "deny "+g)}).Decide(req, h).Allow, strings.Contains(tt.deny, g); got != want {
					t.Errorf("%s: deny %s matches %s: %v, want %v", tt.kind, g, addr, got, want)
				}
			}
		}
	}
}

// liveHost is a host whose addresses change.
type liveHost struct{ owned hostOwns }

func (h *liveHost) Owns(addr netip.Addr) bool { return h.owned.Owns(addr) }

func TestHostAddressGainedLater(t *testing.T) {
	for _, dst := range []string{"1.1.1.1:80", "[2606:4700::1]:80", "[::ffff:1.1.1.1]:80"} {
		h := &liveHost{}
		pol := Policy{Net: NetPublic}
		if v := pol.Decide(request(TCP, dst), h); !v.Allow {
			t.Errorf("%s before the host owns it: %+v, want allowed", dst, v)
		}
		h.owned = hostOf("1.1.1.1", "2606:4700::1")
		if v := pol.Decide(request(TCP, dst), h); v.Allow {
			t.Errorf("%s once the host owns it: %+v, want refused", dst, v)
		}
	}
}

func TestNoHostOwnsNothing(t *testing.T) {
	if v := (Policy{Net: NetPublic}).Decide(request(TCP, "1.1.1.1:80"), nil); !v.Allow {
		t.Errorf("Decide(1.1.1.1:80, nil) = %+v, want allowed", v)
	}
	if v := (Policy{NetAll, rules(t, "deny @host")}).Decide(request(TCP, "1.1.1.1:80"), nil); !v.Allow {
		t.Errorf("deny @host: Decide(1.1.1.1:80, nil) = %+v, want allowed", v)
	}
}

func TestUnfitRequests(t *testing.T) {
	dst := netip.MustParseAddrPort("1.1.1.1:80")
	for _, tt := range []struct {
		why string
		req Request
	}{
		{"the zero Request", Request{}},
		{"no address", Request{Proto: TCP}},
		{"no protocol", Request{Dst: dst}},
		{"an unknown protocol", Request{Proto: numProtos, Dst: dst}},
	} {
		v := Policy{NetAll, rules(t, "allow 0.0.0.0/0")}.Decide(tt.req, nil)
		if v.Allow || v.Hint != "" || !strings.HasPrefix(v.Rule, "never ") {
			t.Errorf("%s: %+v, want refused by a rule that no flag changes", tt.why, v)
		}
	}
	if v := (Policy{}).Decide(Request{Proto: TCP, Dst: dst}, nil); v.Allow || v.Rule != "net none" {
		t.Errorf("the zero Policy: %+v, want refused by net none", v)
	}
	if v := (Policy{Net: NetAll, Rules: []Rule{{}}}).Decide(Request{Proto: TCP, Dst: dst}, nil); v.Rule != "net all" {
		t.Errorf("the zero Rule: %+v, want that it matches nothing", v)
	}
	if v := (Policy{Net: 9}).Decide(Request{Proto: TCP, Dst: dst}, nil); v.Allow {
		t.Errorf("an unknown Net: %+v, want refused", v)
	}
}

func TestPolicyString(t *testing.T) {
	pol := Policy{NetPublic, rules(t, "deny @metadata", "allow [fd00::/8]:5432/tcp")}
	const want = "deny @metadata\nallow [fd00::/8]:5432/tcp\nnet public"
	if got := pol.String(); got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
}

func TestAllowingDoesNotAllocate(t *testing.T) {
	var h HostAddrs = hostOf("10.0.0.7", "fd00::7")
	pol := Policy{NetPublic, rules(t, "deny @metadata", "deny @private", "allow 203.0.113.0/24:443", "deny 192.0.2.0/24")}
	for _, dst := range []string{"1.1.1.1:80", "[2606:4700::1]:80", "[2606:4700::5efe:101:101]:80", "203.0.113.5:443"} {
		req := request(TCP, dst)
		if !pol.Decide(req, h).Allow {
			t.Errorf("Decide(%s) refuses", dst)
		}
		if n := testing.AllocsPerRun(100, func() { pol.Decide(req, h) }); n != 0 {
			t.Errorf("Decide(%s) allocates %v times, want 0", dst, n)
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	var h HostAddrs = hostOf("10.0.0.7", "fd00::7")
	pol := Policy{NetPublic, rules(b, "deny @metadata", "deny @private", "allow 203.0.113.0/24:443")}
	for _, dst := range []string{"1.1.1.1:80", "[2606:4700::1]:80", "10.0.0.1:80"} {
		req := request(TCP, dst)
		b.Run(dst, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				pol.Decide(req, h)
			}
		})
	}
}
