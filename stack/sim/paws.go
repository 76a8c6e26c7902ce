package sim

import (
	"encoding/binary"
	"sync"

	"tcpbox/tun/packet"
	"tcpbox/tun/tuntest"
)

// paws is the check of RFC 7323, section 5.3, in front of both hosts: a segment
// with a timestamp older than the last one delivered on its 4-tuple, since that
// was opened by a SYN, is not taken and is answered with an ACK. RSTs are exempt.
type paws struct {
	mu     sync.Mutex
	recent map[way]uint32 // TS.Recent
}

// way is one direction of a 4-tuple.
type way struct {
	dir  tuntest.Direction
	a, b uint16 // the ports of sender and receiver
}

func newPAWS() *paws { return &paws{recent: make(map[way]uint32)} }

// check looks at a segment that is about to arrive. It changes an old one so that the
// host finds it outside its window, which it answers with an ACK.
func (c *paws) check(dir tuntest.Direction, pkt []byte) {
	p, err := packet.Parse(pkt)
	if err != nil || p.Proto != packet.TCP {
		return
	}
	key := way{dir, p.Src.Port(), p.Dst.Port()}
	ts, has := Timestamp(pkt, &p)
	c.mu.Lock()
	defer c.mu.Unlock()
	recent, known := c.recent[key]
	switch {
	case p.TCP.Flags.Has(packet.SYN):
		delete(c.recent, key)
		if has {
			c.recent[key] = ts
		}
	case !has || !known || p.TCP.Flags.Has(packet.RST):
	case int32(ts-recent) >= 0:
		c.recent[key] = ts
	default:
		const farOutside = 1 << 30 // of any window (RFC 7323, section 2.2)
		seq := pkt[p.IPLen+4 : p.IPLen+8]
		binary.BigEndian.PutUint32(seq, binary.BigEndian.Uint32(seq)-farOutside)
		p.SetChecksums(pkt)
	}
}

// Timestamp returns the TSval of a segment that was parsed, if it has one.
func Timestamp(pkt []byte, p *packet.Packet) (ts uint32, ok bool) {
	if p.TransportLen < 20 {
		return 0, false
	}
	opts := pkt[p.IPLen+20 : p.IPLen+p.TransportLen]
	for len(opts) > 0 && opts[0] != packet.OptionEnd {
		if opts[0] == packet.OptionNop {
			opts = opts[1:]
			continue
		}
		if len(opts) < 2 || opts[1] < 2 || int(opts[1]) > len(opts) {
			return 0, false
		}
		if opts[0] == packet.OptionTimestamps && opts[1] == 10 {
			return binary.BigEndian.Uint32(opts[2:]), true
		}
		opts = opts[opts[1]:]
	}
	return 0, false
}
