package fault

import (
	"encoding/binary"
	"slices"
	"sync"
	"testing"
	"time"

	"tcpbox/policy"
	"tcpbox/tun"
)

// meter is an inner device that notes when a packet is written.
type meter struct {
	sink
	mu   sync.Mutex
	came map[uint64]time.Time
	all  chan struct{} // closed when want have come
	want int
}

func (m *meter) Write(bufs [][]byte, _ tun.Offload) error {
	now := time.Now()
	b := bufs[0]
	m.mu.Lock()
	defer m.mu.Unlock()
	m.came[binary.BigEndian.Uint64(b[28:])] = now
	if len(m.came) == m.want {
		close(m.all)
	}
	return nil
}

// Read has nothing to tell.
func (m *meter) Read([]byte) (int, tun.Offload, error) { select {} }

func numbered(n uint64, size int) []byte {
	b := datagram(toGuest, 0, size)
	binary.BigEndian.PutUint64(b[28:], n)
	return b
}

// BenchmarkDelay is by how much packets come later than asked, a millisecond apart.
// "make accuracy" runs it.
func BenchmarkDelay(b *testing.B) {
	for _, delay := range []time.Duration{time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond} {
		b.Run(delay.String(), func(b *testing.B) {
			m := &meter{came: map[uint64]time.Time{}, all: make(chan struct{}), want: b.N}
			d := New(m, Config{})
			if _, err := d.Add(policy.Fault{Do: policy.FaultDelay, Delay: delay}); err != nil {
				b.Fatal(err)
			}
			sent := make([]time.Time, b.N)
			for i := range b.N {
				sent[i] = time.Now()
				if err := d.Write([][]byte{numbered(uint64(i), 100)}, tun.Offload{}); err != nil {
					b.Fatal(err)
				}
				time.Sleep(time.Millisecond)
			}
			<-m.all
			late := make([]float64, b.N)
			sum := 0.0
			for i := range late {
				late[i] = float64(m.came[uint64(i)].Sub(sent[i])-delay) / float64(time.Microsecond)
				sum += late[i]
			}
			slices.Sort(late)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(sum/float64(b.N), "µs-late")
			b.ReportMetric(late[b.N/2], "µs-late-median")
			b.ReportMetric(late[b.N*99/100], "µs-late-p99")
			b.ReportMetric(late[0], "µs-late-min")
		})
	}
}

// BenchmarkRate is what a line carries that is always busy, compared with what was
// asked, in parts of a thousand.
func BenchmarkRate(b *testing.B) {
	for _, rate := range []string{"1mbit", "10mbit", "100mbit", "1gbit"} {
		b.Run(rate, func(b *testing.B) {
			const size = 1250
			m := &meter{came: map[uint64]time.Time{}, all: make(chan struct{}), want: b.N}
			d := New(m, Config{MaxPackets: b.N + 1, MaxBytes: 1 << 30})
			f := mustFault(b, "rate "+rate+" queue 1h")
			if _, err := d.Add(f); err != nil {
				b.Fatal(err)
			}
			began := time.Now()
			for i := range b.N {
				if err := d.Write([][]byte{numbered(uint64(i), size-28)}, tun.Offload{}); err != nil {
					b.Fatal(err)
				}
			}
			<-m.all
			took := m.came[uint64(b.N-1)].Sub(began)
			got := float64(b.N) * size * 8 / took.Seconds()
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(got/1e6, "mbit/s")
			b.ReportMetric((got/float64(f.Rate)-1)*1000, "‰-off")
		})
	}
}
