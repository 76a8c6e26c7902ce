package view

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"tcpbox/stack/legs"
	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

// compared is a run of connections whose guest closes and gives up after so long,
// or never if that is zero.
func compared(connections int, after time.Duration) *legs.Run {
	var rs legs.Runs
	begin := time.Unix(1000, 0)
	for n := range connections {
		now := begin.Add(time.Duration(n) * time.Millisecond)
		say := func(from, to tcpstate.State, kind tcpstate.CauseKind, which string, age time.Duration) {
			now = now.Add(age)
			rs.Add(&statelog.Record{
				Time: now, Conn: tcpstate.Conn(n + 1), Leg: tcpstate.Guest, From: from, To: to, Cause: tcpstate.Cause{Kind: kind, Which: which}, Age: age,
				Local: netip.AddrPortFrom(netip.MustParseAddr("198.18.0.2"), uint16(40000+n)), Remote: netip.MustParseAddrPort("198.18.0.16:80"),
			})
		}
		say(tcpstate.Closed, tcpstate.SynSent, tcpstate.ByCall, "connect", 0)
		say(tcpstate.SynSent, tcpstate.Established, tcpstate.BySegment, "SYN-ACK", 2*time.Millisecond)
		say(tcpstate.Established, tcpstate.FinWait1, tcpstate.ByCall, "close", 2*time.Millisecond)
		say(tcpstate.FinWait1, tcpstate.FinWait2, tcpstate.BySegment, "ACK", 2*time.Millisecond)
		if after > 0 {
			say(tcpstate.FinWait2, tcpstate.Closed, tcpstate.ByTimer, "fin-wait-2", after)
		}
	}
	rs.EndAt(begin.Add(5 * time.Second))
	return rs.Run()
}

func TestCompareText(t *testing.T) {
	c := Compare{A: Side{"fin-timeout=1s", 0, compared(1, time.Second)}, B: Side{"fin-timeout=60s", 3, compared(1, 0)}}
	const want = `a: fin-timeout=1s
b: fin-timeout=60s

                           a       b
exit status                0 |     3
connections                1       1
guest    CLOSED            1 |     0
guest    SYN-SENT          1       1
guest    ESTABLISHED       1       1
guest    FIN-WAIT-1        1       1
guest    FIN-WAIT-2        1       1

they part at the guest's end of connection 1, to 198.18.0.16:80: FIN-WAIT-2 → CLOSED, timer fin-wait-2: only in a

connection 1, to 198.18.0.16:80, the guest's end
  SECONDS a                               SECONDS b
    0.000 SYN-SENT     connect()            0.000 SYN-SENT     connect()
    0.002 ESTABLISHED  got SYN-ACK          0.002 ESTABLISHED  got SYN-ACK
    0.004 FIN-WAIT-1   close()              0.004 FIN-WAIT-1   close()
    0.006 FIN-WAIT-2   got ACK              0.006 FIN-WAIT-2   got ACK
|   1.006 CLOSED       timer fin-wait-2     5.000 (the run ended, 4.99s later)
`
	if got := string(c.Text(nil, legs.Compare(c.A.Run, c.B.Run))); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestCompareFirst: where runs part, in words.
func TestCompareFirst(t *testing.T) {
	for _, tt := range []struct {
		a, b *legs.Run
		want string
	}{
		{compared(2, 0), compared(1, 0), "connection 2, to 198.18.0.16:80: only a has it"},
		{compared(1, 0), compared(2, 0), "connection 2, to 198.18.0.16:80: only b has it"},
		{compared(1, time.Second), compared(1, 3*time.Second), "the guest's end of connection 1, to 198.18.0.16:80: FIN-WAIT-2 > CLOSED, timer fin-wait-2: after 1.00s in a, 3.00s in b"},
		{compared(1, 0), compared(1, 3*time.Second), "the guest's end of connection 1, to 198.18.0.16:80: FIN-WAIT-2 > CLOSED, timer fin-wait-2: only in b"},
	} {
		c := Compare{Line: Line{ASCII: true}, A: Side{"", 0, tt.a}, B: Side{"", 0, tt.b}}
		parts := legs.Compare(tt.a, tt.b)
		if len(parts) == 0 || c.First(&parts[0]) != tt.want {
			t.Errorf("%d parts, %q, want %q", len(parts), c.Text(nil, parts), tt.want)
		}
	}
}

// TestCompareShowsTheFirst: of many connections that differ some are drawn.
func TestCompareShowsTheFirst(t *testing.T) {
	a, b := compared(maxShown+5, time.Second), compared(maxShown+5, 0)
	got := string(Compare{A: Side{"x", 0, a}, B: Side{"y", 0, b}}.Text(nil, legs.Compare(a, b)))
	if n := strings.Count(got, "SECONDS a"); n != maxShown || !strings.HasSuffix(got, "\n5 more differ, in later steps\n") {
		t.Errorf("%d are drawn, want %d and 5 more counted:\n%s", n, maxShown, got)
	}
}
