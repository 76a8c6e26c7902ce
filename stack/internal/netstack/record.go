package netstack

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gvstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"tcpbox/stack/tcpstate"
)

// A record follows one endpoint from before its first segment until it is
// CLOSED.
type record struct {
	id     tcpstate.Conn
	tuple  gvstack.TransportEndpointID
	local  netip.AddrPort
	remote netip.AddrPort

	// ep is nil until the endpoint is known: for a passive open that is when
	// its SYN-ACK leaves.
	ep atomic.Pointer[tcp.Endpoint]

	// last is the state that was logged last, read without mu to find out
	// cheaply that nothing has changed.
	last atomic.Uint32

	// What is known of causes. They are set before the thing happens.
	call       atomic.Uint32 // the own call that was made last
	inCall     atomic.Uint32 // the own call that runs now
	policy     atomic.Uint32 // why tcpbox itself ends the endpoint
	released   atomic.Bool   // its owner has closed or reset it
	closeAsked atomic.Bool   // the FIN is one that somebody asked for
	// atRelease is why the endpoint is to be ended when its owner closes it.
	atRelease atomic.Uint32
	// releasedAt is when that was, on the stack's clock, in Unix nanoseconds.
	releasedAt atomic.Int64
	// orphaned is its number among the orphans; zero: it is none.
	orphaned atomic.Uint64
	// answered is how many timeouts there had been when the guest was last heard
	// of since its owner has closed it.
	answered atomic.Uint64
	rstOut   atomic.Uint32 // in which state an RST to the guest was seen
	icmpIn   atomic.Bool   // an ICMP error from the guest was seen
	// portClosed: one of them said that nobody listens, which gVisor takes as it
	// takes an RST.
	portClosed atomic.Bool
	mute       atomic.Bool // the endpoint's RST must not leave
	rst        rstFacts
	twLink     twLink
	handshake  handshakeFacts

	mu       sync.Mutex // guards what follows and the order of emitted states
	bound    bool       // tuple, local and remote are known
	since    time.Time  // when last began
	missed   tcpstate.State
	failure  error // what a read meets since the endpoint failed
	watchers map[*func(error)]struct{}
	tw       twFacts
	parked   []byte // a SYN that waits for this record's end
	parkedAt tcpip.MonotonicTime
	asked    bool // a SYN for the next connection has come, at askedAt
	askedAt  tcpip.MonotonicTime
}

// rstFacts is what is known of an RST from the guest: that one arrived does not
// mean that the endpoint obeys it (RFC 5961, section 3.2).
type rstFacts struct {
	iss    atomic.Uint32 // sequence number of our SYN
	rcvNxt atomic.Uint32 // what our SYN-ACK acknowledged
	last   atomic.Uint64 // 1<<32 | sequence number of the last one
	at     atomic.Int64  // when it arrived, on the stack's monotonic clock
	met    atomic.Bool   // the endpoint has met one that it obeys
}

// noteRST remembers an RST that is on its way to the endpoint.
func (r *record) noteRST(tcpHdr header.TCP, now tcpip.MonotonicTime) {
	switch r.state() {
	case tcpstate.SynSent: // valid if it acknowledges our SYN
		if !tcpHdr.Flags().Contains(header.TCPFlagAck) || tcpHdr.AckNumber() != r.rst.iss.Load()+1 {
			return
		}
		r.rst.met.Store(true)
	case tcpstate.SynReceived: // valid if it lies in the window
		if tcpHdr.SequenceNumber()-r.rst.rcvNxt.Load() >= bufferSizeBytes {
			return
		}
		r.rst.met.Store(true)
	}
	r.rst.at.Store(int64(now.Sub(tcpip.MonotonicTime{})))
	r.rst.last.Store(1<<32 | uint64(tcpHdr.SequenceNumber()))
}

// handledSegment is told after each segment which sequence number the endpoint
// expects. An RST is obeyed if it has exactly that.
func (f *rstFacts) handledSegment(rcvNxt uint32) {
	if rst := f.last.Load(); rst != 0 && uint32(rst) == rcvNxt {
		f.met.Store(true)
	}
}

// underWay reports whether an RST arrived less than a second ago, so that the
// endpoint may not have met it yet.
func (f *rstFacts) underWay(now tcpip.MonotonicTime) bool {
	return f.last.Load() != 0 && now.Sub(tcpip.MonotonicTime{})-time.Duration(f.at.Load()) < firstRetransmission
}

// calls are the own calls that can change a state.
type call uint32

const (
	callNone call = iota
	callShutdown
	callClose
	callAbort
)

var callNames = [...]string{"", "shutdown", "close", "abort"}

// endings are the reasons for which tcpbox itself ends an endpoint.
type ending uint32

const (
	endNone          ending = iota
	endReopen               // a newer SYN reopens the 4-tuple (RFC 6191)
	endOrphan               // an orphan that netstack would keep for ever
	endStopped              // the stack is being closed
	endHalfClose            // half-closed and idle for too long
	endTimeWaitMax          // too many in TIME-WAIT
	endReuse                // an active open takes the port of a TIME-WAIT
	endTimeWaitRST          // an RST in TIME-WAIT (RFC 1337)
	endRetries              // a SYN or SYN-ACK was sent in vain too often
	endConnReset            // somebody asked for it
	endOrphanRetries        // an orphan sent in vain too often
	endOrphanMax            // too many orphans
	endRecycle              // time-wait.recycle ends a TIME-WAIT early
)

// askedToClose is why a FIN is sent that somebody asked for.
var askedToClose = tcpstate.Cause{Kind: tcpstate.ByPolicy, Which: "conn close"}

var endingNames = [...]string{
	"", "time-wait reopened", "orphan", "stopped", "half-close-timeout", "time-wait.max", "time-wait.reuse", "RST",
	"retransmission", "conn rst", "orphan.retries", "orphan.max", "time-wait.recycle",
}

// inTimeWait reports whether it ends TIME-WAITs alone: the owner may still read.
func (e ending) inTimeWait() bool {
	return e == endTimeWaitMax || e == endTimeWaitRST || e == endRecycle
}

// cause is what the log says of it.
func (e ending) cause() tcpstate.Cause {
	switch e {
	case endTimeWaitRST:
		return bySegment(endingNames[e])
	case endRetries:
		return byTimer(endingNames[e])
	}
	return tcpstate.Cause{Kind: tcpstate.ByPolicy, Which: endingNames[e]}
}

func (r *record) state() tcpstate.State { return tcpstate.State(r.last.Load()) }

// stateOf translates gVisor's states to those of RFC 9293. Its INITIAL, BOUND
// and CONNECTING are states of the socket, not of a connection, and ERROR is
// CLOSED with a reason.
func stateOf(s tcp.EndpointState) tcpstate.State {
	switch s {
	case tcp.StateListen:
		return tcpstate.Listen
	case tcp.StateSynSent:
		return tcpstate.SynSent
	case tcp.StateSynRecv:
		return tcpstate.SynReceived
	case tcp.StateEstablished:
		return tcpstate.Established
	case tcp.StateFinWait1:
		return tcpstate.FinWait1
	case tcp.StateFinWait2:
		return tcpstate.FinWait2
	case tcp.StateCloseWait:
		return tcpstate.CloseWait
	case tcp.StateClosing:
		return tcpstate.Closing
	case tcp.StateLastAck:
		return tcpstate.LastAck
	case tcp.StateTimeWait:
		return tcpstate.TimeWait
	}
	return tcpstate.Closed
}
