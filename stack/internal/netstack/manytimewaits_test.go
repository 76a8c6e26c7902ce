package netstack

import (
	"net/netip"
	"runtime"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/faketime"

	"tcpbox/tun"
	"tcpbox/tun/packet"
	"tcpbox/tun/tuntest"
)

// A quickGuest opens connections in front of a stack that closes each at once,
// one after the other, and remembers nothing of them.
type quickGuest struct {
	t       testing.TB
	dev     tun.Device
	gateway *Stack
	clock   *faketime.ManualClock
	n       int
	buf     []byte
}

func newQuickGuest(t testing.TB) *quickGuest {
	a, b := tuntest.Pair(1500)
	q := &quickGuest{t: t, dev: a, clock: newStandingClock(), buf: make([]byte, tun.MaxPacket)}
	q.gateway = mustNew(t, Config{Device: b, Addrs: []netip.Addr{gatewayAddr}, Clock: q.clock, OnSYN: func(r *Request) {
		if c, err := r.Accept(); err == nil {
			c.Close()
		}
	}})
	return q
}

// exchange sends a segment and returns the answer with these flags.
func (q *quickGuest) exchange(b packet.Build, flags packet.Flags) packet.Packet {
	q.t.Helper()
	b.Window = 65535
	if err := q.dev.Write([][]byte{b.Bytes()}, tun.Offload{}); err != nil {
		q.t.Fatal(err)
	}
	for {
		n, _, err := q.dev.Read(q.buf)
		if err != nil {
			q.t.Fatal(err)
		}
		p, err := packet.Parse(q.buf[:n])
		if err != nil {
			q.t.Fatal(err)
		}
		if p.Dst.Port() == b.Src.Port() && p.TCP.Flags == flags {
			return p
		}
	}
}

// timeWait brings one more endpoint of the stack to TIME-WAIT.
func (q *quickGuest) timeWait() {
	q.t.Helper()
	src := ap(guestAddr, uint16(1024+q.n%60000))
	dst := ap(netip.AddrFrom4([4]byte{203, 0, byte(q.n / 60000), 5}), 80)
	q.n++
	p := q.exchange(packet.Build{Src: src, Dst: dst, Flags: packet.SYN, Seq: 1000, Options: packet.MSS(1460)}, synAck)
	p = q.exchange(packet.Build{Src: src, Dst: dst, Flags: packet.ACK, Seq: 1001, Ack: p.TCP.Seq + 1}, finAck)
	q.exchange(packet.Build{Src: src, Dst: dst, Flags: finAck, Seq: 1001, Ack: p.TCP.Seq + 1}, ackFl)
}

func heapBytes() int {
	runtime.GC()
	runtime.GC() // what pools hold survives the first
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// TestManyTimeWaits: each TIME-WAIT holds memory and no goroutine, and
// time-wait.max limits how many there are, at any time.
func TestManyTimeWaits(t *testing.T) {
	many := 6000
	if inFull() {
		many = 60000
	}
	q := newQuickGuest(t)
	q.timeWait()
	heap, goroutines := heapBytes(), runtime.NumGoroutine()
	for q.n < many {
		q.timeWait()
	}
	eventually(t, "all were in TIME-WAIT", func() bool { return q.gateway.Stats().TimeWait == many })
	eventually(t, "no goroutine was left of them", func() bool { return runtime.NumGoroutine() <= goroutines })
	used := heapBytes() - heap
	if used > many*10000 {
		t.Errorf("each holds %d bytes", used/many)
	}
	t.Logf("%d in TIME-WAIT: %d MiB, %d bytes each, %d goroutines", many, used>>20, used/many, runtime.NumGoroutine())

	most := many / 3
	q.gateway.SetTimeWaitMax(most)
	eventually(t, "what was too many had ended", func() bool { return q.gateway.Stats().Tracked == most })
	for range 100 {
		q.timeWait()
		if n := q.gateway.Stats().TimeWait; n > most {
			t.Fatalf("%d are in TIME-WAIT, want at most %d", n, most)
		}
	}
	// The ACK of the guest's FIN leaves before the state is set.
	eventually(t, "each one too many was counted", func() bool {
		return q.gateway.Stats().TimeWaitOverflow == uint64(many-most+100)
	})
	eventually(t, "the last one too many had ended", func() bool { return q.gateway.Stats().Tracked == most })
	q.clock.Advance(time.Minute)
	eventually(t, "all had ended", func() bool { return q.gateway.Stats().Tracked == 0 })
}

// BenchmarkAmongTimeWaits is a connection, up to TIME-WAIT, beside many others
// in TIME-WAIT, at their limit, whose oldest ends for it.
func BenchmarkAmongTimeWaits(b *testing.B) {
	for name, many := range map[string]int{"none": 0, "1": 1, "60000": 60000} {
		b.Run(name, func(b *testing.B) {
			q := newQuickGuest(b)
			q.gateway.SetTimeWaitMax(many)
			q.gateway.SetTimeWaitOldest(true)
			for range many {
				q.timeWait()
			}
			for b.Loop() {
				q.timeWait()
			}
		})
	}
}
