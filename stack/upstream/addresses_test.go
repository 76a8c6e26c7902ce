package upstream

import (
	"encoding/binary"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOwns(t *testing.T) {
	s := newSpace(t, veth+`
		route add local 198.51.100.0/24 dev lo
		-6 route add local 2001:db8:5::/64 dev lo
		route add default via 192.0.2.254
		-6 route add default via 2001:db8::fe
		route add blackhole 203.0.113.0/26
		route add prohibit 203.0.113.64/26
		route add unreachable 203.0.113.128/26
		-6 route add blackhole 2001:db8:3::/48
	`)
	a, err := NewAddresses(s.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for _, row := range []struct {
		addr string
		want bool
	}{
		{"192.0.2.1", true},
		{"192.0.2.2", false},
		{"::ffff:192.0.2.1", true},
		{"2001:db8::1", true},
		{"2001:db8::1%up0", true},
		{"2001:db8::2", false},
		{"127.0.0.1", true},
		{"127.255.1.2", true},
		{"::1", true},
		{"0.0.0.0", true},
		{"::", true},
		{"192.0.2.255", true},      // broadcast comes back to the host
		{"255.255.255.255", true},  // and so does this
		{"ff02::1", true},          // and multicast
		{"198.51.100.77", true},    // a route of type local, no address
		{"2001:db8:5::77", true},   // likewise
		{"8.8.8.8", false},         // by the default route
		{"2001:4860::8888", false}, // likewise
		{"203.0.113.1", false},     // a blackhole is nobody's
		{"203.0.113.65", false},
		{"203.0.113.129", false},
		{"2001:db8:3::1", false},
	} {
		if got := a.Owns(netip.MustParseAddr(row.addr)); got != row.want {
			t.Errorf("Owns(%s) = %v, want %v", row.addr, got, row.want)
		}
	}
	if a.Owns(netip.Addr{}) != true {
		t.Error("Owns(no address) = false, want true")
	}
	if n := a.Failures(); n != 0 {
		t.Errorf("%d questions failed", n)
	}
}

// An address counts from the moment when it is there, and no longer.
func TestOwnsFollowsTheHost(t *testing.T) {
	s := newSpace(t, veth)
	a, err := NewAddresses(s.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for _, row := range []struct{ prefix, options string }{
		{"192.0.2.9/24", ""},
		{"2001:db8::9/64", "nodad"},
		{"10.9.9.9/32", ""},
	} {
		addr := netip.MustParsePrefix(row.prefix).Addr()
		for _, step := range []struct {
			action string
			want   bool
		}{{"add", true}, {"del", false}} {
			if a.Owns(addr) == step.want {
				t.Errorf("before %s: Owns(%v) = %v", step.action, addr, step.want)
			}
			options := row.options
			if step.action == "del" {
				options = ""
			}
			s.ip("address " + step.action + " " + row.prefix + " dev up0 " + options)
			if a.Owns(addr) != step.want {
				t.Errorf("after %s: Owns(%v) = %v", step.action, addr, !step.want)
			}
		}
	}
}

// A subnet's anycast address is the host's when the host is a router.
func TestOwnsAnycast(t *testing.T) {
	s := newSpace(t, "")
	s.sysctl("net.ipv6.conf.all.forwarding", "1")
	for _, line := range []string{
		"link add up0 type veth peer name up1", "link set up1 up", "link set up0 up",
		"address add 2001:db8:7::1/64 dev up0 nodad",
	} {
		s.ip(line)
	}
	a, err := NewAddresses(s.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	// The kernel makes its route soon after the address, not with it.
	eventually(t, "the host owns the anycast address", func() bool { return a.Owns(netip.MustParseAddr("2001:db8:7::")) })
}

func TestOwnsWithoutAnAnswer(t *testing.T) {
	a, err := NewAddresses(nil)
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr("192.0.2.200")
	if a.Owns(addr) {
		t.Skip("this host has the documentation's addresses")
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if !a.Owns(addr) || a.Failures() != 1 {
		t.Errorf("after Close: Owns = %v, %d failures; want true, 1", a.Owns(addr), a.Failures())
	}
	refusing := func(int, int, int) (int, error) { return -1, unix.EMFILE }
	if _, err := NewAddresses(refusing); err == nil {
		t.Error("NewAddresses without a socket succeeds")
	}
}

func TestOwnsConcurrently(t *testing.T) {
	a, err := NewAddresses(nil)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				if a.Owns(netip.MustParseAddr("192.0.2.200")) || !a.Owns(netip.MustParseAddr("255.255.255.255")) {
					t.Error("an answer went to another question")
					return
				}
			}
		})
	}
	wg.Wait()
	a.Close()
}

func answer(kind uint16, sequence uint32, body []byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, 0)
	b = binary.NativeEndian.AppendUint32(b, sequence)
	b = binary.NativeEndian.AppendUint32(b, 0)
	return append(b, body...)
}

func errnoBody(errno syscall.Errno) []byte {
	return binary.NativeEndian.AppendUint32(nil, uint32(-int32(errno)))
}

func TestParseAnswer(t *testing.T) {
	local, unicast := make([]byte, unix.SizeofRtMsg), make([]byte, unix.SizeofRtMsg)
	local[7], unicast[7] = unix.RTN_LOCAL, unix.RTN_UNICAST
	for _, row := range []struct {
		name string
		b    []byte
		want bool
		err  error
	}{
		{"local", answer(unix.RTM_NEWROUTE, 7, local), true, nil},
		{"unicast", answer(unix.RTM_NEWROUTE, 7, unicast), false, nil},
		{"an address", answer(unix.RTM_NEWADDR, 7, make([]byte, unix.SizeofIfAddrmsg)), true, nil},
		{"no route", answer(unix.NLMSG_ERROR, 7, errnoBody(unix.ENETUNREACH)), false, nil},
		{"no address", answer(unix.NLMSG_ERROR, 7, errnoBody(unix.EADDRNOTAVAIL)), false, nil},
		{"blackhole", answer(unix.NLMSG_ERROR, 7, errnoBody(unix.EINVAL)), false, unix.EINVAL},
		{"another error", answer(unix.NLMSG_ERROR, 7, errnoBody(unix.ENOBUFS)), false, unix.ENOBUFS},
		{"another question", answer(unix.RTM_NEWROUTE, 6, local), false, errOtherAnswer},
		{"another question first", append(answer(unix.RTM_NEWROUTE, 6, unicast), answer(unix.RTM_NEWROUTE, 7, local)...), true, nil},
		{"nothing", nil, false, errOtherAnswer},
		{"too short", answer(unix.RTM_NEWROUTE, 7, local[:4]), false, errBadAnswer},
		{"cut off", answer(unix.RTM_NEWROUTE, 7, local)[:20], false, errBadAnswer},
		{"another message", answer(unix.RTM_DELROUTE, 7, local), false, errBadAnswer},
	} {
		if got, err := parseAnswer(row.b, 7); got != row.want || err != row.err {
			t.Errorf("%s: parseAnswer = %v, %v; want %v, %v", row.name, got, err, row.want, row.err)
		}
	}
}

func FuzzParseAnswer(f *testing.F) {
	local := make([]byte, unix.SizeofRtMsg)
	local[7] = unix.RTN_LOCAL
	f.Add(answer(unix.RTM_NEWROUTE, 7, local))
	f.Add(answer(unix.RTM_NEWROUTE, 6, local))
	f.Add(answer(unix.NLMSG_ERROR, 7, errnoBody(unix.ENETUNREACH)))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		if owned, err := parseAnswer(b, 7); err != nil && owned {
			t.Errorf("parseAnswer = %v with error %v", owned, err)
		}
	})
}

// An IPv6 address that waits to be known as no duplicate is the host's.
func TestOwnsTentative(t *testing.T) {
	s := newSpace(t, veth)
	s.sysctl("net.ipv6.conf.up0.dad_transmits", "1000") // for ever, as far as a test goes
	s.ip("address add 2001:db8::d/64 dev up0")
	a, err := NewAddresses(s.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if !a.Owns(netip.MustParseAddr("2001:db8::d")) {
		t.Error("Owns(a tentative address) = false, want true")
	}
	if a.Owns(netip.MustParseAddr("2001:db8::e")) {
		t.Error("Owns(its neighbour) = true, want false")
	}
}

func BenchmarkOwns(b *testing.B) {
	a, err := NewAddresses(nil)
	if err != nil {
		if os.IsPermission(err) {
			b.Skip(err)
		}
		b.Fatal(err)
	}
	defer a.Close()
	addr := netip.MustParseAddr("192.0.2.200")
	b.ReportAllocs()
	for b.Loop() {
		a.Owns(addr)
	}
}
