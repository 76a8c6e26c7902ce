package packet

import (
	"errors"
	"math/rand/v2"
	"testing"
)

// slowSum is RFC 1071 word by word.
func slowSum(b []byte, sum uint32) uint16 {
	for i := 0; i < len(b); i += 2 {
		w := uint32(b[i]) << 8
		if i+1 < len(b) {
			w |= uint32(b[i+1])
		}
		if sum += w; sum > 0xffff {
			sum = sum&0xffff + 1
		}
	}
	return uint16(sum)
}

func TestSum(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 300)
	for n := range b {
		for range 20 {
			for i := range b[:n] {
				b[i] = byte(r.Uint32()) | byte(-(r.IntN(3) / 2)) // often 0xff
			}
			initial := uint16(r.Uint32())
			if got, want := Sum(b[:n], initial), slowSum(b[:n], uint32(initial)); got != want && got+want != 0xffff {
				t.Fatalf("Sum(%x, %#x) = %#x, want %#x", b[:n], initial, got, want)
			}
		}
	}
}

// TestDamage: a checksum that does not match is seen, on every layer.
func TestDamage(t *testing.T) {
	for name, build := range samples() {
		b := build.Bytes()
		p, err := Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		if p.Version == 4 {
			b[8]++ // TTL
			if p.VerifyIP(b) {
				t.Errorf("%s: VerifyIP of a damaged header = true", name)
			}
			b[8]--
		}
		if p.checkable() {
			b[p.IPLen+p.Proto.csumOffset()] ^= 1
			if p.VerifyTransport(b) {
				t.Errorf("%s: VerifyTransport of a damaged checksum = true", name)
			}
			p.SetChecksums(b)
			if !p.VerifyTransport(b) || !p.VerifyIP(b) {
				t.Errorf("%s: SetChecksums did not mend it", name)
			}
		}
	}
}

func TestUDPWithoutChecksum(t *testing.T) {
	for _, row := range []struct {
		b    Build
		want bool
	}{{Build{Src: a4, Dst: b4, Proto: UDP}, true}, {Build{Src: a6, Dst: b6, Proto: UDP}, false}} {
		b := row.b.Bytes()
		p, err := Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		put16(b[p.IPLen+6:], 0)
		if got := p.VerifyTransport(b); got != row.want {
			t.Errorf("IPv%d: VerifyTransport of UDP with checksum 0 = %v, want %v", p.Version, got, row.want)
		}
	}
}

// TestPartial: completing a partial checksum makes the packet that Build makes
// with a whole one.
func TestPartial(t *testing.T) {
	for name, build := range samples() {
		want := build.Bytes()
		build.Partial = true
		b := build.Bytes()
		p, err := Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		again := append([]byte(nil), b...)
		start, off, ok := p.SetPartialChecksum(again)
		if string(again) != string(b) && ok {
			t.Errorf("%s: SetPartialChecksum differs from Build", name)
		}
		if !ok {
			continue
		}
		if err := Complete(b, start, off); err != nil || string(b) != string(want) {
			t.Errorf("%s: Complete = %x, %v, want %x", name, b, err, want)
		}
	}
	if err := Complete(make([]byte, 10), 8, 1); !errors.Is(err, ErrTruncated) {
		t.Errorf("Complete beyond the end: %v, want %v", err, ErrTruncated)
	}
}

func TestRewrite(t *testing.T) {
	to4, to6 := ap("203.0.113.9:65535"), ap("[2001:db8::9]:1")
	for name, build := range samples() {
		if build.MoreFrags { // its checksum covers what is not here
			continue
		}
		to := to4
		if build.Src.Addr().Is6() {
			to = to6
		}
		for _, partial := range []bool{false, true} {
			for _, dst := range []bool{false, true} {
				build.Partial = partial
				b := build.Bytes()
				p, err := Parse(b)
				if err != nil {
					t.Fatal(err)
				}
				want, end, set := build, &p.Src, p.SetSrc
				field := &want.Src
				if dst {
					field, end, set = &want.Dst, &p.Dst, p.SetDst
				}
				*field = to
				if p.TransportLen == 0 || p.Proto == ICMP || p.Proto == ICMPv6 {
					*field = bare(to)
				}
				if err := set(b, to, partial); err != nil {
					t.Fatal(err)
				}
				if *end != *field {
					t.Errorf("%s: the packet says %v, want %v", name, *end, *field)
				}
				q, err := Parse(b)
				if err != nil || q != p || !q.VerifyIP(b) {
					t.Errorf("%s partial %v dst %v: Parse after the change = %v, %v, want %v", name, partial, dst, &q, err, &p)
				}
				if partial {
					if start, off, ok := q.SetPartialChecksum(append([]byte(nil), b...)); ok {
						_ = Complete(b, start, off)
					}
				}
				if !q.VerifyTransport(b) {
					t.Errorf("%s partial %v dst %v: the checksum is wrong", name, partial, dst)
				}
			}
		}
	}
}

func TestRewriteRefusesOtherFamily(t *testing.T) {
	b := Build{Src: a4, Dst: b4}.Bytes()
	p, _ := Parse(b)
	if err := p.SetSrc(b, a6, false); !errors.Is(err, ErrVersion) {
		t.Errorf("SetSrc of IPv4 to IPv6: %v, want %v", err, ErrVersion)
	}
}

func TestRewriteKeepsDamage(t *testing.T) {
	b := Build{Src: a4, Dst: b4, BadChecksum: true}.Bytes()
	p, _ := Parse(b)
	if err := p.SetDst(b, ap("203.0.113.9:1"), false); err != nil || p.VerifyTransport(b) {
		t.Errorf("SetDst of a damaged packet: %v, verifies %v, want it still damaged", err, p.VerifyTransport(b))
	}
}

func TestRewriteUDPZero(t *testing.T) {
	b := Build{Src: a4, Dst: b4, Proto: UDP}.Bytes()
	put16(b[26:], 0)
	p, _ := Parse(b)
	if err := p.SetSrc(b, ap("203.0.113.9:7"), false); err != nil || be16(b[26:]) != 0 {
		t.Errorf("a datagram without checksum got one: %#x, %v", be16(b[26:]), err)
	}
}

func TestNoAllocations(t *testing.T) {
	syn := Build{Src: a4, Dst: b4, Flags: SYN, Options: Options(MSS(1460), Timestamps(1, 2))}.Bytes()
	super := Build{Src: a6, Dst: b6, Flags: ACK | PSH, Payload: make([]byte, 60000)}.Bytes()
	ping := Build{Src: bare(a4), Dst: bare(b4), Proto: ICMP, ICMPType: 8, Payload: make([]byte, 56)}.Bytes()
	buf := make([]byte, 2000)
	sink := 0
	yield := func(seg []byte) bool { sink += len(seg); return true }
	for name, f := range map[string]func(){
		"Parse":           func() { p, _ := Parse(syn); sink += p.Len },
		"VerifyTransport": func() { p, _ := Parse(super); p.VerifyTransport(super) },
		"Split":           func() { _ = Split(buf, super, 1440, yield) },
		"Unreachable":     func() { sink += len(Unreachable(buf, syn, NoRoute, b4.Addr())) },
		"Reset":           func() { sink += len(Reset(buf, syn)) },
		"EchoReply":       func() { sink += len(EchoReply(buf, ping)) },
		"SetSrc":          func() { p, _ := Parse(syn); _ = p.SetSrc(syn, a4, false) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s allocates %v times, want 0", name, n)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	syn := Build{Src: a4, Dst: b4, Flags: ACK, Options: Options(Timestamps(1, 2)), Payload: make([]byte, 1000)}.Bytes()
	for b.Loop() {
		if _, err := Parse(syn); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify64K(b *testing.B) {
	super := Build{Src: a4, Dst: b4, Flags: ACK, Payload: make([]byte, 65000)}.Bytes()
	p, _ := Parse(super)
	b.SetBytes(int64(len(super)))
	for b.Loop() {
		p.VerifyTransport(super)
	}
}

func BenchmarkSplit64K(b *testing.B) {
	super := Build{Src: a4, Dst: b4, Flags: ACK, Payload: make([]byte, 65000)}.Bytes()
	buf := make([]byte, 1500)
	b.SetBytes(int64(len(super)))
	for b.Loop() {
		if err := Split(buf, super, 1448, func([]byte) bool { return true }); err != nil {
			b.Fatal(err)
		}
	}
}
