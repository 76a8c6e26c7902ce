package tun

import (
	"encoding/binary"
	"errors"

	"tcpbox/tun/packet"
)

// The header before each packet, struct virtio_net_hdr of linux/virtio_net.h,
// in the machine's byte order:
//
//	 0       1         2         4          6            8              10
//	+-------+---------+---------+----------+------------+--------------+
//	| flags | gsotype | hdr_len | gso_size | csum_start | csum_offset  |
//	+-------+---------+---------+----------+------------+--------------+
const (
	vnetNeedsCsum = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM
	vnetDataValid = 2 // VIRTIO_NET_HDR_F_DATA_VALID

	vnetGSONone = 0
	vnetGSOTCP4 = 1
	vnetGSOTCP6 = 4
	vnetGSOECN  = 0x80 // the first segment carries CWR
)

type vnetHdr [VnetHdrLen]byte

// errVnetHdr is for a header that makes no sense with its packet, or asks for
// an offload that was not asked for.
var errVnetHdr = errors.New("tun: bad virtio header")

// decode reads the header of pkt. The ECN bit is dropped: whoever splits a
// super-segment leaves CWR on its first segment anyway.
//
// hdr_len is not trusted. The kernel puts into it how much of the packet
// happens to lie in one piece; HdrLen is read from the packet instead.
func (v *vnetHdr) decode(pkt []byte) (Offload, error) {
	flags, typ := v[0], v[1]&^vnetGSOECN
	if flags == 0 && typ == vnetGSONone {
		return Offload{}, nil
	}
	h := Offload{DataValid: flags&vnetDataValid != 0}
	if flags&vnetNeedsCsum != 0 {
		h.NeedsCsum = true
		h.CsumStart = binary.NativeEndian.Uint16(v[6:])
		h.CsumOffset = binary.NativeEndian.Uint16(v[8:])
		if int(h.CsumStart)+int(h.CsumOffset)+2 > len(pkt) {
			return Offload{}, errVnetHdr
		}
	}
	switch typ {
	case vnetGSONone:
		return h, nil
	case vnetGSOTCP4:
		h.GSO = GSOTCP4
	case vnetGSOTCP6:
		h.GSO = GSOTCP6
	default:
		return Offload{}, errVnetHdr
	}
	h.GSOSize = binary.NativeEndian.Uint16(v[4:])
	p, err := packet.Parse(pkt)
	if err != nil || h.GSOSize == 0 || p.Proto != packet.TCP || p.Fragment() || (p.Version == 4) != (h.GSO == GSOTCP4) {
		return Offload{}, errVnetHdr
	}
	h.HdrLen = uint16(p.HeaderLen())
	return h, nil
}

// encode writes the header for a packet of n bytes.
func (v *vnetHdr) encode(h Offload, n int) error {
	*v = vnetHdr{}
	if h == (Offload{}) {
		return nil
	}
	if h.DataValid {
		v[0] |= vnetDataValid
	}
	if h.NeedsCsum {
		if int(h.CsumStart)+int(h.CsumOffset)+2 > n {
			return errVnetHdr
		}
		v[0] |= vnetNeedsCsum
		binary.NativeEndian.PutUint16(v[6:], h.CsumStart)
		binary.NativeEndian.PutUint16(v[8:], h.CsumOffset)
	}
	switch h.GSO {
	case GSONone:
		return nil
	case GSOTCP4:
		v[1] = vnetGSOTCP4
	case GSOTCP6:
		v[1] = vnetGSOTCP6
	default:
		return errVnetHdr
	}
	if h.GSOSize == 0 || int(h.HdrLen) > n {
		return errVnetHdr
	}
	binary.NativeEndian.PutUint16(v[2:], h.HdrLen)
	binary.NativeEndian.PutUint16(v[4:], h.GSOSize)
	return nil
}
