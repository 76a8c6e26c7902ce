package netstack

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"

	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
	"tcpbox/tun/tuntest"
)

// establishIn opens a connection whose guest takes rtt to answer the SYN-ACK, and
// offers options.
func (k *knobGuest) establishIn(c *rawConn, rtt time.Duration, options ...[]byte) *Conn {
	k.t.Helper()
	b := c.build(packet.SYN, "")
	b.Options = packet.Options(append([][]byte{packet.MSS(1460)}, options...)...)
	k.send(b)
	c.seq++
	type accepted struct {
		c   *Conn
		err error
	}
	ch := make(chan accepted, 1)
	req := k.request()
	go func() {
		s, err := req.Accept()
		ch <- accepted{s, err}
	}()
	c.expect(synAck)
	k.gateway.Settle()
	k.clock.Advance(rtt)
	c.send(ackFl, "")
	a := <-ch
	if a.err != nil {
		k.t.Fatal(a.err)
	}
	return a.c
}

// resent advances the clock in steps until the connection has ended, and returns
// when the n-th and each later copy of what was sent last left.
func (k *knobGuest) resent(s *Conn, step, most time.Duration) (at []time.Duration) {
	k.t.Helper()
	k.gateway.Settle()
	before := retransmits(k)
	for passed := step; passed <= most; passed += step {
		k.clock.Advance(step)
		for n := retransmits(k); before < n; before++ {
			at = append(at, passed)
		}
		if s.rec.state() == tcpstate.Closed {
			return at
		}
	}
	return at
}

func retransmits(k *knobGuest) uint64 { return k.gateway.Stats().Retransmits }

// inVain writes something that the guest does not acknowledge.
func inVain(t *testing.T, s *Conn) {
	t.Helper()
	if _, err := s.Write([]byte("nobody acknowledges this")); err != nil {
		t.Fatal(err)
	}
}

// takes is how many bytes the stack takes for the guest.
func takes(s *Conn) (n int64) {
	for {
		m, err := s.ep.Write(bytes.NewReader(make([]byte, 4096)), tcpip.WriteOptions{})
		n += m
		if err != nil {
			return n
		}
	}
}

// probes is how many keepalive probes the guest has had.
func (k *knobGuest) probes(c *rawConn) (n int) {
	k.ping(k.t)
	for _, f := range k.Frames() {
		p := &f.Packet
		if p.Proto == packet.TCP && p.Dst == c.src && p.TCP.Flags == ackFl && p.TCP.Seq == c.ack-1 && p.SegLen() == 0 {
			n++
		}
	}
	return n
}

var aliveRows = map[string][]knobRow{
	"data-retries": {
		{"set before; an open connection keeps what it has", func(t *testing.T, k *knobGuest) {
			old := k.establishIn(k.next(), 10*time.Millisecond)
			k.set("data-retries=3")
			s := k.establishIn(k.next(), 10*time.Millisecond)
			inVain(t, s)
			if at := k.resent(s, 100*time.Millisecond, time.Minute); len(at) != 3 {
				t.Errorf("it was sent again at %v, want three times", at)
			}
			k.ends(s, "timer retransmission")
			inVain(t, old)
			if at := k.resent(old, time.Second, 20*time.Minute); len(at) != 15 {
				t.Errorf("the old one sent again at %v, want 15 times", at)
			}
			k.ends(old, "timer retransmission")
		}},
	},
	"rto.min": {
		{"default and set before; an open connection keeps what it has", func(t *testing.T, k *knobGuest) {
			old := k.establishIn(k.next(), 10*time.Millisecond)
			k.set("rto.min=5s")
			s := k.establishIn(k.next(), 10*time.Millisecond)
			for _, c := range []struct {
				s    *Conn
				want time.Duration
			}{{old, 200 * time.Millisecond}, {s, 5 * time.Second}} {
				inVain(t, c.s)
				at := k.resent(c.s, 100*time.Millisecond, 6*time.Second)
				if len(at) == 0 || at[0] != c.want {
					t.Errorf("it was sent again at %v, first want %v", at, c.want)
				}
				c.s.Reset()
			}
		}},
	},
	"rto.max": {
		{"set before, with less than rto.min had been", func(t *testing.T, k *knobGuest) {
			k.set("rto.min=5s")
			k.set("rto.max=2s", "rto.min=1s")
			s := k.establishIn(k.next(), 10*time.Millisecond)
			inVain(t, s)
			at := k.resent(s, 500*time.Millisecond, 10*time.Second)
			want := []time.Duration{time.Second, 3 * time.Second, 5 * time.Second, 7 * time.Second, 9 * time.Second}
			if len(at) != len(want) {
				t.Fatalf("it was sent again at %v, want %v", at, want)
			}
			for i := range want {
				if at[i] != want[i] {
					t.Errorf("it was sent again at %v, want %v", at, want)
				}
			}
		}},
		{"an open connection keeps what it has", func(t *testing.T, k *knobGuest) {
			s := k.establishIn(k.next(), 10*time.Millisecond)
			k.set("rto.max=1s")
			inVain(t, s)
			if at := k.resent(s, 100*time.Millisecond, 7*time.Second); len(at) != 5 { // 0.2, 0.6, 1.4, 3, 6.2
				t.Errorf("it was sent again at %v, want five times", at)
			}
		}},
	},
	"keepalive": {
		{"live on and off, for an open connection", func(t *testing.T, k *knobGuest) {
			k.set("keepalive.idle=10s")
			c := k.next()
			s := c.establish()
			k.clock.Advance(time.Minute)
			if n := k.probes(c); n != 0 {
				t.Errorf("off: %d probes", n)
			}
			k.set("keepalive=on")
			k.clock.Advance(10 * time.Second)
			if n := k.probes(c); n != 1 {
				t.Errorf("on: %d probes, want 1", n)
			}
			c.send(ackFl, "")
			k.ping(t)
			k.set("keepalive=off")
			k.clock.Advance(10 * time.Hour)
			if n := k.probes(c); n != 1 {
				t.Errorf("off again: %d probes, want 1", n)
			}
			k.stays(tcpstate.Established, s)
		}},
		{"set before", func(t *testing.T, k *knobGuest) {
			k.set("keepalive=on")
			c := k.next()
			s := c.establish()
			k.clock.Advance(2*time.Hour - time.Second)
			if n := k.probes(c); n != 0 {
				t.Errorf("%d probes within two hours", n)
			}
			for range 9*75 + 1 {
				k.clock.Advance(time.Second)
			}
			if n := k.probes(c); n != 9 {
				t.Errorf("%d probes, want 9", n)
			}
			k.ends(s, "timer retransmission")
		}},
		{"a handshake that is half-open", func(t *testing.T, k *knobGuest) {
			c := k.next()
			_, errs := k.answered(c)
			k.set("keepalive=on")
			c.send(ackFl, "")
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}},
	},
	"keepalive.idle": {
		{"live, for an open connection and a new one", func(t *testing.T, k *knobGuest) {
			k.set("keepalive=on")
			old := k.next()
			old.establish()
			k.set("keepalive.idle=5s")
			c := k.next()
			c.establish()
			k.clock.Advance(5 * time.Second)
			if a, b := k.probes(old), k.probes(c); a != 1 || b != 1 {
				t.Errorf("%d and %d probes after 5s, want 1 each", a, b)
			}
		}},
	},
	"keepalive.interval": {
		{"live, for an open connection", func(t *testing.T, k *knobGuest) {
			k.set("keepalive=on", "keepalive.idle=5s")
			c := k.next()
			c.establish()
			k.set("keepalive.interval=3s")
			for range 11 {
				k.clock.Advance(time.Second)
			}
			if n := k.probes(c); n != 3 { // 5, 8, 11
				t.Errorf("%d probes after 11s, want 3", n)
			}
		}},
	},
	"keepalive.count": {
		{"live, for an open connection", func(t *testing.T, k *knobGuest) {
			k.set("keepalive=on", "keepalive.idle=5s", "keepalive.interval=3s")
			c := k.next()
			s := c.establish()
			k.set("keepalive.count=2")
			for range 11 {
				k.clock.Advance(time.Second)
			}
			if n := k.probes(c); n != 2 {
				t.Errorf("%d probes, want 2", n)
			}
			k.ends(s, "timer retransmission")
		}},
	},
	"user-timeout": {
		{"live, for an open connection and a new one", func(t *testing.T, k *knobGuest) {
			old := k.establishIn(k.next(), 10*time.Millisecond)
			k.set("user-timeout=5s")
			for _, s := range []*Conn{old, k.establishIn(k.next(), 10*time.Millisecond)} {
				inVain(t, s)
				k.gateway.Settle()
				for range 49 {
					k.clock.Advance(100 * time.Millisecond)
				}
				k.stays(tcpstate.Established, s)
				k.clock.Advance(200 * time.Millisecond)
				k.ends(s, "timer retransmission")
			}
		}},
		{"never, live", func(t *testing.T, k *knobGuest) {
			k.set("user-timeout=5s")
			s := k.establishIn(k.next(), 10*time.Millisecond)
			k.set("user-timeout=never")
			inVain(t, s)
			k.resent(s, time.Second, time.Minute)
			k.stays(tcpstate.Established, s)
		}},
	},
}

var pathRows = map[string][]knobRow{
	"sack": {
		{"set before and live", func(t *testing.T, k *knobGuest) {
			offers := func() bool {
				c := k.next()
				k.establishIn(c, 0, packet.SACKPermitted())
				f := k.lastOf(c, synAck)
				return f.Packet.TCP.SACKPermitted
			}
			if !offers() {
				t.Error("it is not offered by default")
			}
			k.set("sack=off")
			if offers() {
				t.Error("it is offered when off")
			}
			c, _, _ := k.dial(k.ctx, 8080)
			if f := k.lastOf(c, packet.SYN); f.Packet.TCP.SACKPermitted {
				t.Error("a dial offers it when off")
			}
			k.set("sack=on")
			if !offers() {
				t.Error("it is not offered when on again")
			}
		}},
	},
	"congestion-control": {
		{"after a loss reno halves, cubic takes seven tenths; an open connection keeps its own", func(t *testing.T, k *knobGuest) {
			reno := k.next()
			old := k.establishIn(reno, 10*time.Millisecond)
			k.set("congestion-control=cubic")
			cubic := k.next()
			s := k.establishIn(cubic, 10*time.Millisecond)
			if a, b := k.afterLoss(reno, old), k.afterLoss(cubic, s); a != 12 || b != 14 {
				t.Errorf("after a loss there are %d and %d segments under way, want 12 and 14", a, b)
			}
			k.set("congestion-control=reno")
			c := k.next()
			if n := k.afterLoss(c, k.establishIn(c, 10*time.Millisecond)); n != 12 {
				t.Errorf("with reno again %d, want 12", n)
			}
		}},
	},
	"receive-buffer": {
		{"set before: what the guest may send; an open connection keeps its own", func(t *testing.T, k *knobGuest) {
			old := k.next()
			k.establishIn(old, 0)
			k.set("receive-buffer=8k-8k")
			c := k.next()
			k.establishIn(c, 0)
			if w := k.lastOf(c, synAck).Packet.TCP.Window; w != 4096 { // half of it is for the packets around the bytes
				t.Errorf("the SYN-ACK offers %d bytes, want 4096", w)
			}
			for range 20 {
				c.send(ackFl, strings.Repeat("x", 1024))
				old.send(ackFl, strings.Repeat("x", 1024))
			}
			eventually(t, "there was no room left", func() bool { _, w := k.acked(c); return w == 0 })
			eventually(t, "the old one had taken all", func() bool { ack, w := k.acked(old); return ack == old.seq && w > 40<<10 })
		}},
	},
	"send-buffer": {
		{"set before: what the stack takes for the guest; an open connection keeps its own", func(t *testing.T, k *knobGuest) {
			old := k.establishIn(k.next(), 0)
			k.set("send-buffer=8k-8k")
			s := k.establishIn(k.next(), 0)
			if n := takes(s); n < 8<<10 || n > 16<<10 {
				t.Errorf("it takes %d bytes, want 8 KiB to 16 KiB", n)
			}
			if n := takes(old); n < 512<<10 {
				t.Errorf("the old one takes %d bytes", n)
			}
			s.Reset()
			old.Reset()
		}},
	},
}

// lastOf returns the last segment to the guest's end of c with exactly these
// flags.
func (k *knobGuest) lastOf(c *rawConn, flags packet.Flags) (last tuntest.Recorded) {
	k.t.Helper()
	found := false
	for _, f := range k.Frames() {
		if f.Packet.Proto == packet.TCP && f.Packet.Dst == c.src && f.Packet.TCP.Flags&^packet.PSH == flags {
			last, found = f, true
		}
	}
	if !found {
		k.t.Fatalf("no segment with %v", flags)
	}
	return last
}

// acked returns what the newest pure ACK to the guest's end of c acknowledges,
// and the window that it offers, not scaled.
func (k *knobGuest) acked(c *rawConn) (ack uint32, window int) {
	for _, f := range k.Frames() {
		if f.Packet.Proto == packet.TCP && f.Packet.Dst == c.src && f.Packet.TCP.Flags == ackFl {
			ack, window = f.Packet.TCP.Ack, int(f.Packet.TCP.Window)
		}
	}
	return ack, window
}

// dataTo counts the segments with bytes that the guest's end of c has had, each
// of those in a super-segment.
func (k *knobGuest) dataTo(c *rawConn) (n int) {
	for _, f := range k.Frames() {
		if f.Packet.Proto == packet.TCP && f.Packet.Dst == c.src && f.Packet.TCP.Flags.Has(packet.ACK) && f.Packet.SegLen() > 1 {
			n += (int(f.Packet.SegLen()) + 1459) / 1460
		}
	}
	return n
}

// all waits until the guest has had so many of them, and whatever left with the
// last.
func (k *knobGuest) all(c *rawConn, least int) int {
	k.t.Helper()
	eventually(k.t, "the segments came", func() bool { return k.dataTo(c) >= least })
	k.gateway.Settle()
	k.ping(k.t)
	return k.dataTo(c)
}

// afterLoss has a connection lose the first segment of its second window, and
// returns how many segments it sends when all 20 of them have been acknowledged:
// 10 and 2 for those with reno, 14 with cubic.
func (k *knobGuest) afterLoss(c *rawConn, s *Conn) int {
	k.t.Helper()
	const first, second = 10, 20 // slow start
	if _, err := s.Write(make([]byte, 128<<10)); err != nil {
		k.t.Fatal(err)
	}
	k.all(c, first)
	c.ack += first * 1460
	c.send(ackFl, "")
	if n := k.all(c, first+second); n != first+second {
		k.t.Fatalf("the first two windows have %d segments, want %d", n, first+second)
	}
	for range 3 {
		c.send(ackFl, "")
	}
	if n := k.all(c, first+second+1); n != first+second+1 {
		k.t.Fatalf("three ACKs of the same brought %d segments, want 1", n-first-second)
	}
	c.ack += second * 1460
	c.send(ackFl, "")
	n := k.all(c, first+second+2) - first - second - 1
	s.Reset()
	return n
}
