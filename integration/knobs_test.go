package integration

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox/integration/testnet"
	"tcpbox/stack/tcpstate"
)

// TestKnobsOfTwoSandboxes runs two sandboxes at once, one with knobs and one
// without, and sees each knob take effect on its leg, and only there.
func TestKnobsOfTwoSandboxes(t *testing.T) {
	n := testnet.New(t)
	l := n.Remote.Listen(t, "tcp", netip.AddrPortFrom(testnet.Public4, 80))
	fixtures := func(t *testing.T, flags ...string) (set, plain *fixture) {
		t.Helper()
		flags = append(flags, "--peer", "bye=closer")
		return &fixture{net: n, box: start(t, n, root, flags...), listen: l},
			&fixture{net: n, box: start(t, n, root, "--peer", "bye=closer"), listen: l}
	}

	t.Run("time-wait.timeout: the stack's ends when it says", func(t *testing.T) {
		set, plain := fixtures(t, "--tcp", "stack.time-wait.timeout=300ms")
		var pairs []*pair
		for _, f := range []*fixture{plain, set} {
			p := f.connect(t)
			must(t, p.server.Close())
			hearEnd(t, p.guest, "")
			p.passes(t, finWait1, finWait2)
			must(t, p.guest.Close())
			pairs = append(pairs, p)
		}
		pairs[0].passes(t, finWait1, finWait2, timeWait)
		// The later one ends first.
		pairs[1].passes(t, finWait1, finWait2, timeWait, closed)
		pairs[0].passes(t, finWait1, finWait2, timeWait)
		last := set.box.last(t, pairs[1].local)
		if age := last.age(); age < 300*time.Millisecond || last.Cause != "timer time-wait" {
			t.Errorf("TIME-WAIT ended by %q after %v, want the timer after 300ms", last.Cause, age)
		}
	})

	for _, c := range callers {
		t.Run("time-wait.timeout: the guest's ends when it says, for "+c.name, func(t *testing.T) {
			f := &fixture{net: n, box: start(t, n, c, "--tcp", "guest.time-wait.timeout=300ms"), listen: l}
			p := f.connect(t)
			must(t, p.guest.Close())
			hearEnd(t, p.server, "")
			must(t, p.server.Close())
			testnet.Eventually(t, func() error {
				for _, r := range f.box.records(t) {
					if r.Leg == tcpstate.Guest && r.Local == p.local && r.From == timeWait && r.To == closed && r.Cause == "policy time-wait.timeout" {
						if age := r.age(); age < 280*time.Millisecond {
							t.Errorf("it lasted %v, want 300ms", age)
						}
						return nil
					}
				}
				return errors.New("the log has no end of the TIME-WAIT")
			})
			if got := f.box.State(t, p.local, p.remote); got != closed {
				t.Errorf("the guest's socket is in %v", got)
			}
		})
	}

	t.Run("time-wait.timeout=0: the stack has none", func(t *testing.T) {
		set, _ := fixtures(t, "--tcp", "stack.time-wait.timeout=0")
		p := set.connect(t)
		must(t, p.server.Close())
		hearEnd(t, p.guest, "")
		must(t, p.guest.Close())
		testnet.Eventually(t, func() error {
			if got := set.box.path(t, p.local); !slices.Contains(got, closed) {
				return fmt.Errorf("the stack went through %v", got)
			}
			return nil
		})
	})

	t.Run("fin-timeout: a closed peer's FIN-WAIT-2 ends, a relayed half-close does not", func(t *testing.T) {
		set, plain := fixtures(t, "--tcp", "stack.fin-timeout=300ms")
		half := set.connect(t)
		must(t, half.server.CloseWrite())
		hearEnd(t, half.guest, "")
		half.passes(t, finWait1, finWait2)

		var guests []netip.AddrPort
		for _, f := range []*fixture{plain, set} {
			c, err := f.box.DialTCP(t.Context(), netip.AddrPort{}, netip.MustParseAddrPort("198.18.0.16:80"))
			must(t, err)
			defer c.Close() // the guest never closes before
			hearEnd(t, c, "")
			guests = append(guests, addrOf(c.LocalAddr()))
		}
		want := []tcpstate.State{tcpstate.SynReceived, tcpstate.Established, finWait1, finWait2}
		testnet.Eventually(t, func() error {
			if got := set.box.path(t, guests[1]); !slices.Equal(got, append(want, closed)) {
				return fmt.Errorf("with fin-timeout the stack went through %v", got)
			}
			return nil
		})
		if got := plain.box.path(t, guests[0]); !slices.Equal(got, want) {
			t.Errorf("without fin-timeout the stack went through %v, want %v", got, want)
		}
		say(t, half.guest, "still open")
		hear(t, half.server, "still open")
	})

	t.Run("fin-timeout: the guest's kernel lets go of a socket that it has closed", func(t *testing.T) {
		set, plain := fixtures(t, "--tcp", "guest.fin-timeout=1s")
		var pairs []*pair
		for _, f := range []*fixture{plain, set} {
			p := f.connect(t)
			must(t, p.guest.Close())
			hearEnd(t, p.server, "")
			pairs = append(pairs, p)
		}
		testnet.Eventually(t, func() error {
			if got := set.box.State(t, pairs[1].local, pairs[1].remote); got != closed {
				return fmt.Errorf("the guest's socket is in %v", got)
			}
			return nil
		})
		if got := plain.box.State(t, pairs[0].local, pairs[0].remote); got != finWait2 {
			t.Errorf("without the knob the guest's socket is in %v, want FIN-WAIT-2", got)
		}
	})

	t.Run("fin-timeout: the host's kernel lets go of a socket that tcpbox has closed", func(t *testing.T) {
		set, plain := fixtures(t, "--tcp", "upstream.fin-timeout=1s")
		var pairs []*pair
		for _, f := range []*fixture{plain, set} {
			p := f.connect(t)
			must(t, p.guest.CloseWrite())
			hearEnd(t, p.server, "") // which keeps its half open
			p.holds(t, finWait2, finWait2, closeWait)
			pairs = append(pairs, p)
		}
		for _, p := range pairs {
			p.box.end()
		}
		upstream := func(p *pair) tcpstate.State { return n.Uplink.State(t, p.via, p.remote) }
		testnet.Eventually(t, func() error {
			if got := upstream(pairs[1]); got != closed {
				return fmt.Errorf("the host's socket is in %v", got)
			}
			return nil
		})
		if got := upstream(pairs[0]); got != finWait2 {
			t.Errorf("without the knob the host's socket is in %v, want FIN-WAIT-2", got)
		}
	})

	t.Run("half-close-timeout: cuts a relayed half-close", func(t *testing.T) {
		set, plain := fixtures(t, "--tcp", "half-close-timeout=300ms")
		var pairs []*pair
		for _, f := range []*fixture{plain, set} {
			p := f.connect(t)
			must(t, p.server.CloseWrite())
			hearEnd(t, p.guest, "")
			pairs = append(pairs, p)
		}
		hearReset(t, pairs[1].server)
		say(t, pairs[0].guest, "still open")
		hear(t, pairs[0].server, "still open")
	})

	t.Run("time-wait.reuse: the guest's kernel takes a port in TIME-WAIT again", func(t *testing.T) {
		const ports = 4
		set, plain := fixtures(t, "--tcp", "guest.time-wait.reuse=on")
		off := &fixture{net: n, box: start(t, n, root, "--tcp", "guest.time-wait.reuse=off"), listen: l}
		for _, f := range []*fixture{set, plain, off} {
			must(t, f.box.SetSysctl("net/ipv4/ip_local_port_range", fmt.Sprintf("40000 %d", 40000+ports-1)))
			for range ports {
				p := f.connect(t)
				must(t, p.guest.Close())
				hearEnd(t, p.server, "")
				must(t, p.server.Close())
				testnet.Eventually(t, func() error {
					if got := f.box.State(t, p.local, p.remote); got != timeWait {
						return fmt.Errorf("the guest's socket is in %v", got)
					}
					return nil
				})
			}
		}
		// The kernel reuses a port one second after.
		testnet.Eventually(t, func() error {
			c, err := set.box.DialTCP(t.Context(), netip.AddrPort{}, addrOf(l.Addr()))
			if err == nil {
				c.Close()
			}
			return err
		})
		for name, f := range map[string]*fixture{"loopback": plain, "off": off} {
			c, err := f.box.DialTCP(t.Context(), netip.AddrPort{}, addrOf(l.Addr()))
			if err == nil {
				c.Close()
			}
			if !errors.Is(err, unix.EADDRNOTAVAIL) {
				t.Errorf("time-wait.reuse=%s: connect = %v, want %v", name, err, unix.EADDRNOTAVAIL)
			}
		}
	})

	t.Run("syn-backlog: the stack holds so many half-open handshakes and no more", func(t *testing.T) {
		const backlog, syns = 4, 40
		set, plain := fixtures(t, "--tcp", "stack.syn-backlog=4")
		for _, f := range []*fixture{set, plain} {
			// The guest's kernel drops what comes from where it has no way to,
			// so that it answers no SYN-ACK with an RST.
			f.box.AddBlackhole(t, netip.PrefixFrom(testnet.Public4, 32))
			f.box.SendSYNs(t, "tcpbox0", netip.MustParseAddrPort("198.18.0.2:20000"), addrOf(l.Addr()), syns)
		}
		halfOpen := func(f *fixture) int {
			open := make(map[netip.AddrPort]bool)
			peak := 0
			for _, r := range f.box.records(t) {
				if r.Leg == tcpstate.Stack && r.Local.Port() == 80 && r.Local.Addr() == testnet.Public4 {
					open[r.Remote] = r.To == tcpstate.SynReceived
					peak = max(peak, count(open))
				}
			}
			return peak
		}
		testnet.Eventually(t, func() error {
			if got := halfOpen(plain); got != syns {
				return fmt.Errorf("without the knob %d handshakes were half-open at once, want %d", got, syns)
			}
			return nil
		})
		testnet.Eventually(t, func() error {
			if got := halfOpen(set); got != backlog {
				return fmt.Errorf("%d handshakes were half-open at once, want %d", got, backlog)
			}
			return nil
		})
	})
}

func count(set map[netip.AddrPort]bool) int {
	n := 0
	for _, in := range set {
		if in {
			n++
		}
	}
	return n
}

// last returns the last record of the stack's endpoint towards the guest's
// address.
func (b *box) last(t *testing.T, guest netip.AddrPort) record {
	t.Helper()
	all := b.records(t)
	for _, r := range slices.Backward(all) {
		if r.Leg == tcpstate.Stack && r.Remote == guest {
			return r
		}
	}
	t.Fatalf("the log has no record of %v", guest)
	return record{}
}

// age is how long the state before had lasted.
func (r record) age() time.Duration { return time.Duration(r.Age * float64(time.Second)) }
