package tuntest_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"tcpbox/tun"
	"tcpbox/tun/packet"
	"tcpbox/tun/tuntest"
)

// numbered makes a segment with a sequence number.
func numbered(flags packet.Flags, seq int) []byte {
	return packet.Build{
		Src: netip.MustParseAddrPort("192.0.2.1:1000"), Dst: netip.MustParseAddrPort("192.0.2.2:80"),
		Flags: flags, Seq: uint32(seq),
	}.Bytes()
}

// arrived closes the sender and reads what has arrived.
func arrived(t *testing.T, from, to tun.Device) string {
	t.Helper()
	if err := from.Close(); err != nil {
		t.Fatal(err)
	}
	var got []string
	buf := make([]byte, tun.MaxPacket)
	for {
		n, _, err := to.Read(buf)
		if err != nil {
			return strings.Join(got, " ")
		}
		p, err := packet.Parse(buf[:n])
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(p.TCP.Seq))
	}
}

func TestImpairment(t *testing.T) {
	const frames = 20000
	once := func(seed uint64) (order string, lost, twice, late int) {
		link := tuntest.NewLink(0, tuntest.Impairment{Seed: seed, Loss: 2, Duplicates: 3, Reordered: 4}.Hook(), tuntest.Queue(2*frames))
		for i := range frames {
			if err := link.A.Write([][]byte{numbered(packet.ACK, i)}, tun.Offload{}); err != nil {
				t.Fatal(err)
			}
		}
		link.Release(tuntest.AToB)
		order = arrived(t, link.A, link.B)
		times := make([]int, frames)
		newest := -1
		for _, word := range strings.Fields(order) {
			var n int
			fmt.Sscan(word, &n)
			times[n]++
			if n < newest && times[n] == 1 {
				late++
			}
			newest = max(newest, n)
		}
		for _, n := range times {
			switch n {
			case 0:
				lost++
			case 2:
				twice++
			}
		}
		return order, lost, twice, late
	}
	order, lost, twice, late := once(7)
	for what, got := range map[string]float64{"2 lost": float64(lost), "3 doubled": float64(twice), "4 reordered": float64(late)} {
		var want float64
		fmt.Sscan(what, &want)
		if share := 100 * got / frames; share < want-0.5 || share > want+0.5 {
			t.Errorf("%.2f %%, want %s", share, what)
		}
	}
	if again, _, _, _ := once(7); again != order {
		t.Error("the same seed went another way")
	}
	if other, _, _, _ := once(8); other == order {
		t.Error("another seed went the same way")
	}
}

func TestScript(t *testing.T) {
	link := tuntest.NewLink(0, tuntest.Script(
		tuntest.Rule{Dir: tuntest.AToB, Flags: packet.SYN, Nth: 2, Do: tuntest.Drop},
		tuntest.Rule{Dir: tuntest.AToB, Flags: packet.FIN, Do: tuntest.Dup},
		tuntest.Rule{Dir: tuntest.BToA, Do: tuntest.Drop},
		tuntest.Rule{Dir: tuntest.AToB, Flags: packet.RST, Do: tuntest.Delay, After: time.Second},
	))
	defer link.B.Close()
	for i, flags := range []packet.Flags{packet.RST, packet.SYN, packet.SYN, packet.SYN | packet.ACK, packet.ACK, packet.FIN | packet.ACK} {
		if err := link.A.Write([][]byte{numbered(flags, i)}, tun.Offload{}); err != nil {
			t.Fatal(err)
		}
	}
	if n := link.Advance(999 * time.Millisecond); n != 0 {
		t.Errorf("%d frames are early", n)
	}
	if n := link.Advance(time.Millisecond); n != 1 {
		t.Errorf("%d frames are due, want one", n)
	}
	if got := arrived(t, link.A, link.B); got != "1 3 4 5 5 0" {
		t.Errorf("arrived: %s", got)
	}
}

// Delayed frames arrive when they are due, and of one moment in their order.
func TestDelay(t *testing.T) {
	after := []time.Duration{30, 10, 20, 10, 0}
	link := tuntest.NewLink(0, func(_ tuntest.Direction, f *tuntest.Frame) tuntest.Action {
		p, _ := f.Parse()
		f.After = after[p.TCP.Seq]
		return tuntest.Delay
	})
	defer link.B.Close()
	for i := range after {
		link.A.Write([][]byte{numbered(packet.ACK, i)}, tun.Offload{})
	}
	for range 40 {
		link.Advance(1)
	}
	if got := arrived(t, link.A, link.B); got != "4 1 3 2 0" {
		t.Errorf("arrived: %s", got)
	}
	one := tuntest.Impairment{Delay: time.Second, Jitter: time.Second}.Hook()
	for range 100 {
		var f tuntest.Frame
		if a := one(tuntest.AToB, &f); a != tuntest.Delay || f.After < time.Second || f.After >= 2*time.Second {
			t.Fatalf("%v after %v", a, f.After)
		}
	}
}

func TestTake(t *testing.T) {
	link := tuntest.NewLink(0, func(tuntest.Direction, *tuntest.Frame) tuntest.Action { return tuntest.Hold })
	defer link.B.Close()
	for i := range 4 {
		link.A.Write([][]byte{numbered(packet.ACK, i)}, tun.Offload{})
	}
	if p, ok := link.HeldPacket(tuntest.AToB, 2); !ok || p.TCP.Seq != 2 {
		t.Errorf("HeldPacket = %v, %v", p, ok)
	}
	if _, ok := link.HeldPacket(tuntest.AToB, 4); ok || link.Take(tuntest.AToB, 4, 1) || link.Take(tuntest.BToA, 0, 1) {
		t.Error("there are more than were held")
	}
	for _, take := range []struct{ i, times int }{{2, 1}, {0, 0}, {1, 2}} { // 2; not 0; 3 twice
		if !link.Take(tuntest.AToB, take.i, take.times) {
			t.Errorf("nothing to take at %d", take.i)
		}
	}
	if n := link.Held(tuntest.AToB); n != 1 {
		t.Errorf("%d are held", n)
	}
	if got := arrived(t, link.A, link.B); got != "2 3 3" {
		t.Errorf("arrived: %s", got)
	}
}

func TestTaken(t *testing.T) {
	link := tuntest.NewLink(0, nil)
	defer link.A.Close()
	if link.Taken(tuntest.AToB) {
		t.Error("taken before anybody reads")
	}
	link.A.Write([][]byte{numbered(packet.ACK, 1)}, tun.Offload{})
	buf := make([]byte, tun.MaxPacket)
	link.B.Read(buf)
	if link.Taken(tuntest.AToB) {
		t.Error("taken before the reader has come back")
	}
	ended := make(chan struct{})
	go func() {
		link.B.Read(buf)
		close(ended)
	}()
	for deadline := time.Now().Add(30 * time.Second); !link.Taken(tuntest.AToB); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the reader does not come back")
		}
	}
	link.B.Close()
	<-ended
}
