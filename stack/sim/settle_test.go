package sim_test

import (
	"net/netip"
	"testing"
	"time"

	"tcpbox/policy/knob"
	"tcpbox/stack/sim"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

// TestHeld: when the hosts have settled, what is held is all that they send: no
// test has to wait for what does not come.
func TestHeld(t *testing.T) {
	n, ctx := newNet(t, sim.Config{Seed: 1, Latency: time.Microsecond})
	begin := n.Now()
	go func() {
		if c, err := n.Guest.Dial(ctx, 40001, 80); err == nil {
			c.Close()
		}
	}()
	if err := n.Hop(ctx, tcpstate.Guest, packet.SYN); err != nil {
		t.Fatal(err)
	}
	if took := n.Now().Sub(begin); took != time.Microsecond {
		t.Errorf("the segment took %v, want the latency of 1µs", took)
	}
	if asked := n.Stack.Asked(); asked != 1 {
		t.Errorf("%d connections are asked for, want 1", asked)
	}
	if held := n.Held(tcpstate.Stack); len(held) != 0 {
		t.Errorf("the stack sends %v before it is told what to", held[0].Packet)
	}
	r, err := n.Stack.Request(ctx)
	if err != nil {
		t.Fatal(err)
	}
	r.Reset()
	held := n.Held(tcpstate.Stack)
	if len(held) != 1 || !held[0].Packet.TCP.Flags.Has(packet.RST) {
		t.Fatalf("the stack sends %d segments, want an RST", len(held))
	}
	rst := held[0].Bytes()
	held[0].Lose()
	if again := n.Held(tcpstate.Stack); len(again) != 0 {
		t.Errorf("%d segments are held that were lost", len(again))
	}
	if err := n.Inject(tcpstate.Stack, rst); err != nil {
		t.Fatal(err)
	}
	one := n.Held(tcpstate.Stack)[0]
	all, next := n.EventsSince(0)
	if e := all[len(all)-1]; !e.Injected || all[0].Injected {
		t.Errorf("the events do not tell what was injected: %+v", e)
	}
	one.Deliver()
	if err := n.WaitState(ctx, tcpstate.Guest, tcpstate.Closed); err != nil {
		t.Error(err)
	}
	if later, _ := n.EventsSince(next); len(later) != 1 {
		t.Errorf("%d events since then, want one: CLOSED", len(later))
	}
}

// TestSet: a host takes the knobs of a stack, and says what it does not take.
func TestSet(t *testing.T) {
	n, ctx := newNet(t, sim.Config{Seed: 1})
	set := func(h *sim.Host, text string) error {
		s, err := knob.ParseSetting(text)
		if err != nil {
			t.Fatal(err)
		}
		return h.Set(s)
	}
	if err := set(n.Guest, "syn-retries=1"); err != nil {
		t.Fatal(err)
	}
	if err := set(n.Guest, "congestion-control=bbr"); err == nil {
		t.Error("the stack has bbr")
	}
	failed := make(chan error, 1)
	go func() {
		_, err := n.Guest.Dial(ctx, 40001, 80)
		failed <- err
	}()
	if f, err := n.Expect(ctx, tcpstate.Guest, packet.SYN); err != nil {
		t.Fatal(err)
	} else {
		f.Lose()
	}
	for range 4 {
		n.Advance(time.Second)
	}
	if err := <-failed; err == nil {
		t.Error("it connects")
	}
	if held := n.Held(tcpstate.Guest); len(held) != 1 {
		t.Errorf("%d SYNs more, want the one that syn-retries=1 allows", len(held))
	}
	if ended := n.Stack.Listen(80); ended == nil {
		t.Error("nothing ends the listener")
	}
}

func TestTimestamp(t *testing.T) {
	build := func(options ...byte) ([]byte, *packet.Packet) {
		pkt := packet.Build{
			Src: netip.AddrPortFrom(sim.GuestAddr, 1), Dst: netip.AddrPortFrom(sim.StackAddr, 2), Flags: packet.ACK, Options: options,
		}.Bytes()
		p, err := packet.Parse(pkt)
		if err != nil {
			t.Fatal(err)
		}
		return pkt, &p
	}
	for _, c := range []struct {
		name    string
		options []byte
		ts      uint32
		ok      bool
	}{
		{"none", nil, 0, false},
		{"behind padding and another", []byte{1, 1, 4, 2, 8, 10, 0, 0, 1, 2, 0, 0, 0, 0, 1, 1}, 258, true},
		{"behind the end", []byte{0, 8, 10, 0, 0, 1, 2, 0, 0, 0, 0, 0}, 0, false},
		{"another length", []byte{8, 6, 0, 0, 1, 2, 1, 1}, 0, false},
		{"cut short", []byte{1, 1, 8, 10}, 0, false},
		{"no length", []byte{1, 1, 1, 8}, 0, false},
	} {
		pkt, p := build(c.options...)
		if ts, ok := sim.Timestamp(pkt, p); ts != c.ts || ok != c.ok {
			t.Errorf("%s: Timestamp = %d, %v, want %d, %v", c.name, ts, ok, c.ts, c.ok)
		}
	}
}
