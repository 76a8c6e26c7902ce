package sockwatch

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"tcpbox/netns"
	"tcpbox/stack/tcpstate"
)

// trace is the kernel's trace of a namespace, and the ring that it is written to.
// It is drained in two places, under the Watcher's lock: when the kernel says
// that there is something, and before something that the wire has shown is judged,
// so that what led to it is known.
type trace struct {
	boot       time.Time // when the kernel's clock was zero
	ownNumbers bool      // the trace numbers processes as this process does

	ring, facts, underway *ebpf.Map
	last                  [1 << 10]telling // by the address of the socket
	programs              []*ebpf.Program
	hooks                 []link.Link
	file                  *os.File // the ring once more, to wait on

	consumed *uint64 // positions in the ring, of the reader and of the kernel
	produced *uint64
	data     []byte // twice in a row, so that no event is cut
	mappings [2][]byte
}

// ringBytes is the size of the ring, room for 10,000 events: of a guest that talks to
// itself, while this process does not get to run.
const ringBytes = 1 << 20

// What the program is told, and tells, beside events.
const (
	factLost   = iota // how many events there was no room for
	factCookie        // of the namespace; 0: none
	numFacts
)

// An Opening is a trace of the kernel's that is being made, which takes some 30 ms.
// It tells nothing before a Watcher has it.
type Opening struct {
	done  chan struct{}
	trace *trace
	err   error
}

// Open begins to make a trace. Close ends it if no Watcher has got it.
func Open() *Opening {
	o := &Opening{done: make(chan struct{})}
	go func() { // ends by itself; Close and New wait for it
		defer close(o.done)
		o.trace, o.err = openTrace()
	}()
	return o
}

// take returns the trace of a namespace. It is no longer the Opening's.
func (o *Opening) take(ns netns.NS) (*trace, error) {
	<-o.done
	t, err := o.trace, o.err
	o.trace = nil
	if err != nil {
		return nil, err
	}
	cookie, err := cookieOf(ns)
	if err == nil {
		err = t.facts.Put(uint32(factCookie), cookie)
	}
	if err != nil {
		t.release()
		return nil, fmt.Errorf("sockwatch: the kernel's trace: the namespace's cookie: %w", err)
	}
	return t, nil
}

// Close gives the trace back unless a Watcher has it. It is safe to call twice.
func (o *Opening) Close() {
	<-o.done
	if o.trace != nil {
		o.trace.release()
		o.trace = nil
	}
}

// openTrace begins a trace, of no namespace yet.
func openTrace() (*trace, error) {
	t := &trace{}
	ok := false
	defer func() {
		if !ok {
			t.release()
		}
	}()
	var err error
	// What is not allowed fails here, before anything that takes long.
	if t.ring, err = ebpf.NewMap(&ebpf.MapSpec{Name: "tcpbox_states", Type: ebpf.RingBuf, MaxEntries: ringBytes}); err != nil {
		return nil, fmt.Errorf("sockwatch: the kernel's trace: %w", cause(err))
	}
	if t.facts, err = ebpf.NewMap(&ebpf.MapSpec{Name: "tcpbox_facts", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: numFacts}); err != nil {
		return nil, fmt.Errorf("sockwatch: the kernel's trace: %w", cause(err))
	}
	if t.underway, err = ebpf.NewMap(&ebpf.MapSpec{Name: "tcpbox_underway", Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 24, MaxEntries: 1}); err != nil {
		return nil, fmt.Errorf("sockwatch: the kernel's trace: %w", cause(err))
	}
	o, err := kernelOffsets()
	if err != nil {
		return nil, fmt.Errorf("sockwatch: the kernel's trace: %w", err)
	}
	for _, r := range []role{mainProgram, reliefProgram} {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "tcpbox_states", Type: ebpf.RawTracepoint, License: "GPL", Instructions: instructions(o, t.ring, t.facts, t.underway, r),
		})
		if err != nil {
			return nil, fmt.Errorf("sockwatch: the kernel's trace: load: %w", err)
		}
		t.programs = append(t.programs, p)
	}
	if err := t.mapRing(); err != nil {
		return nil, fmt.Errorf("sockwatch: the kernel's trace: %w", err)
	}
	t.boot, t.ownNumbers = bootTime(), firstPIDNamespace()
	for _, p := range t.programs {
		hook, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: "inet_sock_set_state", Program: p})
		if err != nil {
			return nil, fmt.Errorf("sockwatch: the kernel's trace: attach: %w", err)
		}
		t.hooks = append(t.hooks, hook)
	}
	ok = true
	return t, nil
}

// cause leaves out what the library says around an errno.
func cause(err error) error {
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		return errno
	}
	return err
}

// bootTime is when CLOCK_MONOTONIC, which the kernel stamps with, was zero. Of a
// few readings the best is that in which the least time passed between the two
// clocks.
func bootTime() (boot time.Time) {
	for range 8 {
		var ts unix.Timespec
		before := time.Now()
		_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
		if at := before.Add(-time.Duration(ts.Nano())); at.After(boot) {
			boot = at
		}
	}
	return boot
}

// firstPIDNamespace reports whether this process is in the machine's first
// process namespace, whose numbers the kernel's trace has.
func firstPIDNamespace() bool {
	const first = "pid:[4026531836]" // PROC_PID_INIT_INO
	name, err := os.Readlink("/proc/self/ns/pid")
	return err == nil && name == first
}

// cookieOf asks a socket of the namespace.
func cookieOf(ns netns.NS) (uint64, error) {
	file, err := ns.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	raw, err := file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cookie uint64
	cerr := raw.Control(func(fd uintptr) {
		cookie, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	})
	return cookie, errors.Join(cerr, err)
}

// mapRing maps the ring as BPF_MAP_TYPE_RINGBUF lays it out: a page with the
// reader's position, a page with the kernel's, and the data twice.
func (t *trace) mapRing() (err error) {
	fd, page := t.ring.FD(), os.Getpagesize()
	if t.mappings[0], err = unix.Mmap(fd, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("map the ring: %w", err)
	}
	if t.mappings[1], err = unix.Mmap(fd, int64(page), page+2*ringBytes, unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("map the ring: %w", err)
	}
	t.consumed = (*uint64)(unsafe.Pointer(&t.mappings[0][0]))
	t.produced = (*uint64)(unsafe.Pointer(&t.mappings[1][0]))
	t.data = t.mappings[1][page:]
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(own, true); err != nil { // for the poller
		unix.Close(own)
		return err
	}
	t.file = os.NewFile(uintptr(own), "trace")
	return nil
}

// The header in front of each event.
const (
	headerLen  = 8
	busyBit    = 1 << 31
	discardBit = 1 << 30
)

// drain hands over the events that are there and complete.
func (t *trace) drain(take func([]byte)) {
	at := atomic.LoadUint64(t.consumed)
	for at < atomic.LoadUint64(t.produced) {
		begin := at & (ringBytes - 1)
		word := atomic.LoadUint32((*uint32)(unsafe.Pointer(&t.data[begin])))
		if word&busyBit != 0 {
			break
		}
		n := uint64(word &^ (busyBit | discardBit))
		if word&discardBit == 0 {
			take(t.data[begin+headerLen : begin+headerLen+n])
		}
		at += (headerLen + n + 7) &^ 7
		atomic.StoreUint64(t.consumed, at)
	}
}

// telling is the last event of a socket.
type telling struct {
	sock     uint64
	from, to tcpstate.State
}

// repeated reports whether an event has been told before: the same change of the
// same socket, with no other between. It remembers the last one of some sockets,
// by their addresses; two tellings are microseconds apart.
func (t *trace) repeated(ev *event) bool {
	const shift = 6 // sockets are far larger than the cache lines that they begin at
	last := &t.last[(ev.sock>>shift^ev.sock>>(shift+10))%uint64(len(t.last))]
	now := telling{ev.sock, ev.from, ev.to}
	if *last == now {
		return true
	}
	*last = now
	return false
}

// lost is how many events there was no room for.
func (t *trace) lost() uint64 {
	var n uint64
	_ = t.facts.Lookup(uint32(factLost), &n)
	return n
}

// stop ends the trace and the waiting for it. What is mapped stays.
func (t *trace) stop() {
	t.unhook()
	t.file.Close()
}

// unhook ends the programs' runs.
func (t *trace) unhook() {
	for _, h := range t.hooks {
		h.Close()
	}
	t.hooks = nil
}

// release gives back what there is.
func (t *trace) release() {
	for _, m := range t.mappings {
		if m != nil {
			_ = unix.Munmap(m)
		}
	}
	if t.file != nil {
		t.file.Close()
	}
	for _, m := range []*ebpf.Map{t.ring, t.facts, t.underway} {
		if m != nil {
			m.Close()
		}
	}
	t.unhook()
	for _, p := range t.programs {
		p.Close()
	}
	t.programs = nil
}

// drainPause is how long events may lie in the ring. The wire drains it too, so
// that what is told late is what shows on no wire.
const drainPause = 5 * time.Millisecond

// followTrace takes in what the kernel tells. It ends when the trace is stopped.
func (w *Watcher) followTrace() {
	raw, err := w.trace.file.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(uintptr) bool {
		w.mu.Lock()
		w.drain()
		w.mu.Unlock()
		select { // more comes soon; to be woken for each costs more than all the rest
		case <-time.After(drainPause):
		case <-w.stopping:
		}
		return false // until it is closed
	})
}

// drain takes in what the trace has. The lock is held.
func (w *Watcher) drain() {
	if w.trace == nil || w.closed {
		return
	}
	w.trace.drain(func(b []byte) {
		if ev, ok := parseEvent(b, w.trace.boot); ok && !w.trace.repeated(&ev) {
			if !w.trace.ownNumbers {
				ev.process = Process{}
			}
			w.traced(&ev)
		}
	})
}
