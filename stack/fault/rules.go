package fault

import (
	"slices"
	"time"

	"tcpbox/policy"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun"
	"tcpbox/tun/packet"
)

// processLocked takes a packet, or a super-segment, through the rules. whole are
// its pieces, if it has any; its bytes are the caller's.
func (d *Device) processLocked(dir int, b []byte, off tun.Offload, whole [][]byte) error {
	now := d.cfg.Clock.Now()
	p, err := packet.Parse(b)
	if err != nil {
		return d.submitLocked(&frame{data: b, off: off, dir: dir, serial: d.nextLocked(), at: now}, now, whole)
	}
	if off.GSO == tun.GSONone || !d.mayMeanLocked(dir, &p) {
		return d.oneLocked(dir, b, off, &p, now, whole)
	}
	var failed error
	whether := off.NeedsCsum || off.DataValid
	if d.split == nil {
		d.split = make([]byte, 0, tun.MaxPacket)
	}
	err = p.Split(d.split, b, int(off.GSOSize), func(seg []byte) bool {
		q, err := packet.Parse(seg)
		if err == nil {
			err = d.oneLocked(dir, seg, tun.Offload{DataValid: whether && dir == toStack}, &q, now, nil)
		}
		if failed == nil {
			failed = err
		}
		return true
	})
	if err != nil { // what cannot be split goes as it is
		return d.oneLocked(dir, b, off, &p, now, whole)
	}
	return failed
}

func (d *Device) nextLocked() uint64 {
	d.serial++
	return d.serial
}

// mayMeanLocked reports whether a rule may mean a packet, whatever its
// connection is in.
func (d *Device) mayMeanLocked(dir int, p *packet.Packet) bool {
	c := d.conns[tupleOf(dir, p)]
	if c != nil && c.hole != nil {
		return true
	}
	for _, r := range d.rules {
		f := r.f
		if f.Kind != 0 && f.Kind < policy.KindTCP {
			f.Kind = policy.KindTCP // a segment of it may be another one
		}
		if meansPacket(&f, dir, p, c) {
			return true
		}
	}
	return false
}

// oneLocked takes a packet through the rules.
func (d *Device) oneLocked(dir int, b []byte, off tun.Offload, p *packet.Packet, now time.Time, whole [][]byte) error {
	f := frame{data: b, off: off, dir: dir, serial: d.nextLocked(), at: now}
	if p.Proto == packet.TCP && p.TransportLen >= 20 && !p.Fragment() {
		f.conn, f.seg = d.followLocked(dir, p, now), segmentOf(p)
	}
	return d.runLocked(&f, p, 0, now, whole)
}

// runLocked takes a packet through the rules from the i-th on, and lets it
// arrive.
func (d *Device) runLocked(f *frame, p *packet.Packet, i int, now time.Time, whole [][]byte) error {
	if c := f.conn; c != nil && c.hole != nil && i == 0 {
		if r := c.hole; r.removed {
			c.hole = nil
		} else if ofDirection(r.f.Direction, f.dir) {
			r.matched++
			d.actedLocked(r, f, true)
			return nil
		}
	}
	for ; i < len(d.rules); i++ {
		r := d.rules[i]
		if !r.means(f, p, now) {
			continue
		}
		r.matched++
		if !r.chooses(f) {
			continue
		}
		switch r.f.Do {
		case policy.FaultDelay:
			r.delay(f)
		case policy.FaultHold:
			f.at, f.slots = f.at.Add(r.f.Delay), f.slots|1<<r.slot
		case policy.FaultRate:
			if !r.transmit(f, p.Len) {
				r.full++
				d.actedLocked(r, f, true)
				return nil
			}
		case policy.FaultReorder:
			f.behind, f.slots = max(1, r.f.By), f.slots|1<<r.slot
		case policy.FaultCorrupt:
			r.corrupt(f, p)
			whole = nil
		case policy.FaultDup:
			d.actedLocked(r, f, false)
			return d.doubleLocked(f, p, i+1, now, whole)
		case policy.FaultReplay:
			d.keepLocked(r, f, p)
			continue // it acts later
		default:
			d.swallowLocked(r, f, p)
			return nil
		}
		d.actedLocked(r, f, false)
	}
	if f.conn != nil {
		f.conn.last = now
	}
	return d.submitLocked(f, now, whole)
}

func (d *Device) actedLocked(r *rule, f *frame, lost bool) {
	r.acted++
	if d.cfg.OnAct != nil {
		b := f.data
		if f.off.NeedsCsum {
			b = slices.Clone(b)
			_ = packet.Complete(b, int(f.off.CsumStart), int(f.off.CsumOffset))
		}
		direction := tcpstate.Outbound
		if f.dir == toGuest {
			direction = tcpstate.Inbound
		}
		d.cfg.OnAct(Act{Rule: r.id, Do: r.f.Do, Direction: direction, Packet: b, Lost: lost})
	}
}

func ofDirection(want tcpstate.Direction, dir int) bool {
	return want == 0 || (want == tcpstate.Outbound) == (dir == toStack)
}

// meansPacket reports whether a rule may mean a packet by what it is itself.
func meansPacket(f *policy.Fault, dir int, p *packet.Packet, c *conn) bool {
	if !ofDirection(f.Direction, dir) || !ofKind(f, p) {
		return false
	}
	if f.Src == (policy.FaultEnd{}) && f.Dst == (policy.FaultEnd{}) {
		return true
	}
	ends := tupleOf(dir, p)
	src, dst := ends.guest, ends.stack
	if c != nil && c.opener == stackEnd {
		src, dst = dst, src
	}
	return f.Src.Contains(src) && f.Dst.Contains(dst)
}

func ofKind(f *policy.Fault, p *packet.Packet) bool {
	tcp := p.Proto == packet.TCP && p.TransportLen >= 20
	if f.OfTCP() && !tcp {
		return false
	}
	flags := p.TCP.Flags
	if f.Do == policy.FaultFail && flags&(packet.SYN|packet.ACK|packet.RST) != packet.SYN {
		return false
	}
	switch f.Kind {
	case policy.KindSYN:
		return flags&(packet.SYN|packet.ACK) == packet.SYN
	case policy.KindSYNACK:
		return flags.Has(packet.SYN | packet.ACK)
	case policy.KindACK:
		return flags&(packet.ACK|packet.SYN|packet.FIN|packet.RST) == packet.ACK && p.PayloadLen() == 0
	case policy.KindFIN:
		return flags.Has(packet.FIN)
	case policy.KindRST:
		return flags.Has(packet.RST)
	case policy.KindData:
		return p.PayloadLen() > 0
	case policy.KindUDP:
		return p.Proto == packet.UDP
	case policy.KindICMP:
		return p.Proto == packet.ICMP || p.Proto == packet.ICMPv6
	}
	return true
}

func hasOption(o policy.TCPOption, h *packet.TCPHeader) bool {
	switch o {
	case policy.OptionMSS:
		return h.HasMSS
	case policy.OptionWindowScale:
		return h.HasWScale
	case policy.OptionSACKPermitted:
		return h.SACKPermitted
	case policy.OptionSACK:
		return h.SACKCount > 0
	case policy.OptionTimestamps:
		return h.HasTimestamps
	}
	return true
}

// means reports whether the rule means the packet.
func (r *rule) means(f *frame, p *packet.Packet, now time.Time) bool {
	t := &r.f
	if !meansPacket(t, f.dir, p, f.conn) || !hasOption(t.Option, &p.TCP) || t.Do == policy.FaultMTU && p.Len <= t.MTU {
		return false
	}
	if !t.Conditional() {
		return true
	}
	c := f.conn
	if c == nil {
		return false
	}
	guest, stack := c.ends[guestEnd].state, c.ends[stackEnd].state
	return (t.Guest == 0 || t.Guest.Has(guest)) && (t.Stack == 0 || t.Stack.Has(stack)) &&
		(t.Either == 0 || t.Either.Has(guest) || t.Either.Has(stack)) &&
		t.Age.Contains(now.Sub(c.born)) && t.Idle.Contains(now.Sub(c.last))
}

// chooses decides about a packet that is meant, by chance and by number. A
// connection that is to fail is decided about once.
func (r *rule) chooses(f *frame) bool {
	if r.f.Do != policy.FaultFail || f.conn == nil {
		return r.choose(f.dir)
	}
	for _, j := range f.conn.judged {
		if j.by == r {
			return j.fail
		}
	}
	fail := r.choose(f.dir)
	f.conn.judged = append(f.conn.judged, judgement{r, fail})
	return fail
}

func (r *rule) choose(dir int) bool {
	if r.f.Percent != 0 && r.random[dir].Float64()*100 >= r.f.Percent {
		return false
	}
	r.picked++
	switch r.f.Pick {
	case policy.PickFirst:
		return r.picked <= r.f.N
	case policy.PickNth:
		return r.picked == r.f.N
	case policy.PickEvery:
		return r.picked%r.f.N == 0
	}
	return true
}
