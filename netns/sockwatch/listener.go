package sockwatch

import (
	"net/netip"
	"time"

	"tcpbox/netns/sockdiag"
	"tcpbox/stack/tcpstate"
)

// Several sockets may listen on one address, so a listener is known by its name
// in the trace or by its cookie in dumps, not by its address.

// knownListeners finds listeners for a dump.
type knownListeners struct {
	byCookie  map[uint64]*endpoint
	byAddress map[netip.AddrPort]*endpoint // those that no dump has shown yet
}

func (w *Watcher) knownListeners() knownListeners {
	k := knownListeners{make(map[uint64]*endpoint, len(w.listening)), make(map[netip.AddrPort]*endpoint)}
	for e := range w.listening {
		if e.cookie != 0 {
			k.byCookie[e.cookie] = e
		} else {
			k.byAddress[e.local] = e
		}
	}
	return k
}

// listens is a listener in a dump. It returns its endpoint, nil if it is not
// followed. The lock is held.
func (w *Watcher) listens(s *sockdiag.Socket, known knownListeners, at time.Time) *endpoint {
	local := unmap(s.Local)
	if e := known.byCookie[s.Cookie]; e != nil {
		e.absent = time.Time{}
		return e
	}
	if e := known.byAddress[local]; e != nil {
		delete(known.byAddress, local)
		e.cookie, e.inode = s.Cookie, s.Inode
		return e
	}
	e := &endpoint{key: key{local: local}, cookie: s.Cookie, inode: s.Inode}
	if !w.beginListener(e) {
		return nil
	}
	w.move(e, tcpstate.Listen, at, tcpstate.Cause{}, tcpstate.FromDiag)
	w.wantOwner(e)
	return e
}

// beginListener adds one, unless there are too many endpoints. The lock is held.
func (w *Watcher) beginListener(e *endpoint) bool {
	if len(w.open)+len(w.listening) >= w.cfg.MaxEndpoints {
		w.stats.Untracked++
		return false
	}
	e.conn = w.cfg.Numbers.Next()
	w.listening[e] = struct{}{}
	return true
}

// unmap is the address without IPv6 around IPv4.
func unmap(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
