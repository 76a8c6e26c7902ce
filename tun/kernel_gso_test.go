package tun

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tcpbox/tun/packet"
)

const mss = 1400

// handshake lets the kernel of s connect to a peer played by hand, and returns
// the kernel's side and what the peer sends next.
func handshake(t *testing.T, s *space, dev Device, to netip.AddrPort) (net.Conn, packet.Build) {
	t.Helper()
	dialled := make(chan net.Conn, 1)
	go s.do(func() error {
		conn, err := net.DialTimeout("tcp", to.String(), time.Minute)
		dialled <- conn
		return err
	})
	var peer packet.Build
	readUntil(t, dev, "the SYN", func(b []byte, p *packet.Packet, _ Offload) bool {
		if p.Proto != packet.TCP || p.TCP.Flags != packet.SYN && p.TCP.Flags != packet.SYN|packet.ECE|packet.CWR {
			return false
		}
		peer = packet.Build{
			Src: p.Dst, Dst: p.Src, Seq: 1000, Ack: p.TCP.Seq + 1, Flags: packet.SYN | packet.ACK, Window: 65535,
			Options: packet.Options(packet.MSS(mss), packet.WindowScale(8)),
		}
		return true
	})
	writePacket(t, dev, peer)
	conn := <-dialled
	if conn == nil {
		t.FailNow()
	}
	t.Cleanup(func() { conn.Close() })
	peer.Seq++
	peer.Flags, peer.Options = packet.ACK, nil
	return conn, peer
}

// TestKernelSuperSegment: the kernel's TCP hands over more than an MTU at once,
// described so that it can be split.
func TestKernelSuperSegment(t *testing.T) {
	needTUN(t)
	s := newSpace(t)
	dev := s.open(1500)
	for _, to := range []netip.AddrPort{gate4, gate6} {
		conn, peer := handshake(t, s, dev, to)
		go func() { // ends when the connection is closed
			_, _ = conn.Write(make([]byte, 1<<20))
		}()
		kind := GSOTCP4
		if to.Addr().Is6() {
			kind = GSOTCP6
		}
		readUntil(t, dev, "a super-segment", func(b []byte, p *packet.Packet, h Offload) bool {
			if p.Proto != packet.TCP || p.Src != peer.Dst || p.PayloadLen() == 0 {
				return false
			}
			peer.Ack = p.TCP.Seq + uint32(p.PayloadLen())
			writePacket(t, dev, peer)
			if len(b) <= dev.MTU() {
				return false
			}
			want := Offload{GSO: kind, GSOSize: mss, HdrLen: uint16(p.HeaderLen()), NeedsCsum: true, CsumStart: uint16(p.IPLen), CsumOffset: 16}
			if h != want {
				t.Errorf("super-segment of %d bytes with %+v, want %+v", len(b), h, want)
			}
			segs := 0
			err := packet.Split(nil, b, int(h.GSOSize), func([]byte) bool {
				segs++
				return true
			})
			if want := (p.PayloadLen() + mss - 1) / mss; err != nil || segs != want {
				t.Errorf("Split = %d segments, %v, want %d", segs, err, want)
			}
			return true
		})
		conn.Close()
	}
}

// TestKernelTakesSuperSegments: what we write as one piece of 50 KB with a
// partial checksum, the kernel's socket reads whole.
func TestKernelTakesSuperSegments(t *testing.T) {
	needTUN(t)
	s := newSpace(t)
	dev := s.open(1500)
	for _, to := range []netip.AddrPort{gate4, gate6} {
		conn, peer := handshake(t, s, dev, to)
		peer.Payload = make([]byte, 50000)
		for i := range peer.Payload {
			peer.Payload[i] = byte(i * 31)
		}
		peer.Flags, peer.Partial = packet.ACK|packet.PSH|packet.FIN, true
		b := peer.Bytes()
		p, err := packet.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		h := Offload{GSO: GSOTCP4, GSOSize: mss, HdrLen: uint16(p.HeaderLen()), NeedsCsum: true, CsumStart: uint16(p.IPLen), CsumOffset: 16}
		if p.Version == 6 {
			h.GSO = GSOTCP6
		}
		if err := dev.Write([][]byte{b[:p.HeaderLen()], b[p.HeaderLen():30000], b[30000:]}, h); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(conn)
		if err != nil || string(got) != string(peer.Payload) {
			t.Errorf("the socket to %v reads %d bytes, %v, want %d", to, len(got), err, len(peer.Payload))
		}
		conn.Close()
	}
}

// reading starts to read a device and returns what ends it.
func reading(dev Device) <-chan error {
	ended := make(chan error, 1)
	go func() {
		buf := make([]byte, MaxPacket)
		for {
			if _, _, err := dev.Read(buf); err != nil {
				ended <- err
				return
			}
		}
	}()
	return ended
}

func wait(t *testing.T, ended <-chan error, want error) {
	t.Helper()
	select {
	case err := <-ended:
		if !errors.Is(err, want) {
			t.Errorf("Read = %v, want %v", err, want)
		}
	case <-time.After(time.Minute):
		t.Errorf("Read goes on, want %v", want)
	}
}

func TestKernelCloseUnblocksRead(t *testing.T) {
	needTUN(t)
	s := newSpace(t)
	for range 20 {
		dev := s.open(1500)
		ended := reading(dev)
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
		wait(t, ended, os.ErrClosed)
		if err := dev.Write([][]byte{{0x45}}, Offload{}); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Write after Close: %v, want %v", err, os.ErrClosed)
		}
	}
}

// TestKernelDeleted: the device is deleted under its reader.
func TestKernelDeleted(t *testing.T) {
	needTUN(t)
	s := newSpace(t)
	for range 20 {
		dev := s.open(1500)
		ended := reading(dev)
		s.do(func() error {
			link, err := netlink.LinkByName(dev.Name())
			if err != nil {
				return err
			}
			return netlink.LinkDel(link)
		})
		wait(t, ended, ErrGone)
		if err := dev.Write([][]byte{packet.Build{Src: gate4, Dst: guest4}.Bytes()}, Offload{}); !errors.Is(err, ErrGone) {
			t.Errorf("Write = %v, want %v", err, ErrGone)
		}
		dev.Close()
	}
}

// TestKernelNamespaceDies: a device that was moved into a namespace dies with
// it. (One that was made there keeps the namespace alive.)
func TestKernelNamespaceDies(t *testing.T) {
	needTUN(t)
	home := newSpace(t)
	for range 5 {
		away := newSpace(t)
		var ns int
		away.do(func() (err error) {
			ns, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			return err
		})
		dev := home.open(1500)
		home.do(func() error {
			link, err := netlink.LinkByName(dev.Name())
			if err != nil {
				return err
			}
			return netlink.LinkSetNsFd(link, ns)
		})
		unix.Close(ns)
		away.do(func() error { return configure(dev.Name(), 1500) })
		ended := reading(dev)
		away.end()
		wait(t, ended, ErrGone)
		dev.Close()
	}
}

// TestKernelDown: an interface that is down is a wire that is unplugged.
func TestKernelDown(t *testing.T) {
	needTUN(t)
	s := newSpace(t)
	dev := s.open(1500)
	down := func(down bool) {
		s.do(func() error {
			link, err := netlink.LinkByName(dev.Name())
			if err != nil {
				return err
			}
			if down {
				return netlink.LinkSetDown(link)
			}
			return netlink.LinkSetUp(link)
		})
	}
	pkt := packet.Build{Src: gate4, Dst: guest4, Flags: packet.ACK, Ack: 7}
	down(true)
	writePacket(t, dev, pkt)
	if got := dev.(Counter).Stats().WriteDropped; got != 1 {
		t.Errorf("WriteDropped = %d, want 1", got)
	}
	down(false)
	writePacket(t, dev, pkt)
	readUntil(t, dev, "the kernel's RST", func(_ []byte, p *packet.Packet, _ Offload) bool {
		return p.Proto == packet.TCP && p.TCP.Flags == packet.RST && p.TCP.Seq == 7
	})
}

func TestKernelDoesNotAllocate(t *testing.T) {
	needTUN(t)
	s := newSpace(t)
	dev := s.open(1500)
	pkt := packet.Build{Src: gate4, Dst: guest4, Flags: packet.ACK, Ack: 7}.Bytes() // answered by RST
	bufs, buf := [][]byte{pkt[:20], pkt[20:]}, make([]byte, MaxPacket)
	n := testing.AllocsPerRun(200, func() {
		if dev.Write(bufs, Offload{}) != nil {
			panic("write")
		}
		if _, _, err := dev.Read(buf); err != nil {
			panic(err)
		}
	})
	if n != 0 && !raceEnabled {
		t.Errorf("Write and Read allocate %v times, want 0", n)
	}
}

// BenchmarkWrite writes an ACK that the kernel drops after a look at it.
func BenchmarkWrite(b *testing.B) {
	needTUN(b)
	s := newSpace(b)
	dev := s.open(1500)
	pkt := packet.Build{Src: gate4, Dst: guest4, Flags: packet.RST}.Bytes()
	bufs := [][]byte{pkt}
	b.ReportAllocs()
	for b.Loop() {
		if err := dev.Write(bufs, Offload{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWriteSuper writes a super-segment that no socket wants.
func BenchmarkWriteSuper(b *testing.B) {
	needTUN(b)
	s := newSpace(b)
	dev := s.open(1500)
	pkt := packet.Build{Src: gate4, Dst: guest4, Flags: packet.RST, Partial: true, Payload: make([]byte, 65160)}.Bytes()
	h := Offload{GSO: GSOTCP4, GSOSize: 1448, HdrLen: 40, NeedsCsum: true, CsumStart: 20, CsumOffset: 16}
	bufs := [][]byte{pkt[:40], pkt[40:]}
	b.SetBytes(int64(len(pkt)))
	b.ReportAllocs()
	for b.Loop() {
		if err := dev.Write(bufs, h); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWriteRead writes an ACK, and reads the RST which answers it.
func BenchmarkWriteRead(b *testing.B) {
	needTUN(b)
	s := newSpace(b)
	dev := s.open(1500)
	bufs := [][]byte{packet.Build{Src: gate4, Dst: guest4, Flags: packet.ACK, Ack: 7}.Bytes()}
	buf := make([]byte, MaxPacket)
	b.ReportAllocs()
	for b.Loop() {
		if err := dev.Write(bufs, Offload{}); err != nil {
			b.Fatal(err)
		}
		if _, _, err := dev.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}
