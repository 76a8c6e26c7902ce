package sockwatch

import (
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"tcpbox/netns/sockdiag"
	"tcpbox/stack/tcpstate"
)

// watchTraced watches the space with the kernel's trace.
func watchTraced(t *testing.T, s *space) (*Watcher, *recording) {
	t.Helper()
	r := new(recording)
	w := New(Config{NS: s, Sink: r.add, Trace: Open()})
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	if traced, err := w.Traced(); !traced {
		if os.Getenv("CI") == "true" && os.Geteuid() == 0 {
			t.Fatalf("no trace, which CI=true promises to root: %v", err)
		}
		t.Skipf("no trace here: %v", err)
	}
	return w, r
}

const opened = "CLOSED (call connect)> SYN-SENT (segment SYN-ACK)> ESTABLISHED"

func TestTraceClose(t *testing.T) {
	s := newSpace(t)
	_, r := watchTraced(t, s)
	p := s.pair(t)
	p.client.Close()
	if _, err := io.ReadAll(p.server); err != nil {
		t.Fatal(err)
	}
	p.server.Close()
	trs := r.await(t, p.from, opened+" (call close)> FIN-WAIT-1 (segment ACK)> FIN-WAIT-2 (segment FIN)> TIME-WAIT")
	for _, tr := range trs {
		if tr.Source != tcpstate.FromKernel || tr.Leg != tcpstate.Guest || tr.Conn == 0 || tr.Remote != p.to {
			t.Errorf("%+v", tr)
		}
	}
	const want = "CLOSED (segment SYN)> SYN-RECEIVED (segment ACK)> ESTABLISHED (segment FIN)> CLOSE-WAIT (call close)> LAST-ACK (segment ACK)> CLOSED"
	var server []tcpstate.Transition
	for deadline := time.Now().Add(30 * time.Second); path(server) != want; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the server went %q,\nwant %q", path(server), want)
		}
		server = nil
		for _, tr := range r.of(p.to) {
			if tr.Remote == p.from { // not the listener's
				server = append(server, tr)
			}
		}
	}
	if server[0].Conn == trs[0].Conn {
		t.Error("two sockets have one number")
	}

	// Its TIME-WAIT, destroyed.
	sockets, err := sockdiag.Dump(s, sockdiag.Query{Proto: sockdiag.TCP})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range sockets {
		if d.State == tcpstate.TimeWait {
			if err := sockdiag.Destroy(s, d); err != nil {
				t.Fatal(err)
			}
		}
	}
	before := time.Now()
	trs = r.await(t, p.from, opened+" (call close)> FIN-WAIT-1 (segment ACK)> FIN-WAIT-2 (segment FIN)> TIME-WAIT (unknown)> CLOSED")
	if end := trs[len(trs)-1]; end.Source != tcpstate.FromDiag || before.Sub(end.Time) > time.Second {
		t.Errorf("its end: %+v", end)
	}
}

func TestTraceFinWait2WithoutSocket(t *testing.T) {
	s := newSpace(t)
	if err := s.SetSysctl("net.ipv4.tcp_fin_timeout", "1"); err != nil {
		t.Fatal(err)
	}
	_, r := watchTraced(t, s)
	p := s.pair(t)
	defer p.server.Close()
	p.client.Close()
	trs := r.await(t, p.from, opened+" (call close)> FIN-WAIT-1 (segment ACK)> FIN-WAIT-2 (timer fin-wait-2)> CLOSED")
	if end := trs[len(trs)-1]; end.Age < 900*time.Millisecond || end.Source != tcpstate.FromDiag {
		t.Errorf("its end: %+v", end)
	}
}

func TestTraceEndsElse(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(t *testing.T, p pair)
		want string
	}{
		{"reset by itself", func(t *testing.T, p pair) {
			check(t, p.client.SetLinger(0))
			p.client.Close()
		}, " (call close)> CLOSED"},
		{"reset by the other", func(t *testing.T, p pair) {
			check(t, p.server.SetLinger(0))
			p.server.Close()
		}, " (segment RST)> CLOSED"},
		{"half-closed", func(t *testing.T, p pair) {
			check(t, p.client.CloseWrite())
		}, " (call shutdown)> FIN-WAIT-1 (segment ACK)> FIN-WAIT-2"},
		{"half-closed, then closed by the other", func(t *testing.T, p pair) {
			check(t, p.client.CloseWrite())
			_, err := io.ReadAll(p.server)
			check(t, err)
			p.server.Close()
		}, " (call shutdown)> FIN-WAIT-1 (segment ACK)> FIN-WAIT-2 (segment FIN)> TIME-WAIT"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSpace(t)
			_, r := watchTraced(t, s)
			p := s.pair(t)
			defer p.client.Close()
			defer p.server.Close()
			tt.end(t, p)
			r.await(t, p.from, opened+tt.want)
		})
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// An event that both programs have told counts once; the same change of the same
// socket with another between, or of another socket, is one of its own.
func TestRepeated(t *testing.T) {
	tr := &trace{}
	const syn, est, end = tcpstate.SynSent, tcpstate.Established, tcpstate.Closed
	for i, row := range []struct {
		sock     uint64
		from, to tcpstate.State
		want     bool
	}{
		{0xffff888000001000, end, syn, false},
		{0xffff888000001000, end, syn, true},
		{0xffff888000002000, end, syn, false}, // what the interrupt brought
		{0xffff888000001000, end, syn, true},  // and the first one, late
		{0xffff888000001000, syn, est, false},
		{0xffff888000001000, est, end, false},
		{0xffff888000001000, est, end, true},
		{0xffff888000001000, end, syn, false}, // a new socket at the same address
	} {
		if got := tr.repeated(&event{sock: row.sock, from: row.from, to: row.to}); got != row.want {
			t.Errorf("row %d: repeated = %v, want %v", i, got, row.want)
		}
	}
}

// Two ends within the namespace. The one that closes last sends its FIN while the
// other one still has a socket, which is left in FIN-WAIT-2 before the FIN is taken
// in: that it was, the acknowledgement that ends LAST-ACK tells.
func TestFINWithin(t *testing.T) {
	d := newTold(true)
	first, last := netip.MustParseAddrPort("127.0.0.1:80"), netip.MustParseAddrPort("127.0.0.1:40001")
	tell := func(sock uint64, local, remote netip.AddrPort, from, to tcpstate.State, dead bool) {
		d.at = d.at.Add(time.Millisecond)
		d.mu.Lock()
		defer d.mu.Unlock()
		d.traced(&event{at: d.at, sock: sock, from: from, to: to, local: local, remote: remote, dead: dead})
	}
	const server, client = 1, 2
	tell(server, first, last, tcpstate.Listen, tcpstate.SynReceived, false)
	tell(client, last, first, tcpstate.SynSent, tcpstate.Established, false)
	tell(server, first, last, tcpstate.SynReceived, tcpstate.Established, false)
	tell(server, first, last, tcpstate.Established, tcpstate.FinWait1, true)
	tell(client, last, first, tcpstate.Established, tcpstate.CloseWait, false)
	tell(client, last, first, tcpstate.CloseWait, tcpstate.LastAck, true)
	tell(server, first, last, tcpstate.FinWait1, tcpstate.FinWait2, true)
	tell(server, first, last, tcpstate.FinWait2, tcpstate.Closed, true)
	tell(client, last, first, tcpstate.LastAck, tcpstate.Closed, true)

	var got []string
	for _, tr := range d.got.of(first) {
		got = append(got, tr.To.String())
	}
	if want := "SYN-RECEIVED ESTABLISHED FIN-WAIT-1 FIN-WAIT-2 TIME-WAIT"; strings.Join(got, " ") != want {
		t.Errorf("the log has %q, want %q", got, want)
	}
}
