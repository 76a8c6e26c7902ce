package tcpbox

import (
	"net/netip"
	"strings"
	"testing"

	"tcpbox/policy"
	"tcpbox/stack/dns"
	"tcpbox/stack/peer"
)

func TestAddressPlan(t *testing.T) {
	c := Config{
		Args:  []string{"true"},
		Peers: []peer.Spec{{Name: "web", Kind: peer.HTTP, Port: 80}, {Name: "db", Kind: peer.Echo, Port: 5432}, {Name: "web", Kind: peer.Echo, Port: 7}},
	}
	if err := c.normalise(); err != nil {
		t.Fatal(err)
	}
	a, err := c.plan()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		what, got, want string
	}{
		{"gateways", join(a.gateways), "198.18.0.1 fd74:6370:626f:78::1"},
		{"guests", join(a.guests), "198.18.0.2/24 fd74:6370:626f:78::2/64"},
		{"the host's loopback", join(a.loopback), "198.18.0.3 fd74:6370:626f:78::3"},
		{"the first peer", join(a.peers[0]), "198.18.0.16 fd74:6370:626f:78::10"},
		{"the second peer", join(a.peers[1]), "198.18.0.17 fd74:6370:626f:78::11"},
		{"a peer of the same name", join(a.peers[2]), "198.18.0.16 fd74:6370:626f:78::10"},
		{"sources", join(a.sources()), "198.18.0.2/32 fd74:6370:626f:78::2/128"},
	} {
		if row.got != row.want {
			t.Errorf("%s: %s, want %s", row.what, row.got, row.want)
		}
	}
	if names := a.names(c.Peers); len(names) != 6 {
		t.Errorf("names = %v, want each name once in each family", names)
	}
}

func join[T interface{ String() string }](list []T) string {
	var s []string
	for _, v := range list {
		s = append(s, v.String())
	}
	return strings.Join(s, " ")
}

func TestCheckFindsEveryFault(t *testing.T) {
	prefix := netip.MustParsePrefix
	many := make([]peer.Spec, 300)
	for i := range many {
		many[i] = peer.Spec{Name: "p" + strings.Repeat("x", i%50) + string(rune('a'+i%26)) + strings.Repeat("y", i/50), Kind: peer.Echo, Port: 7}
	}
	for _, row := range []struct {
		what string
		c    Config
		want []string // each a part of the error; none: no error
	}{
		{"a command is enough", Config{Args: []string{"true"}}, nil},
		{"no command", Config{}, []string{"no command"}},
		{"an empty command", Config{Args: []string{""}}, []string{"no command"}},
		{"IPv6 where IPv4 belongs", Config{Args: []string{"true"}, Subnet4: prefix("fd00::/64")}, []string{"--subnet4 fd00::/64", "not an IPv4"}},
		{"host bits", Config{Args: []string{"true"}, Subnet4: prefix("10.1.2.3/24")}, []string{"did you mean 10.1.2.0/24"}},
		{"too small", Config{Args: []string{"true"}, Subnet4: prefix("10.1.2.0/30")}, []string{"too small"}},
		{"IPv6 too small", Config{Args: []string{"true"}, Subnet6: prefix("fd00::/126")}, []string{"too small"}},
		{"IPv6 is not looked at when it is off", Config{Args: []string{"true"}, Subnet6: prefix("fd00::/126"), NoIPv6: true}, nil},
		{"loopback", Config{Args: []string{"true"}, Subnet4: prefix("127.0.0.0/8")}, []string{"cannot be used"}},
		{"dns none and servers", Config{Args: []string{"true"}, DNS: DNS{None: true, Servers: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}}}, []string{"--dns none", "--dns 127.0.0.1"}},
		{"two peers on a port", Config{Args: []string{"true"}, Peers: []peer.Spec{{Name: "a", Kind: peer.Echo, Port: 7}, {Name: "a", Kind: peer.HTTP, Port: 7}}}, []string{"same port"}},
		{"more peers than addresses", Config{Args: []string{"true"}, Peers: many}, []string{"no room"}},
		{"a peer with the host's name", Config{Args: []string{"true"}, Peers: []peer.Spec{{Name: HostName, Kind: peer.Echo, Port: 7}}}, []string{"choose another"}},
		{"a host with the host's name", Config{Args: []string{"true"}, DNS: DNS{Hosts: []dns.Host{{Name: HostName, Addr: netip.MustParseAddr("10.0.0.1")}}}}, []string{"choose another"}},
		{"a name for a peer and a host", Config{Args: []string{"true"}, Peers: []peer.Spec{{Name: "web", Kind: peer.Echo, Port: 7}}, DNS: DNS{Hosts: []dns.Host{{Name: "web", Addr: netip.MustParseAddr("10.0.0.1")}}}}, []string{"--add-host web:10.0.0.1", "--peer web=echo:7"}},
		{"the sandbox's own resolver", Config{Args: []string{"true"}, Subnet4: prefix("10.1.2.0/24"), DNS: DNS{Servers: []netip.AddrPort{netip.MustParseAddrPort("10.1.2.1:53")}}}, []string{"--dns 10.1.2.1", "own resolver"}},
		{"a resolver near it", Config{Args: []string{"true"}, DNS: DNS{Servers: []netip.AddrPort{netip.MustParseAddrPort("10.1.2.1:53")}}}, nil},
		{"a negative timeout", Config{Args: []string{"true"}, UDPTimeout: -1}, []string{"not negative"}},
		{"several faults", Config{Subnet4: prefix("10.1.2.0/30")}, []string{"no command", "too small"}},
	} {
		err := row.c.Check()
		if len(row.want) == 0 && err != nil {
			t.Errorf("%s: %v", row.what, err)
		}
		for _, part := range row.want {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: error %v, want %q in it", row.what, err, part)
			}
		}
	}
}

func TestNsswitchConf(t *testing.T) {
	for _, row := range []struct{ what, host, want string }{
		{"no file", "", "hosts:          files dns\n"},
		{
			"daemons are left out", "passwd: files systemd\nhosts: mymachines resolve [!UNAVAIL=return] files dns\ngroup: files\n",
			"passwd: files systemd\nhosts:          files dns\ngroup: files\n",
		},
		{"two lines become one", "hosts: a\nhosts: b\n", "hosts:          files dns\n"},
		{"a comment stays", "# hosts: a\n", "# hosts: a\nhosts:          files dns\n"},
		{"no line end", "passwd: files", "passwd: files\nhosts:          files dns\n"},
	} {
		if got := string(nsswitchConf([]byte(row.host))); got != row.want {
			t.Errorf("%s: %q, want %q", row.what, got, row.want)
		}
	}
}

func TestForwarders(t *testing.T) {
	server := netip.MustParseAddrPort("127.0.0.53:53")
	for _, row := range []struct {
		what string
		c    Config
		want []netip.AddrPort
	}{
		{"none means nobody", Config{DNS: DNS{None: true}, Policy: policy.Policy{Net: policy.NetAll}}, nil},
		{"--net none asks nobody", Config{}, nil},
		{"--net none with a server asks it", Config{DNS: DNS{Servers: []netip.AddrPort{server}}}, []netip.AddrPort{server}},
		{"a server replaces the host's", Config{DNS: DNS{Servers: []netip.AddrPort{server}}, Policy: policy.Policy{Net: policy.NetPublic}}, []netip.AddrPort{server}},
	} {
		got, err := forwarders(&row.c)
		if err != nil || join(got) != join(row.want) {
			t.Errorf("%s: %v, %v, want %v", row.what, got, err, row.want)
		}
	}
}

func TestNameFor(t *testing.T) {
	for _, args := range [][]string{{"curl"}, {"/usr/bin/curl"}, {"../x"}, {"--"}, {"a b\x1b[31m"}, {strings.Repeat("x", 300)}, {""}} {
		name := NameFor(args)
		if len(name) > 64 || strings.ContainsAny(name, " /\x1b") || strings.HasPrefix(name, "-") {
			t.Errorf("NameFor(%q) = %q", args, name)
		}
	}
	if NameFor(nil) != "" {
		t.Error("a name for nothing")
	}
}
