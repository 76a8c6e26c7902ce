package policy

import (
	"net/netip"
	"slices"
	"testing"
)

// disguises are the ways of writing an IPv4 address into an IPv6 address.
var disguises = []struct {
	name   string
	prefix string // the rest of the address
	at     [4]int // the octets of the IPv4 address
	flip   bool   // they are inverted
	public bool   // the address is in no special range itself
}{
	{"NAT64", "64:ff9b::", [4]int{12, 13, 14, 15}, false, false},
	{"local NAT64, /96", "64:ff9b:1:2:3:4::", [4]int{12, 13, 14, 15}, false, false},
	{"local NAT64, /64", "64:ff9b:1:2::", [4]int{9, 10, 11, 12}, false, false},
	{"local NAT64, /56", "64:ff9b:1:200::", [4]int{7, 9, 10, 11}, false, false},
	{"local NAT64, /48", "64:ff9b:1::", [4]int{6, 7, 9, 10}, false, false},
	{"local NAT64, /48, octet u and suffix set", "64:ff9b:1:0:ff00:77:7777:7777", [4]int{6, 7, 9, 10}, false, false},
	{"6to4", "2002::1", [4]int{2, 3, 4, 5}, false, false},
	{"6to4, ISATAP inside", "2002:101:101::5efe:0:0", [4]int{12, 13, 14, 15}, false, false},
	{"Teredo server", "2001::1234:5678:fefe:fefe", [4]int{4, 5, 6, 7}, false, false},
	{"Teredo client", "2001:0:101:101::", [4]int{12, 13, 14, 15}, true, false},
	{"ISATAP", "2606:4700:1:2:0:5efe::", [4]int{12, 13, 14, 15}, false, true},
	{"ISATAP, unique", "2606:4700:1:2:200:5efe::", [4]int{12, 13, 14, 15}, false, true},
	{"IPv4-compatible", "::", [4]int{12, 13, 14, 15}, false, false},
	{"IPv4-translated", "::ffff:0:0:0", [4]int{12, 13, 14, 15}, false, false},
}

// disguise writes v4 into the i-th disguise.
func disguise(i int, v4 netip.Addr) netip.Addr {
	how := disguises[i]
	b := netip.MustParseAddr(how.prefix).As16()
	for j, octet := range v4.As4() {
		if how.flip {
			octet = ^octet
		}
		b[how.at[j]] = octet
	}
	return netip.AddrFrom16(b)
}

func TestCarried(t *testing.T) {
	v4 := netip.MustParseAddr("10.1.2.3")
	for i, how := range disguises {
		d := newDestination(disguise(i, v4))
		if !slices.Contains(d.all(), v4) {
			t.Errorf("%s: %v carries %v, want %v among them", how.name, d.addr, d.all(), v4)
		}
	}
	for _, text := range []string{"1.1.1.1", "::ffff:1.1.1.1", "::", "::1", "2606:4700::1", "fd00::1", "2001:1::1", "2606:4700::5eff:101:101", "2606:4700::100:5efe:101:101", "64:ff9b:1::"} {
		if d := newDestination(netip.MustParseAddr(text)); d.n != 0 {
			t.Errorf("%s carries %v, want nothing", text, d.all())
		}
	}
	// No address carries more than there is room for.
	if d := newDestination(netip.MustParseAddr("64:ff9b:1:102:3:5efe:506:708")); d.n > maxCarried || d.n < 4 {
		t.Errorf("%v carries %v", d.addr, d.all())
	}
}

// Every special range of IPv4, and what the host owns, in every disguise, under
// every Net.
func TestDisguises(t *testing.T) {
	h := hostOf("198.41.0.4", "10.0.0.7")
	addrs := []string{"1.1.1.1", "198.41.0.4", "10.0.0.7"}
	for _, r := range SpecialRanges() {
		if r.Prefix.Addr().Is4() {
			addrs = append(addrs, r.Prefix.Addr().String(), lastOf(r.Prefix).String())
		}
	}
	for _, m := range MetadataAddrs() {
		if m.Addr.Is4() {
			addrs = append(addrs, m.Addr.String())
		}
	}
	decide := func(net Net, addr netip.Addr, rules ...Rule) Verdict {
		return Policy{net, rules}.Decide(Request{Proto: TCP, Dst: netip.AddrPortFrom(addr, 443)}, h)
	}
	for _, text := range addrs {
		v4 := netip.MustParseAddr(text)

		// Mapped, it is the IPv4 address itself.
		mapped := netip.AddrFrom16(v4.As16())
		for _, net := range []Net{NetNone, NetPublic, NetAll} {
			if got, want := decide(net, mapped), decide(net, v4); got != want {
				t.Errorf("net %v: %v = %+v, want as %v: %+v", net, mapped, got, v4, want)
			}
		}

		for i, how := range disguises {
			addr := disguise(i, v4)
			if addr.IsUnspecified() || addr.IsLoopback() {
				continue // ::0.0.0.0 and ::0.0.0.1 are these themselves
			}
			wantPublic := how.public && decide(NetPublic, v4).Allow
			wantAll := !v4.IsLoopback() || nat64Local.Contains(addr)
			if v := decide(NetNone, addr); v.Allow {
				t.Errorf("%s of %v: net none: %v: %+v, want refused", how.name, v4, addr, v)
			}
			if v := decide(NetPublic, addr); v.Allow != wantPublic {
				t.Errorf("%s of %v: net public: %v: %+v, want allow %v", how.name, v4, addr, v, wantPublic)
			}
			if v := decide(NetAll, addr); v.Allow != wantAll {
				t.Errorf("%s of %v: net all: %v: %+v, want allow %v", how.name, v4, addr, v, wantAll)
			}
			if v4.IsUnspecified() {
				continue // nothing is there to be found in local NAT64
			}

			// A deny rule for the IPv4 address sees through, an allow rule does not.
			if v := decide(NetAll, addr, rules(t, "deny "+text)...); v.Allow {
				t.Errorf("%s of %v: deny %v: %v: %+v, want refused", how.name, v4, v4, addr, v)
			}
			if v := decide(NetNone, addr, rules(t, "allow 0.0.0.0/0")...); v.Allow {
				t.Errorf("%s of %v: allow 0.0.0.0/0: %v: %+v, want refused", how.name, v4, addr, v)
			}
			// So does a deny rule for each group that it is in.
			for _, g := range []group{public, private, host, metadata} {
				if !g.wide(v4, h) {
					continue
				}
				if v := decide(NetAll, addr, rules(t, "deny "+groupNames[g])...); v.Allow {
					t.Errorf("%s of %v: deny %s: %v: %+v, want refused", how.name, v4, groupNames[g], addr, v)
				}
			}
		}
	}
}

// Rules that open NAT64 open nothing behind it that should stay closed.
func TestOpeningNAT64(t *testing.T) {
	pol := Policy{NetPublic, rules(t, "deny @host", "deny @metadata", "deny @private", "allow 64:ff9b::/96")}
	h := hostOf("198.41.0.4")
	for _, tt := range []struct {
		v4    string
		allow bool
	}{
		{"1.1.1.1", true}, {"10.0.0.1", false}, {"198.41.0.4", false}, {"169.254.169.254", false}, {"168.63.129.16", false}, {"127.0.0.1", false},
	} {
		addr := disguise(0, netip.MustParseAddr(tt.v4))
		if v := pol.Decide(Request{Proto: TCP, Dst: netip.AddrPortFrom(addr, 443)}, h); v.Allow != tt.allow {
			t.Errorf("NAT64 of %s: %+v, want allow %v", tt.v4, v, tt.allow)
		}
	}
}

// A group in an allow rule leaves out addresses that carry what it leaves out.
func TestAllowedGroupsLookAtWhatIsCarried(t *testing.T) {
	h := hostOf("198.41.0.4")
	for _, tt := range []struct {
		group, addr string
		allow       bool
	}{
		{"@private", "fd00::5efe:a01:203", true},     // 10.1.2.3
		{"@private", "fd00::5efe:a9fe:a9fe", false},  // 169.254.169.254
		{"@private", "fd00::5efe:c629:4", false},     // 198.41.0.4
		{"@public", "2606:4700::5efe:101:101", true}, // 1.1.1.1
		{"@public", "2606:4700::5efe:a01:203", false},
		{"@metadata", "64:ff9b::a9fe:a9fe", false},
		{"@host", "64:ff9b::c629:4", false},
	} {
		if v := (Policy{NetNone, rules(t, "allow "+tt.group)}).Decide(request(ICMP, tt.addr), h); v.Allow != tt.allow {
			t.Errorf("allow %s: %s: %+v, want allow %v", tt.group, tt.addr, v, tt.allow)
		}
	}
}
