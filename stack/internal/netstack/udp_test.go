package netstack

import (
	"bytes"
	"context"
	"net/netip"
	"slices"
	"testing"

	"tcpbox/tun"
	"tcpbox/tun/packet"
	"tcpbox/tun/tuntest"
)

// taken is what OnUDP, OnEcho and OnNoPort were given.
type taken struct {
	udp    chan Datagram
	echo   chan Echo
	noPort chan [2]netip.AddrPort
}

// taking makes a stack's Config take everything.
func taking() (*taken, func(*Config)) {
	k := &taken{make(chan Datagram, 100), make(chan Echo, 100), make(chan [2]netip.AddrPort, 100)}
	return k, func(cfg *Config) {
		cfg.OnUDP = func(d Datagram) bool {
			d.Payload = slices.Clone(d.Payload)
			k.udp <- d
			return true
		}
		cfg.OnEcho = func(e Echo) bool {
			e.Message = slices.Clone(e.Message)
			k.echo <- e
			return true
		}
		cfg.OnNoPort = func(guest, remote netip.AddrPort) { k.noPort <- [2]netip.AddrPort{guest, remote} }
	}
}

func next[T any](t testing.TB, ch chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-testContext(t).Done():
		t.Fatal("nothing was taken")
	}
	return v
}

// fragmentsOf cuts what stands behind the IP header of a packet.
func fragmentsOf(b packet.Build, size int) (pkts [][]byte) {
	whole := b.Bytes()
	p, _ := packet.Parse(whole)
	body := whole[p.IPLen:]
	for at := 0; at < len(body); at += size {
		end := min(at+size, len(body))
		pkts = append(pkts, packet.Build{
			Src: ap(b.Src.Addr(), 0), Dst: ap(b.Dst.Addr(), 0), Proto: b.Proto, ID: 77, TTL: b.TTL, Raw: true,
			FragOffset: at, MoreFrags: end < len(body), Payload: body[at:end],
		}.Bytes())
	}
	return pkts
}

func TestUDPIsTaken(t *testing.T) {
	k, take := taking()
	g := newRawGuest(t, take)
	dst, dst6 := ap(serverAddr.Addr(), 53), ap(serverAddr6.Addr(), 53)
	payload := bytes.Repeat([]byte("datagram"), 500)
	four := packet.Build{Proto: packet.UDP, Src: ap(guestAddr, 5000), Dst: dst, Payload: payload[:100]}
	six := packet.Build{Proto: packet.UDP, Src: ap(guestAddr6, 5000), Dst: dst6, Payload: payload[:100]}
	with := func(b packet.Build, f func(*packet.Build)) packet.Build { f(&b); return b }
	big, big6 := with(four, func(b *packet.Build) { b.Payload = payload }), with(six, func(b *packet.Build) { b.Payload = payload })
	one := func(b packet.Build) [][]byte { return [][]byte{b.Bytes()} }
	for _, row := range []struct {
		name string
		pkts [][]byte
		off  tun.Offload
		want packet.Build
		prob bool
	}{
		{"over IPv4", one(four), tun.Offload{}, four, false},
		{"over IPv6", one(six), tun.Offload{}, six, false},
		{"empty", one(with(four, func(b *packet.Build) { b.Payload = nil })), tun.Offload{}, with(four, func(b *packet.Build) { b.Payload = nil }), false},
		{"with a TTL", one(with(four, func(b *packet.Build) { b.TTL = 1 })), tun.Offload{}, with(four, func(b *packet.Build) { b.TTL = 1 }), false},
		{"a partial checksum", one(with(six, func(b *packet.Build) { b.Partial = true })), tun.Offload{NeedsCsum: true, CsumStart: 40, CsumOffset: 6}, six, false},
		{"a default socket's don't fragment", one(with(four, func(b *packet.Build) { b.DontFrag, b.ID = true, 9 })), tun.Offload{}, four, false},
		{"a probe", one(with(four, func(b *packet.Build) { b.DontFrag = true })), tun.Offload{}, four, true},
		{"with IP options", one(with(four, func(b *packet.Build) { b.IPOptions = []byte{148, 4, 0, 0} })), tun.Offload{}, four, false},
		{
			"with IP options and a partial checksum", one(with(four, func(b *packet.Build) { b.IPOptions, b.Partial = []byte{148, 4, 0, 0}, true })),
			tun.Offload{NeedsCsum: true, CsumStart: 24, CsumOffset: 6},
			four, false,
		},
		{"in fragments", fragmentsOf(big, 1000), tun.Offload{}, big, false},
		{"in fragments over IPv6", fragmentsOf(big6, 1000), tun.Offload{}, big6, false},
		{"in fragments out of order", func() [][]byte { f := fragmentsOf(big, 1000); slices.Reverse(f); return f }(), tun.Offload{}, big, false},
	} {
		for _, pkt := range row.pkts {
			if err := g.SendOffload(pkt, row.off); err != nil {
				t.Fatal(err)
			}
		}
		d := next(t, k.udp)
		ttl := row.want.TTL
		if ttl == 0 {
			ttl = 64
		}
		if d.Src != row.want.Src || d.Dst != row.want.Dst || d.TTL != ttl || d.Probe != row.prob || !bytes.Equal(d.Payload, row.want.Payload) {
			t.Errorf("%s: taken %v > %v ttl %d probe %v with %d bytes", row.name, d.Src, d.Dst, d.TTL, d.Probe, len(d.Payload))
		}
	}
	g.ping(t)
	if n := len(g.Frames()); n != 1 {
		t.Errorf("%d frames came back, want the echo reply alone", n)
	}
}

// What is malformed, damaged, or for the stack itself is not taken.
func TestUDPIsNotTaken(t *testing.T) {
	b := packet.Build{Proto: packet.UDP, Src: ap(guestAddr, 5000), Dst: ap(serverAddr.Addr(), 53), Payload: []byte("payload")}
	with := func(f func(*packet.Build)) packet.Build { b := b; f(&b); return b }
	for _, row := range []struct {
		name string
		pkts [][]byte
		want Stats
	}{
		{"a wrong checksum", [][]byte{with(func(b *packet.Build) { b.BadChecksum = true }).Bytes()}, Stats{BadChecksum: 1}},
		{"a wrong checksum in fragments", fragmentsOf(with(func(b *packet.Build) { b.BadChecksum = true; b.Payload = make([]byte, 100) }), 64), Stats{BadChecksum: 1}},
		{"a length beyond the packet", [][]byte{func() []byte { p := b.Bytes(); p[25]++; return p }()}, Stats{Malformed: 1}},
		{"to the gateway", [][]byte{with(func(b *packet.Build) { b.Dst = ap(gatewayAddr, 9) }).Bytes()}, Stats{RefusedOther: 1}},
		{"to the gateway, in fragments", fragmentsOf(with(func(b *packet.Build) { b.Dst = ap(gatewayAddr, 9); b.Payload = make([]byte, 100) }), 64), Stats{RefusedOther: 1}},
		{"to a group", [][]byte{with(func(b *packet.Build) { b.Dst = ap(netip.MustParseAddr("224.0.0.251"), 5353) }).Bytes()}, Stats{NotUnicast: 1}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			k, take := taking()
			g := newRawGuest(t, take)
			for _, pkt := range row.pkts {
				if err := g.Send(pkt); err != nil {
					t.Fatal(err)
				}
			}
			g.ping(t)
			st := g.gateway.Stats()
			got := Stats{Malformed: st.Malformed, BadChecksum: st.BadChecksum, RefusedOther: st.RefusedOther, NotUnicast: st.NotUnicast}
			if got != row.want || len(k.udp) != 0 {
				t.Errorf("counted %+v, want %+v; %d were taken", got, row.want, len(k.udp))
			}
		})
	}
}

func TestEchoIsTaken(t *testing.T) {
	k, take := taking()
	g := newRawGuest(t, take)
	server, server6 := serverAddr.Addr(), serverAddr6.Addr()
	for _, row := range []struct {
		name string
		pkts [][]byte
		want Echo
	}{
		{
			"over IPv4",
			[][]byte{packet.Build{Proto: packet.ICMP, Src: ap(guestAddr, 0), Dst: ap(server, 0), ICMPType: 8, ICMPRest: 3<<16 | 4, TTL: 5, Payload: []byte("abc")}.Bytes()},
			Echo{Src: guestAddr, Dst: server, ID: 3, Seq: 4, TTL: 5, Message: []byte("abc")},
		},
		{
			"over IPv6",
			[][]byte{packet.Build{Proto: packet.ICMPv6, Src: ap(guestAddr6, 0), Dst: ap(server6, 0), ICMPType: 128, ICMPRest: 3<<16 | 4, Payload: []byte("abc")}.Bytes()},
			Echo{Src: guestAddr6, Dst: server6, ID: 3, Seq: 4, TTL: 64, Message: []byte("abc")},
		},
		{
			"in fragments", fragmentsOf(packet.Build{Proto: packet.ICMP, Src: ap(guestAddr, 0), Dst: ap(server, 0), ICMPType: 8, ICMPRest: 3<<16 | 4, Payload: bytes.Repeat([]byte("x"), 4001)}, 1024),
			Echo{Src: guestAddr, Dst: server, ID: 3, Seq: 4, TTL: 64, Message: bytes.Repeat([]byte("x"), 4001)},
		},
		{
			"in fragments over IPv6", fragmentsOf(packet.Build{Proto: packet.ICMPv6, Src: ap(guestAddr6, 0), Dst: ap(server6, 0), ICMPType: 128, ICMPRest: 3<<16 | 4, Payload: bytes.Repeat([]byte("x"), 4001)}, 1024),
			Echo{Src: guestAddr6, Dst: server6, ID: 3, Seq: 4, TTL: 64, Message: bytes.Repeat([]byte("x"), 4001)},
		},
	} {
		for _, pkt := range row.pkts {
			if err := g.Send(pkt); err != nil {
				t.Fatal(err)
			}
		}
		e := next(t, k.echo)
		if payload := e.Message[icmpHeaderLen:]; !bytes.Equal(payload, row.want.Message) {
			t.Errorf("%s: %d bytes of payload", row.name, len(payload))
		}
		if e.Src != row.want.Src || e.Dst != row.want.Dst || e.ID != row.want.ID || e.Seq != row.want.Seq || e.TTL != row.want.TTL {
			t.Errorf("%s: taken %+v, want %+v", row.name, e, row.want)
		}
	}
	g.ping(t) // the gateway's own address answers by itself
	if len(k.echo) != 0 || len(g.Frames()) != 1 {
		t.Errorf("%d more were taken, %d frames came back", len(k.echo), len(g.Frames()))
	}
}

// TestEchoFragmentsRefused: nobody answers for others, whatever the size.
func TestEchoFragmentsRefused(t *testing.T) {
	g := newRawGuest(t)
	for _, pkt := range fragmentsOf(packet.Build{Proto: packet.ICMP, Src: ap(guestAddr, 0), Dst: ap(serverAddr.Addr(), 0), ICMPType: 8, Payload: make([]byte, 4000)}, 1024) {
		if err := g.Send(pkt); err != nil {
			t.Fatal(err)
		}
	}
	g.ping(t)
	if n := len(g.Frames()); n != 1 {
		t.Errorf("%d frames came back, want the reply of the gateway alone", n)
	}
}

// TestFragmentsAreBounded: what does not fit together is thrown away.
func TestFragmentsAreBounded(t *testing.T) {
	now := newStandingClock().Now()
	frag := func(id uint32, off, size int, more bool) []byte {
		return packet.Build{Proto: packet.ICMP, Src: ap(guestAddr, 0), Dst: ap(serverAddr.Addr(), 0), ID: id, Raw: true, FragOffset: off, MoreFrags: more, Payload: make([]byte, size)}.Bytes()
	}
	var f fragments
	for id := range uint32(10) {
		f.add(frag(id, 0, 64, true), now)
	}
	if len(f.parts) != maxPartials {
		t.Errorf("%d messages are kept, want %d", len(f.parts), maxPartials)
	}
	if f.add(frag(0, 64, 8, false), now) != nil {
		t.Error("a message whose beginning had been thrown away was completed")
	}
	if f.add(frag(9, 32, 64, true), now) != nil || f.add(frag(9, 96, 8, false), now) != nil {
		t.Error("fragments that overlap were put together")
	}
	if f.add(frag(8, 64, 8, false), now.Add(partialLife+1)) != nil {
		t.Error("a message was completed after its time")
	}
	if f.add(frag(20, 0, 63, true), now) != nil || f.add(frag(21, 0, 64, true), now) != nil || f.add(frag(21, 128, 8, false), now) != nil || f.add(frag(21, 120, 16, true), now) != nil {
		t.Error("fragments that cannot be right were put together")
	}
	f = fragments{}
	if f.add(frag(1, 64, 5, false), now) != nil || len(f.add(frag(1, 0, 64, true), now)) != 69 {
		t.Error("two fragments out of order were not put together")
	}
}

// newWideGuest is a guest whose device takes the largest packets.
func newWideGuest(t testing.TB) (*Stack, *tuntest.Recorder) {
	a, b := tuntest.Pair(tun.MaxPacket)
	r := tuntest.Record(a)
	s := mustNew(t, Config{Device: b, Addrs: []netip.Addr{gatewayAddr, gatewayAddr6}, Guest: []netip.Prefix{netip.PrefixFrom(guestAddr, 32)}})
	t.Cleanup(func() { r.Close() })
	return s, r
}

func TestWriteUDP(t *testing.T) {
	s, r := newWideGuest(t)
	for _, row := range []struct {
		src, dst netip.AddrPort
		most     int
	}{
		{ap(serverAddr.Addr(), 53), ap(guestAddr, 5000), MaxPayload4},
		{ap(serverAddr6.Addr(), 53), ap(guestAddr6, 5000), MaxPayload6},
	} {
		for _, size := range []int{0, 1, 1473, 65487, 65507, row.most} {
			payload := bytes.Repeat([]byte{byte(size), 7}, size)[:size]
			if err := s.WriteUDP(row.src, row.dst, payload); err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
			f, err := r.Wait(testContext(t), func(f *tuntest.Recorded) bool { return true })
			if err != nil {
				t.Fatal(err)
			}
			data, p := f.Data, f.Packet
			if p.Fragment() { // put it together
				second, err := r.Wait(testContext(t), func(f *tuntest.Recorded) bool { return true })
				if err != nil || !p.MoreFrags || second.Packet.MoreFrags || second.Packet.ID != p.ID {
					t.Fatalf("%d bytes: fragments %v, %v, %v", size, &p, &second.Packet, err)
				}
				body := append(slices.Clone(data[p.IPLen:]), second.Data[second.Packet.IPLen:]...)
				if second.Packet.FragOffset != len(data)-p.IPLen {
					t.Errorf("%d bytes: the second fragment is at %d", size, second.Packet.FragOffset)
				}
				sum := packet.PseudoSum(row.src.Addr(), row.dst.Addr(), packet.UDP, len(body))
				if packet.Sum(body, sum) != 0xffff || !bytes.Equal(body[8:], payload) {
					t.Errorf("%d bytes: the fragments do not make the datagram", size)
				}
				continue
			}
			if !f.Offload.NeedsCsum || packet.Complete(data, int(f.Offload.CsumStart), int(f.Offload.CsumOffset)) != nil {
				t.Fatalf("%d bytes: offload %+v", size, f.Offload)
			}
			if p.Src != row.src || p.Dst != row.dst || p.Proto != packet.UDP || !p.VerifyIP(data) || !p.VerifyTransport(data) || !bytes.Equal(p.Payload(data), payload) {
				t.Errorf("%d bytes: wrote %v", size, &p)
			}
		}
		if err := s.WriteUDP(row.src, row.dst, make([]byte, row.most+1)); err != errTooLarge {
			t.Errorf("%d bytes: %v", row.most+1, err)
		}
	}
}

// sink is a device that takes everything and has nothing.
type sink struct{ tun.Device }

func (sink) Write([][]byte, tun.Offload) error { return nil }
func (sink) MTU() int                          { return tun.MaxPacket }
func (sink) Close() error                      { return nil }

func TestWriteUDPAllocatesNothing(t *testing.T) {
	s, err := New(Config{Device: sink{}, Addrs: []netip.Addr{gatewayAddr}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	payload := make([]byte, 100)
	if n := testing.AllocsPerRun(200, func() { _ = s.WriteUDP(ap(serverAddr.Addr(), 53), ap(guestAddr, 5000), payload) }); n >= 1 {
		t.Errorf("WriteUDP allocates %v times", n)
	}
}

func TestWriteEchoReply(t *testing.T) {
	s, r := newWideGuest(t)
	for _, row := range []struct {
		src, dst netip.Addr
		typ      uint8
	}{{serverAddr.Addr(), guestAddr, 0}, {serverAddr6.Addr(), guestAddr6, 129}} {
		if err := s.WriteEchoReply(row.src, row.dst, 0x1234, 7, []byte("ping")); err != nil {
			t.Fatal(err)
		}
		f, err := r.Wait(testContext(t), func(f *tuntest.Recorded) bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		p := f.Packet
		if p.Src.Addr() != row.src || p.Dst.Addr() != row.dst || p.ICMPType != row.typ || !p.VerifyIP(f.Data) || !p.VerifyTransport(f.Data) {
			t.Errorf("wrote %v", &p)
		}
		if rest := f.Data[p.IPLen+4 : p.IPLen+8]; !bytes.Equal(rest, []byte{0x12, 0x34, 0, 7}) || string(p.Payload(f.Data)) != "ping" {
			t.Errorf("wrote identifier and number %x and %q", rest, p.Payload(f.Data))
		}
		if err := s.WriteEchoReply(row.src, row.dst, 1, 1, make([]byte, 70000)); err != errTooLarge {
			t.Errorf("a huge reply: %v", err)
		}
	}
}

// TestWriteError: an error of the path comes from whoever said so.
func TestWriteError(t *testing.T) {
	g := newRawGuest(t)
	router := netip.MustParseAddr("10.1.1.1")
	about := packet.Build{Proto: packet.UDP, Src: ap(guestAddr, 5000), Dst: ap(serverAddr.Addr(), 33434), Payload: []byte("probe")}
	g.gateway.WriteError(packet.Message{Type: 11}, router, about)
	f, err := g.Wait(g.ctx, func(f *tuntest.Recorded) bool { return f.Packet.ICMPError() })
	if err != nil {
		t.Fatal(err)
	}
	q, err := packet.ParseQuoted(f.Packet.Payload(f.Data))
	if f.Packet.Src.Addr() != router || f.Packet.ICMPType != 11 || err != nil || q.Src != about.Src || q.Dst != about.Dst {
		t.Errorf("wrote %v about %v", &f.Packet, &q)
	}
	g.gateway.WriteError(packet.PortUnreachable.Message(false), netip.Addr{}, about)
	g.wantICMPError(t, about.Src, about.Dst, packet.UDP, 3, 3)
}

// TestNoPort: the guest's word that nobody has a port any more is passed on.
func TestNoPort(t *testing.T) {
	k, take := taking()
	g := newRawGuest(t, take)
	remote := ap(serverAddr.Addr(), 53)
	orig := packet.Build{Proto: packet.UDP, Src: remote, Dst: ap(guestAddr, 5000), Payload: []byte("late")}.Bytes()
	if err := g.Send(packet.Unreachable(nil, orig, packet.HostUnreachable, guestAddr)); err != nil {
		t.Fatal(err)
	}
	if err := g.Send(packet.Unreachable(nil, orig, packet.PortUnreachable, guestAddr)); err != nil {
		t.Fatal(err)
	}
	if got := next(t, k.noPort); got != [2]netip.AddrPort{ap(guestAddr, 5000), remote} || len(k.noPort) != 0 {
		t.Errorf("told of %v, and %d more", got, len(k.noPort))
	}
}

// TestFlush: it returns when what was sent before has been read.
func TestFlush(t *testing.T) {
	k, take := taking()
	g := newRawGuest(t, take)
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.gateway.Flush(g.ctx)
	}()
	f, err := g.Wait(g.ctx, func(f *tuntest.Recorded) bool { return f.Packet.Proto == packet.ICMP && f.Packet.ICMPType == 8 })
	if err != nil {
		t.Fatal(err)
	}
	g.send(packet.Build{Proto: packet.UDP, Src: ap(guestAddr, 5000), Dst: serverAddr})
	if err := g.Send(packet.EchoReply(nil, f.Data)); err != nil {
		t.Fatal(err)
	}
	<-done
	if len(k.udp) != 1 {
		t.Errorf("%d datagrams had been read when Flush returned, want 1", len(k.udp))
	}
	ctx, cancel := context.WithCancel(g.ctx)
	cancel()
	g.gateway.Flush(ctx) // nobody answers
}

// FuzzDatagrams throws packets, and a second one that may belong to the first,
// at a stack that takes datagrams and echo requests. Nothing panics, what is
// taken lies within what was sent, and nothing comes back that is not whole.
func FuzzDatagrams(f *testing.F) {
	udp := packet.Build{Proto: packet.UDP, Src: ap(guestAddr, 5000), Dst: ap(serverAddr.Addr(), 53), Payload: []byte("some payload of it")}
	udp6 := packet.Build{Proto: packet.UDP, Src: ap(guestAddr6, 5000), Dst: ap(serverAddr6.Addr(), 53), Payload: make([]byte, 100)}
	echo := packet.Build{Proto: packet.ICMP, Src: ap(guestAddr, 0), Dst: ap(serverAddr.Addr(), 0), ICMPType: 8, Payload: make([]byte, 100)}
	echo6 := packet.Build{Proto: packet.ICMPv6, Src: ap(guestAddr6, 0), Dst: ap(serverAddr6.Addr(), 0), ICMPType: 128, Payload: make([]byte, 100)}
	late := packet.Build{Proto: packet.UDP, Src: udp.Dst, Dst: udp.Src}.Bytes()
	for _, b := range []packet.Build{udp, udp6, echo, echo6} {
		f.Add(b.Bytes(), []byte{}, false)
		pieces := fragmentsOf(b, 64)
		f.Add(pieces[0], pieces[len(pieces)-1], false)
		f.Add(pieces[len(pieces)-1], pieces[0], false)
		b.Partial = true
		f.Add(b.Bytes(), []byte{}, true)
	}
	f.Add(packet.Unreachable(nil, late, packet.PortUnreachable, guestAddr), []byte{}, false)
	f.Add(packet.EchoReply(nil, echo.Bytes()), []byte{}, false)
	f.Fuzz(func(t *testing.T, first, second []byte, partial bool) {
		a, b := tuntest.Pair(tun.MaxPacket, tuntest.WithoutGSO())
		r := tuntest.Record(a)
		most := len(first) + len(second)
		s := mustNew(t, Config{
			Device: b, Addrs: []netip.Addr{gatewayAddr, gatewayAddr6},
			OnSYN: func(r *Request) { r.Drop() },
			OnUDP: func(d Datagram) bool {
				if len(d.Payload) > most || !d.Src.IsValid() || !d.Dst.IsValid() {
					t.Errorf("taken %+v", d)
				}
				return len(d.Payload)%2 == 0
			},
			OnEcho: func(e Echo) bool {
				if len(e.Message) > most {
					t.Errorf("taken %+v", e)
				}
				return len(e.Message)%2 == 0
			},
			OnNoPort: func(guest, remote netip.AddrPort) {},
		})
		for _, pkt := range [][]byte{first, second} {
			off := tun.Offload{}
			if p, err := packet.Parse(pkt); partial && err == nil && p.Proto == packet.UDP && p.TransportLen > 0 {
				off = tun.Offload{NeedsCsum: true, CsumStart: uint16(p.IPLen), CsumOffset: 6}
			}
			if len(pkt) > 0 && len(pkt) <= tun.MaxPacket {
				_ = s.ingress(slices.Clone(pkt), off)
			}
		}
		s.Close()
		r.Close()
		for _, f := range r.Frames() {
			if f.Err != nil || !f.Packet.VerifyIP(f.Data) || !f.Packet.VerifyTransport(f.Data) {
				t.Errorf("%x came back: %v", f.Data, f.Err)
			}
		}
	})
}
