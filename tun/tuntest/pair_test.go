package tuntest_test

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"sync"
	"testing"
	"testing/synctest"

	"tcpbox/tun"
	"tcpbox/tun/packet"
	"tcpbox/tun/tuntest"
)

var (
	guest = netip.MustParseAddrPort("198.18.0.2:40000")
	host  = netip.MustParseAddrPort("198.18.0.1:80")
)

func data(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return packet.Build{Src: guest, Dst: host, Flags: packet.ACK, Payload: b}.Bytes()
}

// super is a super-segment with an MSS of 1000, and its offload.
func super(n int) ([]byte, tun.Offload) {
	b := packet.Build{Src: guest, Dst: host, Flags: packet.ACK | packet.PSH, Partial: true, Payload: make([]byte, n)}.Bytes()
	return b, tun.Offload{GSO: tun.GSOTCP4, GSOSize: 1000, HdrLen: 40, NeedsCsum: true, CsumStart: 20, CsumOffset: 16}
}

func write(t *testing.T, d tun.Device, b []byte, h tun.Offload) {
	t.Helper()
	if err := d.Write([][]byte{b[:10], nil, b[10:]}, h); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, d tun.Device) ([]byte, tun.Offload) {
	t.Helper()
	buf := make([]byte, tun.MaxPacket)
	n, h, err := d.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n], h
}

func TestPairCarries(t *testing.T) {
	a, b := tuntest.Pair(0)
	defer a.Close()
	defer b.Close()
	if a.MTU() != 1500 || a.Name() != "a" || b.Name() != "b" {
		t.Errorf("MTU %d, names %q and %q, want 1500, a and b", a.MTU(), a.Name(), b.Name())
	}
	big, h := super(60000)
	for _, ends := range [][2]tun.Device{{a, b}, {b, a}} {
		small := data(3)
		write(t, ends[0], small, tun.Offload{})
		write(t, ends[0], big, h)
		if got, off := read(t, ends[1]); !bytes.Equal(got, small) || off != (tun.Offload{}) {
			t.Errorf("Read = %x, %+v, want %x", got, off, small)
		}
		if got, off := read(t, ends[1]); !bytes.Equal(got, big) || off != h {
			t.Errorf("Read = %d bytes, %+v, want %d, %+v", len(got), off, len(big), h)
		}
	}
}

func TestPairRefuses(t *testing.T) {
	a, b := tuntest.Pair(1000)
	defer a.Close()
	defer b.Close()
	for name, c := range map[string]struct {
		b []byte
		h tun.Offload
	}{
		"an empty packet":            {nil, tun.Offload{}},
		"a packet beyond the MTU":    {data(961), tun.Offload{}},
		"more than MaxPacket":        {make([]byte, tun.MaxPacket+1), tun.Offload{GSO: tun.GSOTCP4}},
		"a checksum beyond the end":  {data(1), tun.Offload{NeedsCsum: true, CsumStart: 39, CsumOffset: 1}},
		"a length in small pieces ":  {data(3000), tun.Offload{DataValid: true}},
		"a super-segment of no size": {nil, tun.Offload{GSO: tun.GSOTCP6}},
	} {
		if err := a.Write([][]byte{c.b}, c.h); err == nil {
			t.Errorf("%s: Write = nil, want an error", name)
		}
	}
	if _, _, err := b.Read(make([]byte, 1500)); err == nil {
		t.Error("Read into 1500 bytes = nil, want an error")
	}
}

func TestPairDropsWhenFull(t *testing.T) {
	a, b := tuntest.Pair(0, tuntest.Queue(2))
	defer a.Close()
	defer b.Close()
	for range 5 {
		write(t, a, data(1), tun.Offload{})
	}
	if got := a.(tun.Counter).Stats().WriteDropped; got != 3 {
		t.Errorf("WriteDropped = %d, want 3", got)
	}
	read(t, b)
	read(t, b)
	write(t, a, data(1), tun.Offload{})
	read(t, b)
}

func TestWithoutGSO(t *testing.T) {
	a, b := tuntest.Pair(1500, tuntest.WithoutGSO())
	defer a.Close()
	defer b.Close()
	big, h := super(2500)
	write(t, a, big, h)
	for i, want := range []int{1000, 1000, 500} {
		got, off := read(t, b)
		p, err := packet.Parse(got)
		if err != nil || off != (tun.Offload{}) || p.PayloadLen() != want || !p.VerifyTransport(got) {
			t.Errorf("segment %d = %v, %+v, %v, want %d bytes", i, &p, off, err, want)
		}
	}
	partial := packet.Build{Src: guest, Dst: host, Partial: true, Payload: []byte("x")}.Bytes()
	write(t, a, partial, tun.Offload{NeedsCsum: true, CsumStart: 20, CsumOffset: 16})
	got, off := read(t, b)
	if p, err := packet.Parse(got); err != nil || off != (tun.Offload{}) || !p.VerifyTransport(got) {
		t.Errorf("a partial checksum arrived as %x, %+v, %v", got, off, err)
	}
	if err := a.Write([][]byte{data(10)}, tun.Offload{GSO: tun.GSOTCP4}); !errors.Is(err, packet.ErrSplit) {
		t.Errorf("Write of a super-segment without size: %v, want %v", err, packet.ErrSplit)
	}
}

func TestPairCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := tuntest.Pair(0)
		buf := make([]byte, tun.MaxPacket)
		ended := make(chan error, 1)
		go func() {
			_, _, err := a.Read(buf)
			ended <- err
		}()
		synctest.Wait() // the reader waits
		write(t, a, data(7), tun.Offload{})
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, os.ErrClosed) {
			t.Errorf("Read when closed: %v, want %v", err, os.ErrClosed)
		}
		if err := a.Close(); err != nil {
			t.Errorf("Close again: %v", err)
		}
		if _, _, err := a.Read(buf); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Read after Close: %v, want %v", err, os.ErrClosed)
		}
		if err := a.Write([][]byte{data(1)}, tun.Offload{}); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Write after Close: %v, want %v", err, os.ErrClosed)
		}
		if got, _ := read(t, b); !bytes.Equal(got, data(7)) {
			t.Errorf("what was on the way arrived as %x", got)
		}
		if _, _, err := b.Read(buf); !errors.Is(err, tun.ErrGone) {
			t.Errorf("Read at the other end: %v, want %v", err, tun.ErrGone)
		}
		if err := b.Write([][]byte{data(1)}, tun.Offload{}); !errors.Is(err, tun.ErrGone) {
			t.Errorf("Write at the other end: %v, want %v", err, tun.ErrGone)
		}
	})
}

func TestPairConcurrently(t *testing.T) {
	const writers, each = 4, 500
	a, b := tuntest.Pair(0, tuntest.Queue(writers*each))
	defer b.Close()
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				if err := a.Write([][]byte{data(50)}, tun.Offload{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range writers * each {
		if got, _ := read(t, b); !bytes.Equal(got, data(50)) {
			t.Fatalf("Read = %x", got)
		}
	}
	wg.Wait()
	a.Close()
}

func TestPairDoesNotAllocate(t *testing.T) {
	a, b := tuntest.Pair(0)
	defer a.Close()
	defer b.Close()
	pkt, buf := [][]byte{data(100)}, make([]byte, tun.MaxPacket)
	n := testing.AllocsPerRun(200, func() {
		_ = a.Write(pkt, tun.Offload{})
		_, _, _ = b.Read(buf)
	})
	if n != 0 && !raceEnabled {
		t.Errorf("Write and Read allocate %v times, want 0", n)
	}
}

// number is the payload's length, by which these tests tell packets apart.
func number(t *testing.T, b []byte) int {
	p, err := packet.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return p.PayloadLen()
}

func TestLinkActions(t *testing.T) {
	for _, row := range []struct {
		name    string
		actions []tuntest.Action
		want    []int // numbers of the packets that arrive, in order
	}{
		{"all pass", []tuntest.Action{tuntest.Pass, tuntest.Pass}, []int{0, 1}},
		{"one is lost", []tuntest.Action{tuntest.Pass, tuntest.Drop, tuntest.Pass}, []int{0, 2}},
		{"one comes twice", []tuntest.Action{tuntest.Dup, tuntest.Pass}, []int{0, 0, 1}},
		{"one is overtaken", []tuntest.Action{tuntest.Hold, tuntest.Release, tuntest.Pass}, []int{1, 0, 2}},
		{"two are held", []tuntest.Action{tuntest.Hold, tuntest.Hold, tuntest.Release}, []int{2, 0, 1}},
	} {
		next := 0
		l := tuntest.NewLink(0, func(dir tuntest.Direction, f *tuntest.Frame) tuntest.Action {
			if dir == tuntest.BToA {
				return tuntest.Drop
			}
			if p, err := f.Parse(); err != nil || p.PayloadLen() != next {
				t.Errorf("%s: the hook sees %v, %v, want packet %d", row.name, &p, err, next)
			}
			next++
			return row.actions[next-1]
		})
		for i := range row.actions {
			write(t, l.A, data(i), tun.Offload{})
			write(t, l.B, data(i), tun.Offload{})
		}
		for i, want := range row.want {
			got, _ := read(t, l.B)
			if n := number(t, got); n != want {
				t.Errorf("%s: arrival %d is packet %d, want %d", row.name, i, n, want)
			}
		}
		l.A.Close()
		if _, _, err := l.B.Read(make([]byte, tun.MaxPacket)); !errors.Is(err, tun.ErrGone) {
			t.Errorf("%s: more arrives than expected", row.name)
		}
		l.B.Close()
	}
}

func TestLinkRelease(t *testing.T) {
	l := tuntest.NewLink(0, func(tuntest.Direction, *tuntest.Frame) tuntest.Action { return tuntest.Hold })
	defer l.A.Close()
	defer l.B.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := l.WaitHeld(t.Context(), tuntest.AToB, 3); err != nil {
			t.Error(err)
		}
	})
	for i := range 3 {
		write(t, l.A, data(i), tun.Offload{})
	}
	wg.Wait()
	if n := l.Held(tuntest.AToB); n != 3 {
		t.Errorf("Held = %d, want 3", n)
	}
	if n := l.ReleaseReversed(tuntest.AToB); n != 3 {
		t.Errorf("ReleaseReversed = %d, want 3", n)
	}
	for i := range 3 {
		got, _ := read(t, l.B)
		if n := number(t, got); n != 2-i {
			t.Errorf("arrival %d is packet %d, want %d", i, n, 2-i)
		}
	}
	if n := l.Release(tuntest.AToB); n != 0 {
		t.Errorf("Release of none = %d", n)
	}
	l.SetHook(nil)
	write(t, l.A, data(9), tun.Offload{})
	if got, _ := read(t, l.B); number(t, got) != 9 {
		t.Error("without a hook a packet does not pass")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.WaitHeld(ctx, tuntest.BToA, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("WaitHeld: %v, want %v", err, context.Canceled)
	}
}

func TestRecorder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev, other := tuntest.Pair(0)
		r := tuntest.Record(dev)
		go func() { // answers everything by RST, and says something else first
			buf := make([]byte, tun.MaxPacket)
			for {
				n, _, err := other.Read(buf)
				if err != nil {
					return
				}
				_ = other.Write([][]byte{{0x50, 1, 2}}, tun.Offload{})
				_ = other.Write([][]byte{packet.Reset(nil, buf[:n])}, tun.Offload{})
			}
		}()
		ctx := t.Context()
		for _, port := range []uint16{40001, 40002} {
			src := netip.AddrPortFrom(guest.Addr(), port)
			if err := r.Send(packet.Build{Src: src, Dst: host, Flags: packet.SYN, Seq: 5}.Bytes()); err != nil {
				t.Fatal(err)
			}
		}
		for _, port := range []uint16{40002, 40001} { // in either order
			f, err := r.WaitTCP(ctx, port, packet.RST)
			if err != nil || f.Packet.TCP.Ack != 6 {
				t.Errorf("WaitTCP(%d) = %v, %v, want an ack of 6", port, &f, err)
			}
		}
		f, err := r.Exchange(ctx, packet.Build{Src: guest, Dst: host, Flags: packet.ACK, Ack: 9}.Bytes(),
			func(f *tuntest.Recorded) bool { return f.Packet.TCP.Seq == 9 })
		if err != nil || f.Packet.TCP.Flags != packet.RST {
			t.Errorf("Exchange = %v, %v, want RST", &f, err)
		}
		if n := len(r.Frames()); n != 6 {
			t.Errorf("Frames = %d, want 6", n)
		}
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := r.WaitTCP(ctx, 0, packet.FIN); !errors.Is(err, context.Canceled) {
			t.Errorf("a wait in vain: %v, want %v", err, context.Canceled)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if _, err := r.WaitTCP(t.Context(), 0, packet.FIN); !errors.Is(err, os.ErrClosed) {
			t.Errorf("a wait on a closed device: %v, want %v", err, os.ErrClosed)
		}
		other.Close()
	})
}

func BenchmarkPair(b *testing.B) {
	x, y := tuntest.Pair(0)
	defer x.Close()
	defer y.Close()
	pkt, buf := [][]byte{data(1400)}, make([]byte, tun.MaxPacket)
	b.SetBytes(1440)
	for b.Loop() {
		_ = x.Write(pkt, tun.Offload{})
		_, _, _ = y.Read(buf)
	}
}
