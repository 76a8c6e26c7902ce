package integration

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"

	"tcpbox/integration/testnet"
	"tcpbox/stack/tcpstate"
)

// TestManyAtOnce holds 2,000 connections open at the same time.
func TestManyAtOnce(t *testing.T) {
	count := 2000
	if testing.Short() {
		count = 200
	}
	n := testnet.New(t)
	b := start(t, n, root)
	l := n.Remote.Listen(t, "tcp", netip.AddrPortFrom(testnet.Public4, 80))
	dst := addrOf(l.Addr())

	accepted := make(chan *net.TCPConn, count)
	accepting := make(chan error, 1)
	go func() {
		for range count {
			s, err := l.AcceptTCP()
			if err != nil {
				accepting <- err
				return
			}
			accepted <- s
		}
		accepting <- nil
	}()
	var dials []*testnet.Dialling
	for range count {
		d, err := b.StartDial(netip.AddrPort{}, dst)
		must(t, err)
		dials = append(dials, d)
	}
	var guests []*net.TCPConn
	for i, d := range dials {
		c, err := d.Wait(t.Context())
		if err != nil {
			t.Errorf("connection %d: %v", i, err)
			continue
		}
		guests = append(guests, c)
	}
	if t.Failed() {
		l.Close()
		<-accepting
		t.FailNow()
	}
	must(t, <-accepting)
	if got := b.Count(t, tcpstate.Established); got != count {
		t.Errorf("the guest holds %d connections in ESTABLISHED, want %d", got, count)
	}

	// Every connection carries its own bytes to its own peer.
	byAddr := make(map[netip.AddrPort]*net.TCPConn)
	for range count {
		s := <-accepted
		byAddr[addrOf(s.RemoteAddr())] = s
		say(t, s, "what?")
	}
	if len(byAddr) != count {
		t.Errorf("the server sees %d clients, want %d", len(byAddr), count)
	}
	var wg sync.WaitGroup
	for _, s := range byAddr {
		wg.Go(func() {
			buf := make([]byte, 64)
			k, err := s.Read(buf)
			if err == nil {
				_, err = s.Write(buf[:k])
			}
			if err != nil {
				t.Errorf("server: %v", err)
			}
			s.Close()
		})
	}
	for i, c := range guests {
		wg.Go(func() {
			defer c.Close()
			word := fmt.Sprintf("connection %d", i)
			if _, err := c.Write([]byte(word)); err != nil {
				t.Errorf("guest: %v", err)
			}
			buf := make([]byte, len("what?")+len(word))
			if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "what?"+word {
				t.Errorf("guest read %q, %v, want %q", buf, err, "what?"+word)
			}
		})
	}
	wg.Wait()
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
			manyInARow(t, b, addrOf(l.Addr()), count)
			l.Close()
			<-done
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
