package tcpbox

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestParsePublish(t *testing.T) {
	for _, row := range []struct{ text, want string }{
		{"8080:80", "127.0.0.1:8080:80"},
		{"8080:80/tcp", "127.0.0.1:8080:80"},
		{"5353:53/udp", "127.0.0.1:5353:53/udp"},
		{"0.0.0.0:8080:80", "0.0.0.0:8080:80"},
		{"192.0.2.7:8080:80", "192.0.2.7:8080:80"},
		{"[::1]:8080:80", "[::1]:8080:80"},
		{"[::]:8080:80/udp", "[::]:8080:80/udp"},
		{"8000-8009:80-89", "127.0.0.1:8000-8009:80-89"},
		{"[::1]:1-2:3-4/udp", "[::1]:1-2:3-4/udp"},
		{"65535:65535", "127.0.0.1:65535:65535"},

		// A port that is free.
		{"0:80", "127.0.0.1:0:80"},
		{"80", "127.0.0.1:0:80"},
		{":80", "127.0.0.1:0:80"},
		{"127.0.0.1::80", "127.0.0.1:0:80"},
		{"[::1]::80", "[::1]:0:80"},
		{"[::1]:80", "[::1]:0:80"},
		{"0:80-89", "127.0.0.1:0:80-89"},
		{"80-81/udp", "127.0.0.1:0:80-81/udp"},
	} {
		p, err := ParsePublish(row.text)
		if err != nil || p.String() != row.want {
			t.Errorf("ParsePublish(%q) = %v, %v, want %v", row.text, p, err, row.want)
		}
		if err == nil {
			if err := p.check(false); err != nil {
				t.Errorf("%q: check() = %v", row.text, err)
			}
		}
	}
}

func TestParsePublishFaults(t *testing.T) {
	for _, row := range []struct{ text, want string }{
		{"", `"" is not a port`},
		{":", `"" is not a port`},
		{"8080:", `"" is not a port`},
		{"8080:0", "port 0 of the guest"},
		{"8080:80:", `"8080" is not an address`},
		{"1:2:3:4", "too many colons"},
		{"::1:8080:80", "too many colons"},
		{"[::1:8080:80", "bracket is not closed"},
		{"[::1]8080:80", "bracket is not closed"},
		{"[127.0.0.1]:8080:80", "no brackets"},
		{"[fe80::1%lo]:8080:80", "zone"},
		{"[::ffff:127.0.0.1]:8080:80", "IPv4 in another form"},
		{"localhost:8080:80", `"localhost" is not an address`},
		{"224.0.0.1:8080:80", "a group"},
		{"[ff02::1]:8080:80", "a group"},
		{"255.255.255.255:8080:80", "a group"},
		{"255.255.255.255:8080:80/udp", "a group"},
		{"8080:80/sctp", `"sctp" is not a protocol`},
		{"8080:80/", `"" is not a protocol`},
		{"8080:65536", `"65536" is not a port`},
		{"-1:80", `"" is not a port`},
		{"+80:80", `"+80" is not a port`},
		{"0x50:80", `"0x50" is not a port`},
		{"000080:80", `"000080" is not a port`},
		{"8000-8009:80", "not of the same length"},
		{"8000:80-89", "not of the same length"},
		{"8009-8000:80-89", "ends before it begins"},
		{"80-80:80-80", "ends before it begins"},
		{"0-9:80-89", "does not begin at port 0"},
		{"1-2000:1-2000", "more than 1024"},
	} {
		_, err := ParsePublish(row.text)
		var wrong *PublishError
		if !errors.As(err, &wrong) || !strings.Contains(err.Error(), row.want) || wrong.Hint == "" {
			t.Errorf("ParsePublish(%q) = %v, want %q", row.text, err, row.want)
		}
	}
}

func TestPublishCheck(t *testing.T) {
	for _, row := range []struct {
		p    Publish
		no6  bool
		want string
	}{
		{Publish{}, false, "port 0"},
		{Publish{Port: 80}, true, ""},
		{Publish{Port: 80, Host: netip.IPv6Loopback()}, true, "no IPv6"},
		{Publish{Port: 65530, Count: 10}, false, "beyond port 65535"},
		{Publish{Port: 1, HostPort: 65530, Count: 10}, false, "beyond port 65535"},
		{Publish{Port: 1, Count: 2000}, false, "more than 1024"},
		{Publish{Port: 1, From: []netip.Prefix{{}}}, false, "not an address or a prefix"},
		{Publish{Port: 1, From: []netip.Prefix{netip.MustParsePrefix("::ffff:192.0.2.0/120")}}, false, "IPv4 in another form"},
		{Publish{Port: 1, From: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/8")}}, false, "host bits"},
	} {
		err := row.p.check(row.no6)
		if (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
			t.Errorf("%v.check(%v) = %v, want %q", row.p, row.no6, err, row.want)
		}
	}
}

func TestAcceptFrom(t *testing.T) {
	var p Publish
	if !p.lets(netip.MustParseAddr("192.0.2.1")) {
		t.Error("without a list, not everybody may come")
	}
	for _, text := range []string{"192.0.2.0/24", "2001:db8::1"} {
		from, err := ParseAcceptFrom(text)
		if err != nil {
			t.Fatal(err)
		}
		p.From = append(p.From, from)
	}
	for client, want := range map[string]bool{
		"192.0.2.255": true, "192.0.3.0": false, "2001:db8::1": true, "2001:db8::2": false, "2001:db8::1%eth0": true,
	} {
		if got := p.lets(netip.MustParseAddr(client)); got != want {
			t.Errorf("%s: %v, want %v", client, got, want)
		}
	}
	for _, text := range []string{"", "x", "192.0.2.1/24", "192.0.2.0/33", "::ffff:192.0.2.0/120", "fe80::1%lo"} {
		if p, err := ParseAcceptFrom(text); err == nil {
			t.Errorf("ParseAcceptFrom(%q) = %v", text, p)
		}
	}
}

// FuzzParsePublish: what is read prints as what reads the same.
func FuzzParsePublish(f *testing.F) {
	for _, text := range []string{"8080:80", "[::1]:8080:80/udp", "8000-8009:80-89", "127.0.0.1::80", "0:1-2", "[fe80::1%x]:1:2", "::", "1:2:3:4/"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePublish(text)
		if err != nil {
			return
		}
		if err := p.check(false); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		again, err := ParsePublish(p.String())
		if err != nil || again.String() != p.String() || again.Port != p.Port || again.HostPort != p.HostPort || again.ports() != p.ports() || again.UDP != p.UDP || again.host() != p.host() {
			t.Fatalf("%q: %v becomes %v, %v", text, p, again, err)
		}
		if n := len(p.each()); n != p.ports() {
			t.Fatalf("%q: %d ports, want %d", text, n, p.ports())
		}
	})
}

func FuzzParseAcceptFrom(f *testing.F) {
	f.Add("192.0.2.0/24")
	f.Add("::1")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParseAcceptFrom(text)
		if err != nil {
			return
		}
		if again, err := ParseAcceptFrom(p.String()); err != nil || again != p {
			t.Fatalf("%q: %v becomes %v, %v", text, p, again, err)
		}
	})
}

func TestSeenAs(t *testing.T) {
	cfg := Config{Args: []string{"true"}}
	if err := cfg.normalise(); err != nil {
		t.Fatal(err)
	}
	addrs, err := cfg.plan()
	if err != nil {
		t.Fatal(err)
	}
	const gateway4, gateway6 = "198.18.0.1", "fd74:6370:626f:78::1"
	for _, row := range []struct {
		client string
		routed bool
		want   string // empty: as it is
	}{
		{"192.0.2.1", true, ""},
		{"10.0.0.1", false, ""},
		{"127.0.0.1", true, gateway4},
		{"127.9.9.9", true, gateway4},
		{"0.0.0.1", true, gateway4},
		{"169.254.1.1", true, gateway4},
		{"255.255.255.255", true, gateway4},
		{"240.0.0.1", true, gateway4},
		{"224.0.0.1", true, gateway4},
		{"198.18.0.2", true, gateway4}, // the guest's own
		{"198.18.0.77", true, gateway4},
		{"2001:db8::1", true, ""},
		{"2001:db8::1", false, gateway6}, // the guest has no route to it
		{"::1", true, gateway6},
		{"fe80::1%2", true, gateway6},
		{"fd74:6370:626f:78::2", true, gateway6},
	} {
		client := netip.AddrPortFrom(netip.MustParseAddr(row.client), 40000)
		want := client
		if row.want != "" {
			want = netip.AddrPortFrom(netip.MustParseAddr(row.want), 40000)
		}
		if got := newPublisher(nil, addrs, row.routed).seenAs(client); got != want {
			t.Errorf("seenAs(%v) = %v, want %v", client, got, want)
		}
	}
}
