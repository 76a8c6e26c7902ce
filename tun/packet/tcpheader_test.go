package packet

import (
	"bytes"
	"errors"
	"net/netip"
	"reflect"
	"testing"
)

func TestParseTCP(t *testing.T) {
	b := Build{
		Src: netip.MustParseAddrPort("192.0.2.1:1000"), Dst: netip.MustParseAddrPort("192.0.2.2:80"), Flags: SYN | ECE, Seq: 7, Ack: 9, Window: 11, Urgent: 3,
		Options: Options(MSS(1460), WindowScale(7), SACKPermitted(), Timestamps(1, 2)), Payload: []byte("data"),
	}.Bytes()
	whole, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	header := b[whole.IPLen:whole.HeaderLen()]
	src, dst, h, err := ParseTCP(header)
	if src != 1000 || dst != 80 || h != whole.TCP || err != nil {
		t.Errorf("ParseTCP = %d, %d, %+v, %v, want what Parse finds: %+v", src, dst, h, err, whole.TCP)
	}
	for n := range header {
		if _, _, _, err := ParseTCP(header[:n]); !errors.Is(err, ErrTruncated) {
			t.Errorf("of %d bytes: %v", n, err)
		}
	}
}

func TestTCPOptions(t *testing.T) {
	fixed := make([]byte, 20)
	for _, row := range []struct {
		name string
		raw  []byte
		want []Option
		bad  int
	}{
		{"none", nil, nil, 0},
		{"of a SYN", []byte{2, 4, 5, 180, 1, 3, 3, 7}, []Option{{2, []byte{5, 180}}, {1, nil}, {3, []byte{7}}}, 0},
		{"an end", []byte{1, 0, 2, 4}, []Option{{1, nil}, {0, nil}}, 0},
		{"a length of nothing", []byte{1, 254, 0, 9}, []Option{{1, nil}}, 3},
		{"longer than the header", []byte{1, 1, 254, 3}, []Option{{1, nil}, {1, nil}}, 2},
	} {
		b := append(bytes.Clone(fixed), row.raw...)
		b[12] = uint8(len(b)/4) << 4
		got, bad := TCPOptions(b)
		if !reflect.DeepEqual(got, row.want) || bad != row.bad {
			t.Errorf("%s: TCPOptions = %v, %d, want %v, %d", row.name, got, bad, row.want, row.bad)
		}
	}
}

func FuzzTCPHeader(f *testing.F) {
	f.Add(make([]byte, 20))
	f.Add([]byte{0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x60, 2, 0, 0, 0, 0, 0, 0, 2, 4, 5, 180})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, _, h, err := ParseTCP(b); err == nil {
			if _, bad := TCPOptions(b); bad > 0 && !h.BadOptions {
				t.Errorf("%x: %d bad bytes that ParseTCP does not see", b, bad)
			}
		}
	})
}
