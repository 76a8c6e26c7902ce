package netstack

import (
	"net/netip"
	"testing"

	"tcpbox/tun"
	"tcpbox/tun/packet"
	"tcpbox/tun/tuntest"
)

func ap(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// TestIngress sends what a guest must not send, and then something that is
// answered, to know that the first has been looked at.
func TestIngress(t *testing.T) {
	addr := netip.MustParseAddr
	syn := packet.Build{Src: ap(guestAddr, 1234), Dst: serverAddr, Flags: packet.SYN}
	syn6 := packet.Build{Src: ap(guestAddr6, 1234), Dst: serverAddr6, Flags: packet.SYN}
	with := func(b packet.Build, f func(*packet.Build)) []byte { f(&b); return b.Bytes() }
	type want = Stats
	for _, c := range []struct {
		name string
		pkt  []byte
		off  tun.Offload
		want want
	}{
		{"from another address", with(syn, func(b *packet.Build) { b.Src = ap(addr("198.18.0.3"), 1) }), tun.Offload{}, want{ForeignSource: 1}},
		{"from the gateway's own address", with(syn, func(b *packet.Build) { b.Src = ap(gatewayAddr, 1) }), tun.Offload{}, want{ForeignSource: 1}},
		{"from loopback", with(syn, func(b *packet.Build) { b.Src = ap(addr("127.0.0.1"), 1) }), tun.Offload{}, want{ForeignSource: 1}},
		{"from a link-local address", with(syn6, func(b *packet.Build) { b.Src = ap(addr("fe80::1"), 1) }), tun.Offload{}, want{ForeignSource: 1}},
		{"from nowhere", with(syn6, func(b *packet.Build) { b.Src = ap(addr("::"), 0) }), tun.Offload{}, want{ForeignSource: 1}},
		{"to a group", with(syn, func(b *packet.Build) { b.Dst = ap(addr("224.0.0.1"), 1) }), tun.Offload{}, want{NotUnicast: 1}},
		{"to a group of IPv6", with(syn6, func(b *packet.Build) { b.Dst = ap(addr("ff02::2"), 1) }), tun.Offload{}, want{NotUnicast: 1}},
		{"to broadcast", with(syn, func(b *packet.Build) { b.Dst = ap(addr("255.255.255.255"), 1) }), tun.Offload{}, want{NotUnicast: 1}},
		{"to nobody", with(syn, func(b *packet.Build) { b.Dst = ap(addr("0.0.0.0"), 1) }), tun.Offload{}, want{NotUnicast: 1}},
		{"to loopback", with(syn, func(b *packet.Build) { b.Dst = ap(addr("127.0.0.1"), 1) }), tun.Offload{}, want{NotUnicast: 1}},
		{"to loopback of IPv6", with(syn6, func(b *packet.Build) { b.Dst = ap(addr("::1"), 1) }), tun.Offload{}, want{NotUnicast: 1}},
		{"a wrong TCP checksum", with(syn, func(b *packet.Build) { b.BadChecksum = true }), tun.Offload{}, want{BadChecksum: 1}},
		{"a wrong TCP checksum over IPv6", with(syn6, func(b *packet.Build) { b.BadChecksum = true }), tun.Offload{}, want{BadChecksum: 1}},
		{"a partial checksum that nobody promised", with(syn, func(b *packet.Build) { b.Partial = true }), tun.Offload{}, want{BadChecksum: 1}},
		{"a wrong IP checksum", func() []byte { p := syn.Bytes(); p[10] ^= 1; return p }(), tun.Offload{}, want{BadChecksum: 1}},
		{"an IP header alone, cut", syn.Bytes()[:19], tun.Offload{}, want{Malformed: 1}},
		{"an IPv6 header, cut", syn6.Bytes()[:39], tun.Offload{}, want{Malformed: 1}},
		{"a TCP header, cut", syn.Bytes()[:30], tun.Offload{}, want{Malformed: 1}},
		{"no version of IP", []byte("nonsense, and enough of it"), tun.Offload{}, want{Malformed: 1}},
		{"a header length beyond the packet", func() []byte { p := syn.Bytes(); p[0] = 0x4f; return p }(), tun.Offload{}, want{Malformed: 1}},
		{"extension headers beyond the packet", func() []byte {
			p := with(syn6, func(b *packet.Build) { b.Extensions = []packet.Extension{{Proto: 60, Body: make([]byte, 6)}} })
			p[41] = 200
			return p
		}(), tun.Offload{}, want{Malformed: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := newRawGuest(t)
			if err := g.SendOffload(c.pkt, c.off); err != nil {
				t.Fatal(err)
			}
			g.ping(t)
			st := g.gateway.Stats()
			got := want{Malformed: st.Malformed, ForeignSource: st.ForeignSource, NotUnicast: st.NotUnicast, BadChecksum: st.BadChecksum}
			if got != c.want {
				t.Errorf("counted %+v, want %+v", got, c.want)
			}
			if n := len(g.Frames()); n != 1 || len(g.requests) != 0 {
				t.Errorf("%d frames came back and %d requests were made, want the echo reply alone", n, len(g.requests))
			}
		})
	}
}

// ping exchanges an echo with the gateway.
func (g *rawGuest) ping(t testing.TB) {
	t.Helper()
	req := packet.Build{Src: ap(guestAddr, 0), Dst: ap(gatewayAddr, 0), Proto: packet.ICMP, ICMPType: 8, ICMPRest: 1 << 16, Payload: []byte("ping")}
	_, err := g.Exchange(g.ctx, req.Bytes(), func(f *tuntest.Recorded) bool {
		return f.Packet.Proto == packet.ICMP && f.Packet.ICMPType == 0
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestPartialChecksums: what the guest's kernel promises is believed.
func TestPartialChecksums(t *testing.T) {
	g := newRawGuest(t)
	b := packet.Build{Src: ap(guestAddr, 1234), Dst: serverAddr, Flags: packet.SYN, Partial: true}
	if err := g.SendOffload(b.Bytes(), tun.Offload{NeedsCsum: true, CsumStart: 20, CsumOffset: 16}); err != nil {
		t.Fatal(err)
	}
	if r := g.request(); r.Dst() != serverAddr || r.Src() != ap(guestAddr, 1234) {
		t.Errorf("the request goes from %v to %v", r.Src(), r.Dst())
	}
}

// TestFragments: a segment in fragments is put together first. A first fragment
// that does not hold the whole TCP header is malformed (RFC 1858).
func TestFragments(t *testing.T) {
	g := newRawGuest(t)
	fragment := func(port uint16, payload, size int) {
		whole := packet.Build{Src: ap(guestAddr, port), Dst: serverAddr, Flags: packet.SYN, Payload: make([]byte, payload)}.Bytes()[20:]
		for at := 0; at < len(whole); at += size {
			end := min(at+size, len(whole))
			g.send(packet.Build{
				Src: ap(guestAddr, 0), Dst: ap(serverAddr.Addr(), 0), ID: uint32(port), Raw: true,
				FragOffset: at, MoreFrags: end < len(whole), Payload: whole[at:end],
			})
		}
	}
	fragment(1233, 4, 8)
	g.ping(t)
	if n := g.gateway.Stats().Malformed; n != 1 {
		t.Errorf("Malformed = %d, want 1", n)
	}
	fragment(1234, 60, 40) // whoever wants to fragment a SYN puts something into it
	if r := g.request(); r.Src() != ap(guestAddr, 1234) {
		t.Errorf("the request comes from %v", r.Src())
	}
}

// wantICMPError waits for an ICMP error about a packet from src to dst.
func (g *rawGuest) wantICMPError(t testing.TB, src, dst netip.AddrPort, proto packet.Proto, typ, code uint8) {
	t.Helper()
	f, err := g.Wait(g.ctx, func(f *tuntest.Recorded) bool { return f.Packet.ICMPError() })
	if err != nil {
		t.Fatal(err)
	}
	p := &f.Packet
	from := gatewayAddr
	if p.Version == 6 {
		from = gatewayAddr6
	}
	if p.ICMPType != typ || p.ICMPCode != code || p.Src.Addr() != from || p.Dst.Addr() != src.Addr() {
		t.Errorf("got %v, want type %d code %d from %v to %v", p, typ, code, from, src.Addr())
	}
	if !p.VerifyIP(f.Data) || !p.VerifyTransport(f.Data) {
		t.Errorf("wrong checksum in %v", p)
	}
	q, err := packet.ParseQuoted(p.Payload(f.Data))
	if err != nil || q.Src != src || q.Dst != dst || q.Proto != proto {
		t.Errorf("it quotes %v, %v, want %v from %v to %v", &q, err, proto, src, dst)
	}
}

func TestRefusedProtocols(t *testing.T) {
	server, server6 := serverAddr.Addr(), serverAddr6.Addr()
	for _, c := range []struct {
		name       string
		b          packet.Build
		typ, code  uint8
		other, udp bool
	}{
		{"UDP", packet.Build{Proto: packet.UDP, Src: ap(guestAddr, 5000), Dst: ap(server, 53)}, 3, 13, true, true},
		{"UDP over IPv6", packet.Build{Proto: packet.UDP, Src: ap(guestAddr6, 5000), Dst: ap(server6, 53)}, 1, 1, true, true},
		{"UDP to a closed port of the gateway", packet.Build{Proto: packet.UDP, Src: ap(guestAddr, 5000), Dst: ap(gatewayAddr, 9)}, 3, 3, false, true},
		{"UDP to a closed port of the gateway over IPv6", packet.Build{Proto: packet.UDP, Src: ap(guestAddr6, 5000), Dst: ap(gatewayAddr6, 9)}, 1, 4, false, true},
		{"echo", packet.Build{Proto: packet.ICMP, Src: ap(guestAddr, 0), Dst: ap(server, 0), ICMPType: 8}, 3, 13, true, false},
		{"echo over IPv6", packet.Build{Proto: packet.ICMPv6, Src: ap(guestAddr6, 0), Dst: ap(server6, 0), ICMPType: 128}, 1, 1, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			others := make(chan Other, 10)
			g := newRawGuest(t, func(cfg *Config) { cfg.OnOther = func(o Other) { others <- o } })
			c.b.Payload = []byte("some payload")
			g.send(c.b)
			g.wantICMPError(t, c.b.Src, c.b.Dst, c.b.Proto, c.typ, c.code)
			g.ping(t)
			if c.other != (len(others) == 1) {
				t.Fatalf("OnOther was told %d times", len(others))
			}
			if c.other {
				if o := <-others; o != (Other{UDP: c.udp, Src: c.b.Src, Dst: c.b.Dst}) {
					t.Errorf("OnOther was told %+v", o)
				}
			}
			if n := g.gateway.Stats().RefusedOther; n != 1 {
				t.Errorf("RefusedOther = %d", n)
			}
		})
	}
}

// TestICMPLimit: the guest cannot make the gateway shout without end.
func TestICMPLimit(t *testing.T) {
	clock := newStandingClock()
	g := newRawGuest(t, func(cfg *Config) { cfg.Clock = clock })
	for range icmpBurst + 50 {
		g.send(packet.Build{Proto: packet.UDP, Src: ap(guestAddr, 5000), Dst: ap(serverAddr.Addr(), 53)})
	}
	g.ping(t)
	if st := g.gateway.Stats(); st.ICMPLimited != 50 || st.RefusedOther != icmpBurst+50 {
		t.Errorf("ICMPLimited = %d of %d, want 50", st.ICMPLimited, st.RefusedOther)
	}
}

func TestUnreachable(t *testing.T) {
	for _, c := range []struct {
		name       string
		kind       packet.Kind
		code4      uint8
		code6      uint8
		typ4, typ6 uint8
	}{
		{"no route", packet.NoRoute, 0, 0, 3, 1},
		{"host unreachable", packet.HostUnreachable, 1, 3, 3, 1},
		{"port unreachable", packet.PortUnreachable, 3, 4, 3, 1},
		{"prohibited", packet.Prohibited, 13, 1, 3, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := newRawGuest(t)
			for _, v6 := range []bool{false, true} {
				b := packet.Build{Src: ap(guestAddr, 1234), Dst: serverAddr, Flags: packet.SYN, Options: packet.MSS(1400)}
				typ, code := c.typ4, c.code4
				if v6 {
					b.Src, b.Dst = ap(guestAddr6, 1234), serverAddr6
					typ, code = c.typ6, c.code6
				}
				g.send(b)
				r := g.request()
				r.Unreachable(c.kind)
				r.Unreachable(c.kind) // does nothing
				g.wantICMPError(t, b.Src, b.Dst, packet.TCP, typ, code)
			}
			g.ping(t)
			if n := len(g.Frames()); n != 3 {
				t.Errorf("%d frames came back, want two errors and the echo reply", n)
			}
		})
	}
}

// TestRequestEnds: a request is ended once; Reset is an RST, Drop is silence.
func TestRequestEnds(t *testing.T) {
	g := newRawGuest(t)
	c := g.conn(1000)
	c.syn()
	r := g.request()
	r.Reset()
	r.Drop()
	r.Unreachable(packet.NoRoute)
	if _, err := r.Accept(); err != errEnded {
		t.Errorf("Accept = %v, want %v", err, errEnded)
	}
	if p := c.expect(rstAck); p.TCP.Ack != c.seq {
		t.Errorf("the RST acknowledges %d, want %d", p.TCP.Ack, c.seq)
	}
	c = g.conn(1001)
	c.syn()
	g.request().Drop()
	c.seq--
	c.syn() // asks again, which is a new request
	g.request().Drop()
	g.ping(t)
	if n := len(g.Frames()); n != 2 {
		t.Errorf("%d frames came back, want the RST and the echo reply", n)
	}
	c.send(ackFl, "no connection")
	if p := c.expect(rst); p.TCP.Seq != c.ack {
		t.Errorf("the RST has seq %d, want %d", p.TCP.Seq, c.ack)
	}
}
