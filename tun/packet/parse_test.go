package packet

import (
	"errors"
	"net/netip"
	"testing"
)

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
func ip(s string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(s), 0) }

var (
	a4, b4 = ap("198.18.0.2:40000"), ap("198.18.0.1:80")
	a6, b6 = ap("[fd74::2]:40000"), ap("[fd74::1]:80")
)

func bare(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), 0) }

// samples are packets of every shape, valid and complete.
func samples() map[string]Build {
	opts := Options(MSS(1460), SACKPermitted(), Timestamps(7, 9), []byte{optNop}, WindowScale(8))
	return map[string]Build{
		"tcp4 syn":       {Src: a4, Dst: b4, Flags: SYN, Seq: 100, Window: 65535, Options: opts},
		"tcp6 syn":       {Src: a6, Dst: b6, Flags: SYN, Seq: 100, Window: 65535, Options: opts},
		"tcp4 data":      {Src: a4, Dst: b4, Flags: PSH | ACK, Seq: 1, Ack: 2, Payload: []byte("hello")},
		"tcp6 data odd":  {Src: a6, Dst: b6, Flags: PSH | ACK | FIN, Seq: 1, Ack: 2, Payload: []byte("hello"), TOS: 0xab},
		"tcp4 ipoptions": {Src: a4, Dst: b4, Flags: ACK, IPOptions: []byte{148, 4, 0, 0, 1}, DontFrag: true, ID: 77},
		"tcp4 sack":      {Src: a4, Dst: b4, Flags: ACK, Options: SACKBlocks(SACKBlock{10, 20}, SACKBlock{30, 40})},
		"udp4":           {Src: a4, Dst: b4, Proto: UDP, Payload: []byte("query")},
		"udp6":           {Src: a6, Dst: b6, Proto: UDP, Payload: []byte("query")},
		"udp4 empty":     {Src: a4, Dst: b4, Proto: UDP},
		"icmp4 echo":     {Src: bare(a4), Dst: bare(b4), Proto: ICMP, ICMPType: 8, ICMPRest: 0x00010002, Payload: []byte("ping")},
		"icmp6 echo":     {Src: bare(a6), Dst: bare(b6), Proto: ICMPv6, ICMPType: 128, ICMPRest: 0x00010002, Payload: []byte("ping")},
		"tcp6 extensions": {Src: a6, Dst: b6, Flags: ACK, Extensions: []Extension{
			{protoHopByHop, []byte{1, 4, 0, 0, 0, 0}}, {protoDest, []byte{1, 10}}, {protoAH, make([]byte, 10)}, {protoRouting, []byte{4, 0}},
		}},
		"udp4 first fragment": {Src: a4, Dst: b4, Proto: UDP, MoreFrags: true, ID: 5, Payload: make([]byte, 64)},
		"udp4 last fragment":  {Src: bare(a4), Dst: bare(b4), Proto: UDP, FragOffset: 72, ID: 5, Payload: []byte("tail")},
		"udp6 first fragment": {Src: a6, Dst: b6, Proto: UDP, MoreFrags: true, ID: 1 << 20, Payload: make([]byte, 64)},
		"udp6 last fragment":  {Src: bare(a6), Dst: bare(b6), Proto: UDP, FragOffset: 72, ID: 1 << 20, Payload: []byte("tail")},
		"sctp4":               {Src: bare(a4), Dst: bare(b4), Proto: 132, Payload: []byte("whatever")},
		"nothing6":            {Src: bare(a6), Dst: bare(b6), Proto: protoNone},
	}
}

// TestParseBuild: what Build was told is what Parse reads.
func TestParseBuild(t *testing.T) {
	for name, want := range samples() {
		t.Run(name, func(t *testing.T) {
			b := want.Bytes()
			p, err := Parse(b)
			if err != nil {
				t.Fatalf("Parse: %v", err)
			}
			proto := want.Proto
			if proto == 0 {
				proto = TCP
			}
			id := want.ID
			if p.Version == 6 && !p.Fragment() {
				id = 0
			}
			if p.Src != want.Src || p.Dst != want.Dst || p.Proto != proto || p.TOS != want.TOS || p.TTL != 64 || p.ID != id {
				t.Errorf("Parse = %v > %v %v tos %#x ttl %d id %d, want %v > %v %v tos %#x ttl 64 id %d",
					p.Src, p.Dst, p.Proto, p.TOS, p.TTL, p.ID, want.Src, want.Dst, proto, want.TOS, id)
			}
			if p.FragOffset != want.FragOffset || p.MoreFrags != want.MoreFrags || p.DontFrag != want.DontFrag {
				t.Errorf("fragment = %d %v %v, want %d %v %v", p.FragOffset, p.MoreFrags, p.DontFrag, want.FragOffset, want.MoreFrags, want.DontFrag)
			}
			if got := string(p.Payload(b)); got != string(want.Payload) || p.PayloadLen() != len(want.Payload) {
				t.Errorf("payload = %q (%d), want %q", got, p.PayloadLen(), want.Payload)
			}
			if p.TCP.Seq != want.Seq || p.TCP.Ack != want.Ack || p.TCP.Flags != want.Flags || p.TCP.Window != want.Window {
				t.Errorf("tcp = %+v, want %+v", p.TCP, want)
			}
			if p.ICMPType != want.ICMPType || p.ICMPCode != want.ICMPCode {
				t.Errorf("icmp = %d/%d, want %d/%d", p.ICMPType, p.ICMPCode, want.ICMPType, want.ICMPCode)
			}
			if !p.VerifyIP(b) || !p.VerifyTransport(b) {
				t.Errorf("checksums: ip %v, transport %v, want both true", p.VerifyIP(b), p.VerifyTransport(b))
			}
			if p.String() == "" {
				t.Error("String is empty")
			}
		})
	}
}

func TestParseTCPOptions(t *testing.T) {
	for _, row := range []struct {
		name string
		opts []byte
		want TCPHeader
	}{
		{"none", nil, TCPHeader{}},
		{
			"all of a SYN", Options(MSS(1460), SACKPermitted(), Timestamps(7, 9), WindowScale(8)),
			TCPHeader{HasMSS: true, MSS: 1460, SACKPermitted: true, HasTimestamps: true, TSVal: 7, TSEcr: 9, HasWScale: true, WScale: 8},
		},
		{"sack blocks", SACKBlocks(SACKBlock{1, 2}, SACKBlock{3, 4}), TCPHeader{SACKCount: 2, SACK: [4]SACKBlock{{1, 2}, {3, 4}}}},
		{"an unknown option is passed over", Options([]byte{254, 4, 1, 2}, WindowScale(3)), TCPHeader{HasWScale: true, WScale: 3}},
		{"nothing behind the end counts", Options([]byte{optEnd}, WindowScale(3)), TCPHeader{}},
		{"length 0 ends it", Options(WindowScale(3), []byte{254, 0}, MSS(9)), TCPHeader{HasWScale: true, WScale: 3, BadOptions: true}},
		{"beyond the header", []byte{optNop, optNop, optMSS, 4}, TCPHeader{BadOptions: true}},
		{"an MSS of 3 bytes", []byte{optMSS, 5, 1, 1, 1}, TCPHeader{BadOptions: true}},
		{"a window scale of 4 bytes", []byte{optWScale, 6, 0, 0, 0, 0, optNop, optNop}, TCPHeader{BadOptions: true}},
	} {
		b := Build{Src: a4, Dst: b4, Options: row.opts}.Bytes()
		p, err := Parse(b)
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
		}
		if p.TCP != row.want {
			t.Errorf("%s: Parse = %+v, want %+v", row.name, p.TCP, row.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	tcp4 := Build{Src: a4, Dst: b4, Payload: []byte("data")}.Bytes()
	tcp6 := Build{Src: a6, Dst: b6, Payload: []byte("data")}.Bytes()
	udp4 := Build{Src: a4, Dst: b4, Proto: UDP, Payload: []byte("data")}.Bytes()
	set := func(b []byte, at int, v ...byte) []byte {
		c := append([]byte(nil), b...)
		copy(c[at:], v)
		return c
	}
	for _, row := range []struct {
		name string
		b    []byte
		want error
	}{
		{"nothing", nil, ErrTruncated},
		{"IP version 5", set(tcp4, 0, 0x55), ErrVersion},
		{"IPv4 header cut short", tcp4[:19], ErrTruncated},
		{"IPv4 header of 16 bytes", set(tcp4, 0, 0x44), ErrHeader},
		{"IPv4 header beyond the packet", set(tcp4, 0, 0x4f), ErrHeader},
		{"IPv4 length below its header", set(tcp4, 2, 0, 19), ErrHeader},
		{"IPv4 payload cut short", tcp4[:len(tcp4)-1], ErrTruncated},
		{"IPv6 header cut short", tcp6[:39], ErrTruncated},
		{"IPv6 payload cut short", tcp6[:len(tcp6)-1], ErrTruncated},
		{"IPv6 extension beyond the packet", set(tcp6, 6, byte(protoDest), 64, 0), ErrTruncated},
		{"TCP header of 16 bytes", set(tcp4, 20+12, 0x40), ErrHeader},
		{"TCP header beyond the packet", set(tcp4, 20+12, 0xf0), ErrTruncated},
		{"TCP header cut short", set(tcp4[:39], 2, 0, 39), ErrTruncated},
		{"UDP length 7", set(udp4, 24, 0, 7), ErrHeader},
		{"UDP length beyond the packet", set(udp4, 24, 0, 13), ErrHeader},
	} {
		if p, err := Parse(row.b); !errors.Is(err, row.want) || p != (Packet{}) {
			t.Errorf("%s: Parse = %v, %v, want nothing and %v", row.name, &p, err, row.want)
		}
	}
}

func TestParseIgnoresWhatFollows(t *testing.T) {
	for _, b := range []Build{{Src: a4, Dst: b4, Payload: []byte("data")}, {Src: a6, Dst: b6, Payload: []byte("data")}} {
		raw := append(b.Bytes(), "trailer"...)
		p, err := Parse(raw)
		if err != nil || string(p.Payload(raw)) != "data" || !p.VerifyTransport(raw) {
			t.Errorf("Parse with a trailer = %v, %v, %q", &p, err, p.Payload(raw))
		}
	}
}

// TestParseUDPSurplus: an IP packet may be longer than its datagram.
func TestParseUDPSurplus(t *testing.T) {
	b := Build{Src: a4, Dst: b4, Proto: UDP, Payload: []byte("datasurplus")}.Bytes()
	put16(b[24:], 12)
	p, err := Parse(b)
	if err != nil || string(p.Payload(b)) != "data" {
		t.Fatalf("Parse = %v, %q, want the payload %q", err, p.Payload(b), "data")
	}
	p.SetChecksums(b)
	if !p.VerifyTransport(b) || string(b[len(b)-7:]) != "surplus" {
		t.Errorf("checksum over the datagram alone: %v", p.VerifyTransport(b))
	}
}

// TestParseQuoted: ICMP errors may quote no more than 8 bytes behind the IP
// header (RFC 792).
func TestParseQuoted(t *testing.T) {
	for _, build := range []Build{
		{Src: a4, Dst: b4, Flags: SYN, Seq: 42, Payload: make([]byte, 100), Options: MSS(1)},
		{Src: a6, Dst: b6, Flags: SYN, Seq: 42, Payload: make([]byte, 100), Options: MSS(1)},
		{Src: a4, Dst: b4, Proto: UDP, Payload: make([]byte, 100)},
	} {
		whole := build.Bytes()
		full, err := Parse(whole)
		if err != nil {
			t.Fatal(err)
		}
		for n := full.IPLen + 8; n <= len(whole); n++ {
			p, err := ParseQuoted(whole[:n])
			if err != nil || p.Src != build.Src || p.Dst != build.Dst || p.TCP.Seq != build.Seq || p.Len != full.Len {
				t.Fatalf("ParseQuoted of %d bytes = %v, %v", n, &p, err)
			}
		}
		if _, err := ParseQuoted(whole[:full.IPLen+7]); !errors.Is(err, ErrTruncated) {
			t.Errorf("ParseQuoted of 7 bytes behind the IP header: %v, want %v", err, ErrTruncated)
		}
	}
}

func TestSegLen(t *testing.T) {
	for _, row := range []struct {
		flags Flags
		data  int
		want  uint32
	}{{ACK, 0, 0}, {SYN, 0, 1}, {FIN | ACK, 10, 11}, {SYN | FIN, 3, 5}} {
		p, err := Parse(Build{Src: a4, Dst: b4, Flags: row.flags, Payload: make([]byte, row.data)}.Bytes())
		if err != nil || p.SegLen() != row.want {
			t.Errorf("SegLen of %v with %d bytes = %d, %v, want %d", row.flags, row.data, p.SegLen(), err, row.want)
		}
	}
}

func TestStrings(t *testing.T) {
	for _, row := range []struct{ got, want string }{
		{Flags(0).String(), "none"},
		{(SYN | ACK).String(), "SYN|ACK"},
		{(FIN | CWR).String(), "FIN|CWR"},
		{TCP.String(), "TCP"},
		{UDP.String(), "UDP"},
		{ICMP.String(), "ICMP"},
		{ICMPv6.String(), "ICMPv6"},
		{Proto(132).String(), "protocol 132"},
	} {
		if row.got != row.want {
			t.Errorf("String = %q, want %q", row.got, row.want)
		}
	}
}
