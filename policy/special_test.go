package policy

import (
	"net/netip"
	"testing"
)

// registered are the prefixes of the two IANA registries, and behind a blank
// line multicast and the rest that is not global unicast, written down apart
// from the table they check.
var registered = []string{
	"0.0.0.0/8", "0.0.0.0/32", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
	"192.0.0.0/24", "192.0.0.0/29", "192.0.0.8/32", "192.0.0.9/32", "192.0.0.10/32", "192.0.0.170/32", "192.0.0.171/32",
	"192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.88.99.2/32", "192.168.0.0/16",
	"192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4", "255.255.255.255/32",
	"::1/128", "::/128", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/23",
	"2001::/32", "2001:1::1/128", "2001:1::2/128", "2001:1::3/128", "2001:2::/48", "2001:3::/32", "2001:4:112::/48",
	"2001:10::/28", "2001:20::/28", "2001:30::/28", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20",
	"5f00::/16", "fc00::/7", "fe80::/10",

	"224.0.0.0/4", "ff00::/8", "fec0::/10", "::/96", "::ffff:0:0:0/96", "::/3", "4000::/2", "8000::/1",
}

func TestSpecialRangesAreTheRegistries(t *testing.T) {
	want := map[netip.Prefix]bool{}
	for _, text := range registered {
		want[netip.MustParsePrefix(text)] = true
	}
	for _, r := range SpecialRanges() {
		if !want[r.Prefix] {
			t.Errorf("%v is in the table twice, or in no registry", r.Prefix)
		}
		delete(want, r.Prefix)
		if r.Prefix != r.Prefix.Masked() || r.Name == "" || r.RFC == "" {
			t.Errorf("%+v lacks a name or an RFC, or has bits set behind its prefix", r)
		}
	}
	for prefix := range want {
		t.Errorf("%v is not in the table", prefix)
	}
}

// lastOf returns the last address of a prefix.
func lastOf(prefix netip.Prefix) netip.Addr {
	b := prefix.Addr().AsSlice()
	for i := prefix.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

func TestSpecialRangesAreNotPublic(t *testing.T) {
	pol := Policy{Net: NetPublic}
	for _, r := range SpecialRanges() {
		first, last := r.Prefix.Addr(), lastOf(r.Prefix)
		for _, addr := range []netip.Addr{first, first.Next(), last.Prev(), last} {
			if !r.Prefix.Contains(addr) {
				continue
			}
			for _, proto := range []Proto{TCP, UDP, ICMP} {
				if v := pol.Decide(Request{Proto: proto, Dst: netip.AddrPortFrom(addr, 443)}, nil); v.Allow {
					t.Errorf("%v (%s): net public, %v to %v: %+v, want refused", r.Prefix, r.Name, proto, addr, v)
				}
			}
		}
	}
}

// The address on either side of each range is public, where it is in no other.
func TestSpecialRangesEndWhereTheyEnd(t *testing.T) {
	outside := 0
	for _, r := range SpecialRanges() {
	neighbours:
		for _, addr := range []netip.Addr{r.Prefix.Addr().Prev(), lastOf(r.Prefix).Next()} {
			if !addr.IsValid() {
				continue
			}
			for _, other := range SpecialRanges() {
				if other.Prefix.Contains(addr) {
					continue neighbours
				}
			}
			outside++
			if v := (Policy{Net: NetPublic}).Decide(Request{Proto: TCP, Dst: netip.AddrPortFrom(addr, 443)}, nil); !v.Allow {
				t.Errorf("%v, a neighbour of %v: %+v, want allowed", addr, r.Prefix, v)
			}
		}
	}
	if outside < 40 {
		t.Errorf("only %d neighbours are public", outside)
	}
}

func TestSpecialNamesTheLongestPrefix(t *testing.T) {
	for _, tt := range []struct{ addr, prefix string }{
		{"0.0.0.0", "0.0.0.0/32"},
		{"0.0.0.1", "0.0.0.0/8"},
		{"192.0.0.9", "192.0.0.9/32"},
		{"192.0.0.1", "192.0.0.0/29"},
		{"192.0.0.200", "192.0.0.0/24"},
		{"255.255.255.255", "255.255.255.255/32"},
		{"::1", "::1/128"},
		{"::2", "::/96"},
		{"2001:1::1", "2001:1::1/128"},
		{"2001:0:1::1", "2001::/32"},
		{"2001:1ff::1", "2001::/23"},
		{"fd00::1", "fc00::/7"},
		{"8000::1", "8000::/1"},
		{"1.1.1.1", ""},
		{"2606:4700::1", ""},
	} {
		got := ""
		if r := special(netip.MustParseAddr(tt.addr)); r != nil {
			got = r.Prefix.String()
		}
		if got != tt.prefix {
			t.Errorf("special(%s) = %q, want %q", tt.addr, got, tt.prefix)
		}
	}
}

func TestMetadata(t *testing.T) {
	for _, m := range MetadataAddrs() {
		dst := netip.AddrPortFrom(m.Addr, 80)
		if v := (Policy{NetPublic, rules(t, "allow @public", "allow @private")}).Decide(Request{Proto: TCP, Dst: dst}, nil); v.Allow {
			t.Errorf("%v (%s): %+v, want refused", m.Addr, m.Who, v)
		}
		if v := (Policy{NetNone, rules(t, "allow @metadata")}).Decide(Request{Proto: TCP, Dst: dst}, nil); !v.Allow {
			t.Errorf("%v (%s): %+v, want allowed by @metadata", m.Addr, m.Who, v)
		}
	}
}

// The slices that callers get are theirs.
func TestTablesCannotBeChanged(t *testing.T) {
	SpecialRanges()[0] = Range{}
	MetadataAddrs()[0] = MetadataAddr{}
	if SpecialRanges()[0] == (Range{}) || MetadataAddrs()[0] == (MetadataAddr{}) {
		t.Error("a caller changed a table of the package")
	}
}
