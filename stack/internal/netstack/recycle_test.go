package netstack

import (
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// TestRecyclingIsBounded: addresses are forgotten when there are too many, those
// that mean nothing any more first.
func TestRecyclingIsBounded(t *testing.T) {
	var c recycling
	var now tcpip.MonotonicTime
	addr := func(i int) tcpip.Address {
		return tcpip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
	}
	for i := range mostRecycled {
		c.remember(addr(i), 1, now)
	}
	now = now.Add(recycleMemory + time.Second)
	for i := range mostRecycled {
		c.remember(addr(mostRecycled+i), 2, now)
	}
	if n := len(c.stamps); n > mostRecycled {
		t.Errorf("%d addresses are remembered, want at most %d", n, mostRecycled)
	}
	for i := range mostRecycled {
		if _, known := c.stamps[addr(mostRecycled+i)]; !known {
			t.Fatalf("address %d was forgotten for one that means nothing", i)
		}
	}
	c.remember(addr(1<<20), 3, now)
	if n := len(c.stamps); n != mostRecycled {
		t.Errorf("%d addresses, want %d", n, mostRecycled)
	}
	// The newer of two timestamps stays, unless it is old.
	c.remember(addr(1<<20), 1, now.Add(time.Second))
	if got := c.stamps[addr(1<<20)].val; got != 3 {
		t.Errorf("the timestamp is %d, want the newer one, 3", got)
	}
	c.remember(addr(1<<20), 1, now.Add(2*recycleMemory))
	if got := c.stamps[addr(1<<20)].val; got != 1 {
		t.Errorf("the timestamp is %d, want 1: the other is too old", got)
	}
}
