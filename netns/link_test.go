package netns

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tcpbox/tun"
)

// own makes a namespace, or skips.
func own(t *testing.T) *Own {
	t.Helper()
	skip := t.Skipf
	if os.Getenv("CI") == "true" {
		skip = t.Fatalf
	}
	if os.Geteuid() != 0 {
		skip("needs root")
	}
	o, err := New()
	if err != nil {
		skip("%v", err)
	}
	t.Cleanup(func() { o.Close() })
	return o
}

func TestLinkCheck(t *testing.T) {
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	for _, row := range []struct {
		what string
		link Link
		want string // in the error; empty: none
	}{
		{"nothing at all", Link{}, ""},
		{"both families", Link{MTU: 1500, Addresses: []netip.Prefix{p("198.18.0.2/24"), p("fd00::2/64")}, Gateways: []netip.Addr{a("198.18.0.1"), a("fd00::1")}}, ""},
		{"the smallest MTU of IPv4", Link{MTU: 68, Addresses: []netip.Prefix{p("198.18.0.2/24")}}, ""},
		{"too small an MTU for IPv4", Link{MTU: 67}, "mtu 67"},
		{"too small an MTU for IPv6", Link{MTU: 1279, Addresses: []netip.Prefix{p("fd00::2/64")}}, "mtu 1279 is not between 1280"},
		{"too large an MTU", Link{MTU: 65536}, "mtu 65536"},
		{"an IPv6 address without IPv6", Link{NoIPv6: true, Addresses: []netip.Prefix{p("fd00::2/64")}}, "which is disabled"},
		{"an IPv6 gateway without IPv6", Link{NoIPv6: true, Gateways: []netip.Addr{a("fd00::1")}}, "which is disabled"},
		{"two gateways", Link{Gateways: []netip.Addr{a("198.18.0.1"), a("198.18.0.3")}}, "second of its family"},
		{"a mapped address", Link{Addresses: []netip.Prefix{p("::ffff:1.2.3.4/128")}}, "not usable"},
		{"no address", Link{Addresses: []netip.Prefix{{}}, Gateways: []netip.Addr{{}}}, "not usable"},
	} {
		err := row.link.Check()
		if (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q", row.what, err, row.want)
		}
	}
}

// TestLinkUp makes a device, and asks the kernel what became of it.
func TestLinkUp(t *testing.T) {
	o := own(t)
	link := Link{
		Name: "x0", MTU: 9000,
		Addresses: []netip.Prefix{netip.MustParsePrefix("198.18.0.2/24"), netip.MustParsePrefix("fd00::2/64")},
		Gateways:  []netip.Addr{netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("fd00::1")},
	}
	for _, s := range link.Before() {
		if err := o.SetSysctl(s.Name, s.Value); err != nil {
			t.Error(err)
		}
	}
	fd := -1
	err := o.Do(func() (err error) {
		fd, _, err = tun.Open(tun.Options{Name: "x0"})
		return err
	})
	if err != nil {
		t.Skip(err)
	}
	defer unix.Close(fd)
	if err := o.Do(link.Up); err != nil {
		t.Fatal(err)
	}
	o.Do(func() error {
		iface, err := net.InterfaceByName("x0")
		if err != nil {
			t.Fatal(err)
		}
		if iface.MTU != 9000 || iface.Flags&net.FlagUp == 0 {
			t.Errorf("interface %+v", iface)
		}
		addrs, _ := iface.Addrs()
		var got []string
		for _, a := range addrs {
			got = append(got, a.String())
		}
		if s := strings.Join(got, " "); s != "198.18.0.2/24 fd00::2/64" {
			t.Errorf("addresses %s", s)
		}
		lo, err := net.InterfaceByName("lo")
		if err != nil || lo.Flags&net.FlagUp == 0 {
			t.Errorf("lo %+v, %v", lo, err)
		}
		// The IPv6 address is usable at once.
		l, err := net.Listen("tcp6", "[fd00::2]:0")
		if err != nil {
			t.Error(err)
		} else {
			l.Close()
		}
		return nil
	})
	routes, err := o.ProcNet("route")
	if err != nil || !strings.Contains(string(routes), "x0\t00000000\t"+hexOf("198.18.0.1")) {
		t.Errorf("routes %s, %v", routes, err)
	}
	routes, err = o.ProcNet("ipv6_route")
	if err != nil || !strings.Contains(string(routes), strings.Repeat("0", 32)+" 00 "+strings.Repeat("0", 32)+" 00 fd000000000000000000000000000001") {
		t.Errorf("IPv6 routes %s, %v", routes, err)
	}
	// What the kernel refuses is named.
	bad := link
	bad.Addresses, bad.Gateways = nil, []netip.Addr{netip.MustParseAddr("10.9.9.9")}
	if err := o.Do(bad.Up); !errors.Is(err, unix.ENETUNREACH) && !errors.Is(err, unix.EEXIST) || !strings.Contains(err.Error(), "via 10.9.9.9") {
		t.Errorf("a gateway out of reach: %v", err)
	}
	bad.Name = "none"
	if err := o.Do(bad.Up); !errors.Is(err, unix.ENODEV) {
		t.Errorf("no such interface: %v", err)
	}
}

// hexOf is an address as /proc/net/route prints it: the number that lies in
// memory.
func hexOf(s string) string {
	a := netip.MustParseAddr(s).As4()
	v := binary.NativeEndian.Uint32(a[:])
	const digits = "0123456789ABCDEF"
	out := make([]byte, 8)
	for i := range out {
		out[i] = digits[v>>(28-4*i)&15]
	}
	return string(out)
}
