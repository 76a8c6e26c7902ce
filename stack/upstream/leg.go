package upstream

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"tcpbox/stack/tcpstate"
)

// leg follows the state of a host socket for the log. The kernel tells nobody of
// a change, so it is asked where something has happened anyway: the connection
// stands, FIN has come, FIN has been sent, the socket is released, somebody wants
// to know. What happened between two looks and leaves no doubt is told with the
// second one.
type leg struct {
	mu      sync.Mutex
	sink    tcpstate.Sink // nil: nobody asks
	id      tcpstate.Conn
	state   tcpstate.State
	since   time.Time
	path    tcpstate.Path
	known   bool // path is
	finIn   bool // read
	finSent bool
	asked   bool // to send it
}

// begin follows a socket from state on.
func (c *Conn) begin(id tcpstate.Conn, state tcpstate.State) {
	c.leg.mu.Lock()
	defer c.leg.mu.Unlock()
	c.leg.sink, c.leg.id, c.leg.state, c.leg.since = c.host.Sink, id, state, time.Now()
}

// Track follows a connection that was accepted: it is one of the guest's from
// here on, and has this number.
func (c *Conn) Track(id tcpstate.Conn) {
	if c.host.Sink == nil {
		return
	}
	c.begin(id, tcpstate.SynReceived)
	c.went(tcpstate.Established, tcpstate.Cause{Kind: tcpstate.BySegment, Which: "ACK"})
}

// Path is what the kernel says of the way to the peer now, or said last.
func (c *Conn) Path() (tcpstate.Path, bool) {
	c.look(nil)
	c.leg.mu.Lock()
	defer c.leg.mu.Unlock()
	return c.leg.path, c.leg.known
}

// State is the state that the socket is in now, or was in when it was released;
// unknown if it is not followed.
func (c *Conn) State() tcpstate.State {
	c.look(nil)
	c.leg.mu.Lock()
	defer c.leg.mu.Unlock()
	return c.leg.state
}

// inTimeWait reports whether the connection was in TIME-WAIT when it was last
// looked at.
func (c *Conn) inTimeWait() bool {
	c.leg.mu.Lock()
	defer c.leg.mu.Unlock()
	return c.leg.state == tcpstate.TimeWait
}

// dialled follows a socket that has sent its SYN.
func (c *Conn) dialled(id tcpstate.Conn, fd int) {
	if c.host.Sink == nil {
		return
	}
	if name, err := unix.Getsockname(fd); err == nil {
		c.local = addrPort(name)
	}
	c.begin(id, tcpstate.Closed)
	c.went(tcpstate.SynSent, tcpstate.Cause{Kind: tcpstate.ByCall, Which: "connect"})
}

// stands notes that the handshake is completed.
func (c *Conn) stands() {
	c.went(tcpstate.Established, tcpstate.Cause{Kind: tcpstate.BySegment, Which: "SYN-ACK"})
}

// notConnected notes that a dial has failed, or was given up.
func (c *Conn) notConnected(ctx context.Context, err error) {
	cause := causeOfError(err)
	if ctx.Err() != nil {
		cause = tcpstate.Cause{Kind: tcpstate.ByCall, Which: "close"}
	}
	c.went(tcpstate.Closed, cause)
}

// went notes a change that is certain.
func (c *Conn) went(to tcpstate.State, cause tcpstate.Cause) {
	c.leg.mu.Lock()
	defer c.leg.mu.Unlock()
	c.wentLocked(to, cause, tcpstate.FromSocket)
}

func (c *Conn) wentLocked(to tcpstate.State, cause tcpstate.Cause, source tcpstate.Source) {
	l := &c.leg
	if l.sink == nil || l.state == to {
		return
	}
	now := time.Now()
	if l.state == tcpstate.Closed {
		l.since = now // it had not begun
	}
	l.sink(tcpstate.Transition{
		Time: now, Conn: l.id, Leg: tcpstate.Upstream, Local: c.local, Remote: c.remote,
		From: l.state, To: to, Cause: cause, Source: source, Age: now.Sub(l.since),
	})
	if l.state, l.since = to, now; to == tcpstate.Closed {
		l.sink = nil // there is nothing to come
	}
}

// look asks the kernel for the state. before, if not nil, notes under the lock what
// has just happened.
func (c *Conn) look(before func(*leg)) {
	if c.host.Sink == nil {
		return
	}
	c.leg.mu.Lock()
	defer c.leg.mu.Unlock()
	if before != nil {
		before(&c.leg)
	}
	if c.leg.sink == nil {
		return
	}
	var kernel uint8
	err := c.raw.Control(func(fd uintptr) { kernel = c.leg.read(fd) })
	if err == nil && int(kernel) < len(kernelStates) {
		c.leadLocked(c.stateLocked(kernelStates[kernel]))
	}
}

// What the log says of an end that was asked for.
var (
	askedToClose = tcpstate.Cause{Kind: tcpstate.ByPolicy, Which: "conn close"}
	askedToReset = tcpstate.Cause{Kind: tcpstate.ByPolicy, Which: "conn rst"}
	abortCall    = tcpstate.Cause{Kind: tcpstate.ByCall, Which: "abort"}
)

// kernelStates are the kernel's numbers of states (net/tcp_states.h).
var kernelStates = [...]tcpstate.State{
	1: tcpstate.Established, 2: tcpstate.SynSent, 3: tcpstate.SynReceived, 4: tcpstate.FinWait1, 5: tcpstate.FinWait2,
	6: tcpstate.TimeWait, 7: tcpstate.Closed, 8: tcpstate.CloseWait, 9: tcpstate.LastAck, 10: tcpstate.Listen, 11: tcpstate.Closing,
}

// The part of struct tcp_info (linux/tcp.h) that is asked for: the state is the
// first byte.
const (
	infoLen         = 104
	infoRTT         = 68 // microseconds
	infoRetransmits = 100
)

// read asks for TCP_INFO. It returns the kernel's number of the state, zero if it
// does not say.
func (l *leg) read(fd uintptr) uint8 {
	var info [infoLen]byte
	n := uint32(len(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.IPPROTO_TCP, unix.TCP_INFO,
		uintptr(unsafe.Pointer(&info[0])), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 || n < infoLen {
		return 0
	}
	number := func(at int) uint32 { return *(*uint32)(unsafe.Pointer(&info[at])) }
	if rtt := number(infoRTT); rtt > 0 {
		l.path = tcpstate.Path{RTT: time.Duration(rtt) * time.Microsecond, Retransmits: number(infoRetransmits)}
		l.known = true
	}
	return info[0]
}

// stateLocked is the state of the connection when its socket is in one of the
// kernel's. A socket that is CLOSED without an error after FIN went both ways has
// left the connection to the kernel, in TIME-WAIT.
func (c *Conn) stateLocked(kernel tcpstate.State) tcpstate.State {
	l := &c.leg
	if kernel != tcpstate.Closed {
		return kernel
	}
	first := l.state != tcpstate.CloseWait && l.state != tcpstate.LastAck
	if first && l.finSent && l.finIn && c.out.noted() == nil {
		return tcpstate.TimeWait
	}
	if !l.finIn && c.out.noted() == nil {
		return l.state // what is to be read will say why
	}
	return tcpstate.Closed
}

// leadLocked tells how the connection got to a state, by way of those it cannot
// have missed.
func (c *Conn) leadLocked(to tcpstate.State) {
	for range 3 {
		from := c.leg.state
		if from == to {
			return
		}
		next := to
		switch {
		case tcpstate.Legal(from, to) && (to != tcpstate.Closed || c.out.noted() != nil):
		case from == tcpstate.Established && (to == tcpstate.LastAck || to == tcpstate.Closed && c.leg.finIn && c.leg.finSent):
			next = tcpstate.CloseWait
		case from == tcpstate.CloseWait && to == tcpstate.Closed && c.leg.finSent:
			next = tcpstate.LastAck
		case from == tcpstate.Established && (to == tcpstate.FinWait2 || to == tcpstate.Closing || to == tcpstate.TimeWait):
			next = tcpstate.FinWait1
		case from == tcpstate.TimeWait:
			return
		}
		c.wentLocked(next, c.causeLocked(from, next), tcpstate.FromSocket)
	}
}

// causeLocked is what makes a connection go from from to to, as far as that can be
// known from outside.
func (c *Conn) causeLocked(from, to tcpstate.State) tcpstate.Cause {
	type edge struct{ from, to tcpstate.State }
	segment := func(which string) tcpstate.Cause { return tcpstate.Cause{Kind: tcpstate.BySegment, Which: which} }
	if to == tcpstate.Closed {
		if err := c.out.noted(); err != nil {
			return causeOfError(err)
		}
	}
	switch (edge{from, to}) {
	case edge{tcpstate.Established, tcpstate.FinWait1}, edge{tcpstate.CloseWait, tcpstate.LastAck}:
		if c.leg.asked {
			return askedToClose
		}
		return tcpstate.Cause{Kind: tcpstate.ByCall, Which: "shutdown"}
	case edge{tcpstate.Established, tcpstate.CloseWait}, edge{tcpstate.FinWait1, tcpstate.Closing}, edge{tcpstate.FinWait2, tcpstate.TimeWait}:
		return segment("FIN")
	case edge{tcpstate.FinWait1, tcpstate.FinWait2}, edge{tcpstate.Closing, tcpstate.TimeWait}, edge{tcpstate.LastAck, tcpstate.Closed}:
		return segment("ACK")
	case edge{tcpstate.FinWait1, tcpstate.TimeWait}:
		return segment("") // a FIN with the ACK, or one after the other
	}
	return tcpstate.Cause{}
}

// causeOfError is what an error says of the end of a connection, or of a dial.
func causeOfError(err error) tcpstate.Cause {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return tcpstate.Cause{Kind: tcpstate.BySegment, Which: "RST"}
	case errors.Is(err, syscall.ETIMEDOUT):
		return tcpstate.Cause{Kind: tcpstate.ByTimer, Which: "retransmission"}
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return tcpstate.Cause{Kind: tcpstate.BySegment, Which: "ICMP"}
	}
	return tcpstate.Cause{}
}

// failedWith notes that the connection has ended with an error.
func (c *Conn) failedWith(err error) {
	if c.host.Sink != nil && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ETIMEDOUT) || errors.Is(err, syscall.EHOSTUNREACH)) {
		c.look(nil) // while there is something to ask
		c.went(tcpstate.Closed, causeOfError(err))
	}
}
