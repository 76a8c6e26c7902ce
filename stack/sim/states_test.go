package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
	"tcpbox/tun/tuntest"
)

// TestStatesOfFaults: what package fault takes the two ends to be in is what they
// are in, whenever nothing is under way: for connections that both ends close at
// random, on a line that loses, doubles and reorders.
func TestStatesOfFaults(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(60) {
		n, err := New(Config{
			Seed: seed, Hook: func(tuntest.Direction, *tuntest.Frame) tuntest.Action { return tuntest.Pass },
			Faults: []string{"loss 10%", "dup 5%", "reorder 10%", "corrupt 3%"},
		})
		if err != nil {
			t.Fatal(err)
		}
		n.byHand = true // so that the clock waits for the hosts
		followStates(t, n, rand.New(rand.NewPCG(seed, 1)), seen)
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, state := range []tcpstate.State{
		tcpstate.Established, tcpstate.FinWait1, tcpstate.FinWait2, tcpstate.CloseWait, tcpstate.LastAck, tcpstate.TimeWait, tcpstate.Closed,
	} {
		if seen[state.String()] == 0 {
			t.Errorf("no end was found in %v: %v", state, seen)
		}
	}
}

// followStates has a connection opened and closed, and compares between any two
// steps.
func followStates(t *testing.T, n *Net, random *rand.Rand, seen map[string]int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stood := make(chan *Conn, 2)
	go func() {
		var c *Conn
		if r, err := n.Stack.Request(ctx); err == nil {
			c, _ = r.Accept()
		}
		stood <- c
	}()
	go func() {
		c, _ := n.Guest.Dial(ctx, 40001, 80)
		stood <- c
	}()
	var ends []*Conn
	for len(ends) < 2 {
		select {
		case c := <-stood:
			if c == nil {
				return // what the line lost was too much for the handshake
			}
			ends = append(ends, c)
		case <-ctx.Done():
			t.Fatal("the connection does not stand")
		case <-time.After(time.Millisecond):
			n.Advance(50 * time.Millisecond)
		}
	}
	agree(ctx, t, n, "open", seen)
	for step := range 12 {
		c := ends[random.IntN(2)]
		what := "time"
		switch random.IntN(5) {
		case 0:
			what = "write"
			_, _ = c.Write([]byte("data")) // after its FIN it may not
		case 1:
			what = "FIN"
			_ = c.CloseWrite()
		case 2:
			if step > 6 {
				what = "close"
				_ = c.Close()
			}
		default:
			n.Advance(time.Duration(random.IntN(400)) * time.Millisecond)
		}
		if agree(ctx, t, n, what, seen) {
			return
		}
	}
}

// agree waits until both accounts of both ends are the same: nothing happens while
// the clock stands, so if they are not once all has been read, they never are.
func agree(ctx context.Context, t *testing.T, n *Net, behind string, seen map[string]int) (over bool) {
	t.Helper()
	guest, remote := netip.AddrPortFrom(GuestAddr, 40001), netip.AddrPortFrom(StackAddr, 80)
	var is, taken string
	for ctx.Err() == nil {
		reset, fin := false, map[bool]bool{}
		at := map[tcpstate.Leg]tcpstate.State{tcpstate.Guest: tcpstate.Closed, tcpstate.Stack: tcpstate.Closed}
		for _, e := range n.Events() {
			if p, err := packet.Parse(e.Packet); err == nil {
				reset = reset || p.TCP.Flags.Has(packet.RST)
				fin[e.FromGuest] = fin[e.FromGuest] || p.TCP.Flags.Has(packet.FIN)
			}
			if e.Packet == nil {
				at[e.Transition.Leg] = e.Transition.To
			}
		}
		g, s := n.faults.States(guest, remote)
		for leg, taken := range map[tcpstate.Leg]tcpstate.State{tcpstate.Guest: g, tcpstate.Stack: s} {
			before := map[tcpstate.State]tcpstate.State{tcpstate.FinWait1: tcpstate.Established, tcpstate.LastAck: tcpstate.CloseWait}
			if was := before[at[leg]]; was == taken && !fin[leg == tcpstate.Guest] {
				return true // its FIN waits behind what is sent again, which nothing tells
			}
			if at[leg] == tcpstate.Closed && (taken == tcpstate.TimeWait || taken == tcpstate.FinWait2) {
				return true // it has ended without a segment
			}
		}
		is, taken = fmt.Sprint(at[tcpstate.Guest], " ", at[tcpstate.Stack]), fmt.Sprint(g, " ", s)
		if reset {
			return true // in TIME-WAIT its owner, who has not closed it, comes first
		}
		if is == taken {
			seen[g.String()]++
			seen[s.String()]++
			return false
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("behind %s the ends are in %s, and are taken to be in %s", behind, is, taken)
	return true
}
