package tun

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox/tun/packet"
)

// A pair of Unix sockets that keep message boundaries stands in for the driver
// in the tests of this file, so that they need no privileges.
func socketDevice(t *testing.T) (*file, int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	d, err := newFile(fds[0], "test0", 1500)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.Close()
		unix.Close(fds[1])
	})
	return d, fds[1]
}

func send(t *testing.T, fd int, v vnetHdr, pkt []byte) {
	t.Helper()
	if _, err := unix.Writev(fd, [][]byte{v[:], pkt}); err != nil {
		t.Fatal(err)
	}
}

func TestFileReads(t *testing.T) {
	d, kernel := socketDevice(t)
	pkt := packet.Build{Src: guest4, Dst: gate4, Flags: packet.ACK, Payload: make([]byte, 3000)}.Bytes()
	send(t, kernel, vnetHdr{}, pkt[:100])
	send(t, kernel, header(1, 1, 40, 1448, 20, 16), pkt)
	buf := make([]byte, MaxPacket)
	n, h, err := d.Read(buf)
	if err != nil || !bytes.Equal(buf[:n], pkt[:100]) || h != (Offload{}) {
		t.Errorf("Read = %d bytes, %+v, %v", n, h, err)
	}
	n, h, err = d.Read(buf)
	want := Offload{GSO: GSOTCP4, GSOSize: 1448, HdrLen: 40, NeedsCsum: true, CsumStart: 20, CsumOffset: 16}
	if err != nil || !bytes.Equal(buf[:n], pkt) || h != want {
		t.Errorf("Read = %d bytes, %+v, %v, want %d, %+v", n, h, err, len(pkt), want)
	}
	if _, _, err := d.Read(buf[:MaxPacket-1]); !errors.Is(err, io.ErrShortBuffer) {
		t.Errorf("Read into a small buffer: %v, want %v", err, io.ErrShortBuffer)
	}
}

// TestFileSkips: a packet that makes no sense is no reason to end.
func TestFileSkips(t *testing.T) {
	d, kernel := socketDevice(t)
	pkt := packet.Build{Src: guest4, Dst: gate4, Payload: make([]byte, 3000)}.Bytes()
	send(t, kernel, header(1, 5, 28, 1448, 20, 6), pkt) // a kind of segmentation nobody asked for
	send(t, kernel, vnetHdr{}, nil)                     // a header alone
	if _, err := unix.Write(kernel, []byte{1, 2, 3}); err != nil {
		t.Fatal(err)
	}
	send(t, kernel, vnetHdr{}, []byte("good"))
	buf := make([]byte, MaxPacket)
	n, _, err := d.Read(buf)
	if err != nil || string(buf[:n]) != "good" {
		t.Errorf("Read = %q, %v, want %q", buf[:n], err, "good")
	}
	if got := d.Stats(); got != (Stats{ReadSkipped: 3}) {
		t.Errorf("Stats = %+v, want 3 skipped", got)
	}
}

func TestFileWrites(t *testing.T) {
	d, kernel := socketDevice(t)
	many := make([][]byte, 3000)
	for i := range many {
		many[i] = []byte{byte(i)}
	}
	h := Offload{GSO: GSOTCP6, GSOSize: 1440, HdrLen: 60, NeedsCsum: true, CsumStart: 40, CsumOffset: 16}
	for _, row := range []struct {
		name string
		bufs [][]byte
		h    Offload
		v    vnetHdr
	}{
		{"one piece", [][]byte{[]byte("one")}, Offload{}, vnetHdr{}},
		{"pieces, some of them empty", [][]byte{nil, []byte("a"), {}, []byte("bc"), nil}, Offload{}, vnetHdr{}},
		{"more pieces than the kernel takes", many, Offload{DataValid: true}, header(2, 0, 0, 0, 0, 0)},
		{"a super-segment", [][]byte{make([]byte, 60), make([]byte, 40000)}, h, header(1, 4, 60, 1440, 40, 16)},
	} {
		if err := d.Write(row.bufs, row.h); err != nil {
			t.Errorf("%s: Write: %v", row.name, err)
			continue
		}
		buf := make([]byte, VnetHdrLen+MaxPacket)
		n, err := unix.Read(kernel, buf)
		want := slices.Concat(row.v[:], slices.Concat(row.bufs...))
		if err != nil || !bytes.Equal(buf[:n], want) {
			t.Errorf("%s: the kernel reads %d bytes, %v, want %d", row.name, n, err, len(want))
		}
	}
	for name, bufs := range map[string][][]byte{
		"no pieces":           nil,
		"empty pieces":        {nil, {}},
		"more than MaxPacket": {make([]byte, MaxPacket), {1}},
	} {
		if err := d.Write(bufs, Offload{}); err == nil {
			t.Errorf("%s: Write = nil, want an error", name)
		}
	}
	if err := d.Write([][]byte{{1}}, h); !errors.Is(err, errVnetHdr) {
		t.Errorf("an offload beyond the packet: %v, want %v", err, errVnetHdr)
	}
}

// TestFileDrops: a kernel without room is no error, and nobody waits for it.
func TestFileDrops(t *testing.T) {
	d, _ := socketDevice(t)
	pkt := [][]byte{make([]byte, 1000)}
	for d.Stats().WriteDropped < 3 {
		if err := d.Write(pkt, Offload{}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFileClose(t *testing.T) {
	d, kernel := socketDevice(t)
	ended := make(chan error, 1)
	go func() {
		buf := make([]byte, MaxPacket)
		var err error
		for err == nil {
			_, _, err = d.Read(buf)
		}
		ended <- err
	}()
	for range 10 {
		send(t, kernel, vnetHdr{}, []byte("x"))
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Errorf("Read when closed: %v, want %v", err, os.ErrClosed)
	}
	if err := d.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
	if err := d.Write([][]byte{{1}}, Offload{}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Write after Close: %v, want %v", err, os.ErrClosed)
	}
	if _, err := unix.Write(kernel, []byte("x")); err != unix.EPIPE && err != unix.ECONNRESET {
		t.Errorf("the descriptor is open after Close: %v, want %v or %v", err, unix.EPIPE, unix.ECONNRESET)
	}
}

// TestFileEnd: a descriptor that ends is never spun upon.
func TestFileEnd(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	d, err := newFile(fds[0], "test0", 1500)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	unix.Close(fds[1])
	if _, _, err := d.Read(make([]byte, MaxPacket)); !errors.Is(err, ErrGone) {
		t.Errorf("Read = %v, want %v", err, ErrGone)
	}
}

func TestFileConcurrentWriters(t *testing.T) {
	const writers, each = 4, 200
	d, kernel := socketDevice(t)
	if err := unix.SetNonblock(kernel, false); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for range each {
				bufs := [][]byte{bytes.Repeat([]byte{byte(i)}, 10), bytes.Repeat([]byte{byte(i)}, 20)}
				if err := d.Write(bufs, Offload{DataValid: i%2 == 0}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	go func() {
		wg.Wait()
		d.Close()
	}()
	got := 0
	for buf := make([]byte, 100); ; got++ {
		n, err := unix.Read(kernel, buf)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		i := buf[VnetHdrLen]
		if n != VnetHdrLen+30 || !bytes.Equal(buf[VnetHdrLen:n], bytes.Repeat([]byte{i}, 30)) || (buf[0] != 0) != (i%2 == 0) {
			t.Fatalf("writers mixed: %x", buf[:n])
		}
	}
	if want := writers*each - int(d.Stats().WriteDropped); got != want {
		t.Errorf("%d packets arrived, want %d", got, want)
	}
}

func TestFileDoesNotAllocate(t *testing.T) {
	d, kernel := socketDevice(t)
	raw := make([]byte, VnetHdrLen+100)
	buf, pkt := make([]byte, MaxPacket), [][]byte{make([]byte, 40), make([]byte, 60)}
	read := testing.AllocsPerRun(200, func() {
		_, _ = unix.Write(kernel, raw)
		_, _, _ = d.Read(buf)
	})
	write := testing.AllocsPerRun(200, func() {
		_ = d.Write(pkt, Offload{})
		_, _ = unix.Read(kernel, raw)
	})
	if (read != 0 || write != 0) && !raceEnabled {
		t.Errorf("Read allocates %v times, Write %v, want 0 and 0", read, write)
	}
}

func TestNewRefuses(t *testing.T) {
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(null, "x", 0); err == nil {
		t.Error("New of /dev/null = nil, want an error")
	}
	if _, err := unix.FcntlInt(uintptr(null), unix.F_GETFD, 0); err != unix.EBADF {
		t.Errorf("New kept the descriptor it refused: %v", err)
	}
	if _, err := New(-1, "x", 0); err == nil {
		t.Error("New of no descriptor = nil, want an error")
	}
}

// TestFileDeadline: a Read that waits ends when a deadline in the past is set, and
// waits again when it is taken back.
func TestFileDeadline(t *testing.T) {
	d, peer := socketDevice(t)
	ended := make(chan error)
	buf := make([]byte, MaxPacket)
	go func() {
		_, _, err := d.Read(buf)
		ended <- err
	}()
	if err := d.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read = %v, want os.ErrDeadlineExceeded", err)
	}
	if _, _, err := d.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the next Read = %v, want os.ErrDeadlineExceeded", err)
	}
	if err := d.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	send(t, peer, vnetHdr{}, []byte{0x45, 1, 2, 3})
	if n, _, err := d.Read(buf); n != 4 || err != nil {
		t.Errorf("Read = %d, %v, want the packet", n, err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.SetReadDeadline(time.Time{}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("SetReadDeadline of a closed device = %v, want os.ErrClosed", err)
	}
}
