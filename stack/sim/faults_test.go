package sim_test

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"tcpbox/stack/sim"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
	"tcpbox/tun/tuntest"
)

// passAll is a link that does nothing by itself.
func passAll(tuntest.Direction, *tuntest.Frame) tuntest.Action { return tuntest.Pass }

// running advances the clock of a net until the test ends.
func running(t *testing.T, n *sim.Net, step time.Duration) {
	t.Helper()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Microsecond):
				n.Advance(step)
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-stopped })
}

// TestFaults: TCP over a line that loses 5 % each way, delays, doubles and reorders
// brings the right bytes.
func TestFaults(t *testing.T) {
	n, ctx := newNet(t, sim.Config{Seed: 4, Hook: passAll, Faults: []string{"loss 5%", "dup 2%", "reorder 2% by 2", "corrupt 1%", "delay 5ms ±2ms"}})
	running(t, n, 5*time.Millisecond)
	want := make([]byte, 300_000)
	for i := range want {
		want[i] = byte(i * i >> 5)
	}
	go func() {
		r, err := n.Stack.Request(ctx)
		if err != nil {
			t.Error(err)
			return
		}
		if c, err := r.Accept(); err == nil {
			c.Write(want)
			c.Close()
		}
	}()
	c, err := n.Guest.Dial(ctx, 40001, 80)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, %v; want %d and the same", len(got), err, len(want))
	}
	c.Close()
	if err := n.WaitState(ctx, tcpstate.Guest, tcpstate.Closed); err != nil {
		t.Error(err)
	}
	for _, r := range n.Faults() {
		if r.Acted == 0 {
			t.Errorf("%v has done nothing", r.Fault)
		}
	}
}

// TestFaultOnState: the rule takes the one segment that it names, and the other end
// sends its FIN again.
func TestFaultOnState(t *testing.T) {
	n, ctx := newNet(t, sim.Config{Seed: 1, Hook: passAll, Faults: []string{"drop first ack when stack=FIN-WAIT-1"}})
	running(t, n, 10*time.Millisecond)
	accepted := make(chan *sim.Conn, 1)
	go func() {
		r, err := n.Stack.Request(ctx)
		if err != nil {
			t.Error(err)
			return
		}
		c, err := r.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	c, err := n.Guest.Dial(ctx, 40001, 80)
	if err != nil {
		t.Fatal(err)
	}
	if err := (<-accepted).Close(); err != nil {
		t.Fatal(err)
	}
	if err := n.WaitState(ctx, tcpstate.Stack, tcpstate.FinWait2); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := n.WaitState(ctx, tcpstate.Stack, tcpstate.TimeWait); err != nil {
		t.Fatal(err)
	}
	var lost []string
	fins := 0
	for _, e := range n.Events() {
		if e.Packet == nil {
			continue
		}
		p, err := packet.Parse(e.Packet)
		if err != nil {
			t.Fatal(err)
		}
		if e.Lost {
			lost = append(lost, p.TCP.Flags.String())
		}
		if !e.FromGuest && p.TCP.Flags.Has(packet.FIN) {
			fins++
		}
	}
	if strings.Join(lost, " ") != "ACK" || fins < 2 {
		t.Errorf("lost: %v, the stack sent %d FINs; want one ACK and more than one", lost, fins)
	}
}

func TestWrongFault(t *testing.T) {
	if _, err := sim.New(sim.Config{Faults: []string{"los 5%"}}); err == nil || !strings.Contains(err.Error(), `"los" is not an action`) {
		t.Error(err)
	}
}
