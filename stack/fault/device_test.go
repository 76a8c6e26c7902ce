package fault

import (
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"tcpbox/policy"
	"tcpbox/tun"
	"tcpbox/tun/packet"
	"tcpbox/tun/tuntest"
)

func mustFault(tb testing.TB, text string) policy.Fault {
	tb.Helper()
	f, err := policy.ParseFault(text)
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

// FuzzIngress: whatever the guest or the stack sends, what waits has an end, and all
// of it arrives when the rules go.
func FuzzIngress(f *testing.F) {
	all := "delay 1ms\ndup 50%\ncorrupt 50%\nreorder 20%\nhold 1s every 3\nreplay fit data\nrst 10% when ESTABLISHED\nfail first 2\nblackhole 5%"
	for _, s := range talk() {
		f.Add(s.pkt, uint8(s.dir), uint16(0), all)
	}
	f.Add(seg(toGuest, packet.ACK, 1, 1, 5000), uint8(toGuest), uint16(1000), "drop nth 3 data\nmtu 1200\nrate 1mbit")
	f.Add(datagram(toStack, 1, 20), uint8(toStack), uint16(0), "loss 50%\nrst\nblackhole")
	f.Add([]byte{0x45}, uint8(0), uint16(0), "corrupt\nfail unreachable")
	f.Fuzz(func(t *testing.T, data []byte, dir uint8, gso uint16, rules string) {
		if len(data) == 0 || len(data) > tun.MaxPacket {
			return
		}
		clock := newClock()
		inner := &wire{clock: clock, from: make(chan arrival), closed: make(chan struct{}), poke: make(chan struct{})}
		d := New(inner, Config{Clock: clock, Interrupt: inner.interrupt, MaxPackets: 20, MaxConnections: 4})
		defer d.Close()
		for _, text := range splitLines(rules) {
			if rule, err := policy.ParseFault(text); err == nil {
				if _, err := d.Add(rule); err != nil {
					break
				}
			}
		}
		way := int(dir % 2)
		var off tun.Offload
		if gso > 0 {
			off = tun.Offload{GSO: tun.GSOTCP4, GSOSize: gso}
		}
		// Turned round, with other flags, and whole: as many connections as it has bytes.
		d.mu.Lock()
		for i := range min(len(data), 40) {
			b := append([]byte(nil), data...)
			b[(i*7)%len(b)] ^= byte(i)
			_ = d.processLocked((way+i)%2, b, off, nil)
			if n := d.lanes[0].packets + d.lanes[1].packets; n > 40 {
				t.Errorf("%d packets wait", n)
			}
		}
		d.mu.Unlock()
		if c := d.Counts(); c.Connections > 4 {
			t.Errorf("%+v", c)
		}
		for _, r := range d.Rules() {
			if r.Acted > r.Matched && r.Fault.Do != policy.FaultReplay {
				t.Errorf("%+v", r)
			}
			if err := d.Remove(r.ID); err != nil {
				t.Error(err)
			}
		}
		if c := d.Counts(); c.Waiting != [2]int{} {
			t.Errorf("%v wait without a rule", c.Waiting)
		}
	})
}

func splitLines(s string) (lines []string) {
	for s != "" {
		i := 0
		for i < len(s) && s[i] != '\n' {
			i++
		}
		lines = append(lines, s[:i])
		s = s[min(len(s), i+1):]
	}
	return lines
}

// TestWhatIsUnderWayAtTheEnd: when the inner device is gone, what a rule has made
// late still arrives, and then the reader hears of it.
func TestWhatIsUnderWayAtTheEnd(t *testing.T) {
	a, b := tuntest.Pair(0)
	d := New(b, Config{Rules: []policy.Fault{mustFault(t, "delay 30ms")}})
	defer d.Close()
	for i := range 5 {
		if err := a.Write([][]byte{datagram(toStack, i, 10)}, tun.Offload{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, tun.MaxPacket)
	for i := range 5 {
		if _, _, err := d.Read(buf); err != nil {
			t.Fatalf("packet %d: %v", i, err)
		}
	}
	if _, _, err := d.Read(buf); !errors.Is(err, tun.ErrGone) {
		t.Errorf("behind the last: %v, want ErrGone", err)
	}
}

func TestClose(t *testing.T) {
	for _, rules := range [][]policy.Fault{nil, {mustFault(t, "hold 1h")}} {
		a, b := tuntest.Pair(0)
		defer a.Close()
		d := New(b, Config{Rules: rules})
		if err := a.Write([][]byte{datagram(toStack, 1, 10)}, tun.Offload{}); err != nil {
			t.Fatal(err)
		}
		if rules == nil {
			if _, _, err := d.Read(make([]byte, tun.MaxPacket)); err != nil {
				t.Fatal(err)
			}
		}
		ended := make(chan error)
		go func() {
			_, _, err := d.Read(make([]byte, tun.MaxPacket))
			ended <- err
		}()
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, os.ErrClosed) {
			t.Errorf("Read = %v, want os.ErrClosed", err)
		}
		if err := d.Write([][]byte{datagram(toGuest, 1, 10)}, tun.Offload{}); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Write = %v, want os.ErrClosed", err)
		}
		if err := d.Close(); err != nil {
			t.Errorf("closed twice: %v", err)
		}
	}
}

// TestManyAtOnce: rules come and go while many write and read. What no rule takes
// arrives, each once.
func TestManyAtOnce(t *testing.T) {
	a, b := tuntest.Pair(0, tuntest.Queue(1<<14))
	d := New(b, Config{})
	const writers, each = 4, 500
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range each {
				if err := d.Write([][]byte{datagram(toGuest, w*each+i, 10)}, tun.Offload{}); err != nil {
					t.Error(err)
				}
				if err := a.Write([][]byte{datagram(toStack, w*each+i, 10)}, tun.Offload{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var rules sync.WaitGroup
	stop := make(chan struct{})
	rules.Go(func() {
		r := rand.New(rand.NewPCG(1, 1))
		for {
			select {
			case <-stop:
				return
			default:
			}
			id, err := d.Add(mustFault(t, []string{"delay 1ms", "hold 1h", "reorder 50%", "rate 100mbit", "delay 2ms ±2ms"}[r.IntN(5)]))
			if err != nil {
				t.Error(err)
				return
			}
			d.Rules()
			if err := d.Remove(id); err != nil {
				t.Error(err)
			}
		}
	})
	seen := map[int]int{}
	collect := func(dev tun.Device) int {
		buf := make([]byte, tun.MaxPacket)
		n, _, err := dev.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		p, err := packet.Parse(buf[:n])
		if err != nil {
			t.Fatal(err)
		}
		b := p.Payload(buf[:n])
		return int(b[0]) | int(b[1])<<8
	}
	for range writers * each {
		seen[collect(d)]++
	}
	all.Wait()
	close(stop)
	rules.Wait()
	for range writers * each {
		seen[collect(a)]++
	}
	for i := range writers * each {
		if seen[i] != 2 {
			t.Fatalf("packet %d came %d times, want once each way", i, seen[i])
		}
	}
	if err := errors.Join(d.Close(), a.Close()); err != nil {
		t.Error(err)
	}
}

// TestWithoutRules: nothing is allocated, and a packet goes as it is.
func TestWithoutRules(t *testing.T) {
	inner := &sink{pkt: datagram(toStack, 1, 100)}
	d := New(inner, Config{})
	buf := make([]byte, tun.MaxPacket)
	pkt := [][]byte{datagram(toGuest, 1, 100)}
	if n := testing.AllocsPerRun(100, func() {
		if _, _, err := d.Read(buf); err != nil {
			t.Fatal(err)
		}
		if err := d.Write(pkt, tun.Offload{}); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for a packet each way, want none", n)
	}
	for _, wrong := range []policy.Fault{{}, {Do: policy.FaultRate}, {Do: policy.FaultDelay, Jitter: 1}, {Do: 99}} {
		if _, err := d.Add(wrong); !errors.Is(err, ErrNoFault) {
			t.Errorf("Add(%+v) = %v, want ErrNoFault", wrong, err)
		}
	}
	id, err := d.Add(mustFault(t, "drop udp"))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Remove(id); err != nil {
		t.Fatal(err)
	}
	if d.ruled.Load() {
		t.Error("packets to the guest go through rules that there are not")
	}
}

// sink is a device that always has a packet, and takes all.
type sink struct{ pkt []byte }

func (s *sink) Read(buf []byte) (int, tun.Offload, error) {
	return copy(buf, s.pkt), tun.Offload{}, nil
}
func (*sink) Write([][]byte, tun.Offload) error { return nil }
func (*sink) MTU() int                          { return 1500 }
func (*sink) Name() string                      { return "sink" }
func (*sink) Close() error                      { return nil }

// BenchmarkDevice is what a packet costs each way: without the Device, in one
// without rules, and in one with them.
func BenchmarkDevice(b *testing.B) {
	pkt := [][]byte{seg(toGuest, packet.ACK, 1, 1, 1400)}
	for name, make := range map[string]func() tun.Device{
		"bare":     func() tun.Device { return &sink{} },
		"no rules": func() tun.Device { return New(&sink{}, Config{}) },
		"a rule that means others": func() tun.Device {
			d := New(&sink{}, Config{})
			d.mu.Lock()
			defer d.mu.Unlock()
			_, _ = d.addLocked(mustFault(b, "drop syn dst=:80"))
			return d
		},
		"loss": func() tun.Device {
			d := New(&sink{}, Config{})
			d.mu.Lock()
			defer d.mu.Unlock()
			_, _ = d.addLocked(mustFault(b, "loss 1%"))
			return d
		},
	} {
		b.Run(name, func(b *testing.B) {
			d := make()
			for b.Loop() {
				if err := d.Write(pkt, tun.Offload{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
