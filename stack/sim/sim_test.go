package sim_test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"tcpbox/stack/sim"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
	"tcpbox/tun/tuntest"
)

const (
	synAck = packet.SYN | packet.ACK
	finAck = packet.FIN | packet.ACK
)

func newNet(t *testing.T, cfg sim.Config) (*sim.Net, context.Context) {
	t.Helper()
	n, err := sim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return n, ctx
}

// path are the states of one end, with when it came to each.
func path(events []sim.Event, leg tcpstate.Leg) string {
	var states []string
	for _, e := range events {
		if e.Packet == nil && e.Transition.Leg == leg {
			states = append(states, fmt.Sprintf("%v@%d", e.Transition.To, e.Time.UnixMilli()))
		}
	}
	return strings.Join(states, " ")
}

// TestStepByStep: a connection by hand, with a SYN that is lost. It goes the
// same way each time, sequence numbers included.
func TestStepByStep(t *testing.T) {
	var runs []string
	for range 2 {
		n, ctx := newNet(t, sim.Config{Seed: 1})
		dialled := make(chan *sim.Conn, 1)
		go func() {
			c, err := n.Guest.Dial(ctx, 40001, 80)
			if err != nil {
				t.Error(err)
			}
			dialled <- c
		}()
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		lost, err := n.Expect(ctx, tcpstate.Guest, packet.SYN)
		must(err)
		lost.Lose()
		n.Advance(time.Second)
		must(n.Hop(ctx, tcpstate.Guest, packet.SYN))
		r, err := n.Stack.Request(ctx)
		must(err)
		accepted := make(chan *sim.Conn, 1)
		go func() {
			c, err := r.Accept()
			if err != nil {
				t.Error(err)
			}
			accepted <- c
		}()
		must(n.Hop(ctx, tcpstate.Stack, synAck))
		must(n.Hop(ctx, tcpstate.Guest, packet.ACK))
		client, server := <-dialled, <-accepted
		must(client.Close())
		must(n.Hop(ctx, tcpstate.Guest, finAck))
		must(n.Hop(ctx, tcpstate.Stack, packet.ACK))
		must(n.WaitState(ctx, tcpstate.Stack, tcpstate.CloseWait))
		must(n.WaitState(ctx, tcpstate.Guest, tcpstate.FinWait2))
		must(server.Close())
		must(n.Hop(ctx, tcpstate.Stack, finAck))
		must(n.Hop(ctx, tcpstate.Guest, packet.ACK))
		must(n.WaitState(ctx, tcpstate.Guest, tcpstate.TimeWait))
		must(n.WaitState(ctx, tcpstate.Stack, tcpstate.Closed))
		events := n.Events()
		if !events[1].Lost || slices.ContainsFunc(events[2:], func(e sim.Event) bool { return e.Lost }) {
			t.Error("it is not the first SYN that was lost")
		}
		if got, want := path(events, tcpstate.Guest), "SYN-SENT@0 ESTABLISHED@1002 FIN-WAIT-1@1003 FIN-WAIT-2@1005 TIME-WAIT@1006"; got != want {
			t.Errorf("guest: %s, want %s", got, want)
		}
		if got, want := path(events, tcpstate.Stack), "SYN-RECEIVED@1001 ESTABLISHED@1003 CLOSE-WAIT@1004 LAST-ACK@1005 CLOSED@1007"; got != want {
			t.Errorf("stack: %s, want %s", got, want)
		}
		var run strings.Builder
		for _, e := range events {
			if e.Packet != nil {
				p, _ := packet.Parse(e.Packet)
				fmt.Fprintln(&run, &p)
			} else if e.Transition.Conn != 1 {
				t.Errorf("%+v", e)
			}
		}
		runs = append(runs, run.String())
	}
	if runs[0] != runs[1] {
		t.Errorf("one run:\n%s\nthe other:\n%s", runs[0], runs[1])
	}
}

// TestByItself: with a hook the link delivers, also what is delayed.
func TestByItself(t *testing.T) {
	n, ctx := newNet(t, sim.Config{Hook: tuntest.Impairment{Seed: 3, Loss: 5, Delay: time.Millisecond, Jitter: time.Millisecond}.Hook()})
	stop := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Microsecond):
				n.Advance(10 * time.Millisecond)
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	go func() {
		r, err := n.Stack.Request(ctx)
		if err != nil {
			t.Error(err)
			return
		}
		if c, err := r.Accept(); err == nil {
			c.Write(make([]byte, 100000))
			c.Close()
		}
	}()
	c, err := n.Guest.Dial(ctx, 40001, 80)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.Copy(io.Discard, c); got != 100000 || err != nil {
		t.Errorf("read %d bytes, %v", got, err)
	}
	c.Close()
	if err := n.WaitState(ctx, tcpstate.Guest, tcpstate.Closed); err != nil {
		t.Error(err)
	}
	if !slices.ContainsFunc(n.Events(), func(e sim.Event) bool { return e.Lost }) {
		t.Error("nothing was lost")
	}
}
