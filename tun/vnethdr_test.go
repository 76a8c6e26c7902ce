package tun

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"tcpbox/tun/packet"
)

var (
	guest4 = netip.MustParseAddrPort("198.18.0.2:40000")
	gate4  = netip.MustParseAddrPort("198.18.0.1:80")
	guest6 = netip.MustParseAddrPort("[fd74:6370:626f:78::2]:40000")
	gate6  = netip.MustParseAddrPort("[fd74:6370:626f:78::1]:80")
)

// header makes a virtio header by the offsets of linux/virtio_net.h.
func header(flags, gso byte, hdrLen, gsoSize, start, offset uint16) (v vnetHdr) {
	v[0], v[1] = flags, gso
	for i, f := range []uint16{hdrLen, gsoSize, start, offset} {
		binary.NativeEndian.PutUint16(v[2+2*i:], f)
	}
	return v
}

func TestDecode(t *testing.T) {
	tcp4 := packet.Build{Src: guest4, Dst: gate4, Flags: packet.ACK, Payload: make([]byte, 3000), Options: packet.Timestamps(1, 2)}.Bytes()
	tcp6 := packet.Build{Src: guest6, Dst: gate6, Flags: packet.ACK, Payload: make([]byte, 3000)}.Bytes()
	udp4 := packet.Build{Src: guest4, Dst: gate4, Proto: packet.UDP, Payload: make([]byte, 3000)}.Bytes()
	frag := packet.Build{Src: guest4, Dst: gate4, MoreFrags: true, Payload: make([]byte, 3000)}.Bytes()
	for _, row := range []struct {
		name string
		v    vnetHdr
		pkt  []byte
		want Offload
		err  error
	}{
		{"nothing left to do", header(0, 0, 0, 0, 0, 0), tcp4, Offload{}, nil},
		{"nothing, whatever the packet", header(0, 0, 0, 0, 0, 0), []byte{1}, Offload{}, nil},
		{"nothing, and stray fields", header(0, 0, 54, 9, 7, 7), tcp4, Offload{}, nil},
		{"the checksum is verified", header(2, 0, 0, 0, 0, 0), tcp4, Offload{DataValid: true}, nil},
		{"the checksum is to be completed", header(1, 0, 0, 0, 20, 16), tcp4, Offload{NeedsCsum: true, CsumStart: 20, CsumOffset: 16}, nil},
		{"a flag that nobody knows", header(0x40, 0, 0, 0, 0, 0), tcp4, Offload{}, nil},
		{
			"TSO", header(1, 1, 3000, 1448, 20, 16), tcp4,
			Offload{GSO: GSOTCP4, GSOSize: 1448, HdrLen: 52, NeedsCsum: true, CsumStart: 20, CsumOffset: 16},
			nil,
		},
		{
			"TSO6", header(1, 4, 60, 1440, 40, 16), tcp6,
			Offload{GSO: GSOTCP6, GSOSize: 1440, HdrLen: 60, NeedsCsum: true, CsumStart: 40, CsumOffset: 16},
			nil,
		},
		{
			"TSO with ECN", header(1, 0x81, 52, 1448, 20, 16), tcp4,
			Offload{GSO: GSOTCP4, GSOSize: 1448, HdrLen: 52, NeedsCsum: true, CsumStart: 20, CsumOffset: 16},
			nil,
		},
		{"TSO with a verified checksum", header(2, 1, 52, 1448, 0, 0), tcp4, Offload{GSO: GSOTCP4, GSOSize: 1448, HdrLen: 52, DataValid: true}, nil},

		{"a checksum beyond the packet", header(1, 0, 0, 0, 3040, 16), tcp4, Offload{}, errVnetHdr},
		{"a checksum field beyond the packet", header(1, 0, 0, 0, 20, 0xffff), tcp4, Offload{}, errVnetHdr},
		{"UFO", header(1, 3, 28, 1448, 20, 6), udp4, Offload{}, errVnetHdr},
		{"USO", header(1, 5, 28, 1448, 20, 6), udp4, Offload{}, errVnetHdr},
		{"a tunnel", header(1, 0x21, 52, 1448, 20, 16), tcp4, Offload{}, errVnetHdr},
		{"TSO of size 0", header(1, 1, 52, 0, 20, 16), tcp4, Offload{}, errVnetHdr},
		{"TSO of IPv6", header(1, 1, 60, 1440, 40, 16), tcp6, Offload{}, errVnetHdr},
		{"TSO6 of IPv4", header(1, 4, 52, 1440, 20, 16), tcp4, Offload{}, errVnetHdr},
		{"TSO of UDP", header(1, 1, 28, 1440, 20, 16), udp4, Offload{}, errVnetHdr},
		{"TSO of a fragment", header(1, 1, 40, 1440, 20, 16), frag, Offload{}, errVnetHdr},
		{"TSO of no packet", header(1, 1, 40, 1440, 0, 0), []byte{0, 0, 0, 0}, Offload{}, errVnetHdr},
	} {
		got, err := row.v.decode(row.pkt)
		if got != row.want || !errors.Is(err, row.err) {
			t.Errorf("%s: decode = %+v, %v, want %+v, %v", row.name, got, err, row.want, row.err)
		}
		if err != nil {
			continue
		}
		var v vnetHdr
		if err := v.encode(got, len(row.pkt)); err != nil {
			t.Errorf("%s: encode: %v", row.name, err)
		}
		if again, err := v.decode(row.pkt); again != got || err != nil {
			t.Errorf("%s: encode and decode = %+v, %v, want %+v", row.name, again, err, got)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	for name, h := range map[string]Offload{
		"an unknown kind":              {GSO: 9, GSOSize: 1},
		"a size of 0":                  {GSO: GSOTCP4},
		"a header beyond the packet":   {GSO: GSOTCP6, GSOSize: 1, HdrLen: 101},
		"a checksum beyond the packet": {NeedsCsum: true, CsumStart: 90, CsumOffset: 9},
	} {
		var v vnetHdr
		if err := v.encode(h, 100); !errors.Is(err, errVnetHdr) {
			t.Errorf("%s: encode = %v, want %v", name, err, errVnetHdr)
		}
	}
}

// FuzzDecode: whatever the header, what it asks for lies within the packet.
func FuzzDecode(f *testing.F) {
	v := header(1, 1, 52, 1448, 20, 16)
	f.Add(append(v[:], packet.Build{Src: guest4, Dst: gate4, Payload: make([]byte, 100)}.Bytes()...))
	f.Add(make([]byte, 12))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) <= VnetHdrLen {
			return
		}
		pkt := b[VnetHdrLen:]
		h, err := (*vnetHdr)(b).decode(pkt)
		if err != nil {
			return
		}
		if h.NeedsCsum && packet.Complete(pkt, int(h.CsumStart), int(h.CsumOffset)) != nil || int(h.HdrLen) > len(pkt) || (h.GSO == GSONone) != (h.GSOSize == 0) {
			t.Fatalf("decode(%x) = %+v", b, h)
		}
		var v vnetHdr
		if err := v.encode(h, len(pkt)); err != nil {
			t.Fatalf("encode(%+v): %v", h, err)
		}
	})
}
