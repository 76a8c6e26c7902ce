package packet

import (
	"bytes"
	"testing"
)

func seed(f *testing.F, add func([]byte)) {
	for _, b := range samples() {
		add(b.Bytes())
	}
	syn := Build{Src: a4, Dst: b4, Flags: SYN, Options: []byte{optMSS, 0, 255, 255}}.Bytes()
	add(syn)
	add(syn[:30])
	add(Unreachable(nil, syn, NoRoute, gw4))
	add(nil)
}

// FuzzParse: whatever the bytes, Parse tells lengths that lie within them, and
// what is built from them is well-formed.
func FuzzParse(f *testing.F) {
	seed(f, func(b []byte) { f.Add(b) })
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = ParseQuoted(b)
		for _, answer := range [][]byte{
			Unreachable(nil, b, Prohibited, gw4), Unreachable(nil, b, Prohibited, gw6), Reset(nil, b), EchoReply(nil, b),
		} {
			if answer == nil {
				continue
			}
			p, err := Parse(answer)
			if err != nil || !p.VerifyIP(answer) || !p.VerifyTransport(answer) {
				t.Fatalf("the answer %x to %x is not well-formed: %v", answer, b, err)
			}
		}
		p, err := Parse(b)
		if err != nil {
			if p != (Packet{}) {
				t.Fatalf("Parse(%x) = %+v and %v", b, p, err)
			}
			return
		}
		if p.IPLen < 20 || p.TransportLen < 0 || p.PayloadLen() < 0 || p.Len > len(b) || len(p.Payload(b)) != p.PayloadLen() {
			t.Fatalf("Parse(%x) = %+v", b, p)
		}
		if q, err := ParseQuoted(b); err != nil || q != p {
			t.Fatalf("ParseQuoted(%x) = %+v, %v, want %+v", b, q, err, p)
		}
		_ = p.String()
		// Rewriting to what it was changes nothing but the two zeros of ones'
		// complement; mended checksums verify.
		c := bytes.Clone(b)
		q := p
		if q.SetSrc(c, p.Src, false) != nil || q.SetDst(c, p.Dst, true) != nil || q != p {
			t.Fatalf("rewriting %x gives %+v", b, q)
		}
		p.SetChecksums(c)
		if !p.VerifyIP(c) || !p.VerifyTransport(c) {
			t.Fatalf("SetChecksums(%x) = %x does not verify", b, c)
		}
		if q, err := Parse(c); err != nil || q != p {
			t.Fatalf("Parse after SetChecksums = %+v, %v, want %+v", q, err, p)
		}
	})
}

// FuzzSplit: segments are well-formed and together carry the payload.
func FuzzSplit(f *testing.F) {
	seed(f, func(b []byte) { f.Add(b, uint16(3)) })
	f.Add(Build{Src: a4, Dst: b4, Flags: ACK | FIN | CWR | URG, Urgent: 9, Payload: make([]byte, 1000)}.Bytes(), uint16(100))
	f.Fuzz(func(t *testing.T, b []byte, size uint16) {
		whole, err := Parse(b)
		var got []byte
		n, flags := 0, Flags(0)
		splitErr := Split(nil, b, int(size), func(seg []byte) bool {
			p, err := Parse(seg)
			if err != nil || !p.VerifyIP(seg) || !p.VerifyTransport(seg) || p.Len != len(seg) {
				t.Fatalf("segment %d of %x: %v", n, b, err)
			}
			if p.PayloadLen() > int(size) || p.TCP.Seq != whole.TCP.Seq+uint32(len(got)) || flags.Has(FIN) || n > 0 && p.TCP.Flags.Has(CWR) {
				t.Fatalf("segment %d of %x is %v", n, b, &p)
			}
			got = append(got, p.Payload(seg)...)
			flags |= p.TCP.Flags
			n++
			return true
		})
		if splitErr != nil {
			if n != 0 {
				t.Fatalf("Split(%x) yields %d segments and %v", b, n, splitErr)
			}
			return
		}
		if err != nil || !bytes.Equal(got, whole.Payload(b)) || flags != whole.TCP.Flags {
			t.Fatalf("Split(%x) carries %x with %v", b, got, flags)
		}
	})
}
