package netstack

import (
	"net/netip"
	"testing"

	"tcpbox/tun/packet"
)

// TestSYNFlood: many SYNs of both families, with varying sources inside the guest's
// prefixes, hold as much as the limits say, exactly, and no more memory than that;
// those from foreign sources go no further.
func TestSYNFlood(t *testing.T) {
	many := 200000
	if raceEnabled {
		many = 20000
	}
	const foreign = 1000
	k := newKnobGuest(t, func(cfg *Config) {
		cfg.Guest = []netip.Prefix{netip.MustParsePrefix("198.18.0.0/16"), netip.MustParsePrefix("fd74:6370:626f::/48")}
	})
	k.set("pending.max=1024", "pending.per-destination=256")
	flood := func(from, to int, prefix4, prefix6 string) {
		net4, net6 := netip.MustParseAddr(prefix4).As4(), netip.MustParseAddr(prefix6).As16()
		for i := from; i < to; i++ {
			b := packet.Build{Dst: serverAddr, Flags: packet.SYN, Seq: uint32(i)}
			if n := i / 2; i%2 == 0 {
				net4[2], net4[3] = byte(n>>8), byte(n)
				b.Src = ap(netip.AddrFrom4(net4), uint16(1024+n>>16))
			} else {
				net6[7], net6[15] = byte(n>>8), byte(n) // of many networks
				b.Src, b.Dst = ap(netip.AddrFrom16(net6), uint16(1024+n>>16)), serverAddr6
			}
			k.send(b)
			if i%100 == 0 {
				k.ping(t) // else the device's queue would drop some
			}
		}
		k.ping(t)
	}
	const inside4, inside6 = "198.18.0.0", "fd74:6370:626f::"
	flood(0, many/2, inside4, inside6)
	heap := heapBytes()
	flood(many/2, many, inside4, inside6)
	grown := heapBytes() - heap
	if grown > 8<<20 {
		t.Errorf("the second half of the flood took %d bytes", grown)
	}
	t.Logf("%d SYNs: the second half took %d KiB", many, grown>>10)
	flood(0, foreign, "192.0.0.0", "2001:db8:626f::")
	st := k.gateway.Stats()
	// Each family's destination has its share of 256.
	if st.Pending != 512 || st.DropPerDst != uint64(many-512) || st.ForeignSource != foreign || st.HalfOpen != 0 {
		t.Errorf("Pending = %d, DropPerDst = %d, ForeignSource = %d, HalfOpen = %d; want 512, %d, %d and 0",
			st.Pending, st.DropPerDst, st.ForeignSource, st.HalfOpen, many-512, foreign)
	}
	// Somebody else's destination is served meanwhile.
	c := k.next()
	c.dst = ap(netip.MustParseAddr("203.0.113.6"), 80)
	c.syn()
	for range 512 {
		k.request()
	}
	if r := k.request(); r.Dst() != c.dst {
		t.Errorf("the request goes to %v", r.Dst())
	}
}
