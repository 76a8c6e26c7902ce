package wire

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"tcpbox/tun"
	"tcpbox/tun/packet"
	"tcpbox/tun/tuntest"
)

// shown collects what a Tap shows.
type shown struct {
	mu  sync.Mutex
	all []Segment
}

func (s *shown) add(seg Segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seg.Raw = bytes.Clone(seg.Raw)
	s.all = append(s.all, seg)
}

func (s *shown) String() string {
	var lines []string
	for _, seg := range s.all {
		way := "<"
		if seg.FromGuest {
			way = ">"
		}
		lines = append(lines, fmt.Sprintf("%s %v %d", way, seg.TCP.Flags, seg.Payload))
	}
	return strings.Join(lines, ", ")
}

// tapped is a Tap on one end of a pair; the other end is the guest's kernel.
type tapped struct {
	tap   *Tap
	guest tun.Device
	shown shown
	buf   []byte
}

func newTapped(t testing.TB, cfg Config) *tapped {
	t.Helper()
	guest, dev := tuntest.Pair(1500)
	tp := &tapped{guest: guest, buf: make([]byte, tun.MaxPacket)}
	cfg.OnSegment = tp.shown.add
	tp.tap = NewTap(dev, cfg)
	t.Cleanup(func() {
		if err := guest.Close(); err != nil {
			t.Error(err)
		}
		if err := tp.tap.Close(); err != nil {
			t.Error(err)
		}
	})
	return tp
}

// pass sends the packet over the tap, in pieces of that many bytes if it is the
// stack's, and fails if it comes out changed.
func (tp *tapped) pass(t *testing.T, pkt []byte, fromGuest bool, h tun.Offload, piece int) {
	t.Helper()
	var n int
	var got tun.Offload
	var err error
	if fromGuest {
		if err := tp.guest.Write([][]byte{pkt}, h); err != nil {
			t.Fatal(err)
		}
		n, got, err = tp.tap.Read(tp.buf)
	} else {
		if err := tp.tap.Write(slices.Collect(slices.Chunk(pkt, piece)), h); err != nil {
			t.Fatal(err)
		}
		n, got, err = tp.guest.Read(tp.buf)
	}
	if err != nil || got != h || !bytes.Equal(tp.buf[:n], pkt) {
		t.Fatalf("a packet of %d bytes with %+v came out as %d with %+v, %v", len(pkt), h, n, got, err)
	}
}

func TestTapShowsWhatTurns(t *testing.T) {
	for _, row := range []struct{ name, talk, want string }{
		{"a connection", out + "; > A 1 1 9; < A 1 10; < A 1 10 99; > A 10 100; > FA 10 100; < A 100 11; < A 100 11 7; > A 11 107; < FA 107 11; > A 11 108; < A 108 11", "> SYN 0, < SYN|ACK 0, > ACK 0, > FIN|ACK 0, < ACK 0, < FIN|ACK 0, > ACK 0"},
		{"asked from outside", "< S 0; > SA 0 1; < A 1 1; < A 1 1 9; > A 1 10; < A 10 1 9; > A 1 19", "< SYN 0, > SYN|ACK 0, < ACK 0, > ACK 0"},
		{"an ACK of less, and one of more", out + "; > FA 1 1 10; < A 1 5; < A 1 12; < A 1 12 5", "> SYN 0, < SYN|ACK 0, > ACK 0, > FIN|ACK 10, < ACK 0"},
		{"data acknowledges a FIN too", out + "; > FA 1 1; < A 1 2 500", "> SYN 0, < SYN|ACK 0, > ACK 0, > FIN|ACK 0, < ACK 500"},
		{"reset", out + "; > A 1 1 9; < R 1 0", "> SYN 0, < SYN|ACK 0, > ACK 0, < RST 0"},
		{"from the middle", "> A 1 1 9; < A 1 10; > FA 10 1; < A 1 11; > A 11 1", "> FIN|ACK 0, < ACK 0"},
	} {
		for _, v6 := range []bool{false, true} {
			tp := newTapped(t, Config{})
			for _, s := range talk(t, row.talk) {
				pkt := build(s, v6)
				tp.pass(t, pkt, s.FromGuest, tun.Offload{}, 20)
			}
			if got := tp.shown.String(); got != row.want {
				t.Errorf("%s (IPv6: %v): %s\n  shows %s\n   want %s", row.name, v6, row.talk, got, row.want)
			}
			ends := strings.Contains(row.name, "connection") || strings.Contains(row.name, "reset")
			if n := tp.tap.waiting.Load(); ends && n != 0 {
				t.Errorf("%s: %d connections are waited for at the end", row.name, n)
			}
		}
	}
}

// build makes a packet of a segment, with options that are to be read.
func build(s Segment, v6 bool) []byte {
	src, dst := s.Src, s.Dst
	if v6 {
		six := func(a netip.AddrPort) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port())
		}
		if src == guestEnd {
			src = netip.MustParseAddrPort("[fd00::2]:40001")
		} else {
			src = six(netip.MustParseAddrPort("[2001:db8::1]:80"))
		}
		if dst == guestEnd {
			dst = netip.MustParseAddrPort("[fd00::2]:40001")
		} else {
			dst = netip.MustParseAddrPort("[2001:db8::1]:80")
		}
	}
	return packet.Build{
		Src: src, Dst: dst, Flags: s.TCP.Flags, Seq: s.TCP.Seq, Ack: s.TCP.Ack, Window: 500,
		Options: packet.Timestamps(7, 9), Payload: make([]byte, s.Payload),
	}.Bytes()
}

func TestTapReadsTheHeader(t *testing.T) {
	tp := newTapped(t, Config{})
	const size = 40000
	pkt := packet.Build{
		Src: remoteEnd, Dst: guestEnd, Flags: packet.FIN | packet.ACK, Seq: 7, Ack: 9, Window: 500,
		Options: packet.Timestamps(7, 9), Payload: make([]byte, size), Partial: true,
	}.Bytes()
	h := tun.Offload{GSO: tun.GSOTCP4, GSOSize: 1448, HdrLen: 52, NeedsCsum: true, CsumStart: 20, CsumOffset: 16}
	tp.pass(t, pkt, false, h, 33)
	if len(tp.shown.all) != 1 {
		t.Fatalf("shown: %v", &tp.shown)
	}
	s := tp.shown.all[0]
	if s.Payload != size || s.GSOSize != 1448 || s.TCP.TSVal != 7 || !bytes.Equal(s.Raw, pkt[20:52]) || s.Tuple() != (Tuple{guestEnd, remoteEnd}) || s.End() != 7+size+1 || s.Time.IsZero() {
		t.Errorf("%+v", s)
	}
}

// Packets that are no TCP segments, or cut short, pass and are not shown.
func TestTapPassesTheRest(t *testing.T) {
	tp := newTapped(t, Config{})
	tcp := packet.Build{Src: guestEnd, Dst: remoteEnd, Flags: packet.SYN}
	fragment, later := tcp, tcp
	fragment.MoreFrags = true
	later.FragOffset, later.Payload = 24, make([]byte, 40)
	for _, pkt := range [][]byte{
		packet.Build{Src: guestEnd, Dst: remoteEnd, Proto: packet.UDP, Payload: make([]byte, 40)}.Bytes(),
		fragment.Bytes(), later.Bytes(), tcp.Bytes()[:30],
		{0x45},
		{0x65, 1, 2},
	} {
		for _, fromGuest := range []bool{true, false} {
			tp.pass(t, pkt, fromGuest, tun.Offload{}, 7)
		}
	}
	if len(tp.shown.all) > 0 {
		t.Errorf("shown: %v", &tp.shown)
	}
}

func TestTapBoundsWhatWaits(t *testing.T) {
	tp := newTapped(t, Config{MaxWaiting: 10})
	for i := range 100 {
		src := netip.AddrPortFrom(guestEnd.Addr(), uint16(40000+i))
		tp.pass(t, packet.Build{Src: src, Dst: remoteEnd, Flags: packet.SYN}.Bytes(), true, tun.Offload{}, 0)
	}
	if n, e := tp.tap.waiting.Load(), tp.tap.Evicted(); n != 10 || e != 90 || len(tp.shown.all) != 100 {
		t.Errorf("%d wait, %d evicted, %d shown", n, e, len(tp.shown.all))
	}
}

// null is a device that goes nowhere.
type null struct {
	tun.Device
	pkt []byte
}

func (d null) Read(buf []byte) (int, tun.Offload, error) { return copy(buf, d.pkt), tun.Offload{}, nil }
func (null) Write([][]byte, tun.Offload) error           { return nil }

// busy makes a Tap with that many connections that wait for an ACK, and a
// segment of data of another one.
func busy(waiting int) (*Tap, []byte) {
	data := packet.Build{Src: guestEnd, Dst: remoteEnd, Flags: packet.ACK, Options: packet.Timestamps(1, 2), Payload: make([]byte, 100)}.Bytes()
	tap := NewTap(null{pkt: data}, Config{OnSegment: func(Segment) {}})
	for i := range waiting {
		src := netip.AddrPortFrom(guestEnd.Addr(), uint16(1000+i))
		tap.see(packet.Build{Src: src, Dst: remoteEnd, Flags: packet.SYN}.Bytes(), packet.SYN, true, tun.Offload{})
	}
	return tap, data
}

func TestTapAllocatesNothing(t *testing.T) {
	for _, waiting := range []int{0, 100} {
		tap, data := busy(waiting)
		buf := make([]byte, tun.MaxPacket)
		bufs := [][]byte{data[:20], data[20:52], data[52:]}
		if n := testing.AllocsPerRun(100, func() {
			tap.Read(buf)
			tap.Write(bufs, tun.Offload{})
		}); n != 0 {
			t.Errorf("%v allocations with %d waiting", n, waiting)
		}
	}
}

func BenchmarkTap(b *testing.B) {
	for _, waiting := range []int{-1, 0, 1, 1000} {
		name := fmt.Sprintf("waiting=%d", waiting)
		if waiting < 0 {
			name = "without"
		}
		b.Run(name, func(b *testing.B) {
			tap, data := busy(max(waiting, 0))
			var dev tun.Device = tap
			if waiting < 0 {
				dev = tap.Device
			}
			buf := make([]byte, tun.MaxPacket)
			bufs := [][]byte{data[:20], data[20:52], data[52:]}
			b.ReportAllocs()
			for b.Loop() {
				dev.Read(buf)
				dev.Write(bufs, tun.Offload{})
			}
		})
	}
}

// BenchmarkTapTraced is a segment of data each way through a tap that keeps
// headers and tells of segments, and through one tap for each.
func BenchmarkTapTraced(b *testing.B) {
	tell := Config{OnSegment: func(Segment) {}}
	for _, row := range []struct {
		name string
		tap  func(dev tun.Device, t *Tracer) tun.Device
	}{
		{"one", func(dev tun.Device, t *Tracer) tun.Device {
			return NewTap(dev, Config{OnSegment: tell.OnSegment, Tracer: t})
		}},
		{"two", func(dev tun.Device, t *Tracer) tun.Device { return NewTap(NewTap(dev, Config{Tracer: t}), tell) }},
	} {
		for _, size := range []int{100, 60000} {
			b.Run(fmt.Sprintf("%s/payload=%d", row.name, size), func(b *testing.B) {
				data := packet.Build{Src: guestEnd, Dst: remoteEnd, Flags: packet.ACK, Options: packet.Timestamps(1, 2), Payload: make([]byte, size)}.Bytes()
				waits := packet.Build{Src: guestEnd, Dst: remoteEnd, Flags: packet.SYN}.Bytes()
				dev := row.tap(null{pkt: data}, NewTracer(TracerConfig{}))
				if err := dev.Write([][]byte{waits}, tun.Offload{}); err != nil { // its ACK is waited for
					b.Fatal(err)
				}
				buf := make([]byte, tun.MaxPacket)
				bufs := [][]byte{data[:20], data[20:52], data[52:]}
				b.ReportAllocs()
				for b.Loop() {
					dev.Read(buf)
					dev.Write(bufs, tun.Offload{})
				}
			})
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(packet.Build{Src: guestEnd, Dst: remoteEnd, Flags: packet.SYN, Options: packet.MSS(1460)}.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, ok := Parse(b, true, tun.Offload{})
		if ok && (len(s.Raw) < 20 || s.Payload < 0) {
			t.Errorf("%+v", s)
		}
		if _, tcp := tcpFlags([][]byte{b}); ok && !tcp {
			t.Errorf("a segment is not looked at: %x", b)
		}
	})
}
