package netstack

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"tcpbox/tun/packet"
)

// fragments puts ICMP messages together. It holds few of them, for hardly
// anybody sends one that is larger than the MTU. It is used by the reader of
// the device alone.
type fragments struct {
	parts []*partial // the oldest first
}

const (
	maxPartials  = 4
	partialLife  = 30 * time.Second // RFC 791, section 3.2 suggests 15 s, RFC 8200 60 s
	fragmentUnit = 8                // bytes
	maxFragments = 65536 / fragmentUnit
)

type fragmentKey struct {
	src, dst netip.Addr
	proto    packet.Proto
	id       uint32
}

type partial struct {
	key   fragmentKey
	since time.Time
	data  []byte
	have  [maxFragments / 64]uint64 // a bit for each unit that has come
	total int                       // bytes; zero until the last fragment has come
}

// add takes a fragment and returns the message that it completes, if it does.
// Fragments that overlap spoil their message (RFC 5722).
func (f *fragments) add(pkt []byte, now time.Time) []byte {
	p, err := packet.Parse(pkt)
	if err != nil || !p.Fragment() {
		return nil
	}
	body := pkt[p.IPLen:p.Len]
	key := fragmentKey{p.Src.Addr(), p.Dst.Addr(), p.Proto, p.ID}
	i := slices.IndexFunc(f.parts, func(q *partial) bool { return q.key == key })
	if i >= 0 && now.Sub(f.parts[i].since) > partialLife {
		f.parts = slices.Delete(f.parts, i, i+1)
		i = -1
	}
	if i < 0 {
		if len(f.parts) == maxPartials {
			f.parts = slices.Delete(f.parts, 0, 1)
		}
		i = len(f.parts)
		f.parts = append(f.parts, &partial{key: key, since: now})
	}
	q := f.parts[i]
	if !q.put(p.FragOffset, body, p.MoreFrags) {
		f.parts = slices.Delete(f.parts, i, i+1)
		return nil
	}
	if !q.complete() {
		return nil
	}
	f.parts = slices.Delete(f.parts, i, i+1)
	return q.data[:q.total]
}

// put reports false for a fragment that cannot be right.
func (q *partial) put(offset int, body []byte, more bool) bool {
	end := offset + len(body)
	switch {
	case len(body) == 0, end > 65535, more && len(body)%fragmentUnit != 0,
		q.total != 0 && (!more || end > q.total), !more && len(q.data) > end:
		return false
	}
	for u := offset / fragmentUnit; u < (end+fragmentUnit-1)/fragmentUnit; u++ {
		if q.have[u/64]&(1<<(u%64)) != 0 {
			return false
		}
		q.have[u/64] |= 1 << (u % 64)
	}
	if len(q.data) < end {
		q.data = slices.Grow(q.data, end-len(q.data))[:end]
	}
	copy(q.data[offset:], body)
	if !more {
		q.total = end
	}
	return true
}

func (q *partial) complete() bool {
	if q.total == 0 {
		return false
	}
	n := 0
	for _, w := range q.have {
		n += bits.OnesCount64(w)
	}
	return n == (q.total+fragmentUnit-1)/fragmentUnit
}

// writeFragments sends the guest an IPv6 packet that is longer than a device
// carries, in two fragments.
func (s *Stack) writeFragments(pkt []byte, ipLen int) error {
	return s.writeFragmentsOf(pkt, ipLen, 32<<10)
}

// writeFragmentsOf sends an IPv6 packet in fragments of room bytes of payload (RFC
// 8200, section 4.5). Its checksums are complete, and behind the IP header of
// ipLen bytes comes the transport.
func (s *Stack) writeFragmentsOf(pkt []byte, ipLen, room int) error {
	const nextHeader = 6
	body := pkt[ipLen:]
	id := s.fragmentID.Add(1)
	for at := 0; at < len(body); at += room {
		end := min(at+room, len(body))
		f := make([]byte, 0, ipLen+8+end-at)
		f = append(f, pkt[:ipLen]...)
		field := uint16(at)
		if end < len(body) {
			field |= 1 // more follow
		}
		f = append(f, f[nextHeader], 0, byte(field>>8), byte(field))
		f = binary.BigEndian.AppendUint32(f, id)
		f[nextHeader] = uint8(header.IPv6FragmentHeader)
		f = append(f, body[at:end]...)
		binary.BigEndian.PutUint16(f[4:], uint16(len(f)-ipLen))
		if err := s.write(f); err != nil {
			return err
		}
	}
	return nil
}
