// Package fault carries out what policy says goes wrong between guest and stack:
// it wraps a tun.Device, and loses, delays, doubles, damages, holds back or resets
// what passes, as the rules say (policy.Fault).
//
//	guest ─▶ inner Device.Read ─▶ pump ─▶ rules ─▶ lane ─▶ Device.Read  ─▶ stack
//	guest ◀─ inner Device.Write ◀──────── lane ◀── rules ◀─ Device.Write ◀─ stack
//
// Every packet goes through all rules in their order, until one takes it out. What
// is late waits in the lane of its direction, which has an end: what does not fit is
// dropped and counted. Each packet has its own due time, counted from when it came,
// so that lateness does not add up.
//
// Chance comes from generators of their own for each rule and direction: the same
// seed, and the same packets of a direction, go the same way. Connections are
// followed by what each end sends and what reaches it, which is why a rule can name
// their states.
//
// Without a rule a Device is transparent: no copy, no lock, no goroutine.
//
// The package knows nothing of stacks and sandboxes. Begin with New.
package fault

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tcpbox/policy"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun"
	"tcpbox/tun/packet"
)

// Defaults of Config, and MaxRules, which is no default.
const (
	DefaultMaxPackets     = 1 << 14
	DefaultMaxBytes       = 32 << 20
	DefaultMaxConnections = 1 << 16
	MaxRules              = 64
)

// Config says how a Device is. The zero Config is a good one.
type Config struct {
	// Rules are there from the beginning, in their order, as far as Add takes them.
	Rules []policy.Fault

	// Seed is where chance comes from.
	Seed uint64

	// Clock tells the time and wakes. Nil means the machine's.
	Clock Clock

	// MaxPackets and MaxBytes bound what waits in each direction; zero means
	// DefaultMaxPackets and DefaultMaxBytes.
	MaxPackets, MaxBytes int

	// MaxConnections is how many connections are followed; zero means
	// DefaultMaxConnections. Of more, those that are over or silent are
	// forgotten, and counted.
	MaxConnections int

	// TwoStacks says that the guest is an embedded stack too, and no Linux, which
	// takes some ACKs earlier.
	TwoStacks bool

	// Interrupt has a Read of the inner device that waits return
	// os.ErrDeadlineExceeded: it is called with a time in the past, and with the
	// zero time when Reads may wait again. Nil means that the device cannot do it:
	// then a rule that is added later sees no packet to the stack before the guest
	// has sent its next one.
	Interrupt func(deadline time.Time) error

	// OnAct is told of each packet that a rule has acted on. It is called with
	// locks held: it must not block, nor call the Device.
	OnAct func(Act)
}

// Act is what was done to one packet.
type Act struct {
	Rule      int // its ID
	Do        policy.FaultAction
	Direction tcpstate.Direction
	Packet    []byte // only during the call
	Lost      bool   // it will not arrive
}

// ErrTooMany is what Add returns when there are MaxRules rules.
var ErrTooMany = errors.New("there are as many rules as there may be")

// ErrNoFault is what Add returns for a policy.Fault that ParseFault would not make.
var ErrNoFault = errors.New("that is no fault")

// ErrNoRule is what Remove returns for a rule that is not there.
var ErrNoRule = errors.New("there is no such rule")

// Device is a tun.Device with rules.
type Device struct {
	inner tun.Device
	cfg   Config

	ruled  atomic.Bool // packets to the guest go through rules
	pumped atomic.Bool // packets to the stack come from the pump

	running sync.WaitGroup // the pump

	mu      sync.Mutex
	wake    *sync.Cond // something changed for the reader or the pump
	rules   []*rule
	lastID  int
	slots   uint64 // those of rules
	conns   map[tuple]*conn
	evicted uint64
	lanes   [2]lane
	serial  uint64
	kept    int // segments that replay rules have

	ready   []frame // for Read, the oldest first
	pumping bool    // the pump's goroutine is there
	reading bool    // a Read waits
	readErr error   // with which the inner device's Read ended
	closed  bool
	joined  []byte // room for a packet in pieces
	split   []byte // room for a segment
}

// The directions, as indices.
const (
	toStack = iota // outbound: from the guest
	toGuest
)

// New wraps dev. Closing the Device closes dev.
func New(dev tun.Device, cfg Config) *Device {
	if cfg.Clock == nil {
		cfg.Clock = realClock{}
	}
	if cfg.MaxPackets <= 0 {
		cfg.MaxPackets = DefaultMaxPackets
	}
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = DefaultMaxBytes
	}
	if cfg.MaxConnections <= 0 {
		cfg.MaxConnections = DefaultMaxConnections
	}
	if cfg.Interrupt == nil {
		cfg.Interrupt = func(time.Time) error { return nil }
	}
	d := &Device{inner: dev, cfg: cfg, conns: make(map[tuple]*conn)}
	d.wake = sync.NewCond(&d.mu)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range cfg.Rules {
		_, _ = d.addLocked(f) // see Config.Rules
	}
	if len(d.rules) > 0 {
		d.pumpLocked()
	}
	return d
}

// MTU implements tun.Device.
func (d *Device) MTU() int { return d.inner.MTU() }

// Name implements tun.Device.
func (d *Device) Name() string { return d.inner.Name() }

// Stats implements tun.Counter with the inner device's, if it counts.
func (d *Device) Stats() tun.Stats {
	if c, ok := d.inner.(tun.Counter); ok {
		return c.Stats()
	}
	return tun.Stats{}
}

// Close closes the inner device. What waits is lost.
func (d *Device) Close() error {
	d.mu.Lock()
	d.closed = true
	for i := range d.lanes {
		d.lanes[i].stop()
	}
	d.wake.Broadcast()
	d.mu.Unlock()
	err := d.inner.Close()
	d.running.Wait()
	return err
}

// past is a deadline that is over.
var past = time.Unix(1, 0)

// Read implements tun.Device: what the guest has sent, and rules let through.
func (d *Device) Read(buf []byte) (int, tun.Offload, error) {
	for {
		if !d.pumped.Load() {
			n, h, err := d.inner.Read(buf)
			if !d.tookOver(buf[:max(n, 0)], h, err) {
				return n, h, err
			}
		}
		if n, h, done, err := d.next(buf); done {
			return n, h, err
		}
	}
}

// tookOver looks whether rules have come while the inner device was read: then
// the pump reads from here on, and the packet goes through them.
func (d *Device) tookOver(b []byte, h tun.Offload, err error) bool {
	interrupted := errors.Is(err, os.ErrDeadlineExceeded)
	if !d.ruled.Load() && !interrupted {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	if interrupted {
		err = d.cfg.Interrupt(time.Time{})
		if len(d.rules) == 0 {
			return err == nil // nothing to do any more: read again
		}
	}
	if err != nil || len(d.rules) == 0 {
		return false
	}
	if !interrupted {
		_ = d.processLocked(toStack, b, h, nil) // what the stack does not read is lost
	}
	d.pumpLocked()
	return true
}

// pumpLocked begins to read the inner device in a goroutine of its own. Nobody
// else reads it.
func (d *Device) pumpLocked() {
	if d.pumping || d.readErr != nil || d.closed {
		return
	}
	d.pumping = true
	d.pumped.Store(true)
	d.running.Go(d.pump)
}

// pump reads the inner device until there are no rules, or it ends.
func (d *Device) pump() {
	buf := make([]byte, tun.MaxPacket)
	for {
		n, h, err := d.inner.Read(buf)
		if !d.pumpOne(buf[:max(n, 0)], h, err) {
			return
		}
	}
}

// readAhead is how many packets may be ready for Read before the inner device is
// not read any more.
const readAhead = 256

func (d *Device) pumpOne(b []byte, h tun.Offload, err error) (goOn bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.wake.Broadcast()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = d.cfg.Interrupt(time.Time{})
		b = nil
	}
	if err != nil {
		d.readErr, d.pumping = err, false
		return false
	}
	if len(b) > 0 {
		_ = d.processLocked(toStack, b, h, nil) // what the stack does not read is lost
	}
	for len(d.ready) >= readAhead && !d.closed {
		d.wake.Wait()
	}
	if len(d.rules) == 0 || d.closed {
		d.pumping = false
		return false
	}
	return true
}

// next waits for a packet that is ready. It is not done if the inner device is to
// be read again instead.
func (d *Device) next(buf []byte) (n int, h tun.Offload, done bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		switch {
		case d.closed:
			return 0, tun.Offload{}, true, os.ErrClosed
		case len(d.ready) > 0:
			f := d.ready[0]
			d.ready[0] = frame{}
			if d.ready = d.ready[1:]; len(d.ready) == readAhead-1 {
				d.wake.Broadcast() // the pump may go on
			}
			return copy(buf, f.data), f.off, true, nil
		case !d.pumping && d.readErr != nil && d.lanes[toStack].packets == 0:
			return 0, tun.Offload{}, true, d.readErr
		case !d.pumping && d.readErr == nil:
			if len(d.rules) > 0 {
				d.pumpLocked()
				continue
			}
			d.ready = nil
			d.pumped.Store(false)
			return 0, tun.Offload{}, false, nil
		}
		d.reading = true
		d.wake.Wait()
		d.reading = false
	}
}

// Settled reports whether the stack has read all that is there for it, and waits
// for more: nothing happens before something is sent, or time passes.
func (d *Device) Settled() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.pumped.Load() || d.reading && len(d.ready) == 0
}

// Write implements tun.Device: what the stack sends.
func (d *Device) Write(bufs [][]byte, h tun.Offload) error {
	if !d.ruled.Load() {
		return d.inner.Write(bufs, h)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return os.ErrClosed
	}
	b := d.joined[:0]
	for _, p := range bufs {
		b = append(b, p...)
	}
	d.joined = b
	return d.processLocked(toGuest, b, h, bufs)
}

// Rule is a rule and what it has done.
type Rule struct {
	ID    int // from 1, never used again
	Fault policy.Fault

	Matched uint64 // packets that were meant
	Acted   uint64 // those of them that were acted on
	Full    uint64 // those that were dropped because too much waited
	Held    int    // packets that wait now
}

// Stats are counts of a Device.
type Stats struct {
	Waiting     [2]int // packets that wait: to the stack, to the guest
	Connections int    // that are followed
	Evicted     uint64 // that were forgotten because there were too many
}

// Counts returns the Device's.
func (d *Device) Counts() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return Stats{[2]int{d.lanes[toStack].packets, d.lanes[toGuest].packets}, len(d.conns), d.evicted}
}

// States are those in which the two ends of a connection are taken to be, which
// rules ask for; Unknown where the connection is not followed.
func (d *Device) States(guest, remote netip.AddrPort) (ofGuest, ofStack tcpstate.State) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.conns[tuple{guest, remote}]; c != nil {
		ofGuest, ofStack = c.ends[guestEnd].state, c.ends[stackEnd].state
	}
	return ofGuest, ofStack
}

// Rules returns the rules in their order.
func (d *Device) Rules() []Rule {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []Rule
	for _, r := range d.rules {
		all = append(all, Rule{ID: r.id, Fault: r.f, Matched: r.matched, Acted: r.acted, Full: r.full, Held: d.heldLocked(r)})
	}
	return all
}

// Add puts a rule behind the others, from the next packet on, and returns its ID.
func (d *Device) Add(f policy.Fault) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	id, err := d.addLocked(f)
	if err == nil && !d.pumping {
		_ = d.cfg.Interrupt(past)
	}
	return id, err
}

func (d *Device) addLocked(f policy.Fault) (int, error) {
	if again, err := policy.ParseFault(f.String()); err != nil || again != f {
		return 0, fmt.Errorf("%v: %w", f, ErrNoFault)
	}
	if len(d.rules) >= MaxRules {
		return 0, ErrTooMany
	}
	slot := 0
	for d.slots&(1<<slot) != 0 {
		slot++
	}
	d.lastID++
	r := &rule{id: d.lastID, slot: slot, f: f}
	for dir := range r.random {
		r.random[dir] = rand.New(rand.NewPCG(d.cfg.Seed, uint64(r.id)<<1|uint64(dir)))
	}
	d.slots |= 1 << slot
	d.rules = append(d.rules, r)
	d.ruled.Store(true)
	return r.id, nil
}

// Remove takes a rule away. What it has kept back arrives at once, in the order
// in which it was sent. What it has swallowed stays lost.
func (d *Device) Remove(id int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.IndexFunc(d.rules, func(r *rule) bool { return r.id == id })
	if i < 0 {
		return ErrNoRule
	}
	r := d.rules[i]
	d.rules = slices.Delete(d.rules, i, i+1)
	r.removed = true
	d.kept -= len(r.kept)
	for dir := range d.lanes {
		d.flushLocked(dir, r)
	}
	d.slots &^= 1 << r.slot
	if len(d.rules) == 0 {
		for dir := range d.lanes {
			d.flushLocked(dir, nil)
		}
		clear(d.conns)
		d.ruled.Store(false)
		if d.pumping {
			_ = d.cfg.Interrupt(past)
		}
	}
	return nil
}

// rule is one that is in force.
type rule struct {
	id, slot int
	f        policy.Fault
	random   [2]*rand.Rand
	removed  bool

	matched, acted, full uint64
	picked               uint64 // those that were chosen by chance, for first, nth and every

	free  [2]time.Time // rate: when the line has sent what it was given
	carry [2]int64     // rate: what of a nanosecond is left, in bits
	last  [2]time.Time // delay, in order: when the packet before is due
	kept  []keptSegment
}

// keptSegment is a copy of a segment for a later connection.
type keptSegment struct {
	of   *conn
	key  tuple
	dir  int
	data []byte
}

// tuple names a connection by its ends.
type tuple struct{ guest, stack netip.AddrPort }

func tupleOf(dir int, p *packet.Packet) tuple {
	if dir == toStack {
		return tuple{p.Src, p.Dst}
	}
	return tuple{p.Dst, p.Src}
}
