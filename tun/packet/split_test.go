package packet

import (
	"bytes"
	"errors"
	"testing"
)

func TestSplit(t *testing.T) {
	payload := make([]byte, 3500)
	for i := range payload {
		payload[i] = byte(i * 7)
	}
	ts := Options([]byte{optNop, optNop}, Timestamps(1, 2))
	for name, super := range map[string]Build{
		"v4":          {Src: a4, Dst: b4, ID: 0xfffe},
		"v4 options":  {Src: a4, Dst: b4, ID: 9, IPOptions: []byte{148, 4, 0, 0}, Options: ts, DontFrag: true},
		"v6":          {Src: a6, Dst: b6, Options: ts},
		"v6 dest opt": {Src: a6, Dst: b6, Extensions: []Extension{{protoDest, []byte{1, 4, 0, 0, 0, 0}}}},
	} {
		super.Flags = ACK | PSH | FIN | CWR | URG
		super.Urgent = 1200
		super.Seq, super.Ack, super.Window, super.Payload = 0xfffffff0, 5, 77, payload
		super.Partial = true
		b := super.Bytes()
		whole, err := Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		kept := bytes.Clone(b)
		var got []byte
		i := 0
		err = Split(nil, b, 1000, func(seg []byte) bool {
			p, err := Parse(seg)
			if err != nil {
				t.Fatalf("%s: segment %d: %v", name, i, err)
			}
			if !p.VerifyIP(seg) || !p.VerifyTransport(seg) {
				t.Errorf("%s: segment %d: a checksum is wrong", name, i)
			}
			wantFlags := []Flags{ACK | CWR | URG, ACK | URG, ACK, ACK | PSH | FIN}[i]
			wantUrgent := []uint16{1200, 200, 0, 0}[i]
			wantLen := []int{1000, 1000, 1000, 500}[i]
			if p.TCP.Flags != wantFlags || p.TCP.Urgent != wantUrgent || p.PayloadLen() != wantLen || p.Len != len(seg) {
				t.Errorf("%s: segment %d = %v urgent %d, want %v urgent %d len %d", name, i, &p, p.TCP.Urgent, wantFlags, wantUrgent, wantLen)
			}
			if want := super.Seq + uint32(1000*i); p.TCP.Seq != want || p.TCP.Ack != 5 || p.TCP.Window != 77 {
				t.Errorf("%s: segment %d = %v, want seq %d", name, i, &p, want)
			}
			if p.Version == 4 && p.ID != uint32(uint16(super.ID)+uint16(i)) {
				t.Errorf("%s: segment %d has ID %d", name, i, p.ID)
			}
			if p.Src != whole.Src || p.Dst != whole.Dst || p.HeaderLen() != whole.HeaderLen() || p.DontFrag != whole.DontFrag || p.TCP.HasTimestamps != whole.TCP.HasTimestamps {
				t.Errorf("%s: segment %d has other headers: %v", name, i, &p)
			}
			got = append(got, p.Payload(seg)...)
			i++
			return true
		})
		if err != nil || i != 4 || !bytes.Equal(got, payload) {
			t.Errorf("%s: Split = %d segments of %d bytes, %v, want 4 of %d", name, i, len(got), err, len(payload))
		}
		if !bytes.Equal(b, kept) {
			t.Errorf("%s: Split changed the super-segment", name)
		}
	}
}

func TestSplitEdges(t *testing.T) {
	build := func(n int, f Flags) []byte {
		return Build{Src: a4, Dst: b4, Flags: f, Partial: true, Payload: make([]byte, n)}.Bytes()
	}
	for _, row := range []struct {
		name  string
		b     []byte
		size  int
		count int
		err   error
	}{
		{"no payload is one segment", build(0, ACK), 100, 1, nil},
		{"exactly one", build(100, ACK), 100, 1, nil},
		{"exactly two", build(200, ACK), 100, 2, nil},
		{"one byte each", build(5, ACK), 1, 5, nil},
		{"a size of 0", build(5, ACK), 0, 0, ErrSplit},
		{"a small SYN passes", build(5, SYN), 100, 1, nil},
		{"a SYN is not split", build(101, SYN), 100, 0, ErrSplit},
		{"an RST is not split", build(101, RST|ACK), 100, 0, ErrSplit},
		{"UDP", Build{Src: a4, Dst: b4, Proto: UDP}.Bytes(), 100, 0, ErrSplit},
		{"a fragment", Build{Src: a4, Dst: b4, MoreFrags: true}.Bytes(), 100, 0, ErrSplit},
		{"no packet", []byte{1, 2, 3}, 100, 0, ErrVersion},
	} {
		n := 0
		err := Split(nil, row.b, row.size, func(seg []byte) bool {
			if p, err := Parse(seg); err != nil || !p.VerifyTransport(seg) {
				t.Errorf("%s: segment %d: %v", row.name, n, err)
			}
			n++
			return true
		})
		if n != row.count || !errors.Is(err, row.err) {
			t.Errorf("%s: Split = %d segments, %v, want %d, %v", row.name, n, err, row.count, row.err)
		}
	}
	n := 0
	if err := Split(nil, build(500, ACK), 100, func([]byte) bool { n++; return n < 2 }); err != nil || n != 2 {
		t.Errorf("Split stopped after 2 = %d, %v", n, err)
	}
}
