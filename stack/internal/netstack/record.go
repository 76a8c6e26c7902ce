package netstack

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

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
	call   atomic.Uint32 // the own call that was made last
	policy atomic.Uint32 // why tcpbox itself ends the endpoint
	rstIn  atomic.Bool   // an RST from the guest was seen
	rstOut atomic.Bool   // an RST to the guest was seen
	mute   atomic.Bool   // the endpoint's RST must not leave

	mu     sync.Mutex // guards what follows and the order of emitted states
	since  time.Time  // when last began
	tw     twFacts
	parked []byte // a SYN that waits for this record's end
}

// calls are the own calls that can change a state.
type call uint32

const (
	callNone call = iota
	callConnect
	callShutdown
	callClose
	callAbort
)

var callNames = [...]string{"", "connect", "shutdown", "close", "abort"}

// endings are the reasons for which tcpbox itself ends an endpoint.
type ending uint32

const (
	endNone    ending = iota
	endReopen         // a newer SYN reopens the 4-tuple (RFC 6191)
	endOrphan         // an orphan that netstack would keep for ever
	endStopped        // the stack is being closed
)

var endingNames = [...]string{"", "time-wait reopened", "orphan", "stopped"}

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
