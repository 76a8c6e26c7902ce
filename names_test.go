package tcpbox

import (
	"net/netip"
	"testing"

	"tcpbox/stack/dns"
)

func TestNames(t *testing.T) {
	var n names
	addr := netip.MustParseAddr("192.0.2.1")
	if got := n.find(addr); got != "" {
		t.Errorf("before any query: %q", got)
	}
	n.learn(dns.Query{Name: "a.example", Addrs: []netip.Addr{addr, netip.MustParseAddr("2001:db8::1")}})
	n.learn(dns.Query{Name: "b.example", Addrs: []netip.Addr{netip.MustParseAddr("::ffff:192.0.2.1")}})
	if got := n.find(addr); got != "b.example" {
		t.Errorf("the last name of %v is %q, want b.example", addr, got)
	}
	if got := n.find(netip.MustParseAddr("2001:db8::1")); got != "a.example" {
		t.Errorf("an address that one query had: %q, want a.example", got)
	}
	at := netip.MustParseAddr("10.0.0.1")
	for range 3 * maxNames {
		n.learn(dns.Query{Name: "many.example", Addrs: []netip.Addr{at}})
		at = at.Next()
	}
	if len(n.of) != maxNames || len(n.order) != maxNames || n.find(addr) != "" || n.find(at.Prev()) != "many.example" {
		t.Errorf("%d names are kept in %d places, want %d, the last ones", len(n.of), len(n.order), maxNames)
	}
}
