package netstack

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"tcpbox/tun"
	"tcpbox/tun/packet"
	"tcpbox/tun/tuntest"
)

// fuzzPort is the guest's port of the connection that is there when a fuzzed
// packet arrives; its next sequence number is fuzzSeq.
const (
	fuzzPort = 1000
	fuzzSeq  = 1001
)

// FuzzIngress throws a packet, with whatever its offload says, at a stack that
// has a connection, and a request that is pending. Nothing panics, all that
// comes back is a packet that another host would take, and nothing is left when
// the stack is closed. Acknowledgement numbers on the connection are relative
// to what the stack has sent.
func FuzzIngress(f *testing.F) {
	add := func(b packet.Build, h tun.Offload) {
		f.Add(b.Bytes(), uint8(h.GSO), h.GSOSize, h.HdrLen, h.NeedsCsum, h.CsumStart, h.CsumOffset, h.DataValid)
	}
	none := tun.Offload{}
	src, src6 := ap(guestAddr, fuzzPort), ap(guestAddr6, fuzzPort)
	other, other6 := ap(guestAddr, 2000), ap(guestAddr6, 2000)
	opts := packet.Options(packet.MSS(1460), packet.SACKPermitted(), packet.Timestamps(1, 0), packet.WindowScale(7))
	seg := packet.Build{Src: src, Dst: serverAddr, Flags: packet.ACK, Seq: fuzzSeq, Window: 65535}
	with := func(change func(*packet.Build)) packet.Build { b := seg; change(&b); return b }

	add(packet.Build{Src: other, Dst: serverAddr, Flags: packet.SYN, Options: opts}, none)
	add(packet.Build{Src: other6, Dst: serverAddr6, Flags: packet.SYN, Options: opts}, none)
	add(packet.Build{Src: other, Dst: serverAddr, Flags: packet.SYN | packet.FIN | packet.RST | packet.URG}, none)
	add(packet.Build{Src: other, Dst: serverAddr, Flags: packet.ACK}, none)
	add(packet.Build{Src: other, Dst: serverAddr}, none)
	add(seg, none)
	add(with(func(b *packet.Build) { b.Payload = []byte("data") }), none)
	add(with(func(b *packet.Build) { b.Flags |= packet.FIN }), none)
	add(with(func(b *packet.Build) { b.Flags = packet.RST }), none)
	add(with(func(b *packet.Build) { b.Flags = packet.SYN; b.Options = opts }), none)
	add(with(func(b *packet.Build) { b.Ack = 1 << 31 }), none)
	add(with(func(b *packet.Build) { b.Seq += 100; b.Payload = []byte("behind a gap") }), none)
	add(with(func(b *packet.Build) { b.Options = packet.SACKBlocks(packet.SACKBlock{Left: 1, Right: 9}) }), none)
	add(with(func(b *packet.Build) { b.Options = []byte{2, 0, 8, 1, 5, 3} }), none)
	add(with(func(b *packet.Build) { b.IPOptions = []byte{7, 7, 4, 1, 1, 1, 1} }), none)
	add(with(func(b *packet.Build) { b.IPOptions = []byte{148, 4, 0, 0} }), none)
	add(with(func(b *packet.Build) { b.MoreFrags = true; b.ID = 1; b.Payload = make([]byte, 12) }), none)
	add(with(func(b *packet.Build) { b.FragOffset = 32; b.ID = 1; b.Payload = make([]byte, 12) }), none)
	add(with(func(b *packet.Build) { b.BadChecksum = true }), none)
	add(with(func(b *packet.Build) { b.Partial = true; b.Payload = make([]byte, 5000) }),
		tun.Offload{GSO: tun.GSOTCP4, GSOSize: 1000, HdrLen: 40, NeedsCsum: true, CsumStart: 20, CsumOffset: 16})
	add(packet.Build{Src: src6, Dst: serverAddr6, Flags: packet.ACK, Partial: true, Payload: make([]byte, 40000)},
		tun.Offload{GSO: tun.GSOTCP6, GSOSize: 1440, HdrLen: 60, NeedsCsum: true, CsumStart: 40, CsumOffset: 16})
	add(packet.Build{Src: other6, Dst: serverAddr6, Flags: packet.SYN, Extensions: []packet.Extension{
		{Proto: 0, Body: []byte{1, 4, 0, 0, 0, 0}}, {Proto: 60, Body: make([]byte, 14)}, {Proto: 43, Body: make([]byte, 6)},
	}}, none)
	add(packet.Build{Src: other6, Dst: serverAddr6, Flags: packet.SYN, MoreFrags: true, ID: 9, Payload: make([]byte, 4)}, none)
	add(packet.Build{Proto: packet.UDP, Src: other, Dst: serverAddr, Payload: []byte("query")}, none)
	add(packet.Build{Proto: packet.UDP, Src: other6, Dst: ap(gatewayAddr6, 53), Payload: []byte("query")}, none)
	add(packet.Build{Proto: packet.ICMP, Src: ap(guestAddr, 0), Dst: ap(gatewayAddr, 0), ICMPType: 8, Payload: []byte("ping")}, none)
	add(packet.Build{Proto: packet.ICMPv6, Src: ap(guestAddr6, 0), Dst: ap(serverAddr6.Addr(), 0), ICMPType: 128}, none)
	add(packet.Build{Proto: packet.ICMPv6, Src: ap(guestAddr6, 0), Dst: ap(gatewayAddr6, 0), ICMPType: 135, Payload: make([]byte, 20)}, none)
	quoted := packet.Build{Src: serverAddr, Dst: src, Flags: packet.ACK}.Bytes()
	add(packet.Build{Proto: packet.ICMP, Src: ap(guestAddr, 0), Dst: ap(gatewayAddr, 0), ICMPType: 3, ICMPCode: 4, ICMPRest: 68, Payload: quoted}, none)
	add(packet.Build{Proto: packet.ICMP, Src: ap(guestAddr, 0), Dst: ap(gatewayAddr, 0), ICMPType: 3, ICMPCode: 1, Payload: quoted}, none)
	add(packet.Build{Proto: 132, Src: ap(guestAddr, 0), Dst: serverAddr, Raw: true, Payload: []byte("something else")}, none)

	f.Fuzz(func(t *testing.T, pkt []byte, gso uint8, gsoSize, hdrLen uint16, needs bool, start, offset uint16, valid bool) {
		before := runtime.NumGoroutine()
		fuzzOne(t, pkt, tun.Offload{
			GSO: tun.GSO(gso), GSOSize: gsoSize, HdrLen: hdrLen,
			NeedsCsum: needs, CsumStart: start, CsumOffset: offset, DataValid: valid,
		})
		for range 1000 {
			if runtime.NumGoroutine() <= before {
				return
			}
			time.Sleep(time.Millisecond)
		}
		t.Errorf("%d goroutines before, %d after", before, runtime.NumGoroutine())
	})
}

func fuzzOne(t *testing.T, pkt []byte, off tun.Offload) {
	a, b := tuntest.Pair(1500)
	g := &rawGuest{Recorder: tuntest.Record(a), t: t, ctx: testContext(t), log: newTransitionLog(), requests: make(chan *Request, 16)}
	s, err := New(Config{
		Device: b, Addrs: []netip.Addr{gatewayAddr, gatewayAddr6}, Sink: g.log.sink,
		OnSYN: func(r *Request) {
			if r.Src().Port() == fuzzPort {
				g.requests <- r
			}
			<-r.Context().Done()
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	g.gateway = s
	ran := make(chan error, 1)
	go func() { ran <- s.Run() }()
	c := g.conn(fuzzPort)
	c.seq = fuzzSeq - 1
	c.establish()
	g.conn(fuzzPort + 1).syn() // stays pending

	pkt = slices.Clone(pkt)
	relative(pkt, c)
	if err := g.SendOffload(pkt, off); err == nil {
		g.ping(t)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ran; err != nil && !errors.Is(err, tun.ErrGone) {
		t.Error(err)
	}
	for _, f := range g.Frames() {
		wantValid(t, &f)
	}
	if st := s.Stats(); st.Tracked != 0 || st.UnknownEndpoints != 0 || st.Pending != 0 || st.HalfOpen != 0 {
		t.Errorf("left over: %+v", st)
	}
	g.Recorder.Close()
}

// relative adds what the stack has sent to the acknowledgement number of a
// segment on the connection c, and corrects the checksum.
func relative(pkt []byte, c *rawConn) {
	p, err := packet.Parse(pkt)
	if err != nil || p.Proto != packet.TCP || p.TransportLen == 0 || p.Src != c.src || p.Dst != c.dst || !p.TCP.Flags.Has(packet.ACK) {
		return
	}
	good := p.VerifyTransport(pkt)
	binary.BigEndian.PutUint32(pkt[p.IPLen+8:], p.TCP.Ack+c.ack)
	if good && !p.Fragment() {
		p.SetChecksums(pkt)
	}
}

// wantValid checks that another host would take a frame.
func wantValid(t *testing.T, f *tuntest.Recorded) {
	t.Helper()
	p := &f.Packet
	if f.Err != nil || p.Len != len(f.Data) {
		t.Errorf("came back: %v", f)
		return
	}
	if !p.VerifyIP(f.Data) || !f.Offload.NeedsCsum && !p.VerifyTransport(f.Data) {
		t.Errorf("came back with a wrong checksum: %v", f)
	}
	if f.Offload.NeedsCsum && int(f.Offload.CsumStart) != p.IPLen {
		t.Errorf("came back with its checksum at %d: %v", f.Offload.CsumStart, f)
	}
	if f.Offload.GSO == tun.GSONone && len(f.Data) > 1500 {
		t.Errorf("came back longer than the MTU: %v", f)
	}
}
