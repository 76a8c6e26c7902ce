package upstream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tcpbox/stack/relay"
)

// received is what one flow received.
type received struct {
	data [][]byte
	icmp []*relay.ICMPError
}

// collect receives until want holds, or the test fails.
func collect(t *testing.T, c relay.Packets, want func(*received) bool) *received {
	t.Helper()
	r := &received{}
	for !want(r) {
		err := c.Receive(func(p []byte) { r.data = append(r.data, slices.Clone(p)) })
		var icmp *relay.ICMPError
		switch {
		case errors.As(err, &icmp):
			r.icmp = append(r.icmp, icmp)
		case err != nil:
			t.Fatalf("receive: %v", err)
		}
	}
	return r
}

func (s *space) listenUDP(address string) *net.UDPConn {
	s.t.Helper()
	var c net.PacketConn
	var err error
	s.do(func() { c, err = net.ListenPacket("udp", address) })
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c.(*net.UDPConn)
}

var guestUDP = netip.MustParseAddrPort("198.18.0.2:40000")

// Datagrams of every size go both ways and keep their borders.
func TestUDP(t *testing.T) {
	s := newSpace(t, "link set lo mtu 1500") // so that large ones are fragmented
	h := &Host{Socket: s.socket}
	for _, row := range []struct {
		addr string
		most int
	}{{"127.0.0.1:0", 65507}, {"[::1]:0", 65527}} {
		server := s.listenUDP(row.addr)
		dst := server.LocalAddr().(*net.UDPAddr).AddrPort()
		c, err := h.DialUDP(t.Context(), guestUDP, dst)
		if err != nil {
			t.Fatal(err)
		}
		if n := h.Stats().Flows; n != 1 {
			t.Errorf("Flows = %d, want 1", n)
		}
		if mtu := c.MTU(); mtu != 1500 {
			t.Errorf("MTU = %d, want 1500", mtu)
		}
		buf := make([]byte, 1<<16)
		for _, size := range []int{0, 1, 1472, 1473, 9000, row.most} {
			sent := bytes.Repeat([]byte{byte(size)}, size)
			if err := c.Send(sent, 0); err != nil {
				t.Fatalf("send %d bytes to %v: %v", size, dst, err)
			}
			n, from, err := server.ReadFromUDPAddrPort(buf)
			if err != nil || !bytes.Equal(buf[:n], sent) {
				t.Fatalf("the server read %d bytes, %v, want %d", n, err, size)
			}
			if _, err := server.WriteToUDPAddrPort(sent, from); err != nil {
				t.Fatal(err)
			}
			r := collect(t, c, func(r *received) bool { return len(r.data) > 0 })
			if !bytes.Equal(r.data[0], sent) {
				t.Errorf("received %d bytes, want %d", len(r.data[0]), size)
			}
		}
		if err := c.Send(make([]byte, row.most+1), 0); !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("sending %d bytes: %v, want %v", row.most+1, err, syscall.EMSGSIZE)
		}
		c.Close()
		c.Close()
		if err := c.Receive(func([]byte) {}); err != net.ErrClosed {
			t.Errorf("receive after close: %v", err)
		}
		if err := c.Send(nil, 0); err != net.ErrClosed {
			t.Errorf("send after close: %v", err)
		}
	}
	if n := h.Stats().Flows; n != 0 {
		t.Errorf("Flows = %d at the end", n)
	}
}

// A closed port is told by the ICMP error, with what it was about, and loses no
// datagram sent after it.
func TestUDPPortUnreachable(t *testing.T) {
	s := newSpace(t, "")
	h := &Host{Socket: s.socket}
	for _, row := range []struct {
		addr      string
		typ, code uint8
	}{{"127.0.0.1:0", 3, 3}, {"[::1]:0", 1, 4}} {
		server := s.listenUDP(row.addr)
		dst := server.LocalAddr().(*net.UDPAddr).AddrPort()
		server.Close()
		c, err := h.DialUDP(t.Context(), guestUDP, dst)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Send([]byte("one"), 0); err != nil {
			t.Fatal(err)
		}
		server = s.listenUDP(dst.String()) // while the error is pending
		if err := c.Send([]byte("two"), 0); err != nil {
			t.Fatalf("the error about one datagram ended the sending of another: %v", err)
		}
		buf := make([]byte, 100)
		if n, _, err := server.ReadFromUDPAddrPort(buf); err != nil || string(buf[:n]) != "two" {
			t.Errorf("the server read %q, %v", buf[:n], err)
		}
		r := collect(t, c, func(r *received) bool { return len(r.icmp) > 0 })
		e := r.icmp[0]
		if e.Type != row.typ || e.Code != row.code || e.From != dst.Addr() || string(e.Quoted) != "one" {
			t.Errorf("%v quoting %q, want type %d code %d from %v quoting one", e, e.Quoted, row.typ, row.code, dst.Addr())
		}
		c.Close()
	}
}

// A socket that cannot be made or connected says why.
func TestUDPDialErrors(t *testing.T) {
	s := newSpace(t, "addr add 10.9.0.1/32 dev lo\nroute add unreachable 10.1.0.0/16\nroute add prohibit 10.2.0.0/16\nroute add blackhole 10.3.0.0/16")
	h := &Host{Socket: s.socket}
	for _, row := range []struct {
		dst  string
		want error
	}{
		{"192.0.2.1:53", syscall.ENETUNREACH},
		{"[2001:db8::1]:53", syscall.ENETUNREACH},
		{"10.1.0.1:53", syscall.EHOSTUNREACH},
		{"10.2.0.1:53", syscall.EACCES},
		{"10.3.0.1:53", syscall.EINVAL},
		{"255.255.255.255:53", syscall.ENETUNREACH},
	} {
		if c, err := h.DialUDP(t.Context(), guestUDP, netip.MustParseAddrPort(row.dst)); !errors.Is(err, row.want) {
			t.Errorf("DialUDP(%s) = %v, %v, want %v", row.dst, c, err, row.want)
		}
	}
	refused := errors.New("refused")
	h = &Host{Socket: s.socket, Confirm: func(network string, _, remote netip.AddrPort) error {
		if network != "udp" || remote != netip.MustParseAddrPort("10.9.0.1:53") {
			t.Errorf("Confirm(%s, %v)", network, remote)
		}
		return refused
	}}
	if _, err := h.DialUDP(t.Context(), guestUDP, netip.MustParseAddrPort("10.9.0.1:53")); !errors.Is(err, refused) {
		t.Errorf("an unconfirmed flow: %v", err)
	}
	h = &Host{Socket: func(int, int, int) (int, error) { return -1, unix.EMFILE }}
	var short *ShortageError
	if _, err := h.DialUDP(t.Context(), guestUDP, netip.MustParseAddrPort("10.9.0.1:53")); !errors.As(err, &short) || short.Of != Descriptors {
		t.Errorf("without descriptors: %v", err)
	}
}

// The TTL is the guest's for as long as it says so, and then the host's again.
func TestUDPHops(t *testing.T) {
	s := newSpace(t, "")
	h := &Host{Socket: s.socket}
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		server := s.listenUDP(addr)
		raw, err := server.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTTL, 1)
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1)
		})
		c, err := h.DialUDP(t.Context(), guestUDP, server.LocalAddr().(*net.UDPAddr).AddrPort())
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range []struct {
			hops uint8
			want int
		}{{0, 64}, {5, 5}, {255, 255}, {0, 64}, {1, 1}} {
			if err := c.Send([]byte("x"), row.hops); err != nil {
				t.Fatal(err)
			}
			oob := make([]byte, 100)
			_, n, _, _, err := server.ReadMsgUDP(make([]byte, 10), oob)
			if err != nil {
				t.Fatal(err)
			}
			msgs, err := unix.ParseSocketControlMessage(oob[:n])
			if err != nil || len(msgs) != 1 {
				t.Fatalf("control messages %v, %v", msgs, err)
			}
			if got := int(binary.NativeEndian.Uint32(msgs[0].Data)); got != row.want {
				t.Errorf("%s: sent with hops %d it came with %d, want %d", addr, row.hops, got, row.want)
			}
		}
		c.Close()
	}
}

// Echo goes by ping sockets, where the host has them.
func TestEcho(t *testing.T) {
	s := newSpace(t, "")
	h := &Host{Socket: s.socket}
	addrs := []string{"127.0.0.1", "::1"}
	s.sysctl("net.ipv4.ping_group_range", "1 0")
	for _, addr := range addrs {
		if _, err := h.DialEcho(t.Context(), netip.Addr{}, netip.MustParseAddr(addr)); !errors.Is(err, ErrNoPing) {
			t.Errorf("without ping sockets: DialEcho(%s): %v", addr, err)
		}
	}
	s.sysctl("net.ipv4.ping_group_range", "0 2147483647")
	s.ip("route add prohibit 10.2.0.0/16")
	if _, err := h.DialEcho(t.Context(), netip.Addr{}, netip.MustParseAddr("10.2.0.1")); errors.Is(err, ErrNoPing) || !errors.Is(err, syscall.EACCES) {
		t.Errorf("a prohibited destination: %v", err)
	}
	for i, addr := range addrs {
		request, reply := byte(8), byte(0)
		if i == 1 {
			request, reply = 128, 129
		}
		c, err := h.DialEcho(t.Context(), netip.Addr{}, netip.MustParseAddr(addr))
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{0, 56, 60000} {
			msg := append([]byte{request, 0, 0, 0, 0x12, 0x34, 0, 7}, bytes.Repeat([]byte("p"), size)...)
			if err := c.Send(msg, 0); err != nil {
				t.Fatal(err)
			}
			r := collect(t, c, func(r *received) bool { return len(r.data) > 0 })
			if got := r.data[0]; got[0] != reply || !bytes.Equal(got[6:], msg[6:]) {
				t.Errorf("%s: a reply of %d bytes begins with %x", addr, len(got), got[:8])
			}
		}
		c.Close()
	}
}

// Closing wakes who waits.
func TestPacketsClose(t *testing.T) {
	s := newSpace(t, "")
	server := s.listenUDP("127.0.0.1:0")
	c, err := (&Host{Socket: s.socket}).DialUDP(t.Context(), guestUDP, server.LocalAddr().(*net.UDPAddr).AddrPort())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- c.Receive(func([]byte) {}) }()
	c.Close()
	if err := <-done; err != net.ErrClosed {
		t.Errorf("Receive = %v, want %v", err, net.ErrClosed)
	}
}

// extendedErr makes a control message as the kernel does.
func extendedErr(level, typ int, origin, icmpType, code byte, info uint32, offender []byte) []byte {
	b := make([]byte, unix.CmsgSpace(extendedErrLen+len(offender)))
	binary.NativeEndian.PutUint64(b, uint64(unix.CmsgLen(extendedErrLen+len(offender))))
	binary.NativeEndian.PutUint32(b[8:], uint32(level))
	binary.NativeEndian.PutUint32(b[12:], uint32(typ))
	d := b[unix.CmsgLen(0):]
	d[4], d[5], d[6] = origin, icmpType, code
	binary.NativeEndian.PutUint32(d[8:], info)
	copy(d[extendedErrLen:], offender)
	return b
}

func TestParseExtendedErr(t *testing.T) {
	in4 := append(binary.NativeEndian.AppendUint16(nil, unix.AF_INET), 0, 0, 10, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0)
	for _, row := range []struct {
		name string
		oob  []byte
		want *relay.ICMPError
	}{
		{"nothing", nil, nil},
		{"cut short", extendedErr(unix.IPPROTO_IP, unix.IP_RECVERR, originICMP, 3, 4, 1400, nil)[:20], nil},
		{"of the socket's own", extendedErr(unix.IPPROTO_IP, unix.IP_RECVERR, 1, 0, 0, 1500, nil), nil},
		{"another message", extendedErr(unix.IPPROTO_IP, unix.IP_TTL, originICMP, 3, 4, 1400, in4), nil},
		{
			"too big", extendedErr(unix.IPPROTO_IP, unix.IP_RECVERR, originICMP, 3, 4, 1400, in4),
			&relay.ICMPError{Type: 3, Code: 4, Info: 1400, From: netip.MustParseAddr("10.0.0.9")},
		},
		{
			"no offender", extendedErr(unix.IPPROTO_IPV6, unix.IPV6_RECVERR, originICMP6, 3, 0, 0, nil),
			&relay.ICMPError{Type: 3},
		},
		{
			"behind another", append(extendedErr(unix.IPPROTO_IP, unix.IP_TTL, 0, 0, 0, 0, nil), extendedErr(unix.IPPROTO_IP, unix.IP_RECVERR, originICMP, 11, 0, 0, in4)...),
			&relay.ICMPError{Type: 11, From: netip.MustParseAddr("10.0.0.9")},
		},
	} {
		got := parseExtendedErr(row.oob)
		if (got == nil) != (row.want == nil) || got != nil && (got.Error() != row.want.Error() || got.Info != row.want.Info) {
			t.Errorf("%s: %v, want %v", row.name, got, row.want)
		}
	}
}

func FuzzParseExtendedErr(f *testing.F) {
	f.Add(extendedErr(unix.IPPROTO_IP, unix.IP_RECVERR, originICMP, 3, 4, 1400, []byte{2, 0, 0, 0, 10, 0, 0, 9}))
	f.Add(extendedErr(unix.IPPROTO_IPV6, unix.IPV6_RECVERR, originICMP6, 1, 4, 0, make([]byte, 28)))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, oob []byte) {
		if e := parseExtendedErr(oob); e != nil {
			_ = e.Error()
		}
	})
}

// Sending and receiving allocate nothing.
func TestPacketsAllocate(t *testing.T) {
	s := newSpace(t, "")
	server := s.listenUDP("127.0.0.1:0")
	c, err := (&Host{Socket: s.socket}).DialUDP(t.Context(), guestUDP, server.LocalAddr().(*net.UDPAddr).AddrPort())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	msg, buf := []byte("hello"), make([]byte, 100)
	take := func([]byte) {}
	server.SetReadBuffer(1 << 20)
	if n := testing.AllocsPerRun(100, func() {
		if err := c.Send(msg, 0); err != nil {
			t.Fatal(err)
		}
		n, from, err := server.ReadFromUDPAddrPort(buf)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := server.WriteToUDPAddrPort(buf[:n], from); err != nil {
			t.Fatal(err)
		}
		if err := c.Receive(take); err != nil {
			t.Fatal(err)
		}
	}); n >= 1 {
		t.Errorf("%v allocations for a datagram and its reply", n)
	}
}
