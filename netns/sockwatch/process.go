package sockwatch

import (
	"time"

	"tcpbox/stack/tcpstate"
)

// Process is a process in the namespace.
type Process struct {
	PID     int    // as this process numbers it
	Command string // its name, at most 15 bytes and any but NUL
}

// Processes finds the processes that have sockets.
type Processes interface {
	// Owners returns the processes that have the sockets with these inodes, of
	// those that it finds. Of several that share one it returns the oldest.
	Owners(inodes map[uint32]struct{}) map[uint32]Process
}

// ownerTries is how many dumps are to show a socket's inode before it is given
// up: one that nobody has accepted has none.
const ownerTries = 4

// ownerPause is the unit of the pauses between them.
const ownerPause = 5 * time.Millisecond

// traceTells is how long the trace is waited for, which tells the owner of a
// socket that connects as soon as it is connected, or is not.
const traceTells = 50 * time.Millisecond

// wantOwner puts the endpoint among those whose owner is looked for. The lock is
// held.
func (w *Watcher) wantOwner(e *endpoint) {
	if w.cfg.Processes == nil || e.owned {
		return
	}
	e.tries = 0
	e.ask = w.cfg.now()
	if w.trace != nil && w.trace.ownNumbers && e.active && e.sock == 0 {
		e.ask = e.ask.Add(traceTells)
	}
	w.ownerless[e] = struct{}{}
	w.rouse(w.budget.allowed(e.ask, true))
}

// ownedBy tells whose the connection is. The lock is held.
func (w *Watcher) ownedBy(e *endpoint, p Process) {
	if e.owned || p == (Process{}) {
		return
	}
	e.owned = true
	delete(w.ownerless, e)
	w.cfg.OnOwner(e.conn, p)
}

// giveUpOwner stops looking after too many tries. The lock is held.
func (w *Watcher) giveUpOwner(e *endpoint) {
	if e.tries++; e.tries >= ownerTries || e.state == tcpstate.Closed {
		delete(w.ownerless, e)
		return
	}
	e.ask = w.cfg.now().Add(ownerPause << (3 * e.tries)) // 40 ms, 320 ms, 2.5 s
}

// askOwnersLocked returns the sockets whose owner is to be looked for. Of one that has
// no inode yet, a look that came before its time is no try.
func (w *Watcher) askOwnersLocked(now time.Time) map[uint32]*endpoint {
	ask := make(map[uint32]*endpoint)
	for e := range w.ownerless {
		if e.inode != 0 {
			ask[e.inode] = e
		} else if !e.ask.After(now) {
			w.giveUpOwner(e)
		}
	}
	return ask
}

// findOwners looks for the owners of sockets.
func (w *Watcher) findOwners(ask map[uint32]*endpoint) {
	inodes := make(map[uint32]struct{}, len(ask))
	for inode := range ask {
		inodes[inode] = struct{}{}
	}
	owners := w.cfg.Processes.Owners(inodes)
	w.mu.Lock()
	defer w.mu.Unlock()
	for inode, e := range ask {
		if p, found := owners[inode]; found {
			w.ownedBy(e, p)
		} else {
			w.giveUpOwner(e)
		}
	}
}
