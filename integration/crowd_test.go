package integration

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"tcpbox/integration/testnet"
	"tcpbox/stack/tcpstate"
)

// TestManyAtOnce holds 2,000 connections open at the same time. Each carries
// its own bytes, to one peer and back, and ends with a FIN at both ends.
func TestManyAtOnce(t *testing.T) {
	count := 2000
	if testing.Short() {
		count = 200
	}
	n := testnet.New(t)
	b := start(t, n, root)
	l := n.Remote.Listen(t, "tcp", netip.AddrPortFrom(testnet.Public4, 80))
	var servers sync.WaitGroup
	servers.Go(func() {
		for {
			s, err := l.AcceptTCP()
			if err != nil {
				return
			}
			servers.Go(func() {
				defer s.Close()
				if _, err := io.Copy(s, s); err != nil {
					t.Errorf("the server: %v", err)
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		servers.Wait()
	})

	var dials []*testnet.Dialling
	for range count {
		d, err := b.StartDial(netip.AddrPort{}, addrOf(l.Addr()))
		must(t, err)
		t.Cleanup(func() { d.Close() })
		dials = append(dials, d)
	}
	var guests []*net.TCPConn
	for i, d := range dials {
		c, err := d.Wait(t.Context())
		if err != nil {
			t.Errorf("connection %d: %v", i, err)
			continue
		}
		t.Cleanup(func() { c.Close() })
		must(t, c.SetDeadline(time.Now().Add(testnet.Patience)))
		guests = append(guests, c)
	}
	if got := b.Count(t, tcpstate.Established); got != count {
		t.Errorf("the guest holds %d connections in ESTABLISHED, want %d", got, count)
	}
	for i, c := range guests {
		if _, err := fmt.Fprintf(c, "connection %d", i); err != nil {
			t.Errorf("connection %d: %v", i, err)
		}
	}
	for i, c := range guests {
		want := fmt.Sprintf("connection %d", i)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
			t.Errorf("read %q, %v, want %q", got, err, want)
		}
	}
}

// TestSilentDestinationsBlockNobody has 40 connects pending to destinations
// that never answer while another is served: it is complete before any of them
// has changed its state.
func TestSilentDestinationsBlockNobody(t *testing.T) {
	n := testnet.New(t)
	b := start(t, n, root)
	for _, six := range []bool{false, true} {
		server := testnet.Public4
		if six {
			server = testnet.Public6
		}
		f := &fixture{net: n, box: b, six: six, listen: n.Remote.Listen(t, "tcp", netip.AddrPortFrom(server, 80))}
		const pending = 40
		for i := range pending {
			d, err := b.StartDial(netip.AddrPort{}, netip.AddrPortFrom(testnet.Silent(six, i), 80))
			must(t, err)
			defer d.Close()
		}
		p := f.connect(t)
		say(t, p.guest, "served")
		hear(t, p.server, "served")
		if got := b.Count(t, synSent); got < pending {
			t.Errorf("six %v: %d connects are pending after the served one, want %d at least", six, got, pending)
		}
	}
}

// TestManyInARowFromFewPorts makes 3,000 connections, one after the other, to
// a server that closes first, from only 40 source ports. The server's side of
// each is left in TIME-WAIT, so that every one after the 40th comes to a tuple
// in TIME-WAIT and must be let in at once.
func TestManyInARowFromFewPorts(t *testing.T) {
	count := 3000
	if testing.Short() {
		count = 300
	}
	t.Run("to a server in the world", func(t *testing.T) {
		n := testnet.New(t)
		b := start(t, n, root)
		for _, server := range []netip.Addr{testnet.Public4, testnet.Public6} {
			l := n.Remote.Listen(t, "tcp", netip.AddrPortFrom(server, 80))
			closer(t, l)
			manyInARow(t, b, addrOf(l.Addr()), count)
		}
	})
	t.Run("to a peer in the stack", func(t *testing.T) {
		n := testnet.New(t)
		b := start(t, n, root, "--net", "none", "--peer", "bye=closer:80")
		for _, server := range []string{"198.18.0.16:80", "[fd74:6370:626f:78::10]:80"} {
			manyInARow(t, b, netip.MustParseAddrPort(server), count)
		}
	})
}

// closer closes every connection of l at once, until t ends.
func closer(t *testing.T, l *net.TCPListener) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			s, err := l.AcceptTCP()
			if err != nil {
				return
			}
			s.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
}

func manyInARow(t *testing.T, b *box, dst netip.AddrPort, count int) {
	t.Helper()
	must(t, b.SetSysctl("net/ipv4/ip_local_port_range", "40000 40039"))
	before := b.Counter(t, "TcpExt", "TCPSynRetrans")
	for i := range count {
		c, err := b.DialTCP(t.Context(), netip.AddrPort{}, dst)
		if err != nil {
			t.Fatalf("connection %d to %v: %v", i, dst, err)
		}
		hearEnd(t, c, "")
		must(t, c.Close())
	}
	if got := b.Counter(t, "TcpExt", "TCPSynRetrans") - before; got != 0 {
		t.Errorf("%d connections to %v: %d SYNs were sent again, want 0", count, dst, got)
	}
}
