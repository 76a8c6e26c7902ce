package tuntest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"tcpbox/tun"
	"tcpbox/tun/packet"
)

// maxRecorded is how much a Recorder keeps, in bytes, each frame counted as at
// least 512; more ends it with an error, for a test that floods it is not
// looking at them.
const maxRecorded = 1 << 28

// Recorder plays the other side of a device by hand: it sends raw packets, and
// keeps all that arrive, so that a test can wait for those it expects.
type Recorder struct {
	dev tun.Device

	mu      sync.Mutex
	frames  []Recorded
	size    int    // of the frames, as maxRecorded counts
	taken   []bool // frames that a Wait has returned
	from    int    // all before are taken
	err     error  // why reading ended
	changed chan struct{}

	ended chan struct{}
}

// Recorded is a frame that arrived.
type Recorded struct {
	Data    []byte
	Offload tun.Offload
	Packet  packet.Packet // zero if Err
	Err     error         // why Data could not be parsed
}

// Record starts to read dev. The Recorder owns the device from here on: Close
// closes it.
func Record(dev tun.Device) *Recorder {
	r := &Recorder{dev: dev, changed: make(chan struct{}), ended: make(chan struct{})}
	go r.readAll()
	return r
}

// readAll ends when the device is closed or gone.
func (r *Recorder) readAll() {
	defer close(r.ended)
	buf := make([]byte, tun.MaxPacket)
	for {
		n, h, err := r.dev.Read(buf)
		f := Recorded{Data: slices.Clone(buf[:n]), Offload: h}
		if err == nil {
			f.Packet, f.Err = packet.Parse(f.Data)
		}
		r.mu.Lock()
		if r.size += max(n, 512); err == nil && r.size > maxRecorded {
			err = fmt.Errorf("tuntest: record %s: more than %d bytes", r.dev.Name(), maxRecorded)
		}
		if err != nil {
			r.err = err
		} else {
			r.frames = append(r.frames, f)
			r.taken = append(r.taken, false)
		}
		close(r.changed)
		r.changed = make(chan struct{})
		r.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Send injects a packet whose checksums are complete.
func (r *Recorder) Send(pkt []byte) error {
	return r.dev.Write([][]byte{pkt}, tun.Offload{})
}

// SendOffload injects a packet or super-segment with work left to be done.
func (r *Recorder) SendOffload(pkt []byte, h tun.Offload) error {
	return r.dev.Write([][]byte{pkt}, h)
}

// Wait returns the earliest frame which match accepts and no Wait has returned
// before. It waits for it until ctx ends; the error then lists what arrived
// instead. A frame that could not be parsed is shown to match too.
func (r *Recorder) Wait(ctx context.Context, match func(*Recorded) bool) (Recorded, error) {
	next := 0
	for {
		r.mu.Lock()
		for next = max(next, r.from); next < len(r.frames); next++ {
			if !r.taken[next] && match(&r.frames[next]) {
				f := r.frames[next]
				r.takeLocked(next)
				r.mu.Unlock()
				return f, nil
			}
		}
		changed, err := r.changed, r.err
		r.mu.Unlock()
		if err != nil {
			return Recorded{}, r.missing(err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Recorded{}, r.missing(ctx.Err())
		}
	}
}

func (r *Recorder) takeLocked(i int) {
	r.taken[i] = true
	for r.from < len(r.taken) && r.taken[r.from] {
		r.from++
	}
}

// missing describes a wait in vain.
func (r *Recorder) missing(err error) error {
	const show = 20
	errs := []error{fmt.Errorf("tuntest: wait on %s: %w", r.dev.Name(), err)}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := r.from; i < len(r.frames) && len(errs) <= show; i++ {
		if !r.taken[i] {
			errs = append(errs, fmt.Errorf("arrived: %v", &r.frames[i]))
		}
	}
	return errors.Join(errs...)
}

// WaitTCP is Wait for a TCP segment to the given port that has all of the
// flags; port 0 is any.
func (r *Recorder) WaitTCP(ctx context.Context, port uint16, flags packet.Flags) (Recorded, error) {
	return r.Wait(ctx, func(f *Recorded) bool {
		p := &f.Packet
		return p.Proto == packet.TCP && p.TransportLen > 0 && (port == 0 || p.Dst.Port() == port) && p.TCP.Flags.Has(flags)
	})
}

// Exchange sends a packet and waits for its answer.
func (r *Recorder) Exchange(ctx context.Context, pkt []byte, match func(*Recorded) bool) (Recorded, error) {
	if err := r.Send(pkt); err != nil {
		return Recorded{}, err
	}
	return r.Wait(ctx, match)
}

// Frames returns all that arrived until now. The data is shared.
func (r *Recorder) Frames() []Recorded {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.frames)
}

// Close closes the device and returns when reading has ended.
func (r *Recorder) Close() error {
	err := r.dev.Close()
	<-r.ended
	return err
}

// String describes the frame in one line.
func (f *Recorded) String() string {
	if f.Err != nil {
		return fmt.Sprintf("%d bytes: %v", len(f.Data), f.Err)
	}
	s := f.Packet.String()
	if f.Offload.GSO != tun.GSONone {
		s += fmt.Sprintf(" gso=%d", f.Offload.GSOSize)
	}
	return s
}
