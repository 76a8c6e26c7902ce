package reach

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"tcpbox/integration/testnet"
)

// resolveGuest prints the IPv4 addresses of a name, which it asks by one
// protocol alone, or why there is none.
func resolveGuest(network, name string) int {
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}}
	addrs, err := r.LookupNetIP(context.Background(), "ip4", name)
	var fault *net.DNSError
	switch {
	case errors.As(err, &fault) && fault.IsNotFound:
		fmt.Println("no such name")
	case err != nil:
		fmt.Println(err)
		return 1
	default:
		fmt.Println(addrs)
	}
	return 0
}

// TestLifeNames asks for names by UDP and by TCP, with the host's resolver,
// another, and none.
func TestLifeNames(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		server := n.Remote.ServeDNS(t, map[string][]netip.Addr{"example.test.": {testnet.Public4}})
		for _, network := range []string{"udp", "tcp"} {
			for _, row := range []struct {
				what, name string
				flags      []string
				want       string
				asked      bool // the host's resolver is
			}{
				{"by the host's resolver", "example.test", nil, "[8.8.4.4]", true},
				{"that does not exist", "nothing.test", nil, "no such name", true},
				{"of a peer", "web", []string{"--peer", "web=http"}, "[198.18.0.16]", false},
				{"of an added host", "db.test", []string{"--add-host", "db.test:192.0.2.7"}, "[192.0.2.7]", false},
				{"with --dns none", "example.test", []string{"--dns", "none"}, "no such name", false},
				{"of a peer with --dns none", "web", []string{"--dns", "none", "--peer", "web=http"}, "[198.18.0.16]", false},
				{"with --net none", "example.test", []string{"--net", "none"}, "no such name", false},
				{"with --net none and --dns", "example.test", []string{"--net", "none", "--dns", testnet.Remote4.String()}, "[8.8.4.4]", true},
			} {
				t.Run(fmt.Sprintf("%s, by %s", row.what, network), func(t *testing.T) {
					before := len(server.Queries())
					flags := append([]string{"--quiet"}, row.flags...)
					got := toEnd(t, c.run(t.Context(), t, n, flags, lifeGuestPath(t), "resolve", network, row.name))
					if got.code != 0 || got.stdout != row.want+"\n" {
						t.Errorf("%v, want %s", got, row.want)
					}
					asked := server.Queries()[before:]
					if has := slices.ContainsFunc(asked, func(q string) bool { return strings.Contains(q, row.name) }); has != row.asked || !row.asked && len(asked) > 0 {
						t.Errorf("the host's resolver was asked %q", asked)
					}
				})
			}
		}
	})
}
