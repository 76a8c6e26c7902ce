package integration

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tcpbox/integration/testnet"
)

// special are IANA's registries of special-purpose addresses for IPv4 and
// IPv6, with multicast and what older standards set apart.
var special = []string{
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
	"192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24",
	"192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
	"224.0.0.0/4", "240.0.0.0/4",
	"::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64",
	"2001::/32", "2001::/23", "2001:1::/48", "2001:2::/48", "2001:3::/32", "2001:4:112::/48",
	"2001:10::/28", "2001:20::/28", "2001:30::/28", "2001:db8::/32", "2002::/16",
	"2620:4f:8000::/48", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
}

// disguises are addresses that carry an IPv4 address: RFC 4291's compatible
// form, NAT64 of RFC 6052, 6to4 of RFC 3056. The v4-mapped form is IPv4 on the
// wire, and the guest's own kernel translates it.
func disguises(v4 netip.Addr) []netip.Addr {
	b := v4.As4()
	hex := fmt.Sprintf("%02x%02x:%02x%02x", b[0], b[1], b[2], b[3])
	return []netip.Addr{
		netip.MustParseAddr("::" + hex),
		netip.MustParseAddr("64:ff9b::" + hex),
		netip.MustParseAddr("2002:" + hex + "::1"),
	}
}

// specialAddrs returns two addresses of each special range, from its start and
// its end.
func specialAddrs() []netip.Addr {
	var addrs []netip.Addr
	for _, text := range special {
		p := netip.MustParsePrefix(text)
		last := p.Addr().AsSlice()
		for i := p.Bits(); i < len(last)*8; i++ {
			last[i/8] |= 0x80 >> (i % 8)
		}
		end, _ := netip.AddrFromSlice(last)
		addrs = append(addrs, p.Addr().Next(), end.Prev())
	}
	return addrs
}

// knock starts a connection to port 80 of each address and closes all when t
// ends. An address that the kernel itself refuses is passed over.
func knock(t *testing.T, ns *testnet.Namespace, addrs []netip.Addr) []*testnet.Dialling {
	t.Helper()
	var dials []*testnet.Dialling
	for _, a := range addrs {
		d, err := ns.StartDial(netip.AddrPort{}, netip.AddrPortFrom(a, 80))
		if err != nil {
			continue
		}
		t.Cleanup(func() { d.Close() })
		dials = append(dials, d)
	}
	return dials
}

// sought returns the destinations of the packets that were sent.
func sought(packets []testnet.Packet) []netip.Addr {
	var addrs []netip.Addr
	for _, p := range packets {
		if p.Out && !slices.Contains(addrs, p.Dst.Addr()) {
			addrs = append(addrs, p.Dst.Addr())
		}
	}
	return addrs
}

// TestNothingSpecialLeaves knocks at every special range and every address of
// the host, under the default policy: no packet leaves, whatever it is
// disguised as, and the guest is refused.
func TestNothingSpecialLeaves(t *testing.T) {
	n := testnet.New(t)
	own := []netip.Addr{netip.MustParseAddr("8.8.9.9"), netip.MustParseAddr("2001:4860:9::9")}
	late := []netip.Addr{netip.MustParseAddr("8.8.9.10"), netip.MustParseAddr("2001:4860:9::a")}
	for _, a := range own {
		n.Uplink.AddAddr(t, a)
	}
	n.Uplink.Listen(t, "tcp", netip.MustParseAddrPort("[::]:80"))
	b := start(t, n, root)
	for _, a := range late {
		n.Uplink.AddAddr(t, a)
	}
	addrs := specialAddrs()
	hosts := slices.Concat(own, late, []netip.Addr{testnet.Uplink4, testnet.Uplink6, testnet.Remote4, testnet.Remote6})
	addrs = append(addrs, hosts...)
	for _, a := range slices.Concat(hosts, []netip.Addr{testnet.Public4}) {
		if a.Is4() {
			addrs = append(addrs, disguises(a)...)
		}
	}

	capture := n.Capture(t)
	for _, d := range knock(t, b.Namespace, addrs) {
		if c, err := d.Wait(t.Context()); err == nil {
			t.Errorf("a connection to %v was made", c.RemoteAddr())
			c.Close()
		} else if errors.Is(err, unix.ETIMEDOUT) || strings.Contains(err.Error(), "no answer") {
			t.Errorf("%v", err)
		}
	}
	if got := capture.Packets(t); len(got) != 0 {
		t.Errorf("under the default these packets left:\n%v", got)
	}
	for _, s := range n.Uplink.Sockets(t) {
		if s.Remote.Port() == 80 {
			t.Errorf("the host side has a socket to %v", s.Remote)
		}
	}
}

// TestEverythingLeavesUnderAll keeps the test above honest: under --net all
// the same packets leave as would leave the host without tcpbox.
func TestEverythingLeavesUnderAll(t *testing.T) {
	n := testnet.New(t)
	ours := netip.MustParsePrefix("198.18.0.0/24") // the sandbox's own
	addrs := slices.DeleteFunc(specialAddrs(), func(a netip.Addr) bool {
		return a.IsLoopback() || a.IsMulticast() || ours.Contains(a)
	})
	capture := n.Capture(t)
	knock(t, n.Uplink, addrs)
	want := sought(capture.Packets(t))
	if len(want) < 50 {
		t.Fatalf("the host itself reaches only %d of the addresses", len(want))
	}

	b := start(t, n, root, "--net", "all", "--quiet")
	capture = n.Capture(t)
	knock(t, b.Namespace, addrs)
	testnet.Eventually(t, func() error {
		got := sought(capture.Packets(t))
		for _, a := range want {
			if !slices.Contains(got, a) {
				return fmt.Errorf("no packet to %v has left", a)
			}
		}
		return nil
	})
}

// policyRows are flags and what they make of a connection. PUB and PRIV stand
// for a public and a private server of the family, PUBNET and PRIVNET for the
// networks around them; brackets are left out for IPv4.
var policyRows = []struct {
	rule    string
	flags   string
	to      string
	allowed bool
}{
	{"the default is public", "", "PUB:80", true},
	{"the default is public", "", "PRIV:80", false},
	{"--net public says the default", "--net public", "PUB:80", true},
	{"--net public says the default", "--net public", "PRIV:80", false},
	{"--net none allows nothing", "--net none", "PUB:80", false},
	{"--net none allows nothing", "--net none", "PRIV:80", false},
	{"--net all refuses no address", "--net all", "PUB:80", true},
	{"--net all refuses no address", "--net all", "PRIV:80", true},

	{"an address allows every port", "--net none --allow PUB", "PUB:80", true},
	{"an address allows every port", "--net none --allow PUB", "PUB:81", true},
	{"an address allows no other", "--net none --allow PUB", "PRIV:80", false},
	{"a network allows what is in it", "--net none --allow PUBNET", "PUB:80", true},
	{"a network allows what is in it", "--allow PRIVNET", "PRIV:80", true},
	{"a port allows that port", "--net none --allow [PUB]:80", "PUB:80", true},
	{"a port allows that port", "--net none --allow [PUB]:80", "PUB:81", false},
	{"a port of a network", "--net none --allow [PUBNET]:80", "PUB:80", true},
	{"a port of a network", "--net none --allow [PUBNET]:80", "PUB:81", false},
	{"a range of ports", "--net none --allow [PUB]:79-80", "PUB:80", true},
	{"a range of ports", "--net none --allow [PUB]:79-80", "PUB:81", false},
	{"a protocol", "--net none --allow PUB/tcp", "PUB:80", true},
	{"a protocol", "--net none --allow PUB/udp", "PUB:80", false},
	{"a port and a protocol", "--net none --allow [PUB]:80/tcp", "PUB:80", true},

	{"a group allows what is in it", "--net none --allow @public", "PUB:80", true},
	{"a group allows what is in it", "--net none --allow @public", "PRIV:80", false},
	{"a group allows what is in it", "--allow @private", "PRIV:80", true},
	{"a group with a port", "--allow @private:80", "PRIV:80", true},
	{"a group with a port", "--allow @private:80", "PRIV:81", false},
	{"a group can be denied", "--net all --deny @private", "PRIV:80", false},
	{"a group can be denied", "--net all --deny @private", "PUB:80", true},
	{"a group can be denied", "--net all --deny @public", "PUB:80", false},

	{"the first match wins", "--allow PUB --deny PUB", "PUB:80", true},
	{"the first match wins", "--deny PUB --allow PUB", "PUB:80", false},
	{"the first match wins", "--deny [PUB]:81 --allow PUBNET --net none", "PUB:80", true},
	{"the first match wins", "--deny [PUB]:81 --allow PUBNET --net none", "PUB:81", false},
	{"--net decides the rest, wherever it stands", "--deny [PUB]:81 --net public", "PUB:80", true},
}

// TestPolicyTable holds the rows above, over IPv4 and IPv6.
func TestPolicyTable(t *testing.T) {
	n := testnet.New(t)
	for _, family := range []struct {
		name string
		subs *strings.Replacer
	}{
		{"IPv4", strings.NewReplacer("[PUB]", "8.8.4.4", "[PUBNET]", "8.8.4.0/24",
			"PUBNET", "8.8.4.0/24", "PRIVNET", "10.77.0.0/24", "PUB", "8.8.4.4", "PRIV", "10.77.0.1")},
		{"IPv6", strings.NewReplacer("PUB:", "[2001:4860:4860::8844]:", "PRIV:", "[fd00:77::1]:",
			"PUBNET", "2001:4860:4860::/48", "PRIVNET", "fd00:77::/64", "PUB", "2001:4860:4860::8844", "PRIV", "fd00:77::1")},
	} {
		t.Run(family.name, func(t *testing.T) {
			for _, to := range []string{"PUB:80", "PUB:81", "PRIV:80", "PRIV:81"} {
				closer(t, n.Remote.Listen(t, "tcp", netip.MustParseAddrPort(family.subs.Replace(to))))
			}
			var b *box
			var before string
			for i, row := range policyRows {
				flags := strings.Fields(family.subs.Replace(row.flags))
				to := netip.MustParseAddrPort(family.subs.Replace(row.to))
				if i == 0 || row.flags != before {
					b, before = start(t, n, root, flags...), row.flags
				}
				c, err := b.DialTCP(t.Context(), netip.AddrPort{}, to)
				if err == nil {
					c.Close()
				} else if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENETUNREACH) {
					// Unreachable: nothing allows IPv6, so the sandbox has no route.
					t.Fatalf("dial %v: %v, want a connection or %v", to, err, unix.ECONNREFUSED)
				}
				if allowed := err == nil; allowed != row.allowed {
					t.Errorf("%s: with %q a connection to %v is allowed: %v, want %v", row.rule, flags, to, allowed, row.allowed)
				}
			}
		})
	}
}

// TestRefusalSaysWhatWouldAllow takes the flag that tcpbox names and finds the
// connection allowed. Each destination is named once.
func TestRefusalSaysWhatWouldAllow(t *testing.T) {
	n := testnet.New(t)
	hint := regexp.MustCompile(`--allow (\S+)`)
	for _, to := range []netip.AddrPort{
		netip.AddrPortFrom(testnet.Remote4, 80), netip.AddrPortFrom(testnet.Remote6, 80),
	} {
		n.Remote.Listen(t, "tcp", to)
		b := start(t, n, root)
		for range 3 {
			if _, err := b.DialTCP(t.Context(), netip.AddrPort{}, to); !errors.Is(err, unix.ECONNREFUSED) {
				t.Fatalf("dial %v: %v, want %v", to, err, unix.ECONNREFUSED)
			}
		}
		testnet.Eventually(t, func() error {
			if !hint.MatchString(b.stderr.String()) {
				return fmt.Errorf("tcpbox names no flag:\n%s", b.stderr)
			}
			return nil
		})
		if got := strings.Count(b.stderr.String(), "refused "+to.String()); got != 1 {
			t.Errorf("tcpbox says %d times that %v is refused, want once:\n%s", got, to, b.stderr)
		}
		// The shell that the hint is meant for takes the quotes off.
		rule := strings.Trim(hint.FindStringSubmatch(b.stderr.String())[1], "'")
		again := start(t, n, root, "--allow", rule)
		c, err := again.DialTCP(t.Context(), netip.AddrPort{}, to)
		if err != nil {
			t.Errorf("with --allow %q: dial %v: %v", rule, to, err)
		} else {
			c.Close()
		}

		quiet := start(t, n, root, "--quiet")
		if _, err := quiet.DialTCP(t.Context(), netip.AddrPort{}, to); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("dial %v: %v, want %v", to, err, unix.ECONNREFUSED)
		}
		if strings.Contains(quiet.stderr.String(), "refused") {
			t.Errorf("--quiet speaks:\n%s", quiet.stderr)
		}
	}
}

// TestNamesThatResolveToSpecialAddresses: a name gets a guest no further than
// the address it stands for.
func TestNamesThatResolveToSpecialAddresses(t *testing.T) {
	testnet.Programs(t, "curl")
	n := testnet.New(t)
	zone := map[string][]netip.Addr{"good.test.": {testnet.Public4}}
	targets := append(disguises(testnet.Uplink4), testnet.Uplink4, testnet.Uplink6, testnet.Remote4,
		netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1"), netip.MustParseAddr("169.254.169.254"),
		netip.MustParseAddr("::ffff:10.77.0.2"))
	script := "curl -sS --max-time 25 http://good.test:81/ >/dev/null; echo $?\n"
	want := "7\n"
	for i, a := range targets {
		zone[fmt.Sprintf("bad%d.test.", i)] = []netip.Addr{a}
		script += fmt.Sprintf("curl -sS --max-time 25 http://bad%d.test:81/; echo $?\n", i)
		want += "7\n" // could not connect; 28 would be silence
	}
	n.Remote.ServeDNS(t, zone)
	n.Uplink.Listen(t, "tcp", netip.MustParseAddrPort("[::]:81"))
	capture := n.Capture(t)
	out := testnet.Output(t, root.run(t.Context(), t, n, nil, "sh", "-c", script))
	if out+"\n" != want {
		t.Errorf("curl's statuses are %q, want %q", strings.Fields(out), strings.Fields(want))
	}
	var got []netip.AddrPort
	for _, p := range capture.Packets(t) {
		if p.Out && !slices.Contains(got, p.Dst) {
			got = append(got, p.Dst)
		}
	}
	slices.SortFunc(got, netip.AddrPort.Compare)
	// The control, a closed port, and the resolver.
	if want := []netip.AddrPort{netip.AddrPortFrom(testnet.Public4, 81), netip.AddrPortFrom(testnet.Remote4, 53)}; !slices.Equal(got, want) {
		t.Errorf("packets went to %v, want %v", got, want)
	}
}
