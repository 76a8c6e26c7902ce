package sockwatch

import (
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox/stack/tcpstate"
)

// event is one call of the tracepoint.
type event struct {
	at            time.Time
	sock          uint64 // the kernel's address of the socket
	from, to      tcpstate.State
	local, remote netip.AddrPort // ports are 0 where there are none yet
	err           unix.Errno     // sk_err
	done, dead    bool           // SOCK_DONE: it has taken in a FIN; SOCK_DEAD: nobody has it
	shutdown      uint8          // sk_shutdown: 1 for reading, 2 for writing
	process       Process        // that ran, which called if it was a call
}

// asking is a socket that connects, and whose port is not chosen yet: the trace
// tells of SYN-SENT before.
type asking struct {
	at      time.Time
	key     key
	process Process
}

// onlyAsking returns the socket that the SYN is of, if there is only one that it
// can be. The lock is held.
func (w *Watcher) onlyAsking(k key) (sock uint64, a *asking) {
	for s, b := range w.asking {
		if b.key.remote != k.remote || b.key.local.Port() != 0 && b.key.local != k.local {
			continue
		}
		if a != nil {
			return 0, nil
		}
		sock, a = s, b
	}
	return sock, a
}

// maxAsking bounds asking. Sockets stay there for as long as a SYN takes to the
// device.
const maxAsking = 1 << 12

// traced takes an event of the trace, in their order. The lock is held.
func (w *Watcher) traced(ev *event) {
	if ev.from == ev.to {
		return // after shutdown and close
	}
	if ev.to == tcpstate.SynSent {
		if len(w.asking) >= maxAsking {
			clear(w.asking)
		}
		w.asking[ev.sock] = &asking{at: ev.at, key: key{ev.local, ev.remote}, process: ev.process}
		return
	}
	e := w.sockets[ev.sock]
	if e != nil && e.key != (key{ev.local, ev.remote}) && (ev.from == tcpstate.Listen || ev.from == tcpstate.SynSent || ev.from == tcpstate.SynReceived) && ev.to != tcpstate.Closed {
		// Another one has its place: its end is missing in the trace. Looks tell.
		delete(w.sockets, ev.sock)
		e.sock = 0
		w.settle(e)
		e = nil
	}
	if e == nil {
		if e = w.named4(ev); e == nil {
			return
		}
	}
	if cause := causeOf(ev); cause.Kind == tcpstate.ByCall && ev.err == 0 {
		w.ownedBy(e, ev.process) // who calls has it
	}
	switch ev.to {
	case tcpstate.Closed:
		w.closes(e, ev)
	case tcpstate.LastAck:
		w.move(e, ev.to, ev.at, causeOf(ev), tcpstate.FromKernel)
		w.finWithin(e, ev)
	default:
		w.move(e, ev.to, ev.at, causeOf(ev), tcpstate.FromKernel)
	}
}

// named4 finds the endpoint of a socket that is told of for the first time, or
// begins it. The lock is held.
func (w *Watcher) named4(ev *event) *endpoint {
	if ev.to == tcpstate.Listen {
		e := &endpoint{key: key{local: ev.local}, state: tcpstate.Closed}
		if !w.beginListener(e) {
			return nil
		}
		w.named(e, ev.sock)
		return e
	}
	k := key{ev.local, ev.remote}
	a := w.asking[ev.sock]
	delete(w.asking, ev.sock)
	if e := w.open[k]; e != nil && e.sock == 0 && !e.bare && (a == nil || e.active) {
		w.named(e, ev.sock)
		w.settle(e)
		if a != nil {
			w.ownedBy(e, a.process)
		}
		return e
	}
	// One that the wire does not show: within the namespace, or without a SYN.
	if old := w.open[k]; old != nil && !old.kernelTells() {
		w.move(old, tcpstate.Closed, ev.at, tcpstate.Cause{}, tcpstate.FromKernel)
	}
	e := &endpoint{key: k, state: tcpstate.Closed, active: a != nil}
	if !w.begin(e) {
		return nil
	}
	e.conn = w.cfg.Numbers.Next()
	w.named(e, ev.sock)
	switch {
	case a != nil:
		e.unseen = true
		w.move(e, tcpstate.SynSent, a.at, tcpstate.Cause{Kind: tcpstate.ByCall, Which: "connect"}, tcpstate.FromKernel)
		w.ownedBy(e, a.process)
	case ev.from == tcpstate.Listen:
		// The handshake had no socket: when it began nobody has seen.
	default:
		e.state = ev.from // it was there before
	}
	return e
}

// closes: a socket is no more. What of the connection may be left the kernel
// keeps without one. The lock is held.
func (w *Watcher) closes(e *endpoint, ev *event) {
	delete(w.sockets, e.sock)
	leaves := ev.err == 0 && (e.state == tcpstate.FinWait2 || e.state == tcpstate.Closing)
	full := w.maxWait > 0 && w.waiting >= w.maxWait
	switch {
	case leaves && full:
		w.move(e, tcpstate.Closed, ev.at, tcpstate.Cause{Kind: tcpstate.ByPolicy, Which: "time-wait.max"}, tcpstate.FromKernel)
	case leaves && ev.done:
		which := "FIN"
		if e.state == tcpstate.Closing {
			which = "ACK"
		}
		e.bare, e.sock = true, 0
		w.move(e, tcpstate.TimeWait, ev.at, tcpstate.Cause{Kind: tcpstate.BySegment, Which: which}, tcpstate.FromKernel)
	case leaves && ev.dead:
		e.bare, e.sock = true, 0
		w.waiting++
		w.settle(e)
	default:
		if e.state == tcpstate.LastAck && ev.err == 0 {
			// Its FIN is acknowledged. When it was sent, the other one may still
			// have had a socket, which was left in FIN-WAIT-2 before it came.
			w.finWithin(e, ev)
		}
		w.move(e, tcpstate.Closed, ev.at, causeOf(ev), tcpstate.FromKernel)
	}
}

// finWithin: a FIN to another socket of the namespace, which may be one that is
// left in FIN-WAIT-2 without a socket, passes no wire. The lock is held.
func (w *Watcher) finWithin(e *endpoint, ev *event) {
	other := w.open[key{e.remote, e.local}]
	if other != nil && other.bare && other.state == tcpstate.FinWait2 {
		w.move(other, tcpstate.TimeWait, ev.at, tcpstate.Cause{Kind: tcpstate.BySegment, Which: "FIN"}, tcpstate.FromKernel)
	}
}

// causeOf is why a socket went from one state to the next. For each pair there is
// one way but for CLOSED, to which the socket's error tells it.
func causeOf(ev *event) tcpstate.Cause {
	segment := func(which string) tcpstate.Cause { return tcpstate.Cause{Kind: tcpstate.BySegment, Which: which} }
	call := func(which string) tcpstate.Cause { return tcpstate.Cause{Kind: tcpstate.ByCall, Which: which} }
	switch ev.to {
	case tcpstate.Listen:
		return call("listen")
	case tcpstate.SynReceived:
		return segment("SYN")
	case tcpstate.Established:
		if ev.from == tcpstate.SynSent {
			return segment("SYN-ACK")
		}
		return segment("ACK")
	case tcpstate.CloseWait, tcpstate.Closing:
		return segment("FIN")
	case tcpstate.FinWait2:
		return segment("ACK")
	case tcpstate.FinWait1, tcpstate.LastAck:
		if ev.shutdown == 2 {
			return call("shutdown")
		}
		return call("close")
	}
	switch ev.err {
	case 0:
		if ev.from == tcpstate.LastAck {
			return segment("ACK")
		}
		return call("close")
	case unix.ECONNRESET, unix.ECONNREFUSED, unix.EPIPE:
		return segment("RST")
	case unix.ETIMEDOUT:
		return tcpstate.Cause{Kind: tcpstate.ByTimer, Which: "retransmission"}
	case unix.ECONNABORTED:
		return call("abort")
	case unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EACCES, unix.EPROTO, unix.ENOPROTOOPT, unix.EOPNOTSUPP, unix.EHOSTDOWN:
		return segment("ICMP")
	}
	return tcpstate.Cause{}
}

// The form of an event as the program writes it.
const (
	eventLen = 96

	atTime     = 0
	atSock     = 8
	atFrom     = 16
	atTo       = 20
	atErr      = 24
	atFamily   = 28 // uint16
	atLport    = 30 // big endian
	atRport    = 32 // big endian
	atShutdown = 34 // uint8
	atFlags    = 36 // uint32
	atPid      = 40 // uint32
	atLocal    = 48
	atRemote   = 64
	atComm     = 80
)

// sk_flags, of include/net/sock.h.
const (
	sockDead = 1 << 0
	sockDone = 1 << 1
)

// numbered are the kernel's states.
var numbered = [...]tcpstate.State{
	1: tcpstate.Established, 2: tcpstate.SynSent, 3: tcpstate.SynReceived, 4: tcpstate.FinWait1, 5: tcpstate.FinWait2,
	6: tcpstate.TimeWait, 7: tcpstate.Closed, 8: tcpstate.CloseWait, 9: tcpstate.LastAck, 10: tcpstate.Listen,
	11: tcpstate.Closing, 12: tcpstate.SynReceived,
}

// parseEvent reads an event; boot is when the kernel's clock was zero.
func parseEvent(b []byte, boot time.Time) (event, bool) {
	native := binary.NativeEndian
	if len(b) < eventLen {
		return event{}, false
	}
	from, to := native.Uint32(b[atFrom:]), native.Uint32(b[atTo:])
	if from >= uint32(len(numbered)) || to >= uint32(len(numbered)) {
		return event{}, false
	}
	flags := native.Uint32(b[atFlags:])
	ev := event{
		at: boot.Add(time.Duration(native.Uint64(b[atTime:]))), sock: native.Uint64(b[atSock:]),
		from: numbered[from], to: numbered[to], err: unix.Errno(native.Uint32(b[atErr:])),
		done: flags&sockDone != 0, dead: flags&sockDead != 0, shutdown: b[atShutdown] & 3,
		process: Process{
			PID:     int(native.Uint32(b[atPid:])),
			Command: unix.ByteSliceToString(b[atComm : atComm+16]),
		},
	}
	address := func(at int) netip.Addr {
		if native.Uint16(b[atFamily:]) == unix.AF_INET {
			return netip.AddrFrom4([4]byte(b[at : at+4]))
		}
		return netip.AddrFrom16([16]byte(b[at : at+16])).Unmap()
	}
	ev.local = netip.AddrPortFrom(address(atLocal), binary.BigEndian.Uint16(b[atLport:]))
	ev.remote = netip.AddrPortFrom(address(atRemote), binary.BigEndian.Uint16(b[atRport:]))
	if ev.to == tcpstate.Listen || ev.from == tcpstate.Listen && ev.to == tcpstate.Closed {
		ev.remote = netip.AddrPort{}
	}
	return ev, true
}
