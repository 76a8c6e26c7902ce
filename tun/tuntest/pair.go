// Package tuntest is a TUN device without a kernel: a pair of devices in
// memory, of which one reads what the other writes, a link between them that a
// script interferes with, and a Recorder to inject raw packets into one end
// and wait for the answers.
//
// Nothing here looks at a clock or needs privileges. Begin with Pair.
package tuntest

import (
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"tcpbox/tun"
	"tcpbox/tun/packet"
)

// DefaultQueue is how many packets wait in one direction before more are
// dropped. A TUN device of the kernel holds 500.
const DefaultQueue = 512

// Option changes how a pair behaves.
type Option func(*options)

type options struct {
	queuePackets int
	withoutGSO   bool
	names        [2]string
}

// Queue sets how many packets wait in one direction; 0 means DefaultQueue.
func Queue(packets int) Option {
	return func(o *options) { o.queuePackets = packets }
}

// WithoutGSO makes the devices do what was offloaded: a super-segment is split
// into its segments and checksums are completed, so that the reader sees only
// what could have travelled over a wire.
func WithoutGSO() Option {
	return func(o *options) { o.withoutGSO = true }
}

// Names sets the interfaces' names, which are "a" and "b" otherwise.
func Names(a, b string) Option {
	return func(o *options) { o.names = [2]string{a, b} }
}

// Pair makes two devices, of which each reads what the other writes, offloads
// included. An mtu of 0 means 1500; a packet beyond it that is no super-segment
// is an error to its writer. A packet that finds the queue full is dropped and
// counted in the writer's tun.Stats, which both devices have.
//
// Closing one end is to the other as if the device had died: once it has read
// what was on the way, it gets tun.ErrGone.
func Pair(mtu int, opts ...Option) (a, b tun.Device) {
	l := NewLink(mtu, nil, opts...)
	return l.A, l.B
}

// end is one of the two devices.
type end struct {
	link *Link
	dir  Direction // of what is written here
	name string
	peer *end

	in        chan *Frame
	done      chan struct{}
	closeOnce sync.Once
	dropped   atomic.Uint64
	arrived   atomic.Uint64 // frames for this end
	reads     atomic.Uint64 // calls of Read that have begun
}

func (e *end) MTU() int     { return e.link.mtu }
func (e *end) Name() string { return e.name }

func (e *end) Stats() tun.Stats { return tun.Stats{WriteDropped: e.dropped.Load()} }

func (e *end) Close() error {
	e.closeOnce.Do(func() { close(e.done) })
	return nil
}

func (e *end) Read(buf []byte) (int, tun.Offload, error) {
	if len(buf) < tun.MaxPacket {
		return 0, tun.Offload{}, e.fail("read", io.ErrShortBuffer)
	}
	if closed(e.done) {
		return 0, tun.Offload{}, os.ErrClosed
	}
	e.reads.Add(1)
	select {
	case f := <-e.in:
		return e.take(f, buf)
	default:
	}
	select {
	case f := <-e.in:
		return e.take(f, buf)
	case <-e.done:
		return 0, tun.Offload{}, os.ErrClosed
	case <-e.peer.done:
	}
	select {
	case f := <-e.in: // was on the way
		return e.take(f, buf)
	default:
		return 0, tun.Offload{}, tun.ErrGone
	}
}

func (e *end) take(f *Frame, buf []byte) (int, tun.Offload, error) {
	n, h := copy(buf, f.Data), f.Offload
	f.free()
	return n, h, nil
}

func (e *end) Write(bufs [][]byte, h tun.Offload) error {
	if closed(e.done) {
		return os.ErrClosed
	}
	if closed(e.peer.done) {
		return tun.ErrGone
	}
	n := 0
	for _, b := range bufs {
		n += len(b)
	}
	switch {
	case n == 0:
		return e.fail("write", fmt.Errorf("packet is empty"))
	case n > tun.MaxPacket:
		return e.fail("write", fmt.Errorf("packet of %d bytes is longer than tun.MaxPacket", n))
	case h.GSO == tun.GSONone && n > e.link.mtu:
		return e.fail("write", fmt.Errorf("packet of %d bytes exceeds the MTU of %d", n, e.link.mtu))
	case h.NeedsCsum && int(h.CsumStart)+int(h.CsumOffset)+2 > n:
		return e.fail("write", fmt.Errorf("checksum at %d+%d lies beyond the packet's %d bytes", h.CsumStart, h.CsumOffset, n))
	}
	f := newFrame(h)
	for _, b := range bufs {
		f.Data = append(f.Data, b...)
	}
	if e.link.withoutGSO {
		return e.writeWhole(f)
	}
	e.link.send(e, f)
	return nil
}

// writeWhole does what f's offload left to be done, and sends the result.
func (e *end) writeWhole(f *Frame) error {
	h := f.Offload
	if h.GSO == tun.GSONone {
		if h.NeedsCsum {
			if err := packet.Complete(f.Data, int(h.CsumStart), int(h.CsumOffset)); err != nil {
				return e.fail("write", err)
			}
		}
		f.Offload = tun.Offload{}
		e.link.send(e, f)
		return nil
	}
	scratch := newFrame(tun.Offload{})
	defer scratch.free()
	err := packet.Split(scratch.Data, f.Data, int(h.GSOSize), func(seg []byte) bool {
		g := newFrame(tun.Offload{})
		g.Data = append(g.Data, seg...)
		e.link.send(e, g)
		return true
	})
	f.free()
	if err != nil {
		return e.fail("write", err)
	}
	return nil
}

// deliver puts a frame into the reader's queue, or drops it.
func (e *end) deliver(f *Frame) {
	e.peer.arrived.Add(1)
	select {
	case e.peer.in <- f:
	default:
		e.peer.arrived.Add(^uint64(0))
		e.dropped.Add(1)
		f.free()
	}
}

func (e *end) fail(op string, err error) error {
	return fmt.Errorf("tuntest: %s %s: %w", op, e.name, err)
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
