package sockwatch

import (
	"net/netip"
	"testing"
	"time"

	"tcpbox/netns/sockdiag"
	"tcpbox/stack/tcpstate"
)

// SYNs without sockets behind them are followed up to a limit. What the kernel has
// shown, what has gone on and what is over does not count.
func TestSYNsOnTrust(t *testing.T) {
	d := newTold(false)
	forgotten := 0
	d.cfg.OnEnd = func(_, _ netip.AddrPort) { forgotten++ }
	const perPort = 1 << 12
	pair := func(i int) (local, remote netip.AddrPort) {
		return netip.AddrPortFrom(wireGuest.Addr(), uint16(1024+i%perPort)), netip.AddrPortFrom(wirePeer.Addr(), uint16(1+i/perPort))
	}
	step := func(i int, from, to tcpstate.State) {
		local, remote := pair(i)
		d.Step(Step{Time: d.at, Local: local, Remote: remote, From: from, To: to, ISS: uint32(i)})
	}
	syn := func(i int) { step(i, tcpstate.Closed, tcpstate.SynSent) }
	look := func(those ...int) {
		var shown []sockdiag.Socket
		for _, i := range those {
			local, remote := pair(i)
			shown = append(shown, sockdiag.Socket{State: tcpstate.SynSent, Local: local, Remote: remote})
		}
		began := d.at.Add(time.Millisecond)
		d.at = began.Add(time.Millisecond)
		d.mu.Lock()
		defer d.mu.Unlock()
		d.join(shown, began, d.at, true)
	}
	is := func(when string, endpoints, untracked, ended int) {
		t.Helper()
		if st := d.Stats(); st.Endpoints != endpoints || st.Untracked != uint64(untracked) || forgotten != ended {
			t.Fatalf("%s: %d are followed, %d are not, %d have ended; want %d, %d and %d",
				when, st.Endpoints, st.Untracked, forgotten, endpoints, untracked, ended)
		}
	}

	for i := range maxUnproved + 10 {
		syn(i)
	}
	is("ten too many", maxUnproved, 10, 10)

	step(0, tcpstate.SynSent, tcpstate.Established)
	for i := range 2 {
		syn(maxUnproved + 10 + i)
	}
	is("one stands", maxUnproved+1, 11, 11)

	look(1, 2, 3)
	for i := range 4 {
		syn(maxUnproved + 20 + i)
	}
	is("the kernel has three more", maxUnproved+4, 12, 12)

	// A second look without them is the end of all others; the one that stands too.
	look(1, 2, 3)
	d.at = d.at.Add(time.Minute)
	look(1, 2, 3)
	is("all looked for", 3, 12, 12+maxUnproved+1)
	syn(maxUnproved + 30)
	is("there is room again", 4, 12, 12+maxUnproved+1)
}
