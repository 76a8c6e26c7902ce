package netstack

import (
	"net/netip"
	"testing"

	"tcpbox/tun/packet"
)

// TestSYNFlood: many SYNs with varying sources inside the guest's prefix hold as
// much as the limits say, exactly, and no more memory than that; those from
// foreign sources go no further.
func TestSYNFlood(t *testing.T) {
	many := 200000
	if raceEnabled {
		many = 20000
	}
	const foreign = 1000
	k := newKnobGuest(t, func(cfg *Config) { cfg.Guest = []netip.Prefix{netip.MustParsePrefix("198.18.0.0/16")} })
	k.set("pending.max=512", "pending.per-destination=256")
	flood := func(from, to int, a, b byte) {
		for i := from; i < to; i++ {
			src := netip.AddrFrom4([4]byte{a, b, byte(i >> 8), byte(i)})
			k.send(packet.Build{Src: ap(src, uint16(1024+i>>16)), Dst: serverAddr, Flags: packet.SYN, Seq: uint32(i)})
			if i%100 == 0 {
				k.ping(t) // else the device's queue would drop some
			}
		}
		k.ping(t)
	}
	flood(0, many/2, 198, 18)
	heap := heapBytes()
	flood(many/2, many, 198, 18)
	grown := heapBytes() - heap
	if grown > 8<<20 {
		t.Errorf("the second half of the flood took %d bytes", grown)
	}
	t.Logf("%d SYNs: the second half took %d KiB", many, grown>>10)
	flood(0, foreign, 192, 0)
	st := k.gateway.Stats()
	if st.Pending != 256 || st.DropPerDst != uint64(many-256) || st.ForeignSource != foreign || st.HalfOpen != 0 {
		t.Errorf("Pending = %d, DropPerDst = %d, ForeignSource = %d, HalfOpen = %d; want 256, %d, %d and 0",
			st.Pending, st.DropPerDst, st.ForeignSource, st.HalfOpen, many-256, foreign)
	}
	// Somebody else's destination is served meanwhile.
	c := k.next()
	c.dst = ap(netip.MustParseAddr("203.0.113.6"), 80)
	c.syn()
	for range 256 {
		k.request()
	}
	if r := k.request(); r.Dst() != c.dst {
		t.Errorf("the request goes to %v", r.Dst())
	}
}
