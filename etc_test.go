package tcpbox

import (
	"net/netip"
	"testing"

	"tcpbox/stack/dns"
	"tcpbox/stack/peer"
)

// TestOwnName: what is asked for by name is never hidden by the machine's own
// name in /etc/hosts.
func TestOwnName(t *testing.T) {
	for _, row := range []struct {
		peer, host, want string
	}{
		{"", "", "Web"},
		{"other", "another", "Web"},
		{"web", "", ""},
		{"", "web", ""},
	} {
		cfg := Config{Hostname: "Web"}
		if row.peer != "" {
			cfg.Peers = []peer.Spec{{Name: row.peer, Kind: peer.HTTP, Port: 80}}
		}
		if row.host != "" {
			cfg.DNS.Hosts = []dns.Host{{Name: row.host, Addr: netip.MustParseAddr("192.0.2.7")}}
		}
		if got := ownName(&cfg); got != row.want {
			t.Errorf("peer %q, host %q: own name %q, want %q", row.peer, row.host, got, row.want)
		}
	}
}
