package stack

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"syscall"
	"testing"

	"tcpbox/policy/knob"
	"tcpbox/stack/internal/netstack"
	"tcpbox/stack/relay/relaytest"
	"tcpbox/tun/packet"
	"tcpbox/tun/tuntest"
)

var (
	client  = netip.MustParseAddrPort("192.0.2.9:40000")
	client6 = netip.MustParseAddrPort("[2001:db8::9]:40000")
	hostAt  = netip.MustParseAddrPort("192.0.2.1:8080")
)

// withServer runs a gateway whose guest hands over every request.
func withServer(t *testing.T, change func(*Config)) (*Gateway, <-chan *netstack.Request) {
	t.Helper()
	a, b := tuntest.Pair(1500)
	g := start(t, b, failing(nil), change)
	requests := make(chan *netstack.Request, 10)
	guest, err := netstack.New(netstack.Config{Device: a, Addrs: []netip.Addr{guestAddr, guestAddr6}, OnSYN: func(r *netstack.Request) {
		requests <- r
		<-r.Context().Done() // it has been ended
	}})
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- guest.Run() }()
	t.Cleanup(func() {
		guest.Close()
		<-ran
	})
	return g, requests
}

// deliver starts Deliver, and returns the client's end and the result.
func deliver(t *testing.T, g *Gateway, in Inbound) (*relaytest.Conn, <-chan error) {
	far, near := relaytest.Pipe(0)
	done := make(chan error, 1)
	go func() { done <- g.Deliver(testContext(t), near, in) }()
	return far, done
}

// to is a connection of a client that the guest sees as it is.
func to(client netip.AddrPort) Inbound {
	guest := netip.AddrPortFrom(guestAddr, 80)
	if client.Addr().Is6() {
		guest = netip.AddrPortFrom(guestAddr6, 80)
	}
	return Inbound{Client: client, Host: hostAt, As: client, Guest: guest}
}

func TestDeliver(t *testing.T) {
	for _, from := range []netip.AddrPort{client, client6} {
		log := &transitions{}
		g, requests := withServer(t, func(c *Config) { c.Sink = log.add })
		far, done := deliver(t, g, to(from))
		req := get(t, requests)
		if req.Src() != from {
			t.Errorf("the guest sees %v, want %v", req.Src(), from)
		}
		c, err := req.Accept()
		if err != nil {
			t.Fatal(err)
		}
		far.Write([]byte("question"))
		far.CloseWrite()
		if got, err := io.ReadAll(c); string(got) != "question" || err != nil {
			t.Errorf("the guest read %q, %v", got, err)
		}
		if st := g.Stats(); st.Open != 1 || st.Inbound != 1 || st.Established != 1 {
			t.Errorf("counted %+v", st)
		}
		c.Write([]byte("answer"))
		c.Close()
		if got, err := io.ReadAll(far); string(got) != "answer" || err != nil {
			t.Errorf("the client read %q, %v", got, err)
		}
		far.Close()
		if err := get(t, done); err != nil {
			t.Error(err)
		}
		if got, want := log.of(hostAt, from), "SYN-RECEIVED>ESTABLISHED segment ACK"; len(got) != 1 || got[0] != want {
			t.Errorf("the upstream leg's log is %q, want %q", got, want)
		}
	}
}

// One client may not have all that is opening: what is beyond its share is reset, and
// counted, and another client is served.
func TestDeliverPerSource(t *testing.T) {
	g, requests := withServer(t, nil)
	share, err := knob.ParseSetting("stack.pending.per-source=2")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Apply([]knob.Setting{share}); err != nil {
		t.Fatal(err)
	}
	var opening []*netstack.Request
	open := func(from netip.AddrPort) (*relaytest.Conn, <-chan error) {
		far, done := deliver(t, g, to(from))
		opening = append(opening, get(t, requests))
		return far, done
	}
	beyond := func(from netip.AddrPort) {
		t.Helper()
		far, done := deliver(t, g, to(from))
		if err := get(t, done); !errors.Is(err, syscall.EAGAIN) {
			t.Errorf("a third connection of %v: %v, want EAGAIN", from, err)
		}
		if _, err := far.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("its client reads %v, want a reset", err)
		}
	}
	at := func(addr string, port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr(addr), port)
	}
	far, done := open(at("192.0.2.9", 1))
	open(at("192.0.2.9", 2))
	beyond(at("192.0.2.9", 3))
	open(at("192.0.2.10", 1))
	open(at("2001:db8::9", 1)) // of IPv6 a network of 64 bits is one
	open(at("2001:db8::a", 1))
	beyond(at("2001:db8::b", 1))
	open(at("2001:db8:0:1::9", 1))
	if st := g.Stats(); st.DropPerSrc != 2 {
		t.Errorf("DropPerSrc = %d, want 2", st.DropPerSrc)
	}
	c, err := opening[0].Accept()
	if err != nil {
		t.Fatal(err)
	}
	far.Write([]byte("x"))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil { // so that it stands at both ends
		t.Fatal(err)
	}
	open(at("192.0.2.9", 4))
	beyond(at("192.0.2.9", 5))
	far.Reset()
	if err := get(t, done); err != nil {
		t.Errorf("the one that stood ended with %v", err)
	}
}

func TestDeliverPassesEndsOn(t *testing.T) {
	for _, row := range []struct {
		what string
		end  func(far *relaytest.Conn, guest *netstack.Conn)
		see  func(far *relaytest.Conn, guest *netstack.Conn) error
		want error
	}{
		{"the guest resets", func(_ *relaytest.Conn, g *netstack.Conn) { g.Reset() }, fromClient, syscall.ECONNRESET},
		{"the client resets", func(f *relaytest.Conn, _ *netstack.Conn) { f.Reset() }, fromGuest, syscall.ECONNRESET},
		{"the guest half-closes", func(_ *relaytest.Conn, g *netstack.Conn) { g.CloseWrite() }, fromClient, io.EOF},
		{"the client half-closes", func(f *relaytest.Conn, _ *netstack.Conn) { f.CloseWrite() }, fromGuest, io.EOF},
	} {
		g, requests := withServer(t, nil)
		far, done := deliver(t, g, to(client))
		c, err := get(t, requests).Accept()
		if err != nil {
			t.Fatal(err)
		}
		row.end(far, c)
		if err := row.see(far, c); !errors.Is(err, row.want) {
			t.Errorf("%s: the other side reads %v, want %v", row.what, err, row.want)
		}
		far.Reset()
		c.Reset()
		get(t, done)
	}
}

func fromClient(far *relaytest.Conn, _ *netstack.Conn) error {
	_, err := far.Read(make([]byte, 1))
	return err
}

func fromGuest(_ *relaytest.Conn, guest *netstack.Conn) error {
	_, err := guest.Read(make([]byte, 1))
	return err
}

// TestDeliverInVain: a guest that is not reached is never a clean end.
func TestDeliverInVain(t *testing.T) {
	g, requests := withServer(t, nil)
	answered := 0
	in := to(client)
	in.OnAnswer = func() { answered++ }
	far, done := deliver(t, g, in)
	get(t, requests).Reset()
	if err := get(t, done); !errors.Is(err, syscall.ECONNREFUSED) || answered != 1 {
		t.Errorf("Deliver = %v, want ECONNREFUSED; told %d times", err, answered)
	}
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client reads %v, want ECONNRESET", err)
	}
	// A client that goes away ends the dial.
	far, done = deliver(t, g, to(client))
	req := get(t, requests)
	far.Reset()
	if err := get(t, done); !errors.Is(err, context.Canceled) {
		t.Errorf("Deliver = %v, want that it was cancelled", err)
	}
	req.Drop()
	if st := g.Stats(); st.InboundFailed != 2 || st.Inbound != 0 || st.Open != 0 {
		t.Errorf("counted %+v", st)
	}
}

// TestDeliverSharesAPort: a client may have one port for several connections to
// the guest, and may come again on a 4-tuple that is in TIME-WAIT.
func TestDeliverSharesAPort(t *testing.T) {
	g, requests := withServer(t, nil)
	var seen []netip.AddrPort
	var dones []<-chan error
	for _, guestPort := range []uint16{80, 81, 80} {
		in := to(client)
		in.Guest = netip.AddrPortFrom(guestAddr, guestPort)
		far, done := deliver(t, g, in)
		req := get(t, requests)
		seen = append(seen, req.Src())
		c, err := req.Accept()
		if err != nil {
			t.Fatal(err)
		}
		far.Close()
		io.Copy(io.Discard, c)
		c.Close() // the stack has closed first, and is in TIME-WAIT
		dones = append(dones, done)
	}
	for _, done := range dones {
		get(t, done)
	}
	if seen[0] != client || seen[1] != client || seen[2].Addr() != client.Addr() || seen[2] == client {
		t.Errorf("the guest sees %v", seen)
	}
}

// TestInlet: each client of a UDP port is a flow, and answers find it.
func TestInlet(t *testing.T) {
	port := netip.AddrPortFrom(guestAddr, 53)
	g, rec := withPackets(t, newPacketUplink(), func(c *Config) { c.Limits.Flows = 3 })
	type reply struct {
		to   Client
		data string
	}
	replies := make(chan reply, 10)
	in := g.NewInlet(port, func(p []byte, to Client) error {
		replies <- reply{to, string(p)}
		return nil
	})
	one := Client{From: client, To: hostAt.Addr()}
	local := Client{From: netip.MustParseAddrPort("127.0.0.1:40000"), To: netip.MustParseAddr("127.0.0.1")}
	other := Client{From: netip.MustParseAddrPort("127.0.0.2:40000"), To: netip.MustParseAddr("127.0.0.1")}
	low := Client{From: netip.MustParseAddrPort("127.0.0.1:53"), To: netip.MustParseAddr("127.0.0.1")}
	as := netip.AddrPortFrom(gatewayAddr, 40000)
	seen := map[netip.AddrPort]bool{}
	for _, row := range []struct {
		c  Client
		as netip.AddrPort
	}{{one, client}, {local, as}, {other, as}, {low, netip.AddrPortFrom(gatewayAddr, 53)}} {
		for range 2 { // the second time on the same flow
			in.Deliver(row.c, row.as, []byte("hello"))
			f, err := rec.Wait(testContext(t), func(f *tuntest.Recorded) bool { return f.Packet.Proto == packet.UDP })
			if err != nil {
				t.Fatal(err)
			}
			p := f.Packet
			if p.Dst != port || p.Src.Addr() != row.as.Addr() || string(p.Payload(f.Data)) != "hello" || p.Src.Port() < 1024 {
				t.Errorf("%v: the guest got %v", row.c, &p)
			}
			seen[p.Src] = true
			send(t, rec, udp(port, p.Src, "back"))
			if got := get(t, replies); got.to != row.c || got.data != "back" {
				t.Errorf("a reply %+v, want one to %v", got, row.c)
			}
		}
	}
	if st := g.Stats(); len(seen) != 4 || st.Flows != 3 || st.FlowsEvicted != 1 || st.InboundDatagrams != 8 || st.DatagramsOut != 8 {
		t.Errorf("the guest saw %v; counted %+v", seen, st)
	}
	in.Close()
	in.Close()
	in.Deliver(one, client, []byte("late"))
	if st := g.Stats(); st.Flows != 0 || st.DatagramsDropped != 1 {
		t.Errorf("after Close: %+v", st)
	}
}

// TestInletAndTheRest: who answers nobody is refused at the gateway as ever.
func TestInletAndTheRest(t *testing.T) {
	g, rec := withPackets(t, newPacketUplink(), nil)
	in := g.NewInlet(netip.AddrPortFrom(guestAddr, 53), func([]byte, Client) error { return nil })
	defer in.Close()
	in.Deliver(Client{From: netip.MustParseAddrPort("127.0.0.1:40000")}, netip.AddrPortFrom(gatewayAddr, 40000), []byte("x"))
	stray := udp(netip.AddrPortFrom(guestAddr, 54), netip.AddrPortFrom(gatewayAddr, 40000), "stray")
	send(t, rec, stray)
	wantError(t, rec, stray, packet.PortUnreachable.Message(false), gatewayAddr)
}
