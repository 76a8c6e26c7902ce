package packet

import (
	"bytes"
	"net/netip"
	"testing"
)

var gw4, gw6 = netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("fd74::1")

func TestUnreachable(t *testing.T) {
	big := make([]byte, 3000)
	for _, row := range []struct {
		name       string
		orig       Build
		kind       Kind
		typ, code  uint8
		quoteBytes int // -1: all
	}{
		{"v4 no route", Build{Src: a4, Dst: b4, Flags: SYN}, NoRoute, 3, 0, -1},
		{"v4 host", Build{Src: a4, Dst: b4, Flags: SYN}, HostUnreachable, 3, 1, -1},
		{"v4 port", Build{Src: a4, Dst: b4, Proto: UDP}, PortUnreachable, 3, 3, -1},
		{"v4 prohibited", Build{Src: a4, Dst: b4, Flags: SYN}, Prohibited, 3, 13, -1},
		{"v6 no route", Build{Src: a6, Dst: b6, Flags: SYN}, NoRoute, 1, 0, -1},
		{"v6 host", Build{Src: a6, Dst: b6, Flags: SYN}, HostUnreachable, 1, 3, -1},
		{"v6 port", Build{Src: a6, Dst: b6, Proto: UDP}, PortUnreachable, 1, 4, -1},
		{"v6 prohibited", Build{Src: a6, Dst: b6, Flags: SYN}, Prohibited, 1, 1, -1},
		{"v4 big is cut to 576", Build{Src: a4, Dst: b4, Proto: UDP, Payload: big}, PortUnreachable, 3, 3, 548},
		{"v6 big is cut to 1280", Build{Src: a6, Dst: b6, Proto: UDP, Payload: big}, PortUnreachable, 1, 4, 1232},
		{"to class E", Build{Src: a4, Dst: ap("240.0.0.1:53"), Proto: UDP}, PortUnreachable, 3, 3, -1},
		{"to network 0", Build{Src: a4, Dst: ap("0.0.0.1:53"), Proto: UDP}, PortUnreachable, 3, 3, -1},
		{"an unknown protocol", Build{Src: bare(a4), Dst: bare(b4), Proto: 132, Payload: big[:3]}, Prohibited, 3, 13, -1},
		{"an echo request", Build{Src: bare(a4), Dst: bare(b4), Proto: ICMP, ICMPType: 8}, HostUnreachable, 3, 1, -1},
		{"a first fragment", Build{Src: a4, Dst: b4, Proto: UDP, MoreFrags: true, Payload: big[:80]}, PortUnreachable, 3, 3, -1},
		{"with IP options", Build{Src: a4, Dst: b4, IPOptions: make([]byte, 40), Flags: SYN}, NoRoute, 3, 0, -1},
	} {
		from := gw4
		if row.orig.Src.Addr().Is6() {
			from = gw6
		}
		orig := row.orig.Bytes()
		b := Unreachable(nil, append(orig, "trailer"...), row.kind, from)
		p, err := Parse(b)
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		if p.Src.Addr() != from || p.Dst.Addr() != row.orig.Src.Addr() || p.ICMPType != row.typ || p.ICMPCode != row.code || !p.ICMPError() {
			t.Errorf("%s: Unreachable = %v, want %v > %v %d/%d", row.name, &p, from, row.orig.Src.Addr(), row.typ, row.code)
		}
		if !p.VerifyIP(b) || !p.VerifyTransport(b) {
			t.Errorf("%s: a checksum is wrong", row.name)
		}
		want := orig
		if row.quoteBytes >= 0 {
			want = orig[:row.quoteBytes]
		}
		if !bytes.Equal(p.Payload(b), want) {
			t.Errorf("%s: quotes %d bytes, want the first %d of the packet", row.name, p.PayloadLen(), len(want))
		}
		if q, err := ParseQuoted(p.Payload(b)); err != nil || q.Src != row.orig.Src || q.Dst != row.orig.Dst {
			t.Errorf("%s: the quote reads as %v, %v", row.name, &q, err)
		}
		if Unreachable(nil, b, row.kind, from) != nil {
			t.Errorf("%s: the error was answered by an error", row.name)
		}
	}
}

// TestUnansweredByError: RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e).
func TestUnansweredByError(t *testing.T) {
	udp := func(src, dst string) []byte { return Build{Src: ap(src), Dst: ap(dst), Proto: UDP}.Bytes() }
	icmp := func(typ uint8) []byte {
		return Build{Src: ip("198.18.0.2"), Dst: ip("198.18.0.1"), Proto: ICMP, ICMPType: typ}.Bytes()
	}
	icmp6 := func(typ uint8) []byte {
		return Build{Src: ip("fd74::2"), Dst: ip("fd74::1"), Proto: ICMPv6, ICMPType: typ}.Bytes()
	}
	for _, row := range []struct {
		name string
		orig []byte
		from netip.Addr
	}{
		{"nothing", nil, gw4},
		{"garbage", []byte("garbage garbage garbage"), gw4},
		{"from of the other family", udp("198.18.0.2:1", "198.18.0.1:2"), gw6},
		{"no from", udp("198.18.0.2:1", "198.18.0.1:2"), netip.Addr{}},
		{"destination unreachable", icmp(3), gw4},
		{"redirect", icmp(5), gw4},
		{"time exceeded", icmp(11), gw4},
		{"parameter problem", icmp(12), gw4},
		{"v6 unreachable", icmp6(1), gw6},
		{"v6 packet too big", icmp6(2), gw6},
		{"v6 an unknown error", icmp6(100), gw6},
		{"v6 redirect", icmp6(137), gw6},
		{"a fragment behind the first", Build{Src: a4, Dst: b4, Proto: UDP, FragOffset: 8}.Bytes(), gw4},
		{"v6 fragment behind the first", Build{Src: a6, Dst: b6, Proto: UDP, FragOffset: 8}.Bytes(), gw6},
		{"to multicast", udp("198.18.0.2:1", "224.0.0.251:5353"), gw4},
		{"to broadcast", udp("198.18.0.2:1", "255.255.255.255:67"), gw4},
		{"v6 to multicast", udp("[fd74::2]:1", "[ff02::fb]:5353"), gw6},
		{"from unspecified", udp("0.0.0.0:68", "198.18.0.1:67"), gw4},
		{"from network 0", udp("0.1.2.3:68", "198.18.0.1:67"), gw4},
		{"from loopback", udp("127.0.0.1:1", "198.18.0.1:2"), gw4},
		{"from multicast", udp("224.0.0.1:1", "198.18.0.1:2"), gw4},
		{"from class E", udp("240.0.0.1:1", "198.18.0.1:2"), gw4},
		{"v6 from unspecified", udp("[::]:1", "[fd74::1]:2"), gw6},
		{"v6 from loopback", udp("[::1]:1", "[fd74::1]:2"), gw6},
	} {
		if got := Unreachable(nil, row.orig, NoRoute, row.from); got != nil {
			t.Errorf("%s: was answered by %x", row.name, got)
		}
	}
	if got := Unreachable(nil, udp("198.18.0.2:1", "198.18.0.1:2"), 99, gw4); got != nil {
		t.Errorf("an unknown kind: was answered by %x", got)
	}
}

func TestEchoReply(t *testing.T) {
	for _, build := range []Build{
		{Src: bare(a4), Dst: bare(b4), Proto: ICMP, ICMPType: 8, ICMPRest: 0x12345678, Payload: []byte("odd")},
		{Src: bare(a6), Dst: bare(b6), Proto: ICMPv6, ICMPType: 128, ICMPRest: 0x12345678, Payload: []byte("odd")},
		{Src: bare(a4), Dst: bare(b4), Proto: ICMP, ICMPType: 8, IPOptions: []byte{7, 7, 4, 0, 0, 0, 0, 0}, Partial: true},
	} {
		b := EchoReply(nil, build.Bytes())
		p, err := Parse(b)
		if err != nil {
			t.Fatalf("EchoReply: %v", err)
		}
		want := map[uint8]uint8{8: 0, 128: 129}[build.ICMPType]
		if p.Src != build.Dst || p.Dst != build.Src || p.ICMPType != want || be32(b[p.IPLen+4:]) != build.ICMPRest || string(p.Payload(b)) != string(build.Payload) {
			t.Errorf("EchoReply = %v, want the request turned round", &p)
		}
		if !p.VerifyIP(b) || !p.VerifyTransport(b) {
			t.Errorf("EchoReply: a checksum is wrong")
		}
		if EchoReply(nil, b) != nil {
			t.Errorf("a reply was answered")
		}
	}
	for name, build := range map[string]Build{
		"tcp":          {Src: a4, Dst: b4},
		"to multicast": {Src: bare(a4), Dst: ip("224.0.0.1"), Proto: ICMP, ICMPType: 8},
		"a fragment":   {Src: bare(a4), Dst: bare(b4), Proto: ICMP, ICMPType: 8, MoreFrags: true},
		"code 1":       {Src: bare(a4), Dst: bare(b4), Proto: ICMP, ICMPType: 8, ICMPCode: 1},
		"v6 in v4":     {Src: bare(a4), Dst: bare(b4), Proto: ICMPv6, ICMPType: 128},
	} {
		if got := EchoReply(nil, build.Bytes()); got != nil {
			t.Errorf("%s: EchoReply = %x, want none", name, got)
		}
	}
}

// TestReset: RFC 9293 section 3.10.7.1.
func TestReset(t *testing.T) {
	for _, row := range []struct {
		name     string
		orig     Build
		flags    Flags
		seq, ack uint32
	}{
		{"a SYN", Build{Src: a4, Dst: b4, Flags: SYN, Seq: 100}, RST | ACK, 0, 101},
		{"a SYN at the end of the numbers", Build{Src: a6, Dst: b6, Flags: SYN, Seq: 0xffffffff}, RST | ACK, 0, 0},
		{"a SYN with data", Build{Src: a4, Dst: b4, Flags: SYN, Seq: 100, Payload: make([]byte, 10)}, RST | ACK, 0, 111},
		{"data without ACK", Build{Src: a4, Dst: b4, Flags: FIN, Seq: 100, Payload: make([]byte, 10)}, RST | ACK, 0, 111},
		{"an ACK", Build{Src: a4, Dst: b4, Flags: ACK, Seq: 100, Ack: 7}, RST, 7, 0},
		{"a SYN-ACK", Build{Src: a6, Dst: b6, Flags: SYN | ACK, Seq: 100, Ack: 7}, RST, 7, 0},
	} {
		b := Reset(nil, row.orig.Bytes())
		p, err := Parse(b)
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		if p.Src != row.orig.Dst || p.Dst != row.orig.Src || p.TCP.Flags != row.flags || p.TCP.Seq != row.seq || p.TCP.Ack != row.ack || p.TCP.Window != 0 {
			t.Errorf("%s: Reset = %v, want %v seq=%d ack=%d", row.name, &p, row.flags, row.seq, row.ack)
		}
		if !p.VerifyIP(b) || !p.VerifyTransport(b) || len(b) > MaxReset {
			t.Errorf("%s: checksum or length", row.name)
		}
		if Reset(nil, b) != nil {
			t.Errorf("%s: an RST was answered by an RST", row.name)
		}
	}
	for name, b := range map[string][]byte{
		"udp":          Build{Src: a4, Dst: b4, Proto: UDP}.Bytes(),
		"to multicast": Build{Src: a4, Dst: ap("224.0.0.1:1"), Flags: SYN}.Bytes(),
		"a fragment":   Build{Src: a4, Dst: b4, Flags: SYN, MoreFrags: true}.Bytes(),
		"garbage":      []byte("garbage"),
	} {
		if got := Reset(nil, b); got != nil {
			t.Errorf("%s: Reset = %x, want none", name, got)
		}
	}
}

// TestAnswersReuseMemory: the answer lies in dst if there is room.
func TestAnswersReuseMemory(t *testing.T) {
	buf := make([]byte, MaxUnreachable)
	b := Unreachable(buf, Build{Src: a6, Dst: b6, Proto: UDP, Payload: make([]byte, 3000)}.Bytes(), NoRoute, gw6)
	if len(b) != MaxUnreachable || &b[0] != &buf[0] {
		t.Errorf("Unreachable: %d bytes, in dst: %v", len(b), &b[0] == &buf[0])
	}
}
