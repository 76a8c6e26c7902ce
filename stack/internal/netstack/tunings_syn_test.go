package netstack

import (
	"bytes"
	"net/netip"
	"testing"

	"tcpbox/stack/tcpstate"
	"tcpbox/tun"
	"tcpbox/tun/packet"
	"tcpbox/tun/tuntest"
)

// synRows are those of the options of SYNs.
var synRows = map[string][]knobRow{
	"mss": {
		{"what each end is told and keeps to; an open connection keeps its own", func(t *testing.T, k *knobGuest) {
			old := k.next()
			before := k.establishIn(old, 0)
			k.set("mss=500")
			c := k.next()
			s := k.establishIn(c, 0)
			k.offers(k.lastOf(c, synAck), 500)
			if n := k.carries(c, s); n != 500 {
				t.Errorf("a segment to the guest carries %d bytes, want 500", n)
			}
			if n := k.carries(old, before); n != 1460 {
				t.Errorf("a segment of the old connection carries %d bytes, want 1460", n)
			}
			k.set("mss=1000")
			c = k.next()
			k.establishIn(c, 0)
			k.offers(k.lastOf(c, synAck), 1000)
		}},
		{"a connection that the stack opens", func(t *testing.T, k *knobGuest) {
			k.set("mss=500")
			c, s := k.opened() // its SYN-ACK has 1460
			k.offers(k.lastOf(c, packet.SYN), 500)
			if n := k.carries(c, s); n != 500 {
				t.Errorf("a segment to the guest carries %d bytes, want 500", n)
			}
		}},
		{"more than the MTU gives changes nothing", func(t *testing.T, k *knobGuest) {
			k.set("mss=32767")
			c := k.next()
			s := k.establishIn(c, 0)
			k.offers(k.lastOf(c, synAck), 1460)
			if n := k.carries(c, s); n != 1460 {
				t.Errorf("a segment to the guest carries %d bytes, want 1460", n)
			}
		}},
	},
	"timestamps": {
		{"set before and live; an open connection keeps its own", func(t *testing.T, k *knobGuest) {
			open := func() (*rawConn, *Conn, bool) {
				c := k.next()
				c.ts = 7
				b := c.build(packet.SYN, "")
				k.send(b)
				c.seq++
				req := k.request()
				conns := make(chan *Conn, 1)
				go func() {
					s, _ := req.Accept()
					conns <- s
				}()
				c.expect(synAck)
				f := k.lastOf(c, synAck)
				k.offers(f, 1460)
				if !f.Packet.TCP.HasTimestamps {
					c.ts = 0
				}
				c.send(ackFl, "")
				return c, <-conns, f.Packet.TCP.HasTimestamps
			}
			old, before, has := open()
			if !has {
				t.Error("they are not taken by default")
			}
			k.set("timestamps=off")
			c, s, has := open()
			if has {
				t.Error("they are taken when off")
			}
			k.echo(c, s, false)
			old.ts++
			k.echo(old, before, true)
			k.set("timestamps=on")
			if _, _, has = open(); !has {
				t.Error("they are not taken when on again")
			}
		}},
		{"a connection that the stack opens", func(t *testing.T, k *knobGuest) {
			c, _ := k.opened()
			if f := k.lastOf(c, packet.SYN); !f.Packet.TCP.HasTimestamps {
				t.Error("they are not offered by default")
			}
			k.set("timestamps=off")
			c, s := k.openedAt(8081)
			f := k.lastOf(c, packet.SYN)
			k.offers(f, 1460)
			if f.Packet.TCP.HasTimestamps || !f.Packet.TCP.HasWScale {
				t.Errorf("its SYN has timestamps: %v, and a scale: %v; want the scale alone", f.Packet.TCP.HasTimestamps, f.Packet.TCP.HasWScale)
			}
			k.echo(c, s, false)
		}},
	},
	"window-scaling": {
		{"set before and live", func(t *testing.T, k *knobGuest) {
			takes := func() (*rawConn, *Conn, bool) {
				c := k.next()
				s := k.establishIn(c, 0, packet.WindowScale(7))
				f := k.lastOf(c, synAck)
				k.offers(f, 1460)
				return c, s, f.Packet.TCP.HasWScale
			}
			old, before, has := takes()
			if !has {
				t.Error("it is not taken by default")
			}
			k.set("window-scaling=off")
			c, s, has := takes()
			if has {
				t.Error("it is taken when off")
			}
			if w := k.echo(c, s, false); w < 20000 { // about 10 segments each way (RFC 6928)
				t.Errorf("the window is %d, as if it were scaled", w)
			}
			if w := k.echo(old, before, false); w > 10000 {
				t.Errorf("the window of the old connection is %d, as if it were not scaled", w)
			}
			k.set("window-scaling=on")
			if _, _, has := takes(); !has {
				t.Error("it is not taken when on again")
			}
		}},
		{"a connection that the stack opens", func(t *testing.T, k *knobGuest) {
			k.set("window-scaling=off")
			c, s := k.opened()
			f := k.lastOf(c, packet.SYN)
			k.offers(f, 1460)
			if f.Packet.TCP.HasWScale || !f.Packet.TCP.HasTimestamps {
				t.Errorf("its SYN has a scale: %v, and timestamps: %v; want timestamps alone", f.Packet.TCP.HasWScale, f.Packet.TCP.HasTimestamps)
			}
			k.echo(c, s, false)
		}},
	},
}

// offers checks what a SYN or SYN-ACK says of the MSS, and its checksum.
func (k *knobGuest) offers(f tuntest.Recorded, mss uint16) {
	k.t.Helper()
	if p := &f.Packet; p.TCP.MSS != mss || p.TCP.BadOptions || !p.VerifyTransport(f.Data) {
		k.t.Errorf("%v offers an MSS of %d, want %d; the options are bad: %v; the checksum is right: %v",
			p.TCP.Flags, p.TCP.MSS, mss, p.TCP.BadOptions, p.VerifyTransport(f.Data))
	}
}

// carries has the stack send much, and returns how many bytes a segment carries.
func (k *knobGuest) carries(c *rawConn, s *Conn) (most int) {
	k.t.Helper()
	if _, err := s.Write(make([]byte, 4000)); err != nil {
		k.t.Fatal(err)
	}
	eventually(k.t, "it was sent", func() bool {
		sum := 0
		for _, f := range k.Frames() {
			p := &f.Packet
			if p.Proto != packet.TCP || p.Dst != c.src || p.TCP.Flags.Has(packet.SYN) || p.SegLen() == 0 {
				continue
			}
			size := int(p.SegLen())
			sum += size
			if gso := int(f.Offload.GSOSize); gso != 0 {
				size = min(size, gso)
			}
			most = max(most, size)
		}
		return sum == 4000
	})
	return most
}

// echo carries bytes both ways, and checks whether those from the stack have
// timestamps. It returns the window that they offer, not scaled.
func (k *knobGuest) echo(c *rawConn, s *Conn, timestamps bool) (window uint16) {
	k.t.Helper()
	c.send(ackFl, "from the guest")
	buf := make([]byte, 100)
	if n, err := s.Read(buf); err != nil || string(buf[:n]) != "from the guest" {
		k.t.Errorf("Read = %q, %v", buf[:n], err)
	}
	want := []byte("from the stack")
	if _, err := s.Write(want); err != nil {
		k.t.Fatal(err)
	}
	f, err := k.Wait(k.ctx, func(f *tuntest.Recorded) bool {
		return f.Packet.Dst == c.src && bytes.HasSuffix(f.Data, want)
	})
	if err != nil {
		k.t.Fatal(err)
	}
	if f.Packet.TCP.HasTimestamps != timestamps {
		k.t.Errorf("what the stack sends has timestamps: %v, want %v", f.Packet.TCP.HasTimestamps, timestamps)
	}
	k.stays(tcpstate.Established, s)
	return f.Packet.TCP.Window
}

// TestSYNOptions: what ingress makes of a segment of the guest's, byte for byte,
// with knobs that change all that can be changed.
func TestSYNOptions(t *testing.T) {
	s := mustNew(t, Config{Device: func() tun.Device { _, b := tuntest.Pair(1500); return b }(), OnSYN: func(*Request) {}})
	s.SetMSS(500)
	s.SetTimestamps(false)
	s.SetWindowScaling(false)
	nop := []byte{1}
	all := packet.Options(packet.MSS(1460), packet.SACKPermitted(), packet.Timestamps(1, 2), nop, packet.WindowScale(7))
	for _, row := range []struct {
		what       string
		flags      packet.Flags
		give, want []byte
	}{
		{"a SYN", packet.SYN, all, packet.Options(packet.MSS(500), packet.SACKPermitted(), bytes.Repeat(nop, 14))},
		{"a SYN-ACK: its SYN has decided", synAck, all, packet.Options(packet.MSS(500), all[4:])},
		{"a small MSS", packet.SYN, packet.MSS(400), packet.MSS(400)},
		{"no options", packet.SYN, nil, nil},
		{"at an odd place", packet.SYN, packet.Options(nop, packet.MSS(1460)), packet.Options(nop, packet.MSS(500))},
		{"an unknown option", packet.SYN, packet.Options([]byte{254, 5, 2, 4, 5}, packet.MSS(1460)), packet.Options([]byte{254, 5, 2, 4, 5}, packet.MSS(500))},
		{"behind the end", packet.SYN, packet.Options([]byte{0}, packet.MSS(1460)), packet.Options([]byte{0}, packet.MSS(1460))},
		{"too long", packet.SYN, []byte{254, 9, 2, 4, 5, 180}, []byte{254, 9, 2, 4, 5, 180}},
		{"no length", packet.SYN, []byte{1, 1, 1, 2}, []byte{1, 1, 1, 2}},
		{"a length of none", packet.SYN, []byte{2, 0, 2, 4}, []byte{2, 0, 2, 4}},
		{"an MSS of another length", packet.SYN, []byte{2, 6, 5, 180, 5, 180}, []byte{2, 6, 5, 180, 5, 180}},
		{"another segment", ackFl, all, all},
	} {
		for _, ends := range [][2]netip.AddrPort{{ap(guestAddr, 1000), serverAddr}, {ap(guestAddr6, 1000), serverAddr6}} {
			build := packet.Build{Src: ends[0], Dst: ends[1], Flags: row.flags, Seq: 1, Options: row.give, Payload: []byte("odd")}
			got := build.Bytes()
			build.Options = row.want
			if s.ingress(got, tun.Offload{}) != pass || !bytes.Equal(got, build.Bytes()) {
				t.Errorf("%s: ingress made\n%x, want\n%x", row.what, got, build.Bytes())
			}
		}
	}
	// The checksum of a segment from the guest's kernel covers no more than the
	// pseudo-header yet.
	build := packet.Build{Src: ap(guestAddr, 1000), Dst: serverAddr, Flags: packet.SYN, Options: all}
	pkt := build.Bytes()
	sum := bytes.Clone(pkt[36:38])
	s.ingress(pkt, tun.Offload{NeedsCsum: true, CsumStart: 20, CsumOffset: 16})
	if p, err := packet.Parse(pkt); err != nil || p.TCP.MSS != 500 || !bytes.Equal(sum, pkt[36:38]) {
		t.Errorf("an unfinished checksum went from %x to %x; the MSS is %d, %v", sum, pkt[36:38], p.TCP.MSS, err)
	}
}

// BenchmarkIngressSYN is what ingress costs for a SYN, without a knob of its
// options and with all.
func BenchmarkIngressSYN(b *testing.B) {
	for _, changed := range []bool{false, true} {
		b.Run(map[bool]string{false: "as it is", true: "changed"}[changed], func(b *testing.B) {
			s, _ := tracked(b)
			if changed {
				s.SetMSS(500)
				s.SetTimestamps(false)
				s.SetWindowScaling(false)
			}
			give := packet.Build{
				Src: ap(guestAddr, 1000), Dst: serverAddr, Flags: packet.SYN,
				Options: packet.Options(packet.MSS(1460), packet.SACKPermitted(), packet.Timestamps(1, 2), []byte{1}, packet.WindowScale(7)),
			}.Bytes()
			pkt := bytes.Clone(give)
			b.ReportAllocs()
			for b.Loop() {
				copy(pkt, give)
				s.ingress(pkt, tun.Offload{DataValid: true})
			}
		})
	}
}
