package lab

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"tcpbox/integration/testnet"
	"tcpbox/stack/sim"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

// simulated runs a row and returns what happened and what was counted.
func simulated(t *testing.T, l *Lab, v *Variant) (events []sim.Event, figures Figures) {
	t.Helper()
	b, err := startSim(t.Context(), l, v)
	if err != nil {
		t.Fatal(err)
	}
	s := b.(*simBox)
	for i := range v.Steps {
		if _, err := b.step(t.Context(), &v.Steps[i]); err != nil {
			t.Fatal(err)
		}
	}
	if figures, err = b.count(t.Context(), nil, nil); err != nil {
		t.Fatal(err)
	}
	events = s.player.net.Events()
	if err := b.close(); err != nil {
		t.Fatal(err)
	}
	if len(s.misses) > 0 {
		t.Fatalf("%s, %s: %v", l.Name, v.Name, s.misses)
	}
	return events, figures
}

// TestSegmentsByTshark has tshark read the segments of labs, and compares its
// counts by flags, its relative numbers and what it says of the whole
// conversation with what the labs counted and checked.
func TestSegmentsByTshark(t *testing.T) {
	testnet.Programs(t, "tshark")
	type told struct {
		row     string
		figures Figures
		counted Figures
		frames  int
	}
	var frames []testnet.Frame
	var rows []*told
	var ours []string // seq and ack of each frame
	for _, l := range []Lab{Handshake(), Teardown(), AllStates()} {
		for i := range l.Variants {
			v := &l.Variants[i]
			events, figures := simulated(t, &l, v)
			row := &told{row: l.Name + ", " + v.Name, figures: figures, counted: Figures{}}
			rows = append(rows, row)
			p := &player{iss: make(map[tcpstate.Leg]uint32)}
			for _, e := range events {
				if e.Packet == nil {
					continue
				}
				h, err := packet.Parse(e.Packet)
				if err != nil {
					t.Fatal(err)
				}
				leg := tcpstate.Stack
				if e.FromGuest {
					leg = tcpstate.Guest
				}
				if h.TCP.Flags.Has(packet.SYN) {
					p.iss[leg] = h.TCP.Seq
				}
				ack := uint32(0)
				if h.TCP.Flags.Has(packet.ACK) {
					ack = h.TCP.Ack - p.iss[other(leg)]
				}
				seq := h.TCP.Seq - p.iss[leg]
				if _, known := p.iss[leg]; !known {
					seq = 1 // an end that refuses has no first number; tshark takes it for the second
				}
				ours = append(ours, fmt.Sprintf("seq=%d ack=%d len=%d", seq, ack, h.PayloadLen()))
				// Each row has a guest of its own, so that its connections are its own.
				number := len(rows)
				set := h.SetDst
				from := h.Dst
				if e.FromGuest {
					set, from = h.SetSrc, h.Src
				}
				if err := set(e.Packet, addrOf(number, from.Port()), false); err != nil {
					t.Fatal(err)
				}
				frames = append(frames, testnet.Frame{Time: time.Unix(int64(number)*10000, 0).Add(e.Time.Sub(time.Unix(0, 0))), Data: e.Packet})
				row.frames++
			}
		}
	}
	names := map[string]string{"0x0002": "SYN", "0x0012": "SYN+ACK", "0x0010": "ACK", "0x0018": "ACK", "0x0011": "FIN+ACK", "0x0019": "FIN+ACK", "0x0014": "RST+ACK", "0x0004": "RST"}
	fields := testnet.Tshark(t, frames, "tcp.flags", "tcp.seq", "tcp.ack", "tcp.len", "ip.src", "tcp.completeness")
	at := 0
	for _, row := range rows {
		complete := make(map[string]bool)
		for range row.frames {
			f := fields[at]
			one := func(name string) string { return append(f[name], "")[0] }
			leg := "guest."
			if one("ip.src") == sim.StackAddr.String() {
				leg = "stack."
			}
			row.counted[leg+names[one("tcp.flags")]]++
			row.counted[leg+"segments"]++
			n, err := strconv.Atoi(one("tcp.len"))
			if err != nil {
				t.Fatal(err)
			}
			row.counted[leg+"payload"] += n
			if got := fmt.Sprintf("seq=%s ack=%s len=%s", one("tcp.seq"), one("tcp.ack"), one("tcp.len")); got != ours[at] {
				t.Errorf("%s: a segment is %s, and tshark has %s (%s)", row.row, ours[at], got, one("tcp.flags"))
			}
			complete[one("tcp.completeness")] = true
			at++
		}
		for name, n := range row.counted {
			if row.figures[name] != n {
				t.Errorf("%s: %s is %d, and tshark has %d", row.row, name, row.figures[name], n)
			}
		}
		got := slices.Sorted(maps.Keys(complete))
		if want, ok := completeness[row.row]; ok && !slices.Equal(got, []string{want}) {
			t.Errorf("%s: tshark calls it %v, want %s", row.row, got, want)
		}
		t.Logf("%s: %d segments, completeness %v", row.row, row.frames, got)
	}
	if at != len(fields) {
		t.Errorf("tshark read %d segments, %d were sent", len(fields), at)
	}
}

// completeness is what tshark has as tcp.completeness of some rows: SYN is 1,
// SYN+ACK 2, ACK 4, data 8, FIN 16, RST 32.
var completeness = map[string]string{
	"handshake, three-segments":     "7",
	"handshake, no-answer":          "1",
	"handshake, synack-unanswered":  "3",
	"teardown, client-first":        "23",
	"teardown, merged":              "23",
	"teardown, half-close":          "31",
	"teardown, linger-0":            "39",
	"all-states, three-connections": "23",
}

// addrOf is the guest of a row.
func addrOf(row int, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, 1, byte(row)}), port)
}
