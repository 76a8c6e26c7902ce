package netns

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"tcpbox/tun"
)

// TestUpMeansUsable brings interfaces up again and again: each time the address
// takes packets when Up has returned.
func TestUpMeansUsable(t *testing.T) {
	for range 20 {
		o := own(t)
		err := o.Do(func() error {
			fd, name, err := tun.Open(tun.Options{})
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			addr := netip.MustParsePrefix("fd74:6370:626f:78::2/64")
			if err := (Link{Name: name, Addresses: []netip.Prefix{addr}}).Up(); err != nil {
				return err
			}
			nl, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
			if err != nil {
				return err
			}
			defer unix.Close(nl)
			if kind, err := routeType(nl, addr.Addr()); err != nil || kind != unix.RTN_LOCAL {
				t.Errorf("route to the own address: type %d, %v", kind, err)
			}
			if kind, err := routeType(nl, addr.Addr().Next()); err != nil || kind != unix.RTN_UNICAST {
				t.Errorf("route to a neighbour: type %d, %v", kind, err)
			}
			if _, err := routeType(nl, netip.MustParseAddr("2001:db8::1")); err != unix.ENETUNREACH {
				t.Errorf("route to the outside, without a gateway: %v", err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
