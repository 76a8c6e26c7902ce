package netstack

import (
	"context"
	"io"
	"net/netip"
	"runtime"
	"testing"

	gvstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"tcpbox/tun"
	"tcpbox/tun/packet"
	"tcpbox/tun/tuntest"
)

// tracked returns a stack with a connection, and what its probe is called with.
func tracked(tb testing.TB) (*Stack, *tcp.TCPEndpointState) {
	p := newPair(tb)
	_, server := p.connect(tb)
	return p.gateway, &tcp.TCPEndpointState{ID: tcp.TCPEndpointID(server.rec.tuple)}
}

// TestTrackerAllocates: a segment that changes nothing costs no allocation, in
// ingress, probe, notification and egress.
func TestTrackerAllocates(t *testing.T) {
	s, state := tracked(t)
	r := s.tracker.find(gvstack.TransportEndpointID(state.ID))
	pkt := packet.Build{Src: r.remote, Dst: r.local, Flags: packet.ACK, Payload: make([]byte, 1000)}.Bytes()
	for what, f := range map[string]func(){
		"probe":   func() { s.tracker.probe(state) },
		"notify":  func() { s.tracker.observe(r, viaNotify) },
		"ingress": func() { s.ingress(pkt, tun.Offload{}) },
	} {
		if n := testing.AllocsPerRun(1000, f); n != 0 {
			t.Errorf("%s: %v allocations per segment", what, n)
		}
	}
}

// BenchmarkTracker is what the tracker adds to a segment.
func BenchmarkTracker(b *testing.B) {
	s, state := tracked(b)
	b.ReportAllocs()
	for b.Loop() {
		s.tracker.probe(state)
	}
}

// BenchmarkIngress is what ingress adds to a segment of 1,000 bytes, with its
// checksum to be verified and without.
func BenchmarkIngress(b *testing.B) {
	s, state := tracked(b)
	r := s.tracker.find(gvstack.TransportEndpointID(state.ID))
	pkt := packet.Build{Src: r.remote, Dst: r.local, Flags: packet.ACK, Payload: make([]byte, 1000)}.Bytes()
	for name, off := range map[string]tun.Offload{"verify": {}, "valid": {DataValid: true}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.ingress(pkt, off)
			}
		})
	}
}

// BenchmarkConnection opens and closes a connection, both ends being stacks.
func BenchmarkConnection(b *testing.B) {
	link, gateway := tuntest.Pair(1500)
	p := newPairOn(b, link, gateway, func(guest, gateway *Config) {
		guest.Sink, gateway.Sink = nil, nil
		gateway.OnSYN = func(r *Request) {
			if c, err := r.Accept(); err == nil {
				io.Copy(io.Discard, c)
				c.Close()
			}
		}
	})
	p.guest.SetTimeWaitTimeout(0)
	b.ReportAllocs()
	for b.Loop() {
		c, err := p.guest.Dial(context.Background(), 0, ap(guestAddr, 0), serverAddr)
		if err != nil {
			b.Fatal(err)
		}
		c.CloseWrite()
		io.Copy(io.Discard, c)
		c.Close()
	}
}

// BenchmarkTimeWait tells how much memory an endpoint in TIME-WAIT holds.
func BenchmarkTimeWait(b *testing.B) {
	a, dev := tuntest.Pair(1500)
	rec := tuntest.Record(a)
	defer rec.Close()
	conns := make(chan *Conn, 1)
	s := mustNew(b, Config{Device: dev, Addrs: []netip.Addr{gatewayAddr}, OnSYN: func(r *Request) {
		if c, err := r.Accept(); err == nil {
			conns <- c
		}
	}})
	g := &rawGuest{Recorder: rec, t: b, ctx: testContext(b), gateway: s}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	const each = 200
	before := heap()
	n := 0
	for b.Loop() {
		for range each {
			c := g.conn(uint16(1024 + n%60000))
			n++
			c.syn()
			c.expect(synAck)
			c.send(ackFl, "")
			s := <-conns
			s.Close()
			c.expect(finAck)
			c.send(finAck, "")
			c.expect(ackFl)
		}
		if n > 20000 {
			break
		}
	}
	// What the recorder keeps is not the stack's.
	recorded := uint64(0)
	for _, f := range rec.Frames() {
		recorded += uint64(cap(f.Data)) + 256
	}
	b.ReportMetric(float64(heap()-before-recorded)/float64(s.Stats().Tracked), "B/endpoint")
}

// BenchmarkThroughput moves bytes from one stack to another, by Write and Read,
// and by ReadFrom and WriteTo.
func BenchmarkThroughput(b *testing.B) {
	const size = 256 << 10
	for _, mtu := range []int{1500, 65520} {
		for _, hybrid := range []bool{false, true} {
			name := map[int]string{1500: "mtu1500", 65520: "mtu65520"}[mtu] + map[bool]string{false: "/write-read", true: "/readfrom-writeto"}[hybrid]
			b.Run(name, func(b *testing.B) {
				link, gateway := tuntest.Pair(mtu)
				p := newPairOn(b, link, gateway)
				client, server := p.connect(b)
				done := make(chan int64, 1)
				go func() {
					var n int64
					if hybrid {
						n, _ = server.WriteTo(sinkAll{})
					} else {
						n, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{server}, make([]byte, size))
					}
					done <- n
				}()
				b.SetBytes(size)
				if hybrid {
					client.ReadFrom(&endless{left: b.N * size})
				} else {
					buf := make([]byte, size)
					for range b.N {
						client.Write(buf)
					}
				}
				client.CloseWrite()
				if n := <-done; n != int64(b.N)*size {
					b.Errorf("%d bytes came, want %d", n, b.N*size)
				}
			})
		}
	}
}

// sinkAll takes everything at once.
type sinkAll struct{}

func (sinkAll) TryWrite(p []byte) (int, error) { return len(p), nil }
func (sinkAll) WaitWrite() error               { return nil }
func (sinkAll) Write(p []byte) (int, error)    { return len(p), nil }

// endless always has something, until it has ended.
type endless struct{ left int }

func (r *endless) Buffered() (int, error) { return min(r.left, 512<<10), nil }
func (r *endless) TryRead(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), r.left)
	r.left -= n
	return n, nil
}
func (r *endless) WaitRead() error            { return nil }
func (r *endless) Read(p []byte) (int, error) { return r.TryRead(p) }
