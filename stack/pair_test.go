package stack

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"tcpbox/policy"
	"tcpbox/stack/internal/netstack"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun"
	"tcpbox/tun/packet"
	"tcpbox/tun/tuntest"
)

// pairOf runs two gateways that are each other's uplink, and returns the other
// ends of their devices: the guest's and the world's.
func pairOf(t *testing.T, change func(inner, outer *Config)) (inner, outer *Gateway, guest, world tun.Device) {
	t.Helper()
	guest, a := tuntest.Pair(1500)
	world, b := tuntest.Pair(1500)
	numbers := new(tcpstate.Numbers)
	in := Config{Device: a, Paired: true, Numbers: numbers, Decide: allowAll, Guest: []netip.Prefix{
		netip.PrefixFrom(guestAddr, 32), netip.PrefixFrom(guestAddr6, 128),
	}}
	out := Config{Device: b, Paired: true, Numbers: numbers, Decide: allowAll}
	if change != nil {
		change(&in, &out)
	}
	made := func(c Config) *Gateway {
		g, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	inner, outer = made(in), made(out)
	ran := make(chan error, 2)
	go func() { ran <- inner.Run(context.Background(), outer.Across()) }()
	go func() { ran <- outer.Run(context.Background(), inner.Across()) }()
	t.Cleanup(func() {
		for _, g := range []*Gateway{inner, outer} {
			if err := g.Close(); err != nil {
				t.Error("close:", err)
			}
		}
		for range 2 {
			if err := <-ran; err != nil && !errors.Is(err, tun.ErrGone) {
				t.Error("run:", err)
			}
		}
		for _, g := range []*Gateway{inner, outer} {
			if st := g.Stats(); st.Open != 0 || st.Tracked != 0 || st.Pending != 0 || st.Flows != 0 || len(g.crossings.flows) != 0 {
				t.Errorf("left over: %+v, %d crossings", st, len(g.crossings.flows))
			}
		}
	})
	return inner, outer, guest, world
}

// asking is a connection that somebody asks for; the host waits until it has been
// answered.
type asking struct {
	*netstack.Request
	answered chan struct{}
}

func (a asking) accept(t *testing.T) *netstack.Conn {
	t.Helper()
	defer close(a.answered)
	c, err := a.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// stackOn is a host on a device, and what is asked of it.
func stackOn(t *testing.T, dev tun.Device) (*netstack.Stack, <-chan asking) {
	t.Helper()
	asked := make(chan asking, 10)
	s, err := netstack.New(netstack.Config{Device: dev, OnSYN: func(r *netstack.Request) {
		a := asking{r, make(chan struct{})}
		asked <- a
		select {
		case <-a.answered:
		case <-r.Context().Done():
			r.Drop()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- s.Run() }()
	t.Cleanup(func() {
		s.Close()
		<-ran
	})
	return s, asked
}

// TestPair: what crosses two gateways is seen on the far side as coming from who
// began it; a refusal, half-closes and resets are what they were.
func TestPair(t *testing.T) {
	for _, inward := range []bool{false, true} {
		t.Run(map[bool]string{false: "outbound", true: "inbound"}[inward], func(t *testing.T) {
			inner, outer, gd, wd := pairOf(t, nil)
			guest, guestAsked := stackOn(t, gd)
			world, asked := stackOn(t, wd)
			from, src, dst := guest, netip.AddrPortFrom(guestAddr, 40000), server
			if inward {
				from, asked = world, guestAsked
				src, dst = netip.MustParseAddrPort("203.0.113.9:40001"), netip.AddrPortFrom(guestAddr, 80)
			}

			refused := make(chan error, 1)
			go func() {
				_, err := from.Dial(testContext(t), 0, src, dst)
				refused <- err
			}()
			r := get(t, asked)
			if r.Src() != src || r.Dst() != dst {
				t.Errorf("asked from %v to %v, want %v to %v", r.Src(), r.Dst(), src, dst)
			}
			r.Reset()
			close(r.answered)
			if err := get(t, refused); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("a closed port: %v, want ECONNREFUSED", err)
			}

			near, far := crossed(t, from, asked, src, dst)
			near.Write([]byte("question"))
			near.CloseWrite()
			if got, err := io.ReadAll(far); string(got) != "question" || err != nil {
				t.Errorf("the far end read %q, %v", got, err)
			}
			far.Write([]byte("answer"))
			far.Close()
			if got, err := io.ReadAll(near); string(got) != "answer" || err != nil {
				t.Errorf("the near end read %q, %v", got, err)
			}
			near.Close()

			for _, nearFirst := range []bool{true, false} {
				src = netip.AddrPortFrom(src.Addr(), src.Port()+1)
				a, b := crossed(t, from, asked, src, dst)
				if !nearFirst {
					a, b = b, a
				}
				a.Reset()
				if _, err := b.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("after a reset: %v", err)
				}
				b.Close()
			}
			served := inner
			if inward {
				served = outer
			}
			eventually(t, "all flows had ended", func() bool { return served.Stats().Open == 0 })
		})
	}
}

// crossed opens a connection through a pair, and returns both ends.
func crossed(t *testing.T, from *netstack.Stack, asked <-chan asking, src, dst netip.AddrPort) (near, far *netstack.Conn) {
	t.Helper()
	type dialled struct {
		c   *netstack.Conn
		err error
	}
	ch := make(chan dialled, 1)
	go func() {
		c, err := from.Dial(testContext(t), 0, src, dst)
		ch <- dialled{c, err}
	}()
	far = get(t, asked).accept(t)
	d := get(t, ch)
	if d.err != nil {
		t.Fatal(d.err)
	}
	return d.c, far
}

// TestPairReuses: the port of a connection that the outer gateway still holds in
// TIME-WAIT is free when its owner uses it again.
func TestPairReuses(t *testing.T) {
	_, outer, gd, wd := pairOf(t, nil)
	guest := tuntest.Record(gd)
	t.Cleanup(func() { guest.Close() })
	_, asked := stackOn(t, wd)
	src := netip.AddrPortFrom(guestAddr, 40000)
	seg := func(flags packet.Flags, seq, ack uint32) packet.Build {
		return packet.Build{Src: src, Dst: server, Flags: flags, Seq: seq, Ack: ack, Window: 65535}
	}
	wait := func(flags packet.Flags) packet.Packet {
		f, err := guest.Wait(testContext(t), func(f *tuntest.Recorded) bool {
			return f.Packet.Proto == packet.TCP && f.Packet.TCP.Flags&^packet.PSH == flags
		})
		if err != nil {
			t.Fatal(err)
		}
		return f.Packet
	}
	for round := range uint32(3) {
		iss := 1000 + round*100000
		send(t, guest, seg(packet.SYN, iss, 0))
		far := get(t, asked).accept(t)
		ack := wait(packet.SYN|packet.ACK).TCP.Seq + 1
		send(t, guest, seg(packet.ACK, iss+1, ack))
		send(t, guest, seg(packet.FIN|packet.ACK, iss+1, ack))
		if _, err := io.ReadAll(far); err != nil {
			t.Fatal(err)
		}
		far.Close()
		f := wait(packet.FIN | packet.ACK)
		send(t, guest, seg(packet.ACK, iss+2, f.TCP.Seq+1))
		eventually(t, "the outer gateway held a TIME-WAIT", func() bool { return outer.Stats().TimeWait == 1 })
	}
}

// TestPairDatagrams: UDP, pings and the errors of the path cross both ways.
func TestPairDatagrams(t *testing.T) {
	for _, six := range []bool{false, true} {
		t.Run(map[bool]string{false: "IPv4", true: "IPv6"}[six], func(t *testing.T) {
			_, _, gd, wd := pairOf(t, nil)
			guest, world := tuntest.Record(gd), tuntest.Record(wd)
			t.Cleanup(func() { guest.Close(); world.Close() })
			pod, far := netip.AddrPortFrom(guestAddr, 5000), netip.MustParseAddrPort("203.0.113.9:53")
			if six {
				pod, far = netip.AddrPortFrom(guestAddr6, 5000), netip.MustParseAddrPort("[2001:db8::9]:53")
			}
			for _, d := range []struct {
				name     string
				from, to *tuntest.Recorder
				src, dst netip.AddrPort
			}{{"out", guest, world, pod, far}, {"in", world, guest, netip.AddrPortFrom(far.Addr(), 54), pod}} {
				b := udp(d.src, d.dst, "question "+d.name)
				b.TTL = 9
				send(t, d.from, b)
				if got := waitUDP(t, d.to, d.src, d.dst, b.Payload); got.Packet.TTL != 9 {
					t.Errorf("%s: it came with TTL %d, want 9", d.name, got.Packet.TTL)
				}
				send(t, d.to, udp(d.dst, d.src, "answer "+d.name))
				waitUDP(t, d.from, d.dst, d.src, []byte("answer "+d.name))

				// Nobody listens any more.
				about := udp(d.src, d.dst, string(b.Payload))
				send(t, d.to, errorAbout(about, packet.PortUnreachable.Message(six), d.dst.Addr()))
				wantError(t, d.from, about, packet.PortUnreachable.Message(six), d.dst.Addr())

				send(t, d.from, echo(d.src.Addr(), d.dst.Addr(), 77, 3, "ping"))
				request, reply := uint8(8), uint8(0)
				if six {
					request, reply = 128, 129
				}
				waitEcho(t, d.to, d.src.Addr(), request)
				r := echo(d.dst.Addr(), d.src.Addr(), 77, 3, "ping")
				r.ICMPType = reply
				send(t, d.to, r)
				waitEcho(t, d.from, d.dst.Addr(), reply)
			}
		})
	}
}

// TestPairFragments: what is larger than the MTU arrives whole, in fragments that
// fit.
func TestPairFragments(t *testing.T) {
	for _, row := range []struct{ src, dst netip.AddrPort }{
		{netip.AddrPortFrom(guestAddr, 5000), netip.MustParseAddrPort("203.0.113.9:53")},
		{netip.AddrPortFrom(guestAddr6, 5000), netip.MustParseAddrPort("[2001:db8::9]:53")},
	} {
		_, outer, gd, wd := pairOf(t, nil)
		guest, world := tuntest.Record(gd), tuntest.Record(wd)
		t.Cleanup(func() { guest.Close(); world.Close() })
		payload := slices.Repeat([]byte("0123456789abcdef"), 300)
		conn, err := outer.Across().DialUDP(testContext(t), row.src, row.dst)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Send(payload, 0); err != nil {
			t.Fatal(err)
		}
		var got []byte
		for more := true; more; {
			f, err := world.Wait(testContext(t), func(f *tuntest.Recorded) bool { return f.Packet.Proto == packet.UDP })
			if err != nil {
				t.Fatal(err)
			}
			if len(f.Data) > 1500 || f.Packet.FragOffset != len(got) || f.Packet.DontFrag || !f.Packet.VerifyIP(f.Data) {
				t.Fatalf("fragment %v of %d bytes", &f.Packet, len(f.Data))
			}
			got = append(got, f.Data[f.Packet.IPLen:f.Packet.Len]...)
			more = f.Packet.MoreFrags
		}
		if string(got[8:]) != string(payload) {
			t.Errorf("%v: the fragments do not make the datagram", row.dst)
		}
		conn.Close()
	}
}

// TestPairDecides: each gateway's policy refuses before anything leaves the
// other's device, and forged sources are dropped.
func TestPairDecides(t *testing.T) {
	deny := func(context.Context, policy.Request) policy.Verdict { return policy.Verdict{Rule: "no"} }
	inner, outer, gd, wd := pairOf(t, func(in, out *Config) { in.Decide, out.Decide = deny, deny })
	guest, world := tuntest.Record(gd), tuntest.Record(wd)
	t.Cleanup(func() { guest.Close(); world.Close() })
	pod, far := netip.AddrPortFrom(guestAddr, 5000), netip.MustParseAddrPort("203.0.113.9:53")
	for _, d := range []struct {
		from, to *tuntest.Recorder
		src, dst netip.AddrPort
	}{{guest, world, pod, far}, {world, guest, far, pod}} {
		send(t, d.from, packet.Build{Src: d.src, Dst: d.dst, Flags: packet.SYN, Seq: 7})
		if _, err := d.from.Wait(testContext(t), func(f *tuntest.Recorded) bool { return f.Packet.TCP.Flags.Has(packet.RST) }); err != nil {
			t.Error(err)
		}
		send(t, d.from, udp(d.src, d.dst, "x"))
		wantError(t, d.from, udp(d.src, d.dst, "x"), packet.PortUnreachable.Message(false), d.dst.Addr())
	}
	send(t, guest, packet.Build{Src: netip.MustParseAddrPort("203.0.113.66:5"), Dst: far, Flags: packet.SYN})
	eventually(t, "a forged source was dropped", func() bool { return inner.Stats().ForeignSource == 1 })
	if n := inner.Stats().Refused; n != 2 {
		t.Errorf("inner Refused = %d, want 2", n)
	}
	if n := outer.Stats().Refused; n != 2 {
		t.Errorf("outer Refused = %d, want 2", n)
	}
	for _, f := range world.Frames() {
		if f.Packet.Src == pod && (f.Packet.Proto == packet.UDP || f.Packet.TCP.Flags.Has(packet.SYN)) {
			t.Errorf("it left: %v", &f.Packet)
		}
	}
}

func errorAbout(about packet.Build, m packet.Message, from netip.Addr) packet.Build {
	b := packet.Build{
		Src: netip.AddrPortFrom(from, 0), Dst: netip.AddrPortFrom(about.Src.Addr(), 0), Proto: packet.ICMP,
		ICMPType: m.Type, ICMPCode: m.Code, ICMPRest: m.Rest, Payload: about.Bytes(),
	}
	if from.Is6() {
		b.Proto = packet.ICMPv6
	}
	return b
}

func waitUDP(t *testing.T, rec *tuntest.Recorder, src, dst netip.AddrPort, payload []byte) tuntest.Recorded {
	t.Helper()
	f, err := rec.Wait(testContext(t), func(f *tuntest.Recorded) bool {
		p := &f.Packet
		return p.Proto == packet.UDP && p.Src == src && p.Dst == dst && string(p.Payload(f.Data)) == string(payload)
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func waitEcho(t *testing.T, rec *tuntest.Recorder, src netip.Addr, typ uint8) {
	t.Helper()
	_, err := rec.Wait(testContext(t), func(f *tuntest.Recorded) bool {
		p := &f.Packet
		echo := p.Proto == packet.ICMP || p.Proto == packet.ICMPv6
		return echo && p.Src.Addr() == src && p.ICMPType == typ && string(p.Payload(f.Data)) == "ping" &&
			f.Data[p.IPLen+5] == 77 && f.Data[p.IPLen+7] == 3
	})
	if err != nil {
		t.Fatal(err)
	}
}
