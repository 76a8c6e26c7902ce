// Package sockwatch tells what the kernel's TCP sockets of a network namespace
// go through, as transitions of the guest's leg. The kernel has no complete
// account of that, so it is put together:
//
//	trace   the raw tracepoint inet_sock_set_state. Exact, and silent about
//	        handshakes without a socket, and about TIME-WAIT. Needs root.
//	wire    the segments, as somebody else has concluded from them (Step)
//	diag    dumps of sock_diag: what is there now, and so what is gone
//
//	             ┌─ trace ──┐
//	namespace ───┤─ wire ───├──▶ endpoints ──▶ transitions
//	             └─ dumps ──┘        └───────▶ processes
//
// With the trace, wire and dumps fill in where it is silent. Without it, the
// wire tells the steps and dumps correct them. Every transition says which of
// them it came from. What none of them shows is told as tcpstate.Unknown, or not
// at all.
//
// A dump opens a socket in the namespace, which pins it, and closes it again.
// How many there are is bounded by the time that they take. Begin with New.
package sockwatch

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"tcpbox/netns"
	"tcpbox/stack/tcpstate"
)

// Config is what New needs.
type Config struct {
	// NS is the way into the namespace.
	NS netns.NS

	// Numbers are those of the sandbox's connections.
	Numbers *tcpstate.Numbers

	// Sink takes the transitions; see tcpstate.Sink. It is called with a lock
	// of the Watcher's held, from the packet path too.
	Sink tcpstate.Sink

	// Processes finds out whose sockets are; nil leaves that out.
	Processes Processes

	// OnOwner is told whose connection it is, once that is known. It is not told
	// of one whose process was gone before it could be asked. It must not block.
	OnOwner func(tcpstate.Conn, Process)

	// OnEnd is told of the end of a connection that the wire is to forget. It is
	// called with a lock of the Watcher's held and must not block or call back.
	OnEnd func(local, remote netip.AddrPort)

	// Perishes: the namespace has ended when the Watcher is closed, and all that
	// is left in it. Close tells so, of each, without a source.
	Perishes bool

	// Trace is the kernel's, which New waits for. Nil leaves it out.
	Trace *Opening

	// MaxEndpoints bounds what is followed; one more is not, and counted. Zero
	// means DefaultMaxEndpoints.
	MaxEndpoints int

	now func() time.Time
}

// DefaultMaxEndpoints is the default of Config.MaxEndpoints. An endpoint takes
// about 500 bytes.
const DefaultMaxEndpoints = 1 << 17

// maxUnproved is how many of them may be in SYN-SENT of which nothing but a SYN has
// told. One that can write to the device makes as many as it likes, from a socket
// that does not exist; dumps find out, though not soon. A true one beyond that is
// found by its next step, if there is a trace, or by a dump.
const maxUnproved = 1 << 13

// Watcher watches one namespace. Its methods may be called concurrently.
type Watcher struct {
	cfg   Config
	trace *trace // nil without
	// Why there is no trace; nil if there is one, or none was asked for.
	noTrace error

	wake     chan struct{}
	sooner   chan struct{} // the next of ends is sooner than the one before
	cancel   context.CancelFunc
	stopping <-chan struct{} // closed when Close is called
	running  sync.WaitGroup
	closing  sync.Once

	mu         sync.Mutex
	open       map[key]*endpoint    // the newest of each pair of addresses
	sockets    map[uint64]*endpoint // by the kernel's address, as the trace tells it
	asking     map[uint64]*asking   // of those that connect, and whose port is not known yet
	overdue    map[key]overdue      // of those that are over, and whose SYN may still come
	listening  map[*endpoint]struct{}
	unproved   int // how many are in SYN-SENT only because a SYN has said so
	waiting    int // how many are in TIME-WAIT, or in FIN-WAIT-2 without a socket
	maxWait    int // how many the kernel lets be; 0: not known
	restless   restless
	ownerless  map[*endpoint]struct{}
	ends       endings // TIME-WAITs that are to be ended
	timeWait   time.Duration
	shortened  bool // timeWait is in force
	budget     budget
	listed     time.Time // when everything was listed last
	begun      bool      // what was there before the watching has been listed
	asleepTill time.Time // what run waits for; zero: for nothing
	looking    bool
	gone       map[key]struct{} // ended since the look began
	closed     bool
	stats      Stats
}

// Stats are a Watcher's counters.
type Stats struct {
	Looks     uint64        // at the kernel's sockets
	LookTime  time.Duration // of the processor, that they took
	Untracked uint64        // endpoints beyond MaxEndpoints, or SYNs beyond what is taken on trust
	TraceLost uint64        // events of the trace that there was no room for
	Ended     uint64        // TIME-WAITs that SetTimeWait has shortened
	Corrected uint64        // states that a dump has shown to be others
	Endpoints int           // followed now
}

// New returns a Watcher of the namespace, which begins by listing what sockets
// there are. Close ends it.
func New(cfg Config) *Watcher {
	w := newWatcher(cfg)
	w.maxWait = sysctl(cfg.NS, "net.ipv4.tcp_max_tw_buckets")
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel, w.stopping = cancel, ctx.Done()
	if cfg.Trace != nil {
		if w.trace, w.noTrace = cfg.Trace.take(cfg.NS); w.trace != nil {
			w.running.Go(w.followTrace) // ends when the trace is closed
		}
	}
	w.running.Go(func() { w.run(ctx) })
	w.running.Go(func() { w.endTimeWaits(ctx) })
	return w
}

// newWatcher returns a Watcher that only takes what it is given.
func newWatcher(cfg Config) *Watcher {
	if cfg.Numbers == nil {
		cfg.Numbers = new(tcpstate.Numbers)
	}
	if cfg.Sink == nil {
		cfg.Sink = func(tcpstate.Transition) {}
	}
	if cfg.OnOwner == nil {
		cfg.OnOwner = func(tcpstate.Conn, Process) {}
	}
	if cfg.OnEnd == nil {
		cfg.OnEnd = func(_, _ netip.AddrPort) {}
	}
	if cfg.MaxEndpoints == 0 {
		cfg.MaxEndpoints = DefaultMaxEndpoints
	}
	if cfg.now == nil {
		cfg.now = time.Now
	}
	return &Watcher{
		cfg: cfg, wake: make(chan struct{}, 1), sooner: make(chan struct{}, 1),
		open: make(map[key]*endpoint), sockets: make(map[uint64]*endpoint), asking: make(map[uint64]*asking),
		overdue:   make(map[key]overdue),
		ownerless: make(map[*endpoint]struct{}), listening: make(map[*endpoint]struct{}),
	}
}

// Traced reports whether the kernel's trace is there, and if it was wanted and
// is not, why.
func (w *Watcher) Traced() (bool, error) { return w.trace != nil, w.noTrace }

// Stats returns the counters.
func (w *Watcher) Stats() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.trace != nil && !w.closed {
		w.stats.TraceLost = w.trace.lost()
	}
	st := w.stats
	st.Endpoints = len(w.open) + len(w.listening)
	return st
}

// Close ends the watching and returns when nothing of it runs any more. It is
// safe to call twice.
func (w *Watcher) Close() error {
	w.closing.Do(func() {
		w.cancel()
		if w.trace != nil {
			w.trace.stop()
		}
		w.running.Wait()
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.trace != nil {
			w.drain()
			w.stats.TraceLost = w.trace.lost()
			w.trace.release()
		}
		w.closed = true
		if w.cfg.Perishes {
			w.perish()
		}
	})
	return nil
}
