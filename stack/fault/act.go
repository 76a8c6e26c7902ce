package fault

import (
	"encoding/binary"
	"slices"
	"time"

	"tcpbox/policy"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun"
	"tcpbox/tun/packet"
)

// delay makes a packet late, by chance if there is jitter.
func (r *rule) delay(f *frame) {
	late := r.f.Delay
	if j := int64(r.f.Jitter); j > 0 {
		late += time.Duration(r.random[f.dir].Int64N(2*j+1) - j)
	}
	f.at = f.at.Add(late)
	if r.f.InOrder {
		if f.at.Before(r.last[f.dir]) {
			f.at = r.last[f.dir]
		}
		r.last[f.dir] = f.at
	}
	f.slots |= 1 << r.slot
}

// transmit puts a packet on a line with a rate. It arrives when its last bit has
// passed; false: it would have to wait for too long.
func (r *rule) transmit(f *frame, length int) bool {
	queue := r.f.Queue
	if queue == 0 {
		queue = policy.DefaultFaultQueue
	}
	begins := r.free[f.dir]
	if begins.Before(f.at) {
		begins, r.carry[f.dir] = f.at, 0
	}
	if begins.Sub(f.at) > queue {
		return false
	}
	// What a division leaves goes to the next packet, so that the rate is exact.
	work := int64(length)*8*int64(time.Second) + r.carry[f.dir]
	f.at = begins.Add(time.Duration(work / r.f.Rate))
	r.carry[f.dir] = work % r.f.Rate
	r.free[f.dir] = f.at
	f.slots |= 1 << r.slot
	return true
}

// corrupt turns a bit behind the IP header. The checksum is that of before.
func (r *rule) corrupt(f *frame, p *packet.Packet) {
	b := slices.Clone(f.data)
	if f.off.NeedsCsum {
		_ = packet.Complete(b, int(f.off.CsumStart), int(f.off.CsumOffset)) // its place was checked by who reads or writes the device
	}
	f.data, f.off, f.damaged = b, tun.Offload{}, true
	if p.Len > p.IPLen {
		bit := r.random[f.dir].IntN((p.Len - p.IPLen) * 8)
		b[p.IPLen+bit/8] ^= 1 << (bit % 8)
	}
}

// doubleLocked lets a packet and its copy go on through the rules.
func (d *Device) doubleLocked(f *frame, p *packet.Packet, i int, now time.Time, whole [][]byte) error {
	r := d.rules[i-1]
	again := *f
	err := d.runLocked(f, p, i, now, whole)
	again.serial = d.nextLocked()
	again.data = slices.Clone(again.data)
	if r.f.Delay > 0 {
		again.at, again.slots = again.at.Add(r.f.Delay), again.slots|1<<r.slot
	}
	if copied := d.runLocked(&again, p, i, now, nil); err == nil {
		err = copied
	}
	return err
}

// swallowLocked takes a packet out, with what belongs to it.
func (d *Device) swallowLocked(r *rule, f *frame, p *packet.Packet) {
	d.actedLocked(r, f, true)
	switch r.f.Do {
	case policy.FaultBlackhole:
		if f.conn != nil {
			f.conn.hole = r
		}
	case policy.FaultRST:
		d.resetLocked(r.f.Toward, f, p)
	case policy.FaultFail:
		switch r.f.How {
		case policy.FailTimeout:
		case policy.FailUnreachable:
			d.injectLocked(1-f.dir, packet.Unreachable(nil, f.data, packet.HostUnreachable, p.Dst.Addr()), nil)
		default:
			d.injectLocked(1-f.dir, packet.Reset(nil, f.data), f.conn)
		}
	}
}

// resetLocked sends an RST to the ends of a connection, or to one of them, as if
// each had sent it to the other.
func (d *Device) resetLocked(toward tcpstate.Leg, f *frame, p *packet.Packet) {
	sender, receiver := tcpstate.Guest, tcpstate.Stack
	if f.dir == toGuest {
		sender, receiver = receiver, sender
	}
	if toward != receiver {
		d.injectLocked(1-f.dir, packet.Reset(nil, f.data), f.conn)
	}
	if toward == sender || p.TCP.Flags&packet.ACK == 0 || p.TCP.Flags&packet.RST != 0 {
		return // a SYN has not reached anybody yet
	}
	seq := p.TCP.Seq
	if f.conn != nil {
		if e := &f.conn.ends[1-f.dir]; e.takes && p.TCP.Flags&packet.SYN == 0 {
			seq = e.rcv
		}
	}
	rst := packet.Build{Src: p.Src, Dst: p.Dst, Flags: packet.RST | packet.ACK, Seq: seq, Ack: p.TCP.Ack}
	d.injectLocked(f.dir, rst.Bytes(), f.conn)
}

// injectLocked lets a packet arrive that nobody has sent. It may be nil.
func (d *Device) injectLocked(dir int, b []byte, c *conn) {
	if b == nil {
		return
	}
	f := frame{data: b, dir: dir, serial: d.nextLocked(), conn: c}
	if p, err := packet.Parse(b); err == nil && c != nil {
		f.seg = segmentOf(&p)
	}
	_ = d.handLocked(&f, nil) // a packet that is lost
	if c != nil {
		c.arrives(&f)
	}
}

// mostKept is how many segments the replay rules together keep.
const mostKept = 64

// keepLocked keeps a copy of a segment for a later connection.
func (d *Device) keepLocked(r *rule, f *frame, p *packet.Packet) {
	if d.kept >= mostKept || f.conn == nil {
		r.full++
		return
	}
	b := slices.Clone(f.data)
	if f.off.NeedsCsum {
		_ = packet.Complete(b, int(f.off.CsumStart), int(f.off.CsumOffset))
	}
	d.kept++
	r.kept = append(r.kept, keptSegment{f.conn, tupleOf(f.dir, p), f.dir, b})
}

// replayLocked looks, behind a segment that has arrived, for old ones of earlier
// connections of the same ends: the receiver is ESTABLISHED now, and gets them.
func (d *Device) replayLocked(f *frame) {
	if d.kept == 0 || f.conn.ends[1-f.dir].state != tcpstate.Established {
		return
	}
	for _, r := range d.rules {
		for i := 0; i < len(r.kept); {
			k := r.kept[i]
			if k.of == f.conn || k.dir != f.dir || d.conns[k.key] != f.conn {
				i++
				continue
			}
			r.kept = slices.Delete(r.kept, i, i+1)
			d.kept--
			if r.f.Fit {
				d.fitLocked(&k, f)
			}
			old := frame{data: k.data, dir: k.dir}
			d.actedLocked(r, &old, false)
			d.injectLocked(k.dir, k.data, nil)
		}
	}
}

// fitLocked gives an old segment the numbers that the receiver waits for, as
// they would be when sequence numbers have come round. Its timestamps stay old.
func (d *Device) fitLocked(k *keptSegment, f *frame) {
	p, err := packet.Parse(k.data)
	if err != nil {
		return
	}
	tcp := k.data[p.IPLen:]
	binary.BigEndian.PutUint32(tcp[4:], f.conn.ends[1-f.dir].rcv)
	binary.BigEndian.PutUint32(tcp[8:], f.seg.ack)
	p.SetChecksums(k.data)
}
