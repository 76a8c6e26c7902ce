package legs

import (
	"net/netip"
	"runtime"
	"testing"
	"time"

	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

// life is what the log has of a connection that is open: three legs and facts.
func life(conn tcpstate.Conn, take func(*statelog.Record)) {
	guest := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, 0, 2}), uint16(conn))
	peer, host := netip.MustParseAddrPort("203.0.113.9:443"), netip.MustParseAddrPort("192.0.2.1:50000")
	for _, leg := range tcpstate.Legs() {
		local, remote := guest, peer
		switch leg {
		case tcpstate.Stack:
			local, remote = peer, guest
		case tcpstate.Upstream:
			local = host
		}
		take(&statelog.Record{
			Time: time.Unix(int64(conn), 0), Sandbox: "web", Conn: conn, Leg: leg, Local: local, Remote: remote,
			From: tcpstate.SynSent, To: tcpstate.Established, Cause: tcpstate.Cause{Kind: tcpstate.BySegment, Which: "SYN-ACK"},
		})
	}
	take(&statelog.Record{Time: time.Unix(int64(conn), 0), Sandbox: "web", Conn: conn, Facts: &tcpstate.Facts{
		Conn: conn, Guest: guest, Peer: peer, PID: 7, Command: "curl", Name: "www.example.com", Rule: "net public",
		Bytes: &tcpstate.Bytes{Outbound: 1}, Path: &tcpstate.Path{RTT: 1},
	}})
}

// TestMemoryOfATrackedConnection states what a row takes, which docs/ss.md says.
func TestMemoryOfATrackedConnection(t *testing.T) {
	const rows, most = 20_000, 800
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var table Table
	for conn := range tcpstate.Conn(rows) {
		life(conn+1, func(r *statelog.Record) { table.Add(r) })
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := float64(after.HeapAlloc-before.HeapAlloc) / rows
	t.Logf("%.0f bytes for each connection", each)
	if each > most {
		t.Errorf("a connection takes %.0f bytes, want at most %d", each, most)
	}
	runtime.KeepAlive(&table)
}

func BenchmarkTable(b *testing.B) {
	table := Table{MaxRows: 1 << 10}
	conn := tcpstate.Conn(0)
	b.ReportAllocs()
	for b.Loop() {
		conn++
		life(conn&1023, func(r *statelog.Record) { table.Add(r) })
	}
}
