package wire

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

var (
	guestEnd  = netip.MustParseAddrPort("198.18.0.2:40001")
	remoteEnd = netip.MustParseAddrPort("203.0.113.5:80")
)

// The initial sequence numbers of a talk are behind the wrap for the guest, and
// before it for the stack.
const (
	guestISS = 1000
	stackISS = 0xffffffff
)

// talk reads segments: the direction, the flags by their first letters, the
// numbers relative to the initial ones, and the bytes of payload:
//
//	> S 0    < SA 0 1    > A 1 1    < A 1 1 100    > FA 1 101
//
// The time of the n-th is n seconds.
func talk(t *testing.T, text string) (all []Segment) {
	t.Helper()
	for i, line := range strings.Split(text, ";") {
		f := strings.Fields(line)
		s := Segment{FromGuest: f[0] == ">", Time: time.Unix(int64(i+1), 0)}
		mine, theirs := uint32(stackISS), uint32(guestISS)
		s.Src, s.Dst = remoteEnd, guestEnd
		if s.FromGuest {
			mine, theirs = theirs, mine
			s.Src, s.Dst = guestEnd, remoteEnd
		}
		for _, c := range f[1] {
			s.TCP.Flags |= map[rune]packet.Flags{'S': packet.SYN, 'A': packet.ACK, 'F': packet.FIN, 'R': packet.RST}[c]
		}
		numbers := make([]uint32, 3)
		for i, text := range f[2:] {
			fmt.Sscan(text, &numbers[i])
		}
		s.TCP.Seq = mine + numbers[0]
		if s.TCP.Flags.Has(packet.ACK) {
			s.TCP.Ack = theirs + numbers[1]
		}
		s.Payload = int(numbers[2])
		all = append(all, s)
	}
	return all
}

// told prints changes: the segment's number, the leg, the state, and ? for what
// is not sure.
func told(changes []Change) (lines []string) {
	for _, c := range changes {
		line := fmt.Sprintf("%d %v %v", c.Time.Unix(), c.Leg, c.To)
		if !c.Sure {
			line += "?"
		}
		lines = append(lines, line)
	}
	return lines
}

const (
	out    = "> S 0; < SA 0 1; > A 1 1"
	opened = "1 guest SYN-SENT, 1 stack SYN-RECEIVED, 2 guest ESTABLISHED, 3 stack ESTABLISHED?"
)

func TestMachine(t *testing.T) {
	for _, row := range []struct{ name, talk, want string }{
		{"handshake", out, opened},
		{"handshake from outside", "< S 0; > SA 0 1; < A 1 1; < A 1 1 5; > A 1 6", "1 stack SYN-SENT, 1 guest SYN-RECEIVED, 2 stack ESTABLISHED, 3 guest ESTABLISHED?"},
		{"SYN twice", "> S 0; > S 0; < SA 0 1; > A 1 1", "1 guest SYN-SENT, 1 stack SYN-RECEIVED, 3 guest ESTABLISHED, 4 stack ESTABLISHED?"},
		{"refused", "> S 0; < RA 0 1", "1 guest SYN-SENT, 2 guest CLOSED?"},
		{"an RST that is not for this SYN", "> S 0; < RA 0 7", "1 guest SYN-SENT"},
		{"no answer", "> S 0; > S 0; > S 0", "1 guest SYN-SENT"},
		{"both ask at once", "> S 0; < S 0; > SA 0 1; < SA 0 1; > A 1 1 3; < A 1 4", "1 guest SYN-SENT, 2 stack SYN-SENT, 2 guest SYN-RECEIVED, 2 stack SYN-RECEIVED, 4 stack ESTABLISHED?, 4 guest ESTABLISHED?"},
		{
			"the final ACK was not taken in", "< S 0; > SA 0 1; < A 1 1; > SA 0 1; < A 1 1",
			"1 stack SYN-SENT, 1 guest SYN-RECEIVED, 2 stack ESTABLISHED, 3 guest ESTABLISHED?, 4 guest SYN-RECEIVED, 5 guest ESTABLISHED?",
		},

		{"the guest closes", out + "; > FA 1 1; < A 1 2; < FA 1 2; > A 2 2", opened + ", 4 guest FIN-WAIT-1, 5 guest FIN-WAIT-2?, 4 stack CLOSE-WAIT, 6 stack LAST-ACK, 6 guest TIME-WAIT, 7 stack CLOSED?"},
		{"the stack closes", out + "; < FA 1 1; > A 1 2; > FA 1 2; < A 2 2", opened + ", 4 stack FIN-WAIT-1, 4 guest CLOSE-WAIT, 5 stack FIN-WAIT-2?, 6 guest LAST-ACK, 6 stack TIME-WAIT, 7 guest CLOSED?"},
		{"FIN and ACK in one", out + "; > FA 1 1; < FA 1 2; > A 2 2", opened + ", 4 guest FIN-WAIT-1, 4 stack CLOSE-WAIT, 5 stack LAST-ACK, 5 guest TIME-WAIT, 6 stack CLOSED?"},
		{"FINs that cross", out + "; > FA 1 1; < FA 1 1; > A 2 2; < A 2 2", opened + ", 4 guest FIN-WAIT-1, 5 stack FIN-WAIT-1, 5 guest CLOSING, 5 stack CLOSING, 6 stack TIME-WAIT?, 7 guest TIME-WAIT?"},
		{"half-closed, and data back", out + "; > FA 1 1; < A 1 2; < A 1 2 900; > A 2 901; < FA 901 2; > A 2 902", opened + ", 4 guest FIN-WAIT-1, 4 stack CLOSE-WAIT, 5 guest FIN-WAIT-2?, 8 stack LAST-ACK, 8 guest TIME-WAIT, 9 stack CLOSED?"},
		{"the last ACK is lost", out + "; < FA 1 1; > FA 1 2; < A 2 2; > FA 1 2; < A 2 2", opened + ", 4 stack FIN-WAIT-1, 4 guest CLOSE-WAIT, 5 guest LAST-ACK, 5 stack TIME-WAIT, 6 guest CLOSED?, 7 guest UNKNOWN, 8 guest CLOSED?"},
		{"FIN with data", out + "; > FA 1 1 50; < A 1 52", opened + ", 4 guest FIN-WAIT-1, 4 stack CLOSE-WAIT, 5 guest FIN-WAIT-2?"},
		{"an ACK that does not cover the FIN", out + "; > FA 1 1 50; < A 1 51", opened + ", 4 guest FIN-WAIT-1"},

		{"reset", out + "; > RA 1 1", opened + ", 4 guest CLOSED, 4 stack CLOSED?"},
		{"an RST that is not obeyed", out + "; > RA 9 1; < A 1 1", opened + ", 4 guest CLOSED, 4 stack CLOSED?, 5 stack UNKNOWN"},
		{"reset in TIME-WAIT", out + "; > FA 1 1; < FA 1 2; > A 2 2; < R 2 0", opened + ", 4 guest FIN-WAIT-1, 4 stack CLOSE-WAIT, 5 stack LAST-ACK, 5 guest TIME-WAIT, 6 stack CLOSED?, 7 guest UNKNOWN?"},
		{"reset after the SYN-ACK", "> S 0; < SA 0 1; > R 1 0", "1 guest SYN-SENT, 1 stack SYN-RECEIVED, 3 stack CLOSED?"},

		{"from the middle", "> A 50 60; < A 60 51 100; > FA 51 160; < A 160 52", ""},
		{"a new one after that", "> A 50 60; " + out, "2 guest SYN-SENT, 2 stack SYN-RECEIVED, 3 guest ESTABLISHED, 4 stack ESTABLISHED?"},
		{"the tuple again", out + "; > FA 1 1; < FA 1 2; > A 2 2; > S 5000; < SA 9000 5001", opened + ", 4 guest FIN-WAIT-1, 4 stack CLOSE-WAIT, 5 stack LAST-ACK, 5 guest TIME-WAIT, 6 stack CLOSED?, 7 guest CLOSED, 7 guest SYN-SENT, 7 stack SYN-RECEIVED"},
	} {
		var m Machine
		var changes []Change
		for _, s := range talk(t, row.talk) {
			changes = m.See(&s, changes)
		}
		got := told(changes)
		var want []string
		if row.want != "" {
			want = strings.Split(row.want, ", ")
		}
		// The order between the ends does not matter.
		slices.SortStableFunc(got, byLeg)
		slices.SortStableFunc(want, byLeg)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %s\n  tells %s\n   want %s", row.name, row.talk, strings.Join(got, ", "), strings.Join(want, ", "))
		}
	}
}

func byLeg(a, b string) int { return strings.Compare(strings.Fields(a)[1], strings.Fields(b)[1]) }

// FuzzMachine: whatever the segments are, a sure step is one that RFC 9293 has,
// unless it leads away from what was not, and the times of an end do not go back.
func FuzzMachine(f *testing.F) {
	f.Add([]byte{0x02, 0, 0, 0x92, 0, 1, 0x10, 1, 1, 0x11, 1, 1, 0x91, 1, 2, 0x10, 2, 2})
	f.Fuzz(func(t *testing.T, script []byte) {
		var m Machine
		sure := map[tcpstate.Leg]bool{tcpstate.Guest: true, tcpstate.Stack: true}
		var last [numLegs]Change
		for i := 0; i+3 <= len(script); i += 3 {
			s := Segment{FromGuest: script[i]&0x80 == 0, Time: time.Unix(int64(i), 0), Src: guestEnd, Dst: remoteEnd}
			s.TCP.Flags = packet.Flags(script[i] & 0x17)
			s.TCP.Seq, s.TCP.Ack = uint32(script[i+1]), uint32(script[i+2])
			if script[i]&0x40 != 0 {
				s.Payload = 3
			}
			for _, c := range m.See(&s, nil) {
				before := last[c.Leg]
				if before.Time.After(c.Time) {
					t.Fatalf("%+v after %+v", c, before)
				}
				if before.To != tcpstate.Unknown && c.From != before.To {
					t.Fatalf("%+v does not follow on %+v", c, before)
				}
				if c.From != tcpstate.Unknown && c.To != tcpstate.Unknown && sure[c.Leg] && !tcpstate.Legal(c.From, c.To) {
					t.Fatalf("%v > %v", c.From, c.To)
				}
				last[c.Leg], sure[c.Leg] = c, c.Sure
			}
		}
	})
}

const numLegs = 4
