package fault

import (
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"tcpbox/policy"
	"tcpbox/tun"
	"tcpbox/tun/packet"
)

var (
	guestAddr  = netip.MustParseAddrPort("198.18.0.2:40001")
	remoteAddr = netip.MustParseAddrPort("192.0.2.5:5432")
)

// manualClock stands still until it is advanced.
type manualClock struct {
	mu     sync.Mutex
	now    time.Time
	timers map[*manualTimer]bool
}

type manualTimer struct {
	clock *manualClock
	at    time.Time
	f     func()
}

func newClock() *manualClock {
	return &manualClock{now: time.Unix(1000, 0), timers: map[*manualTimer]bool{}}
}

func (c *manualClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *manualClock) AfterFunc(d time.Duration, f func()) Timer {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &manualTimer{c, c.now.Add(d), f}
	c.timers[t] = true
	return t
}

func (t *manualTimer) Stop() bool {
	t.clock.mu.Lock()
	defer t.clock.mu.Unlock()
	was := t.clock.timers[t]
	delete(t.clock.timers, t)
	return was
}

// advance runs the timers one after the other, each at its time.
func (c *manualClock) advance(by time.Duration) {
	c.mu.Lock()
	end := c.now.Add(by)
	for {
		var next *manualTimer
		for t := range c.timers {
			if !t.at.After(end) && (next == nil || t.at.Before(next.at)) {
				next = t
			}
		}
		if next == nil {
			break
		}
		delete(c.timers, next)
		if next.at.After(c.now) {
			c.now = next.at
		}
		c.mu.Unlock()
		next.f()
		c.mu.Lock()
	}
	c.now = end
	c.mu.Unlock()
}

// arrival is a packet that has come through.
type arrival struct {
	at   time.Duration // since the beginning
	data []byte
	off  tun.Offload
}

func (a *arrival) packet(t *testing.T) packet.Packet {
	t.Helper()
	p, err := packet.Parse(a.data)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// wire is the inner device: what is written is kept, what is sent is read.
type wire struct {
	clock *manualClock
	from  chan arrival

	mu        sync.Mutex
	written   []arrival
	closed    chan struct{}
	closeOnce sync.Once
	poke      chan struct{}
	past      bool
}

func (w *wire) Read(buf []byte) (int, tun.Offload, error) {
	w.mu.Lock()
	past, poke := w.past, w.poke
	w.mu.Unlock()
	if past {
		return 0, tun.Offload{}, os.ErrDeadlineExceeded
	}
	select {
	case a := <-w.from:
		return copy(buf, a.data), a.off, nil
	case <-poke:
		return 0, tun.Offload{}, os.ErrDeadlineExceeded
	case <-w.closed:
		return 0, tun.Offload{}, os.ErrClosed
	}
}

func (w *wire) interrupt(deadline time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if deadline.IsZero() {
		w.past, w.poke = false, make(chan struct{})
	} else if !w.past {
		w.past = true
		close(w.poke)
	}
	return nil
}

func (w *wire) Write(bufs [][]byte, h tun.Offload) error {
	a := arrival{at: w.clock.Now().Sub(time.Unix(1000, 0)), off: h}
	for _, b := range bufs {
		a.data = append(a.data, b...)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.written = append(w.written, a)
	return nil
}

func (w *wire) MTU() int     { return 1500 }
func (w *wire) Name() string { return "wire" }
func (w *wire) Close() error {
	w.closeOnce.Do(func() { close(w.closed) })
	return nil
}

// box is a Device between a wire and a stack that keeps what it reads.
type box struct {
	*Device
	t     *testing.T
	clock *manualClock
	wire  *wire

	mu      sync.Mutex
	read    []arrival
	readers sync.WaitGroup
}

func newBox(t *testing.T, cfg Config, rules ...string) *box {
	t.Helper()
	for _, text := range rules {
		f, err := policy.ParseFault(text)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Rules = append(cfg.Rules, f)
	}
	clock := newClock()
	b := &box{t: t, clock: clock, wire: &wire{clock: clock, from: make(chan arrival), closed: make(chan struct{}), poke: make(chan struct{})}}
	cfg.Clock, cfg.Interrupt = clock, b.wire.interrupt
	b.Device = New(b.wire, cfg)
	b.readers.Go(b.readAll)
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		b.readers.Wait()
	})
	return b
}

func (b *box) readAll() {
	buf := make([]byte, tun.MaxPacket)
	for {
		n, h, err := b.Read(buf)
		if err != nil {
			return
		}
		b.mu.Lock()
		b.read = append(b.read, arrival{b.clock.Now().Sub(time.Unix(1000, 0)), append([]byte(nil), buf[:n]...), h})
		b.mu.Unlock()
	}
}

// settle waits until what was sent has been read as far as it goes.
func (b *box) settle() {
	for deadline := time.Now().Add(time.Minute); ; runtime.Gosched() {
		b.Device.mu.Lock()
		idle := !b.pumped.Load() || b.reading && len(b.ready) == 0
		b.Device.mu.Unlock()
		if idle {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatal("the stack does not read")
		}
	}
}

// send has the guest, or the stack, send a packet.
func (b *box) send(dir int, pkt []byte, off ...tun.Offload) {
	b.t.Helper()
	var h tun.Offload
	if len(off) > 0 {
		h = off[0]
	}
	if dir == toGuest {
		if err := b.Write([][]byte{pkt[:20], pkt[20:]}, h); err != nil {
			b.t.Fatal(err)
		}
		return
	}
	before := b.serialNow()
	b.wire.from <- arrival{data: pkt, off: h}
	for deadline := time.Now().Add(time.Minute); b.pumped.Load() && b.serialNow() == before; runtime.Gosched() {
		if time.Now().After(deadline) {
			b.t.Fatal("the packet was not taken")
		}
	}
	b.settle()
}

func (b *box) serialNow() uint64 {
	b.Device.mu.Lock()
	defer b.Device.mu.Unlock()
	return b.serial
}

// advance goes on in steps, so that what arrives is read at its time.
func (b *box) advance(by, step time.Duration) {
	for by > 0 {
		b.clock.advance(min(step, by))
		by -= step
		b.settle()
	}
}

// arrived are the packets that have come to an end.
func (b *box) arrived(dir int) []arrival {
	if dir == toGuest {
		b.wire.mu.Lock()
		defer b.wire.mu.Unlock()
		return append([]arrival(nil), b.wire.written...)
	}
	b.settle()
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]arrival(nil), b.read...)
}

// seg is a segment of the connection between guestAddr and remoteAddr.
func seg(dir int, flags packet.Flags, seq, ack uint32, payload int, options ...[]byte) []byte {
	b := packet.Build{Src: guestAddr, Dst: remoteAddr, Flags: flags, Seq: seq, Ack: ack, Window: 1000, Options: packet.Options(options...), Payload: make([]byte, payload)}
	if dir == toGuest {
		b.Src, b.Dst = b.Dst, b.Src
	}
	return b.Bytes()
}

// datagram is a UDP packet with a number in it.
func datagram(dir, n, size int) []byte {
	payload := make([]byte, size)
	payload[0], payload[1], payload[2] = byte(n), byte(n>>8), byte(n>>16)
	b := packet.Build{Src: guestAddr, Dst: remoteAddr, Proto: packet.UDP, Payload: payload}
	if dir == toGuest {
		b.Src, b.Dst = b.Dst, b.Src
	}
	return b.Bytes()
}

// numbers are those of datagrams, in the order in which they came.
func numbers(t *testing.T, all []arrival) (out []int) {
	t.Helper()
	for i := range all {
		p := all[i].packet(t)
		b := p.Payload(all[i].data)
		out = append(out, int(b[0])|int(b[1])<<8|int(b[2])<<16)
	}
	return out
}

func rule0(b *box) Rule { return b.Rules()[0] }

// superOffload is that of a TCP super-segment over IPv4 without options.
func superOffload(size uint16) tun.Offload {
	return tun.Offload{GSO: tun.GSOTCP4, GSOSize: size, HdrLen: 40, NeedsCsum: true, CsumStart: 20, CsumOffset: 16}
}

func netipPort(a netip.AddrPort, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr(), port)
}
