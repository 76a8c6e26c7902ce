package wire

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"tcpbox/tun"
	"tcpbox/tun/packet"
)

// feed builds the packets of a talk and gives them to the Tracer.
func feed(t *testing.T, tr *Tracer, text string) {
	t.Helper()
	for _, s := range talk(t, text) {
		whole, ok := Parse(build(s, false), s.FromGuest, tun.Offload{})
		if !ok {
			t.Fatalf("%+v is no segment", s)
		}
		whole.Time = s.Time
		tr.add(&whole, true)
	}
}

func lines(tr Trace) string {
	var all []string
	for i := range tr.Segments {
		k := &tr.Segments[i]
		way := "<"
		if k.FromGuest {
			way = ">"
		}
		_, _, h, err := packet.ParseTCP(k.Header())
		text := fmt.Sprintf("%s %v %d", way, h.Flags, k.Payload)
		if k.Skipped > 0 {
			text = fmt.Sprintf("(%d) %s", k.Skipped, text)
		}
		if err != nil || h.TSVal != 7 || !k.Partial {
			text += "!"
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

func TestTracerKeepsBeginningAndEnd(t *testing.T) {
	tr := NewTracer(TracerConfig{First: 3, Last: 2})
	feed(t, tr, out+"; > A 1 1 1; > A 2 1 2; > A 4 1 3; > A 7 1 4")
	tr.Number(Tuple{guestEnd, remoteEnd}, 7, time.Unix(2, 0))
	tr.Number(Tuple{guestEnd, remoteEnd}, 8, time.Unix(3, 0)) // has one
	got, ok := tr.Find(7)
	if want := "> SYN 0, < SYN|ACK 0, > ACK 0, (2) > ACK 3, > ACK 4"; !ok || lines(got) != want || got.Tuple != (Tuple{guestEnd, remoteEnd}) {
		t.Errorf("Find = %s, %v, want %s", lines(got), ok, want)
	}
	if _, ok := tr.Find(8); ok {
		t.Error("a connection has got a second number")
	}
	if done := tr.Sweep(time.Unix(1000, 0), false); len(done) != 0 {
		t.Errorf("an open connection is swept: %v", done)
	}
	if done := tr.Sweep(time.Unix(1000, 0), true); len(done) != 1 || done[0].Conn != 7 {
		t.Errorf("Sweep of all = %v", done)
	}
}

func TestTracerSweepsWhatIsOver(t *testing.T) {
	for _, row := range []struct {
		name, talk string
		at         int64 // of the last segment, when it is over
	}{
		{"closed", out + "; > FA 1 1; < FA 1 2; > A 2 2", 6},
		{"reset", out + "; > R 1 0", 4},
		{"refused", "> S 0; < RA 0 1", 2},
		{"the last ACK again", out + "; > FA 1 1; < FA 1 2; > A 2 2; < FA 1 2; > A 2 2", 8},
		{"half-closed", out + "; > FA 1 1; < A 1 2", 0},
	} {
		tr := NewTracer(TracerConfig{})
		feed(t, tr, row.talk)
		early := tr.Sweep(time.Unix(row.at+1, 0), false)
		late := tr.Sweep(time.Unix(row.at+2, 0), false)
		if len(early) != 0 || (len(late) == 1) != (row.at > 0) {
			t.Errorf("%s: %d are over a second after, %d two seconds after", row.name, len(early), len(late))
		}
	}
}

func TestTracerTellsConnectionsApart(t *testing.T) {
	tr := NewTracer(TracerConfig{MaxConns: 3})
	feed(t, tr, "> S 0; > S 0; < RA 0 1; > S 500; < RA 0 501")
	tr.Number(Tuple{guestEnd, remoteEnd}, 2, time.Unix(4, 0))
	tr.Number(Tuple{guestEnd, remoteEnd}, 1, time.Unix(1, 0))
	one, _ := tr.Find(1)
	two, _ := tr.Find(2)
	if lines(one) != "> SYN 0, > SYN 0, < RST|ACK 0" || lines(two) != "> SYN 0, < RST|ACK 0" {
		t.Errorf("one is %s, two is %s", lines(one), lines(two))
	}
	for i := range 100 {
		s, _ := Parse(packet.Build{Src: netip.AddrPortFrom(guestEnd.Addr(), uint16(i)), Dst: remoteEnd, Flags: packet.SYN}.Bytes(), true, tun.Offload{})
		s.Time = time.Unix(int64(100+i), 0)
		tr.add(&s, true)
	}
	if n, m := len(tr.live), len(tr.ended); n != 3 || m != 3 {
		t.Errorf("%d live, %d ended", n, m)
	}
}
