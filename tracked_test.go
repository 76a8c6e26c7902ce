package tcpbox

import (
	"errors"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"tcpbox/netns"
	"tcpbox/netns/sockwatch"
	"tcpbox/stack/tcpstate"
	"tcpbox/stack/wire"
	"tcpbox/tun/packet"
)

// BenchmarkTracked is what the following of connections takes in memory while they
// are held, and in time until they stand: the row of each with what is known of it,
// and the guest's socket. The endpoint itself and its buffers are not in it.
//
//	go test -run '^$' -bench Tracked -benchtime 3x .
func BenchmarkTracked(b *testing.B) {
	b.Run("rows", func(b *testing.B) { track(b, false) })
	b.Run("rows and the guest's leg", func(b *testing.B) { track(b, true) })
}

const trackedConnections = 10_000

func track(b *testing.B, guest bool) {
	each := 4 // transitions
	if guest {
		each = 6
	}
	for b.Loop() {
		b.StopTimer()
		numbers := new(tcpstate.Numbers)
		r := newRecorder("bench", 0, nil, nil)
		g := &guestSockets{machines: make(map[wire.Tuple]*wire.Machine)}
		g.watcher = sockwatch.New(sockwatch.Config{NS: nowhere{}, Numbers: numbers, Sink: r.Push, OnEnd: g.forget})
		before := heap()
		b.StartTimer()
		for i := range trackedConnections {
			client := netip.AddrPortFrom(netip.MustParseAddr("198.18.0.2"), uint16(10_000+i))
			open(client, r, numbers, g, guest)
			if i%256 == 255 {
				r.await(each * (i + 1)) // the queue is bounded
			}
		}
		r.await(each * trackedConnections)
		b.StopTimer()
		b.ReportMetric(float64(heap()-before)/trackedConnections, "B/connection")
		if err := g.watcher.Close(); err != nil {
			b.Fatal(err)
		}
		r.Close()
		if n := r.Dropped(); n > 0 {
			b.Fatalf("%d records dropped", n)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/trackedConnections, "ns/connection")
}

// open has a connection opened, by all who tell of it.
func open(client netip.AddrPort, r *recorder, numbers *tcpstate.Numbers, g *guestSockets, guest bool) {
	server, host := netip.MustParseAddrPort("8.8.4.4:7000"), netip.AddrPortFrom(netip.MustParseAddr("10.99.0.1"), client.Port())
	now := time.Now()
	segment := func(fromGuest bool, flags packet.Flags, seq, ack uint32) {
		if !guest {
			return
		}
		s := wire.Segment{Time: now, FromGuest: fromGuest, Src: client, Dst: server, TCP: packet.TCPHeader{Flags: flags, Seq: seq, Ack: ack}}
		if !fromGuest {
			s.Src, s.Dst = server, client
		}
		g.see(s)
	}
	segment(true, packet.SYN, 1000, 0)
	conn := numbers.Begin(tcpstate.Stack, client, server, 1000)
	r.PushFacts(&tcpstate.Facts{Time: now, Conn: conn, Guest: client, Peer: server, Direction: tcpstate.Outbound, Rule: "net public"})
	step := func(leg tcpstate.Leg, local, remote netip.AddrPort, from, to tcpstate.State) {
		r.Push(tcpstate.Transition{Time: now, Conn: conn, Leg: leg, Local: local, Remote: remote, From: from, To: to, Source: tcpstate.FromStack})
	}
	step(tcpstate.Upstream, host, server, tcpstate.Closed, tcpstate.SynSent)
	step(tcpstate.Upstream, host, server, tcpstate.SynSent, tcpstate.Established)
	step(tcpstate.Stack, server, client, tcpstate.Closed, tcpstate.SynReceived)
	segment(false, packet.SYN|packet.ACK, 5000, 1001)
	segment(true, packet.ACK, 1001, 5001)
	step(tcpstate.Stack, server, client, tcpstate.SynReceived, tcpstate.Established)
}

// await waits until so many transitions have been taken in.
func (r *recorder) await(transitions int) {
	taken := func() uint64 {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.stat.Report().Records
	}
	for taken() < uint64(transitions) {
		runtime.Gosched()
	}
}

// heap is what is in use, after a collection.
func heap() int64 {
	runtime.GC()
	runtime.GC() // what the first one has finalised
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// nowhere is a namespace that there is no way into.
type nowhere struct{}

var errNowhere = errors.New("no namespace")

var _ netns.NS = nowhere{}

func (nowhere) Socket(int, int, int) (*os.File, error) { return nil, errNowhere }
func (nowhere) Sysctl(string) (string, error)          { return "", errNowhere }
func (nowhere) SetSysctl(string, string) error         { return errNowhere }
func (nowhere) ProcNet(string) ([]byte, error)         { return nil, errNowhere }
func (nowhere) Close() error                           { return nil }
