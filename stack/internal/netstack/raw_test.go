package netstack

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"tcpbox/tun/packet"
	"tcpbox/tun/tuntest"
)

const testTimeout = time.Minute // machines are slow at times

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(testTimeout)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("it never happened that %s", what)
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// A rawGuest is a guest made of single packets, in front of a gateway.
type rawGuest struct {
	*tuntest.Recorder
	t        testing.TB
	ctx      context.Context
	gateway  *Stack
	log      *transitionLog
	requests chan *Request
}

func newRawGuest(t testing.TB, opts ...func(*Config)) *rawGuest {
	t.Helper()
	a, b := tuntest.Pair(1500)
	g := &rawGuest{
		Recorder: tuntest.Record(a), t: t, ctx: testContext(t),
		log: newTransitionLog(), requests: make(chan *Request, 1<<14),
	}
	cfg := Config{
		Device: b, Addrs: []netip.Addr{gatewayAddr, gatewayAddr6}, Sink: g.log.sink,
		Guest: []netip.Prefix{netip.PrefixFrom(guestAddr, 32), netip.PrefixFrom(guestAddr6, 128)},
		OnSYN: func(r *Request) {
			g.requests <- r
			<-r.Context().Done()
		},
	}
	for _, o := range opts {
		o(&cfg)
	}
	g.gateway = mustNew(t, cfg)
	t.Cleanup(func() { g.Recorder.Close() })
	return g
}

var (
	guestAddr6   = netip.MustParseAddr("fd74:6370:626f:78::2")
	gatewayAddr6 = netip.MustParseAddr("fd74:6370:626f:78::1")
	serverAddr6  = netip.MustParseAddrPort("[2001:db8::5]:80")
)

func (g *rawGuest) send(b packet.Build) {
	g.t.Helper()
	if err := g.Send(b.Bytes()); err != nil {
		g.t.Fatal(err)
	}
}

// request returns the next connection that the gateway is asked for.
func (g *rawGuest) request() *Request {
	g.t.Helper()
	select {
	case r := <-g.requests:
		return r
	case <-g.ctx.Done():
		g.t.Fatal("no request arrived")
		return nil
	}
}

// A rawConn is one connection of a rawGuest: it knows what to send next.
type rawConn struct {
	g        *rawGuest
	src, dst netip.AddrPort
	seq, ack uint32
	ts       uint32 // timestamp of every segment; 0: none
}

func (g *rawGuest) conn(port uint16) *rawConn {
	return &rawConn{g: g, src: netip.AddrPortFrom(guestAddr, port), dst: serverAddr, seq: 1000}
}

func (c *rawConn) build(flags packet.Flags, payload string) packet.Build {
	b := packet.Build{Src: c.src, Dst: c.dst, Flags: flags, Seq: c.seq, Window: 65535, Payload: []byte(payload)}
	if flags.Has(packet.SYN) {
		b.Options = packet.MSS(1460)
	}
	if c.ts != 0 {
		b.Options = append(b.Options, packet.Timestamps(c.ts, 0)...)
	}
	if flags.Has(packet.ACK) {
		b.Ack = c.ack
	}
	return b
}

// send sends a segment and goes on behind it.
func (c *rawConn) send(flags packet.Flags, payload string) {
	c.g.t.Helper()
	c.g.send(c.build(flags, payload))
	c.seq += uint32(len(payload))
	if flags&(packet.SYN|packet.FIN) != 0 {
		c.seq++
	}
}

func (c *rawConn) syn() {
	c.g.t.Helper()
	c.send(packet.SYN, "")
}

// expect waits for a segment with exactly these flags and acknowledges it from
// then on.
func (c *rawConn) expect(flags packet.Flags) *packet.Packet {
	c.g.t.Helper()
	f, err := c.g.Wait(c.g.ctx, func(f *tuntest.Recorded) bool {
		p := &f.Packet
		return p.Proto == packet.TCP && p.Dst == c.src && p.Src == c.dst && p.TCP.Flags&^packet.PSH == flags
	})
	if err != nil {
		c.g.t.Fatalf("waiting for %v: %v", flags, err)
	}
	if flags&packet.RST == 0 {
		c.ack = f.Packet.TCP.Seq + f.Packet.SegLen()
	}
	return &f.Packet
}

// establish opens the connection and returns the gateway's end.
func (c *rawConn) establish() *Conn {
	c.g.t.Helper()
	c.syn()
	req := c.g.request()
	type accepted struct {
		c   *Conn
		err error
	}
	ch := make(chan accepted, 1)
	go func() {
		s, err := req.Accept()
		ch <- accepted{s, err}
	}()
	c.expect(packet.SYN | packet.ACK)
	c.send(packet.ACK, "")
	select {
	case a := <-ch:
		if a.err != nil {
			c.g.t.Fatal("accept:", a.err)
		}
		return a.c
	case <-c.g.ctx.Done():
		c.g.t.Fatal("the handshake was not completed")
		return nil
	}
}

// accept completes the handshake in a goroutine, whose end it returns.
func accept(req *Request) <-chan error {
	ch := make(chan error, 1)
	go func() {
		c, err := req.Accept()
		if err == nil {
			c.Close()
		}
		ch <- err
	}()
	return ch
}

// dial opens a connection from the gateway to the guest's port.
func (g *rawGuest) dial(ctx context.Context, port uint16) (*rawConn, <-chan error, <-chan *Conn) {
	g.t.Helper()
	errs, conns := make(chan error, 1), make(chan *Conn, 1)
	dst := netip.AddrPortFrom(guestAddr, port)
	go func() {
		c, err := g.gateway.Dial(ctx, 0, netip.AddrPortFrom(gatewayAddr, 0), dst)
		if err == nil {
			conns <- c
		}
		errs <- err
	}()
	f, err := g.Wait(g.ctx, func(f *tuntest.Recorded) bool {
		return f.Packet.Proto == packet.TCP && f.Packet.TCP.Flags == packet.SYN && f.Packet.Dst == dst
	})
	if err != nil {
		g.t.Fatal(err)
	}
	c := &rawConn{g: g, src: dst, dst: f.Packet.Src, seq: 5000, ack: f.Packet.TCP.Seq + 1}
	return c, errs, conns
}
