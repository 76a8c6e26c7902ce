package fault

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"tcpbox/stack/tcpstate"
	"tcpbox/tun"
	"tcpbox/tun/packet"
)

const (
	synAck = packet.SYN | packet.ACK
	finAck = packet.FIN | packet.ACK
	rstAck = packet.RST | packet.ACK
)

// A talk is segments, each with a name: who sends it, and what it is. The guest's
// numbers begin at 100, the stack's at 500.
type said struct {
	name string
	dir  int
	pkt  []byte
}

// opened is a handshake from the guest.
func opened() []said {
	return []said{
		{"SYN", toStack, seg(toStack, packet.SYN, 100, 0, 0, packet.MSS(1460), packet.SACKPermitted(), packet.Timestamps(1, 0), packet.WindowScale(7))},
		{"SYN-ACK", toGuest, seg(toGuest, synAck, 500, 101, 0, packet.MSS(1460))},
		{"ACK", toStack, seg(toStack, packet.ACK, 101, 501, 0)},
	}
}

// talk opens, exchanges 10 bytes each way, and is closed by the stack first.
func talk() []said {
	return append(opened(),
		said{"data", toStack, seg(toStack, packet.ACK|packet.PSH, 101, 501, 10)},
		said{"ack of data", toGuest, seg(toGuest, packet.ACK, 501, 111, 0)},
		said{"answer", toGuest, seg(toGuest, packet.ACK|packet.PSH, 501, 111, 10)},
		said{"ack of answer", toStack, seg(toStack, packet.ACK, 111, 511, 0, packet.SACKBlocks(packet.SACKBlock{Left: 600, Right: 700}))},
		said{"FIN", toGuest, seg(toGuest, finAck, 511, 111, 0)},
		said{"ack of FIN", toStack, seg(toStack, packet.ACK, 111, 512, 0)},
		said{"guest's FIN", toStack, seg(toStack, finAck, 111, 512, 0)},
		said{"last ACK", toGuest, seg(toGuest, packet.ACK, 512, 112, 0)},
	)
}

// play sends a talk, a second between two segments, and returns the names of those
// that a rule took out or doubled.
func play(b *box, all []said) string {
	var hit []string
	for _, s := range all {
		before := len(b.arrived(s.dir))
		b.send(s.dir, s.pkt)
		if len(b.arrived(s.dir)) != before+1 {
			hit = append(hit, s.name)
		}
		b.clock.advance(time.Second)
		b.settle()
	}
	return strings.Join(hit, ", ")
}

// TestRulesHitWhatTheyName: a rule acts on exactly the segments that it names. The
// talk goes on whatever is lost, so states are told by doubling.
func TestRulesHitWhatTheyName(t *testing.T) {
	for _, tt := range []struct{ rule, hit string }{
		// Kinds and directions.
		{"drop syn", "SYN"},
		{"drop synack", "SYN-ACK"},
		{"drop ack", "ACK, ack of data, ack of answer, ack of FIN, last ACK"},
		{"drop ack out", "ACK, ack of answer, ack of FIN"},
		{"drop ack in", "ack of data, last ACK"},
		{"drop data", "data, answer"},
		{"drop fin", "FIN, guest's FIN"},
		{"drop fin in", "FIN"},
		{"drop udp", ""},
		{"drop icmp", ""},
		// Numbers.
		{"drop first ack", "ACK"},
		{"drop first 2 ack in", "ack of data, last ACK"},
		{"drop nth 2 ack", "ack of data"},
		{"drop every 2 ack", "ack of data, ack of FIN"},
		// Addresses: those of the connection, whichever way a packet goes.
		{"drop synack dst=192.0.2.5:5432", "SYN-ACK"},
		{"drop syn dst=192.0.2.5:5432", "SYN"},
		{"drop synack src=192.0.2.5", ""},
		{"drop synack dst=192.0.2.0/24:5000-6000 src=198.18.0.2:40001", "SYN-ACK"},
		{"drop synack dst=:5433", ""},
		{"drop synack dst=192.0.3.0/24", ""},
		// Options.
		{"drop option=ts", "SYN"},
		{"drop option=mss", "SYN, SYN-ACK"},
		{"drop option=sack-permitted", "SYN"},
		{"drop option=wscale in", ""},
		{"drop option=sack", "ack of answer"},
		// States: the sender's is that behind the segment, the receiver's before it.
		{"drop first ack when stack=FIN-WAIT-1", "ack of FIN"},
		{"dup first ack when stack=FIN-WAIT-1", "ack of FIN"},
		{"dup ack when guest=CLOSE-WAIT", "ack of FIN"},
		{"dup fin when guest=LAST-ACK", "guest's FIN"},
		{"dup when stack=FIN-WAIT-2", "guest's FIN"},
		{"dup when guest=SYN-SENT", "SYN, SYN-ACK"},
		{"dup when stack=SYN-RECEIVED out", "ACK"},
		{"dup when guest=ESTABLISHED", "ACK, data, ack of data, answer, ack of answer, FIN"},
		{"dup when guest=ESTABLISHED stack=ESTABLISHED", "data, ack of data, answer, ack of answer"},
		{"dup when LAST-ACK", "guest's FIN, last ACK"},
		{"dup in when stack=TIME-WAIT", "last ACK"},
		{"dup when CLOSING", ""},
		{"dup when connected in", "SYN-ACK, ack of data, answer, FIN, last ACK"},
		// Ages: the SYN is 0 s old, and each further segment one second more.
		{"drop when age>6s age<9s", "FIN, ack of FIN"},
		{"drop ack when age>30s", ""},
		{"drop when idle>1s", ""},
		// A segment that is lost does not make a connection busy.
		{"drop out when idle<2s age>2s", "data, ack of answer, ack of FIN"},
	} {
		b := newBox(t, Config{}, tt.rule)
		if got := play(b, talk()); got != tt.hit {
			t.Errorf("%s hit %q, want %q", tt.rule, got, tt.hit)
		}
	}
}

// states are those of both ends.
func states(b *box) string {
	b.Device.mu.Lock()
	defer b.Device.mu.Unlock()
	c := b.conns[tuple{guestAddr, remoteAddr}]
	if c == nil {
		return "none"
	}
	return fmt.Sprintf("%v %v", c.ends[guestEnd].state, c.ends[stackEnd].state)
}

// TestStates: the states of both ends behind each segment, for every way to open and
// to close.
func TestStates(t *testing.T) {
	type step struct {
		s    said
		want string
	}
	at := func(dir int, flags packet.Flags, seq, ack uint32, payload int, want string) step {
		return step{said{"", dir, seg(dir, flags, seq, ack, payload)}, want}
	}
	open := []step{
		at(toStack, packet.SYN, 100, 0, 0, "SYN-SENT CLOSED"),
		at(toGuest, synAck, 500, 101, 0, "ESTABLISHED SYN-RECEIVED"),
		at(toStack, packet.ACK, 101, 501, 0, "ESTABLISHED ESTABLISHED"),
	}
	for name, steps := range map[string][]step{
		"the guest closes first": append(slices.Clone(open),
			at(toStack, finAck, 101, 501, 0, "FIN-WAIT-1 CLOSE-WAIT"),
			at(toGuest, packet.ACK, 501, 102, 0, "FIN-WAIT-2 CLOSE-WAIT"),
			at(toGuest, finAck, 501, 102, 0, "TIME-WAIT LAST-ACK"),
			at(toStack, packet.ACK, 102, 502, 0, "TIME-WAIT CLOSED"),
		),
		"in three segments": append(slices.Clone(open),
			at(toStack, finAck, 101, 501, 0, "FIN-WAIT-1 CLOSE-WAIT"),
			at(toGuest, finAck, 501, 102, 0, "TIME-WAIT LAST-ACK"),
			at(toStack, packet.ACK, 102, 502, 0, "TIME-WAIT CLOSED"),
		),
		"both close at once": append(slices.Clone(open),
			// The guest's FIN has arrived before the stack sends its own, whose ACK
			// tells that the stack had not looked at it yet.
			at(toStack, finAck, 101, 501, 0, "FIN-WAIT-1 CLOSE-WAIT"),
			at(toGuest, finAck, 501, 101, 0, "CLOSING CLOSING"),
			at(toStack, packet.ACK, 102, 502, 0, "CLOSING TIME-WAIT"),
			at(toGuest, packet.ACK, 502, 102, 0, "TIME-WAIT TIME-WAIT"),
		),
		"a FIN behind a gap": append(slices.Clone(open),
			at(toStack, finAck, 111, 501, 5, "FIN-WAIT-1 ESTABLISHED"),
			at(toStack, packet.ACK, 101, 501, 10, "FIN-WAIT-1 CLOSE-WAIT"),
			at(toGuest, packet.ACK, 501, 117, 0, "FIN-WAIT-2 CLOSE-WAIT"),
		),
		"a FIN without a payload behind a gap": append(slices.Clone(open),
			at(toStack, finAck, 111, 501, 0, "FIN-WAIT-1 ESTABLISHED"), // to the stack, which does not keep it
			at(toStack, packet.ACK, 101, 501, 10, "FIN-WAIT-1 ESTABLISHED"),
			at(toStack, finAck, 111, 501, 0, "FIN-WAIT-1 CLOSE-WAIT"),
		),
		"the same to a Linux": append(slices.Clone(open),
			at(toGuest, finAck, 511, 101, 0, "ESTABLISHED FIN-WAIT-1"),
			at(toStack, packet.ACK, 101, 501, 0, "ESTABLISHED FIN-WAIT-1"),
			at(toGuest, packet.ACK, 501, 101, 10, "CLOSE-WAIT FIN-WAIT-1"),
		),
		"both open at once": {
			at(toStack, packet.SYN, 100, 0, 0, "SYN-SENT CLOSED"),
			at(toGuest, packet.SYN, 500, 0, 0, "SYN-RECEIVED SYN-SENT"),
			at(toStack, synAck, 100, 501, 0, "SYN-RECEIVED ESTABLISHED"),
			at(toGuest, synAck, 500, 101, 0, "ESTABLISHED ESTABLISHED"),
		},
		"refused": {
			at(toStack, packet.SYN, 100, 0, 0, "SYN-SENT CLOSED"),
			at(toGuest, rstAck, 0, 101, 0, "CLOSED CLOSED"),
		},
		"a reset that does not fit": append(slices.Clone(open),
			at(toStack, packet.RST, 90, 0, 0, "CLOSED ESTABLISHED"),
			at(toStack, rstAck, 101, 501, 0, "CLOSED CLOSED"),
		),
		"to a published port": {
			at(toGuest, packet.SYN, 500, 0, 0, "CLOSED SYN-SENT"),
			at(toStack, synAck, 100, 501, 0, "SYN-RECEIVED ESTABLISHED"),
			at(toGuest, packet.ACK, 501, 101, 0, "ESTABLISHED ESTABLISHED"),
		},
		"one that was there before": {
			at(toStack, packet.ACK, 101, 501, 10, "ESTABLISHED ESTABLISHED"),
			at(toGuest, finAck, 501, 111, 0, "CLOSE-WAIT FIN-WAIT-1"),
		},
		"a new one on the same ends": append(slices.Clone(open),
			at(toStack, packet.SYN, 100, 0, 0, "ESTABLISHED ESTABLISHED"), // sent again, and late
			at(toStack, packet.SYN, 9000, 0, 0, "SYN-SENT CLOSED"),
			at(toGuest, synAck, 7000, 9001, 0, "ESTABLISHED SYN-RECEIVED"),
		),
		"a stray reset": {at(toStack, packet.RST, 1, 0, 0, "none")},
	} {
		b := newBox(t, Config{}, "drop nth 1000 udp")
		for i, s := range steps {
			b.send(s.s.dir, s.s.pkt)
			if got := states(b); got != s.want {
				t.Errorf("%s: behind segment %d: %s, want %s", name, i+1, got, s.want)
			}
		}
	}
}

// TestStateOfWhatIsLost: what a rule takes out has reached nobody.
func TestStateOfWhatIsLost(t *testing.T) {
	b := newBox(t, Config{}, "drop fin in")
	play(b, talk()[:8])
	if got := states(b); got != "ESTABLISHED FIN-WAIT-1" {
		t.Errorf("behind a FIN that was lost: %s", got)
	}
	late := newBox(t, Config{}, "hold 10s synack")
	play(late, opened()[:2])
	if got := states(late); got != "SYN-SENT SYN-RECEIVED" {
		t.Errorf("while the SYN-ACK is held: %s", got)
	}
	late.clock.advance(10 * time.Second)
	if got := states(late); got != "ESTABLISHED SYN-RECEIVED" {
		t.Errorf("behind the SYN-ACK: %s", got)
	}
}

// flagsOf are the flags of what has arrived.
func flagsOf(t *testing.T, all []arrival) (flags []string) {
	t.Helper()
	for i := range all {
		p := all[i].packet(t)
		flags = append(flags, p.TCP.Flags.String())
	}
	return flags
}

// TestReset: both ends get an RST that they take, or the one that is named.
func TestReset(t *testing.T) {
	for _, tt := range []struct {
		rule         string
		guest, stack bool // is sent an RST
		g, s         tcpstate.State
	}{
		{"rst data out", true, true, tcpstate.Closed, tcpstate.Closed},
		{"rst guest data out", true, false, tcpstate.Closed, tcpstate.Established},
		{"rst stack data out", false, true, tcpstate.Established, tcpstate.Closed},
		{"rst data in", true, true, tcpstate.Closed, tcpstate.Closed},
		{"rst guest data in", true, false, tcpstate.Closed, tcpstate.Established},
		{"rst stack data in", false, true, tcpstate.Established, tcpstate.Closed},
	} {
		b := newBox(t, Config{}, tt.rule)
		play(b, talk()[:6])
		for dir, want := range map[int]bool{toGuest: tt.guest, toStack: tt.stack} {
			got := 0
			all := b.arrived(dir)
			for i := range all {
				p := all[i].packet(t)
				if !p.TCP.Flags.Has(packet.RST) {
					continue
				}
				got++
				if !p.VerifyIP(all[i].data) || !p.VerifyTransport(all[i].data) {
					t.Errorf("%s: %v has a wrong checksum", tt.rule, &p)
				}
			}
			if got > 0 != want || got > 1 {
				t.Errorf("%s: %d RSTs in direction %d, want any: %v", tt.rule, got, dir, want)
			}
		}
		if got, want := states(b), fmt.Sprintf("%v %v", tt.g, tt.s); got != want {
			t.Errorf("%s: %s, want %s", tt.rule, got, want)
		}
	}
	// A SYN is refused, and has reached nobody.
	b := newBox(t, Config{}, "rst syn")
	b.send(toStack, opened()[0].pkt)
	if got := flagsOf(t, b.arrived(toGuest)); len(got) != 1 || got[0] != "RST|ACK" || len(b.arrived(toStack)) != 0 {
		t.Errorf("to the guest: %v, to the stack: %v", got, flagsOf(t, b.arrived(toStack)))
	}
}

// TestFail: so many connections fail as asked, however often a SYN is sent again.
func TestFail(t *testing.T) {
	syn := func(port uint16, iss uint32) []byte {
		b := packet.Build{Src: guestAddr, Dst: remoteAddr, Flags: packet.SYN, Seq: iss}
		b.Src = netipPort(b.Src, port)
		return b.Bytes()
	}
	b := newBox(t, Config{}, "fail first 2 connects dst=:5432")
	for port := uint16(1); port <= 4; port++ {
		b.send(toStack, syn(port, 100))
	}
	if got := flagsOf(t, b.arrived(toGuest)); strings.Join(got, " ") != "RST|ACK RST|ACK" {
		t.Errorf("the guest got %v", got)
	}
	if got := len(b.arrived(toStack)); got != 2 {
		t.Errorf("the stack got %d SYNs, want 2", got)
	}

	silent := newBox(t, Config{}, "fail timeout first 1")
	for _, port := range []uint16{1, 1, 1, 2, 2, 1} { // sent again
		silent.send(toStack, syn(port, 100))
	}
	silent.send(toStack, syn(1, 200)) // a new attempt on the same ends
	all := silent.arrived(toStack)
	var ports []uint16
	for i := range all {
		p := all[i].packet(t)
		ports = append(ports, p.Src.Port())
	}
	if !slices.Equal(ports, []uint16{2, 2, 1}) || len(silent.arrived(toGuest)) != 0 {
		t.Errorf("SYNs of %v arrived, want 2, 2, 1", ports)
	}

	far := newBox(t, Config{}, "fail unreachable")
	far.send(toStack, syn(1, 100))
	got := far.arrived(toGuest)
	if len(got) != 1 {
		t.Fatalf("the guest got %d packets", len(got))
	}
	if p := got[0].packet(t); p.Proto != packet.ICMP || p.ICMPType != 3 || p.ICMPCode != 1 || !p.VerifyTransport(got[0].data) {
		t.Errorf("the guest got %v", &p)
	}
}

// TestBlackhole: a connection that was silent for too long is swallowed from then on,
// also when it is busy again; others are not, nor the next one on its ends.
func TestBlackhole(t *testing.T) {
	b := newBox(t, Config{}, "blackhole when idle>350s")
	play(b, talk()[:4])
	b.advance(351*time.Second, time.Minute)
	rest := []said{
		{"1", toStack, seg(toStack, packet.ACK, 111, 501, 5)},
		{"2", toGuest, seg(toGuest, packet.ACK, 501, 111, 0)},
		{"3", toStack, seg(toStack, packet.ACK, 111, 501, 5)},
		{"new", toStack, seg(toStack, packet.SYN, 5000, 0, 0)},
	}
	if got := play(b, rest); got != "1, 2, 3" {
		t.Errorf("it swallowed %q, want 1, 2, 3", got)
	}
	busy := newBox(t, Config{}, "blackhole when idle>350s")
	play(busy, talk()[:4])
	for i := range uint32(5) {
		busy.advance(349*time.Second, time.Minute)
		if got := play(busy, []said{{"data", toStack, seg(toStack, packet.ACK, 111+i, 501, 1)}}); got != "" {
			t.Error("a busy connection was swallowed")
		}
	}
	id := rule0(b).ID
	if err := b.Remove(id); err != nil {
		t.Fatal(err)
	}
	if got := play(b, []said{{"later", toGuest, seg(toGuest, synAck, 900, 5001, 0)}}); got != "" {
		t.Error("without the rule the connection is swallowed")
	}
}

// TestReplay: a copy of a segment comes into the next connection of the same ends,
// when its receiver is ESTABLISHED; with fit it has the number that is waited for.
func TestReplay(t *testing.T) {
	for rule, want := range map[string]uint32{"replay nth 1 data in": 501, "replay fit nth 1 data in": 8001} {
		b := newBox(t, Config{}, rule)
		if got := play(b, talk()); got != "" {
			t.Fatalf("%s took %q", rule, got)
		}
		before := len(b.arrived(toGuest))
		again := []said{
			{"SYN", toStack, seg(toStack, packet.SYN, 4000, 0, 0)},
			{"SYN-ACK", toGuest, seg(toGuest, synAck, 8000, 4001, 0)},
			{"ACK", toStack, seg(toStack, packet.ACK, 4001, 8001, 0)},
			{"data", toGuest, seg(toGuest, packet.ACK, 8001, 4001, 10)},
		}
		play(b, again)
		all := b.arrived(toGuest)[before:]
		if len(all) != 3 {
			t.Fatalf("%s: %v arrived, want the SYN-ACK, the old segment, and data", rule, flagsOf(t, all))
		}
		old := all[1].packet(t)
		if old.TCP.Seq != want || old.PayloadLen() != 10 || !old.VerifyTransport(all[1].data) {
			t.Errorf("%s: %v arrived, want 10 bytes at %d", rule, &old, want)
		}
		if r := rule0(b); r.Acted != 1 || b.kept != 0 {
			t.Errorf("%s: %+v, %d kept", rule, r, b.kept)
		}
	}
}

// TestSuperSegments: one is split while a rule may mean its segments, and else goes
// as it is.
func TestSuperSegments(t *testing.T) {
	payload := 1460*3 + 100
	big := func(dir int) ([]byte, tun.Offload) {
		b := packet.Build{Src: guestAddr, Dst: remoteAddr, Flags: packet.ACK | packet.PSH, Seq: 101, Ack: 501, Payload: make([]byte, payload), Partial: true}
		if dir == toGuest {
			b.Src, b.Dst = b.Dst, b.Src
		}
		return b.Bytes(), superOffload(1460)
	}
	for _, tt := range []struct {
		rule string
		dir  int
		want []int // the lengths of the payloads
	}{
		{"drop nth 2 data", toGuest, []int{1460, 1460, 100}},
		{"drop nth 2 data", toStack, []int{1460, 1460, 100}},
		{"drop data dst=:80", toGuest, []int{payload}},
		{"drop data in", toStack, []int{payload}},
		{"drop udp", toGuest, []int{payload}},
		{"mtu 1400", toGuest, []int{100}},
	} {
		b := newBox(t, Config{}, tt.rule)
		pkt, off := big(tt.dir)
		b.send(tt.dir, pkt, off)
		all := b.arrived(tt.dir)
		var got []int
		for i := range all {
			p := all[i].packet(t)
			got = append(got, p.PayloadLen())
			if len(tt.want) > 1 && !p.VerifyTransport(all[i].data) {
				t.Errorf("%s: %v has a wrong checksum", tt.rule, &p)
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: payloads of %v arrived, want %v", tt.rule, got, tt.want)
		}
	}
}

// TestConnectionsAreBounded: of more than there may be, those that are over go
// first.
func TestConnectionsAreBounded(t *testing.T) {
	b := newBox(t, Config{MaxConnections: 100}, "drop when CLOSING")
	for port := range uint16(1000) {
		p := packet.Build{Src: netipPort(guestAddr, port+1), Dst: remoteAddr, Flags: packet.SYN, Seq: 1}
		b.send(toStack, p.Bytes())
	}
	if c := b.Counts(); c.Connections != 100 || c.Evicted != 900 {
		t.Errorf("%+v", c)
	}
}
