package stack

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"tcpbox/policy"
	"tcpbox/stack/relay"
	"tcpbox/tun/packet"
	"tcpbox/tun/tuntest"
)

func (u *fakeUplink) DialUDP(context.Context, netip.AddrPort, netip.AddrPort) (relay.Packets, error) {
	return nil, errors.New("no datagrams here")
}

func (u *fakeUplink) DialEcho(context.Context, netip.Addr, netip.Addr) (relay.Packets, error) {
	return nil, errors.New("no pings here")
}

// fakePackets is a flow's socket in the hands of a test.
type fakePackets struct {
	echo bool
	dst  netip.AddrPort
	mtu  int

	sent chan sent
	in   chan any // []byte or error
	done chan struct{}
	once sync.Once
	fail error // what Send returns
}

type sent struct {
	data string
	hops uint8
}

func (c *fakePackets) Send(p []byte, hops uint8) error {
	if c.fail != nil {
		return c.fail
	}
	select {
	case c.sent <- sent{string(p), hops}:
		return nil
	default:
		return syscall.EAGAIN
	}
}

func (c *fakePackets) Receive(take func([]byte)) error {
	select {
	case v := <-c.in:
		if err, ok := v.(error); ok {
			return err
		}
		take(v.([]byte))
		return nil
	case <-c.done:
		return net.ErrClosed
	}
}

func (c *fakePackets) MTU() int { return c.mtu }

func (c *fakePackets) Close() error {
	c.once.Do(func() { close(c.done) })
	return nil
}

// packetUplink opens flows, by default ones that take everything.
type packetUplink struct {
	*fakeUplink
	change func(*fakePackets) error // of a flow, before it is opened
	opened chan *fakePackets
}

func newPacketUplink() *packetUplink {
	return &packetUplink{fakeUplink: failing(errors.New("no connections here")), opened: make(chan *fakePackets, 1000)}
}

func (u *packetUplink) open(c *fakePackets) (relay.Packets, error) {
	c.mtu, c.sent, c.in, c.done = 1500, make(chan sent, 100), make(chan any, 100), make(chan struct{})
	if u.change != nil {
		if err := u.change(c); err != nil {
			return nil, err
		}
	}
	u.opened <- c
	return c, nil
}

func (u *packetUplink) DialUDP(_ context.Context, _, dst netip.AddrPort) (relay.Packets, error) {
	return u.open(&fakePackets{dst: dst})
}

func (u *packetUplink) DialEcho(_ context.Context, _, dst netip.Addr) (relay.Packets, error) {
	return u.open(&fakePackets{echo: true, dst: netip.AddrPortFrom(dst, 0)})
}

// get receives from a channel, or fails the test.
func get[T any](t *testing.T, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-testContext(t).Done():
		t.Fatal("nothing came")
	}
	return v
}

func udp(src, dst netip.AddrPort, payload string) packet.Build {
	return packet.Build{Proto: packet.UDP, Src: src, Dst: dst, Payload: []byte(payload)}
}

func echo(src, dst netip.Addr, id, seq uint16, payload string) packet.Build {
	b := packet.Build{Proto: packet.ICMP, Src: netip.AddrPortFrom(src, 0), Dst: netip.AddrPortFrom(dst, 0), ICMPType: 8, ICMPRest: uint32(id)<<16 | uint32(seq), Payload: []byte(payload)}
	if src.Is6() {
		b.Proto, b.ICMPType = packet.ICMPv6, 128
	}
	return b
}

func send(t *testing.T, rec *tuntest.Recorder, b packet.Build) {
	t.Helper()
	if err := rec.Send(b.Bytes()); err != nil {
		t.Fatal(err)
	}
}

// wantError waits for an ICMP error about a packet.
func wantError(t *testing.T, rec *tuntest.Recorder, about packet.Build, m packet.Message, from netip.Addr) {
	t.Helper()
	f, err := rec.Wait(testContext(t), func(f *tuntest.Recorded) bool { return f.Packet.ICMPError() })
	if err != nil {
		t.Fatal(err)
	}
	p := f.Packet
	q, err := packet.ParseQuoted(p.Payload(f.Data))
	if p.ICMPType != m.Type || p.ICMPCode != m.Code || p.Src.Addr() != from || err != nil || q.Src != about.Src || q.Dst != about.Dst || q.Proto != about.Proto {
		t.Errorf("got %v about %v, %v; want %+v from %v about %v > %v", &p, &q, err, m, from, about.Src, about.Dst)
	}
	if rest := f.Data[p.IPLen+4:]; m.Rest != 0 && !bytes.Equal(rest[:4], []byte{byte(m.Rest >> 24), byte(m.Rest >> 16), byte(m.Rest >> 8), byte(m.Rest)}) {
		t.Errorf("the rest of the header is %x, want %x", rest[:4], m.Rest)
	}
}

var (
	guestUDP  = netip.AddrPortFrom(guestAddr, 5000)
	guestUDP6 = netip.AddrPortFrom(guestAddr6, 5000)
	hostAddr  = netip.MustParseAddr("198.18.0.3")
	hostAddr6 = netip.MustParseAddr("fd74:6370:626f:78::3")
)

// TestDatagrams: a flow is opened once, carries both ways in order, and ends
// with the gateway.
func TestDatagrams(t *testing.T) {
	for _, row := range []struct{ src, dst netip.AddrPort }{{guestUDP, server}, {guestUDP6, server6}} {
		u := newPacketUplink()
		g, rec := withPackets(t, u, nil)
		var want []string
		for _, text := range []string{"one", "two", "", "four"} {
			send(t, rec, udp(row.src, row.dst, text))
			want = append(want, text)
		}
		c := get(t, u.opened)
		var got []string
		for range want {
			got = append(got, get(t, c.sent).data)
		}
		if !slices.Equal(got, want) || c.dst != row.dst {
			t.Errorf("sent %q to %v, want %q to %v", got, c.dst, want, row.dst)
		}
		for _, text := range []string{"answer", ""} {
			c.in <- []byte(text)
			f, err := rec.Wait(testContext(t), func(f *tuntest.Recorded) bool { return f.Packet.Proto == packet.UDP })
			if err != nil {
				t.Fatal(err)
			}
			if p := f.Packet; p.Src != row.dst || p.Dst != row.src || string(p.Payload(f.Data)) != text {
				t.Errorf("the guest got %v with %q", &p, p.Payload(f.Data))
			}
		}
		send(t, rec, udp(netip.AddrPortFrom(row.src.Addr(), 5001), row.dst, "another flow"))
		get(t, get(t, u.opened).sent)
		eventually(t, "all was counted", func() bool {
			st := g.Stats()
			return st.Flows == 2 && st.FlowsOpened == 2 && st.DatagramsOut == 5 && st.DatagramsIn == 2
		})
		g.Close()
		<-c.done
		if st := g.Stats(); st.Flows != 0 {
			t.Errorf("%d flows are left", st.Flows)
		}
	}
}

// TestDatagramHops: a TTL that a program chose goes on, the kernel's default
// does not.
func TestDatagramHops(t *testing.T) {
	u := newPacketUplink()
	_, rec := withPackets(t, u, nil)
	for _, row := range []struct{ ttl, want uint8 }{{64, 0}, {1, 1}, {255, 255}} {
		b := udp(guestUDP, server, "probe")
		b.TTL = row.ttl
		send(t, rec, b)
	}
	c := get(t, u.opened)
	for _, want := range []uint8{0, 1, 255} {
		if got := get(t, c.sent).hops; got != want {
			t.Errorf("sent with hops %d, want %d", got, want)
		}
	}
}

// TestEchoes: echo requests go on, replies have the guest's identifier.
func TestEchoes(t *testing.T) {
	for _, row := range []struct {
		src, dst       netip.Addr
		request, reply uint8
	}{{guestAddr, server.Addr(), 8, 0}, {guestAddr6, server6.Addr(), 128, 129}} {
		u := newPacketUplink()
		_, rec := withPackets(t, u, nil)
		send(t, rec, echo(row.src, row.dst, 0x1234, 7, "data"))
		c := get(t, u.opened)
		msg := get(t, c.sent).data
		if !c.echo || c.dst.Addr() != row.dst || msg[0] != row.request || msg[6:] != "\x00\x07data" {
			t.Errorf("sent %q to %v", msg, c.dst)
		}
		c.in <- []byte{row.reply} // nonsense is dropped
		c.in <- append([]byte{row.reply}, "\x00\x00\x00\xff\xff\x00\x07data"...)
		f, err := rec.Wait(testContext(t), func(f *tuntest.Recorded) bool { return f.Packet.ICMPType == row.reply })
		if err != nil {
			t.Fatal(err)
		}
		p := f.Packet
		if got := string(f.Data[p.IPLen+4 : p.Len]); p.Src.Addr() != row.dst || p.Dst.Addr() != row.src || got != "\x12\x34\x00\x07data" || !p.VerifyTransport(f.Data) {
			t.Errorf("the guest got %v with %q", &p, got)
		}
	}
}

// TestDatagramsRefused: what the policy refuses reaches no uplink; a program
// sees a closed port, and ping a filter.
func TestDatagramsRefused(t *testing.T) {
	for _, b := range []packet.Build{
		udp(guestUDP, server, "x"), udp(guestUDP6, server6, "x"),
		echo(guestAddr, server.Addr(), 1, 1, "x"), echo(guestAddr6, server6.Addr(), 1, 1, "x"),
	} {
		u := newPacketUplink()
		refusals := make(chan Refusal, 10)
		g, rec := withPackets(t, u, func(c *Config) {
			c.Decide = func(context.Context, policy.Request) policy.Verdict { return policy.Verdict{Rule: "deny all"} }
			c.OnRefused = func(r Refusal) { refusals <- r }
		})
		send(t, rec, b)
		kind, from, proto := packet.PortUnreachable, gatewayAddr, policy.UDP
		if b.Proto != packet.UDP {
			kind, proto = packet.Prohibited, policy.ICMP
		}
		if b.Src.Addr().Is6() {
			from = gatewayAddr6
		}
		wantError(t, rec, b, kind.Message(b.Src.Addr().Is6()), from)
		if r := get(t, refusals); r.Request.Proto != proto || r.Request.Dst != b.Dst || r.Request.Src != b.Src || r.Verdict.Rule != "deny all" || r.Unsupported {
			t.Errorf("told of %+v", r)
		}
		eventually(t, "the flow had ended", func() bool { return g.Stats().Flows == 0 })
		if len(u.opened) != 0 || g.Stats().Refused != 1 {
			t.Errorf("%d flows were opened, Refused = %d", len(u.opened), g.Stats().Refused)
		}
	}
}

// TestDatagramDialErrors: what the host says of a destination is told as the
// ICMP error that means it; what it lacks is not.
func TestDatagramDialErrors(t *testing.T) {
	for _, row := range []struct {
		err  error
		kind packet.Kind
		told bool
	}{
		{syscall.ENETUNREACH, packet.NoRoute, true},
		{syscall.EHOSTUNREACH, packet.HostUnreachable, true},
		{syscall.EACCES, packet.Prohibited, true},
		{syscall.ECONNREFUSED, packet.PortUnreachable, true},
		{syscall.EINVAL, 0, false},
		{syscall.EMFILE, 0, false},
		{context.Canceled, 0, false},
	} {
		u := newPacketUplink()
		tried := make(chan bool, 10)
		u.change = func(*fakePackets) error { tried <- true; return row.err }
		g, rec := withPackets(t, u, nil)
		b := udp(guestUDP, server, "x")
		send(t, rec, b)
		get(t, tried)
		if row.told {
			wantError(t, rec, b, row.kind.Message(false), gatewayAddr)
		}
		eventually(t, "the flow had ended", func() bool { return g.Stats().Flows == 0 })
		if n := len(rec.Frames()); !row.told && n != 0 {
			t.Errorf("%v: %d frames came back", row.err, n)
		}
		if n := g.Stats().DatagramsDropped; (row.err == syscall.EMFILE) != (n == 1) {
			t.Errorf("%v: DatagramsDropped = %d", row.err, n)
		}
		send(t, rec, b) // is tried anew
		get(t, tried)
	}
}

// TestDatagramShortage: where the host has room for no more flows, the one used
// least recently gives way.
func TestDatagramShortage(t *testing.T) {
	const room = 2
	var mu sync.Mutex
	var open []*fakePackets
	u := newPacketUplink()
	u.change = func(c *fakePackets) error {
		mu.Lock()
		defer mu.Unlock()
		open = slices.DeleteFunc(open, func(c *fakePackets) bool {
			select {
			case <-c.done:
				return true
			default:
				return false
			}
		})
		if len(open) == room {
			return syscall.EMFILE
		}
		open = append(open, c)
		return nil
	}
	g, rec := withPackets(t, u, nil)
	for i := range uint16(10) {
		send(t, rec, udp(netip.AddrPortFrom(guestAddr, 1000+i), server, "x"))
		get(t, get(t, u.opened).sent)
		eventually(t, "the flow was live", func() bool { _, waiting := g.packets.count(); return waiting == 0 })
	}
	if st := g.Stats(); st.Flows != room || st.FlowsEvicted != 10-room || st.DatagramsDropped != 0 {
		t.Errorf("%d flows, %d evicted, %d dropped", st.Flows, st.FlowsEvicted, st.DatagramsDropped)
	}
}

// noPing is the error of a host without ping sockets.
type noPing struct{ error }

func (noPing) Remedy() string  { return "write the sysctl" }
func (e noPing) Unwrap() error { return e.error }

// TestNoPings: that the host has no ping sockets is told once.
func TestNoPings(t *testing.T) {
	u := newPacketUplink()
	u.change = func(*fakePackets) error { return noPing{syscall.EACCES} }
	refusals := make(chan Refusal, 10)
	_, rec := withPackets(t, u, func(c *Config) { c.OnRefused = func(r Refusal) { refusals <- r } })
	for id := range uint16(3) {
		b := echo(guestAddr, server.Addr(), id, 1, "x")
		send(t, rec, b)
		wantError(t, rec, b, packet.Prohibited.Message(false), gatewayAddr)
	}
	if r := get(t, refusals); !r.Unsupported || r.Why != "write the sysctl" || len(refusals) != 0 {
		t.Errorf("told of %+v, and %d more", r, len(refusals))
	}
}

// TestPathErrors: what a router says of a datagram, it says to the guest.
func TestPathErrors(t *testing.T) {
	router, router6 := netip.MustParseAddr("10.1.1.1"), netip.MustParseAddr("2001:db8:1::1")
	lo := netip.MustParseAddr("127.0.0.1")
	u := newPacketUplink()
	g, rec := withPackets(t, u, func(c *Config) { c.Loopback = []netip.Addr{hostAddr, hostAddr6} })
	const timeExceeded, timeExceeded6 = 11, 3
	for _, row := range []struct {
		name  string
		about packet.Build
		err   relay.ICMPError
		want  packet.Message
		from  netip.Addr
	}{
		{"a closed port", udp(guestUDP, server, "x"), relay.ICMPError{Type: 3, Code: 3, From: server.Addr()}, packet.Message{Type: 3, Code: 3}, server.Addr()},
		{"a closed port, IPv6", udp(guestUDP6, server6, "x"), relay.ICMPError{Type: 1, Code: 4, From: server6.Addr()}, packet.Message{Type: 1, Code: 4}, server6.Addr()},
		{"a hop", udp(guestUDP, server, "x"), relay.ICMPError{Type: timeExceeded, From: router}, packet.Message{Type: timeExceeded}, router},
		{"a hop, IPv6", udp(guestUDP6, server6, "x"), relay.ICMPError{Type: timeExceeded6, From: router6}, packet.Message{Type: timeExceeded6}, router6},
		{"too big", udp(guestUDP, server, "x"), relay.ICMPError{Type: 3, Code: 4, Info: 1400, From: router}, packet.Message{Type: 3, Code: 4, Rest: 1400}, router},
		{"too big, IPv6", udp(guestUDP6, server6, "x"), relay.ICMPError{Type: 2, Info: 1300, From: router6}, packet.Message{Type: 2, Rest: 1300}, router6},
		{"a hop for ping", echo(guestAddr, server.Addr(), 9, 7, "x"), relay.ICMPError{Type: timeExceeded, From: router, Quoted: []byte("\x08\x00\x00\x00\xff\xff\x00\x07x")}, packet.Message{Type: timeExceeded}, router},
		{"from nobody", udp(guestUDP, server, "x"), relay.ICMPError{Type: 3, Code: 1}, packet.Message{Type: 3, Code: 1}, gatewayAddr},
		{"from the host's loopback", udp(guestUDP, netip.AddrPortFrom(hostAddr, 53), "x"), relay.ICMPError{Type: 3, Code: 3, From: lo}, packet.Message{Type: 3, Code: 3}, hostAddr},
	} {
		send(t, rec, row.about)
		select {
		case c := <-u.opened:
			get(t, c.sent)
			c.in <- &row.err
			wantError(t, rec, row.about, row.want, row.from)
			c.Close()
			g.packets.end(g.packets.find(flowKey{echo: c.echo, src: srcOf(row.about), dst: row.about.Dst}))
		case <-testContext(t).Done():
			t.Fatalf("%s: no flow", row.name)
		}
	}
}

func srcOf(b packet.Build) netip.AddrPort {
	if b.Proto == packet.UDP {
		return b.Src
	}
	return netip.AddrPortFrom(b.Src.Addr(), uint16(b.ICMPRest>>16))
}

// TestProbes: a datagram that must not be fragmented is answered by the MTU;
// others are left to the host.
func TestProbes(t *testing.T) {
	u := newPacketUplink()
	u.change = func(c *fakePackets) error { c.mtu = 1400; return nil }
	_, rec := withPackets(t, u, nil)
	plain := udp(guestUDP, server, string(make([]byte, 1400)))
	plain.DontFrag, plain.ID = true, 5
	send(t, rec, plain)
	c := get(t, u.opened)
	if got := len(get(t, c.sent).data); got != 1400 {
		t.Errorf("sent %d bytes", got)
	}
	probe := plain
	probe.ID = 0
	send(t, rec, probe)
	wantError(t, rec, probe, packet.TooBig(1400, false), gatewayAddr)
	probe.Payload = probe.Payload[:1400-28]
	send(t, rec, probe)
	if got := len(get(t, c.sent).data); got != 1372 || len(c.sent) != 0 {
		t.Errorf("sent %d bytes and %d more datagrams", got, len(c.sent))
	}
}

// TestDatagramSendErrors: an error of sending is about that datagram.
func TestDatagramSendErrors(t *testing.T) {
	for _, row := range []struct {
		err  error
		want packet.Message
	}{
		{syscall.EMSGSIZE, packet.TooBig(1500, false)},
		{syscall.EPERM, packet.Prohibited.Message(false)},
		{syscall.ENETUNREACH, packet.NoRoute.Message(false)},
	} {
		u := newPacketUplink()
		u.change = func(c *fakePackets) error { c.fail = row.err; return nil }
		_, rec := withPackets(t, u, nil)
		b := udp(guestUDP, server, "x")
		send(t, rec, b)
		wantError(t, rec, b, row.want, gatewayAddr)
	}
}

// TestHostsAndDatagrams: hosts inside the stack answer pings and have no UDP
// ports; the rest of the subnet is nobody's.
func TestHostsAndDatagrams(t *testing.T) {
	u := newPacketUplink()
	g, rec := withPackets(t, u, func(c *Config) { c.Decide = nil })
	hole := netip.MustParseAddrPort("198.18.0.18:53")
	if err := g.Refuse(peerAddr); err != nil {
		t.Fatal(err)
	}
	if err := g.Blackhole(hole); err != nil {
		t.Fatal(err)
	}
	at := func(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }
	nobody := netip.MustParseAddr("198.18.0.99")
	b := udp(guestUDP, at(peerAddr, 53), "x")
	send(t, rec, b)
	wantError(t, rec, b, packet.PortUnreachable.Message(false), peerAddr)
	b = udp(guestUDP, at(nobody, 53), "x")
	send(t, rec, b)
	wantError(t, rec, b, packet.HostUnreachable.Message(false), gatewayAddr)
	b = echo(guestAddr, nobody, 1, 1, "x")
	send(t, rec, b)
	wantError(t, rec, b, packet.HostUnreachable.Message(false), gatewayAddr)
	b = udp(guestUDP, at(gatewayAddr, 99), "x")
	send(t, rec, b)
	wantError(t, rec, b, packet.PortUnreachable.Message(false), gatewayAddr)
	seen := len(rec.Frames())
	send(t, rec, udp(guestUDP, hole, "x"))
	send(t, rec, echo(guestAddr, hole.Addr(), 1, 1, "x"))
	b = echo(guestAddr, peerAddr, 3, 4, "data")
	f, err := rec.Exchange(testContext(t), b.Bytes(), func(f *tuntest.Recorded) bool { return f.Packet.ICMPType == 0 && f.Packet.Proto == packet.ICMP })
	if err != nil || f.Packet.Src.Addr() != peerAddr || string(f.Packet.Payload(f.Data)) != "data" {
		t.Errorf("the peer's answer: %v, %v", &f.Packet, err)
	}
	if n := len(rec.Frames()) - seen; n != 1 || len(u.opened) != 0 {
		t.Errorf("%d frames came back and %d flows were opened, want the reply alone", n, len(u.opened))
	}
}

// TestLoopback: the host's loopback is asked for as such and dialled as what it
// is.
func TestLoopback(t *testing.T) {
	var mu sync.Mutex
	var asked []policy.Request
	allow := false
	u := newPacketUplink()
	g, rec := withPackets(t, u, func(c *Config) {
		c.Loopback = []netip.Addr{hostAddr, hostAddr6}
		c.Decide = func(_ context.Context, r policy.Request) policy.Verdict {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, r)
			return policy.Verdict{Allow: allow, Rule: "the test's"}
		}
	})
	for _, row := range []struct {
		b    packet.Build
		want string
	}{
		{udp(guestUDP, netip.AddrPortFrom(hostAddr, 53), "x"), "127.0.0.1:53"},
		{udp(guestUDP6, netip.AddrPortFrom(hostAddr6, 53), "x"), "[::1]:53"},
		{echo(guestAddr, hostAddr, 1, 1, "x"), "127.0.0.1:0"},
	} {
		mu.Lock()
		allow, asked = false, nil
		mu.Unlock()
		send(t, rec, row.b)
		if _, err := rec.Wait(testContext(t), func(f *tuntest.Recorded) bool { return f.Packet.ICMPError() }); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the flow had ended", func() bool { return g.Stats().Flows == 0 })
		mu.Lock()
		if len(asked) != 1 || !asked[0].Host || asked[0].Dst.String() != row.want {
			t.Errorf("asked %+v, want the host's %s", asked, row.want)
		}
		allow = true
		mu.Unlock()
		send(t, rec, row.b)
		if c := get(t, u.opened); c.dst.String() != row.want {
			t.Errorf("dialled %v, want %s", c.dst, row.want)
		}
		g.packets.end(g.packets.find(flowKey{echo: row.b.Proto != packet.UDP, src: srcOf(row.b), dst: row.b.Dst}))
	}
	syn := packet.Build{Src: netip.AddrPortFrom(guestAddr, 1000), Dst: netip.AddrPortFrom(hostAddr, 80), Flags: packet.SYN}
	send(t, rec, syn)
	eventually(t, "the connection was dialled", func() bool { return u.dials() == 1 })
	if u.asked[0].String() != "127.0.0.1:80" {
		t.Errorf("dialled %v", u.asked)
	}
}

// TestSlowPolicy: while the policy thinks, datagrams wait in order, up to a
// bound; a flow that ends meanwhile opens nothing.
func TestSlowPolicy(t *testing.T) {
	decide := make(chan struct{})
	u := newPacketUplink()
	g, rec := withPackets(t, u, func(c *Config) {
		c.Decide = func(ctx context.Context, _ policy.Request) policy.Verdict {
			select {
			case <-decide:
				return policy.Verdict{Allow: true}
			case <-ctx.Done():
				return policy.Verdict{}
			}
		}
	})
	for i := range maxQueuedPackets + 3 {
		send(t, rec, udp(guestUDP, server, string(rune('a'+i))))
	}
	other := netip.AddrPortFrom(guestAddr, 5001)
	send(t, rec, udp(other, server, "never"))
	eventually(t, "all had been read", func() bool { return g.Stats().DatagramsDropped == 3 && g.Stats().Flows == 2 })
	g.packets.end(g.packets.find(flowKey{src: other, dst: server}))
	close(decide)
	c := get(t, u.opened)
	for i := range maxQueuedPackets {
		if got := get(t, c.sent).data; got != string(rune('a'+i)) {
			t.Errorf("datagram %d is %q", i, got)
		}
	}
	if len(u.opened) != 0 {
		t.Error("a flow was opened that had ended")
	}
	if n := len(rec.Frames()); n != 0 {
		t.Errorf("%d frames came back", n)
	}
}

// TestClosedPort: when the guest's socket is gone, so is the flow.
func TestClosedPort(t *testing.T) {
	u := newPacketUplink()
	_, rec := withPackets(t, u, nil)
	send(t, rec, udp(guestUDP, server, "question"))
	c := get(t, u.opened)
	get(t, c.sent)
	c.in <- []byte("late answer")
	f, err := rec.Wait(testContext(t), func(f *tuntest.Recorded) bool { return f.Packet.Proto == packet.UDP })
	if err != nil {
		t.Fatal(err)
	}
	whole := udp(server, guestUDP, string(f.Packet.Payload(f.Data))).Bytes()
	if err := rec.Send(packet.Unreachable(nil, whole, packet.PortUnreachable, guestAddr)); err != nil {
		t.Fatal(err)
	}
	get(t, c.done)
}

// TestDrainDelivers: a datagram that was the last thing the guest did leaves.
func TestDrainDelivers(t *testing.T) {
	decide := make(chan struct{})
	u := newPacketUplink()
	g, rec := withPackets(t, u, func(c *Config) {
		c.Decide = func(context.Context, policy.Request) policy.Verdict {
			<-decide
			return policy.Verdict{Allow: true}
		}
	})
	drained := make(chan struct{}, 1)
	go func() {
		g.Drain(testContext(t))
		drained <- struct{}{}
	}()
	f, err := rec.Wait(testContext(t), func(f *tuntest.Recorded) bool { return f.Packet.ICMPType == 8 })
	if err != nil {
		t.Fatal(err)
	}
	send(t, rec, udp(guestUDP, server, "last words"))
	rec.Send(packet.EchoReply(nil, f.Data))
	eventually(t, "the flow was there", func() bool { return g.Stats().Flows == 1 })
	close(decide)
	get(t, drained)
	if c := get(t, u.opened); len(c.sent) != 1 {
		t.Errorf("%d datagrams had been sent", len(c.sent))
	}
}

// flows makes a table whose clock stands, and a way to add a flow to it.
func flows(most int) (tab *flowTable, now *time.Time, add func(port uint16) *packetFlow) {
	tab = newFlowTable(most, time.Minute)
	at := time.Unix(1000, 0)
	tab.now = func() time.Time { return at }
	var running sync.WaitGroup
	return tab, &at, func(port uint16) *packetFlow {
		f := &packetFlow{key: flowKey{src: netip.AddrPortFrom(guestAddr, port), dst: server}, cancel: func() {}}
		if !tab.add(f, outgoing{data: []byte("x")}, &running) {
			return nil
		}
		return f
	}
}

func TestFlowTableEvicts(t *testing.T) {
	tab, _, add := flows(3)
	defer tab.close()
	var all []*packetFlow
	for port := range uint16(3) {
		all = append(all, add(port))
	}
	conn := &fakePackets{done: make(chan struct{})}
	tab.attach(all[1], conn)
	tab.touch(all[0]) // so that 1 is the one that was used least recently
	add(3)
	<-conn.done
	for i, want := range []bool{false, true, false} {
		if all[i].ended() != want {
			t.Errorf("flow %d: ended = %v, want %v", i, all[i].ended(), want)
		}
	}
	if n, waiting := tab.count(); n != 3 || waiting != 3 || tab.evicted.Load() != 1 {
		t.Errorf("%d flows, %d wait, %d evicted", n, waiting, tab.evicted.Load())
	}
	if tab.attach(all[1], conn) {
		t.Error("an evicted flow was attached")
	}
	tab.end(all[1]) // again
	if n, _ := tab.count(); n != 3 {
		t.Errorf("%d flows", n)
	}
}

func TestFlowTableExpires(t *testing.T) {
	tab, now, add := flows(10)
	defer tab.close()
	old, used := add(1), add(2)
	*now = now.Add(40 * time.Second)
	tab.touch(used)
	tab.expire()
	if old.ended() || used.ended() {
		t.Error("a flow expired before its time")
	}
	*now = now.Add(20 * time.Second)
	tab.expire()
	if !old.ended() || used.ended() || tab.expired.Load() != 1 {
		t.Errorf("old ended %v, used ended %v, %d expired", old.ended(), used.ended(), tab.expired.Load())
	}
	*now = now.Add(time.Hour)
	tab.expire()
	if n, _ := tab.count(); n != 0 || tab.timer != nil || tab.allBytes != 0 {
		t.Errorf("%d flows, timer %v, %d bytes queued", n, tab.timer, tab.allBytes)
	}
	if add(3) == nil || tab.timer == nil {
		t.Error("a new flow after all have expired is not watched")
	}
	tab.close()
	if add(4) != nil {
		t.Error("a closed table took a flow")
	}
}

func TestFlowTableQueueIsBounded(t *testing.T) {
	tab, _, add := flows(1000)
	defer tab.close()
	f := add(1)
	if _, _, queued := tab.send(f.key, outgoing{data: make([]byte, maxQueuedBytes-1)}); !queued {
		t.Error("what fits was not queued")
	}
	if _, _, queued := tab.send(f.key, outgoing{data: make([]byte, 1)}); queued {
		t.Error("what does not fit was queued")
	}
	for port := range uint16(200) {
		f := add(port + 10)
		tab.send(f.key, outgoing{data: make([]byte, maxQueuedBytes-1)})
	}
	if tab.allBytes > maxAllQueued {
		t.Errorf("%d bytes are queued, more than %d", tab.allBytes, maxAllQueued)
	}
}

// TestForwardingAllocatesNothing: of a flow that is live.
func TestForwardingAllocatesNothing(t *testing.T) {
	u := newPacketUplink()
	g, rec := withPackets(t, u, nil)
	send(t, rec, udp(guestUDP, server, "x"))
	c := get(t, u.opened)
	get(t, c.sent)
	key, p := flowKey{src: guestUDP, dst: server}, outgoing{make([]byte, 100), 64, false}
	full := &fakePackets{fail: syscall.EAGAIN} // takes nothing, and makes no string of it
	eventually(t, "the flow was live", func() bool { _, waiting := g.packets.count(); return waiting == 0 })
	g.packets.mu.Lock()
	f := g.packets.flows[key]
	f.conn = full
	g.packets.mu.Unlock()
	if n := testing.AllocsPerRun(100, func() {
		if _, conn, _ := g.packets.send(key, p); conn == nil {
			t.Fatal("the flow is not live")
		}
		g.packets.touch(f)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	g.packets.mu.Lock()
	f.conn = c
	g.packets.mu.Unlock()
}

// TestManyFlows opens and ends many flows at once, for the race detector.
func TestManyFlows(t *testing.T) {
	u := newPacketUplink()
	g, rec := withPackets(t, u, func(c *Config) { c.Limits.Flows = 16 })
	for i := range uint16(400) {
		send(t, rec, udp(netip.AddrPortFrom(guestAddr, 1000+i), server, "x"))
		if i%50 == 49 { // the pair's queue is short
			eventually(t, "they had been read", func() bool {
				return g.packets.find(flowKey{src: netip.AddrPortFrom(guestAddr, 1000+i), dst: server}) != nil
			})
		}
	}
	eventually(t, "the last were opened", func() bool { st := g.Stats(); return st.Flows == 16 && st.FlowsEvicted == 400-16 })
}
