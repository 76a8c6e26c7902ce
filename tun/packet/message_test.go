package packet

import (
	"net/netip"
	"testing"
)

// TestErrorAbout: errors of others are passed on as they were, from whom they
// came.
func TestErrorAbout(t *testing.T) {
	router4, router6 := netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("2001:db8::99")
	for _, row := range []struct {
		name string
		m    Message
		six  bool
		rest uint32
	}{
		{"time exceeded", Message{Type: 11}, false, 0},
		{"time exceeded", Message{Type: 3}, true, 0},
		{"fragmentation needed", TooBig(1400, false), false, 1400},
		{"fragmentation needed, a huge MTU", TooBig(1<<20, false), false, 0xffff},
		{"packet too big", TooBig(1280, true), true, 1280},
		{"host unreachable", HostUnreachable.Message(false), false, 0},
		{"host unreachable", HostUnreachable.Message(true), true, 0},
	} {
		orig, from := Build{Src: a4, Dst: b4, Proto: UDP, Payload: []byte("data")}.Bytes(), router4
		if row.six {
			orig, from = Build{Src: a6, Dst: b6, Proto: UDP, Payload: []byte("data")}.Bytes(), router6
		}
		b := ErrorAbout(nil, orig, row.m, from)
		p, err := Parse(b)
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		if p.ICMPType != row.m.Type || p.ICMPCode != row.m.Code || be32(b[p.IPLen+4:]) != row.rest || p.Src.Addr() != from {
			t.Errorf("%s: ErrorAbout = %v rest %d, want %+v from %v", row.name, &p, be32(b[p.IPLen+4:]), row.m, from)
		}
		if !p.VerifyIP(b) || !p.VerifyTransport(b) || string(p.Payload(b)) != string(orig) {
			t.Errorf("%s: a checksum is wrong, or the quote", row.name)
		}
	}
	if m := Kind(99).Message(false); m != (Message{}) {
		t.Errorf("an unknown kind has the message %+v", m)
	}
}
