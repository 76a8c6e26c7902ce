package tcpstate

import (
	"net/netip"
	"sync"
	"testing"
)

func TestNumbers(t *testing.T) {
	a, b := netip.MustParseAddrPort("198.18.0.2:40000"), netip.MustParseAddrPort("198.18.0.1:80")
	var n Numbers
	first := n.Begin(Guest, a, b, 7)
	if first != 1 {
		t.Errorf("the first number is %d", first)
	}
	for _, tt := range []struct {
		name        string
		leg         Leg
		guest, peer netip.AddrPort
		iss         uint32
		same        bool
	}{
		{"its next leg", Stack, a, b, 7, true},
		{"its last leg", Upstream, a, b, 7, true},
		{"the next connection between the same two", Guest, a, b, 8, false},
		{"the other way round", Guest, b, a, 7, false},
		{"a late SYN on a leg that has had it", Stack, a, b, 7, false},
	} {
		if got := n.Begin(tt.leg, tt.guest, tt.peer, tt.iss); (got == first) != tt.same {
			t.Errorf("%s: number %d, the first has %d", tt.name, got, first)
		}
	}
	c := n.Next()
	n.Bind(c, Stack, a, b, 9)
	if got := n.Begin(Guest, a, b, 9); got != c {
		t.Errorf("bound to %d, got %d", c, got)
	}
}

func TestNumbersForgetsTheOldestOnly(t *testing.T) {
	a, b := netip.MustParseAddrPort("198.18.0.2:40000"), netip.MustParseAddrPort("198.18.0.1:80")
	var n Numbers
	for iss := range uint32(3 * numbersKept) {
		n.Begin(Guest, a, b, iss)
	}
	if held := len(n.young) + len(n.old); held > 2*numbersKept {
		t.Errorf("it holds %d", held)
	}
	young := uint32(3*numbersKept - numbersKept/2)
	if got := n.Begin(Stack, a, b, young); got != Conn(young)+1 {
		t.Errorf("a young one has got another number, %d", got)
	}
}

func TestNumbersAgree(t *testing.T) {
	a, b := netip.MustParseAddrPort("198.18.0.2:40000"), netip.MustParseAddrPort("198.18.0.1:80")
	var n Numbers
	var got [numLegs][1000]Conn
	var all sync.WaitGroup
	for _, leg := range Legs() {
		all.Go(func() {
			for iss := range got[leg] {
				n.Next()
				got[leg][iss] = n.Begin(leg, a, b, uint32(iss))
			}
		})
	}
	all.Wait()
	if got[Guest] != got[Stack] || got[Guest] != got[Upstream] {
		t.Error("the legs have got different numbers of the same connection")
	}
	if n.last != 4000 {
		t.Errorf("the last number is %d, want 4000", n.last)
	}
}
