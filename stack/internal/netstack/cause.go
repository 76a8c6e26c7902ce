package netstack

import (
	"gvisor.dev/gvisor/pkg/tcpip"

	"tcpbox/stack/tcpstate"
)

func bySegment(which string) tcpstate.Cause {
	return tcpstate.Cause{Kind: tcpstate.BySegment, Which: which}
}

func byTimer(which string) tcpstate.Cause {
	return tcpstate.Cause{Kind: tcpstate.ByTimer, Which: which}
}

// causeLocked tells what made the endpoint go from from to to. failed says
// that it ended with an error. RFC 9293
// leaves most transitions a single cause; the ends of a connection are told
// apart by what was seen before them.
func (r *record) causeLocked(from, to tcpstate.State, failed bool, t *tracker) tcpstate.Cause {
	type edge struct{ from, to tcpstate.State }
	switch (edge{from, to}) {
	case edge{tcpstate.Closed, tcpstate.SynSent}:
		return tcpstate.Cause{Kind: tcpstate.ByCall, Which: "connect"}
	case edge{tcpstate.Closed, tcpstate.SynReceived}, edge{tcpstate.SynSent, tcpstate.SynReceived}:
		return bySegment("SYN")
	case edge{tcpstate.SynSent, tcpstate.Established}:
		return bySegment("SYN-ACK")
	case edge{tcpstate.SynReceived, tcpstate.Established},
		edge{tcpstate.FinWait1, tcpstate.FinWait2},
		edge{tcpstate.Closing, tcpstate.TimeWait}:
		return bySegment("ACK")
	case edge{tcpstate.Established, tcpstate.CloseWait},
		edge{tcpstate.SynReceived, tcpstate.CloseWait},
		edge{tcpstate.FinWait1, tcpstate.Closing},
		edge{tcpstate.FinWait2, tcpstate.TimeWait}:
		return bySegment("FIN")
	case edge{tcpstate.FinWait1, tcpstate.TimeWait}:
		return bySegment("FIN-ACK")
	case edge{tcpstate.Established, tcpstate.FinWait1}, edge{tcpstate.CloseWait, tcpstate.LastAck}:
		if r.closeAsked.Load() {
			return askedToClose
		}
		if c := call(r.call.Load()); c == callShutdown || c == callClose {
			return tcpstate.Cause{Kind: tcpstate.ByCall, Which: callNames[c]}
		}
		return tcpstate.Cause{Kind: tcpstate.ByCall}
	}
	if to == tcpstate.Closed {
		return r.endLocked(from, failed, t)
	}
	return tcpstate.Cause{}
}

// handshake reports whether an endpoint in this state is not connected yet.
func handshake(s tcpstate.State) bool {
	return s == tcpstate.SynSent || s == tcpstate.SynReceived
}

// handshakeCause tells what ended a handshake from the error that gVisor ended
// it with. Packets alone do not tell: the answers to a SYN that was doubled on
// its way may be an RST and an ICMP error, and only one of them was obeyed.
// seen is what the packets suggest. Of an ICMP error and a call of ours in the
// same moment the call is named: gVisor notes such an error before it asks
// whether the endpoint still wants it.
func (r *record) handshakeCause(err tcpip.Error, seen tcpstate.Cause) (why tcpstate.Cause, ok bool) {
	ours := seen.Kind == tcpstate.ByCall || ending(r.policy.Load()) != endNone
	switch err.(type) {
	case *tcpip.ErrConnectionRefused:
		if r.portClosed.Load() && !r.rst.met.Load() {
			return bySegment("ICMP"), !ours
		}
		return bySegment("RST"), true
	case *tcpip.ErrHostUnreachable, *tcpip.ErrNetworkUnreachable, *tcpip.ErrHostDown, *tcpip.ErrNoNet:
		return bySegment("ICMP"), !ours
	case *tcpip.ErrTimeout:
		return byTimer("retransmission"), true
	case *tcpip.ErrInvalidEndpointState:
		return bySegment("unacceptable"), true
	case *tcpip.ErrAborted:
		if ours {
			return seen, true
		}
		// An RST came in the same moment: the call was faster.
		return r.ours(), r.ours().Which != ""
	}
	return tcpstate.Cause{}, false
}

// ours is the own call that runs now, as a cause; Which is empty if none does.
func (r *record) ours() tcpstate.Cause {
	return tcpstate.Cause{Kind: tcpstate.ByCall, Which: callNames[r.inCall.Load()]}
}

// endLocked tells what ended the endpoint.
func (r *record) endLocked(from tcpstate.State, failed bool, t *tracker) tcpstate.Cause {
	reset := tcpstate.State(r.rstOut.Load()) == from // by an RST of the endpoint's
	handshake := handshake(from)
	ours := r.ours()
	e := ending(r.policy.Load())
	if e == endNone && t.stopping.Load() {
		e = endStopped
	}
	if e != endNone {
		ours = e.cause()
	}
	switch {
	case !failed:
		return r.endedLocked(from)
	case handshake && !reset && r.rst.met.Load():
		return bySegment("RST")
	case (handshake || reset) && ours.Which != "":
		// Abort, or close with unread data (RFC 2525, section 2.17).
		return ours
	case handshake && r.icmpIn.Load():
		return bySegment("ICMP")
	case reset:
		return bySegment("unacceptable") // answered with an RST
	case !handshake && (r.rst.met.Load() || r.rst.underWay(t.clock.NowMonotonic())):
		return bySegment("RST")
	}
	// Nothing arrived and nobody called: a segment was sent in vain too often.
	return byTimer("retransmission")
}

// endedLocked tells what ended an endpoint without an error.
func (r *record) endedLocked(from tcpstate.State) tcpstate.Cause {
	switch from {
	case tcpstate.LastAck:
		return bySegment("ACK")
	case tcpstate.CloseWait:
		return bySegment("RST")
	case tcpstate.FinWait2:
		return byTimer("fin-wait-2")
	case tcpstate.TimeWait:
		return byTimer("time-wait")
	}
	return tcpstate.Cause{}
}
