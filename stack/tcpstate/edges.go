package tcpstate

// edges holds, for each state, the states that may follow it: the arrows of
// RFC 9293, section 3.3.2, figure 5, and those that its text adds (a FIN that
// carries the ACK of ours leads from FIN-WAIT-1 straight to TIME-WAIT; a reset
// or an abort leads from every state to CLOSED; section 3.10).
//
//	CLOSED ──active open──▶ SYN-SENT ──SYN-ACK──▶ ESTABLISHED
//	CLOSED ──passive open─▶ LISTEN ──SYN──▶ SYN-RECEIVED ──ACK──▶ ESTABLISHED
//	ESTABLISHED ──close──▶ FIN-WAIT-1 ──ACK──▶ FIN-WAIT-2 ──FIN──▶ TIME-WAIT
//	                            └──FIN──▶ CLOSING ──ACK──▶ TIME-WAIT
//	ESTABLISHED ──FIN──▶ CLOSE-WAIT ──close──▶ LAST-ACK ──ACK──▶ CLOSED
var edges = [numStates][]State{
	// A child of a listener begins in SYN-RECEIVED; tcpbox, which has no
	// listener in front of it, shows that as CLOSED to SYN-RECEIVED.
	Closed:      {Listen, SynSent, SynReceived},
	Listen:      {SynReceived, SynSent, Closed},
	SynSent:     {Established, SynReceived, Closed},
	SynReceived: {Established, FinWait1, CloseWait, Listen, Closed},
	Established: {FinWait1, CloseWait, Closed},
	FinWait1:    {FinWait2, Closing, TimeWait, Closed},
	FinWait2:    {TimeWait, Closed},
	CloseWait:   {LastAck, Closed},
	Closing:     {TimeWait, Closed},
	LastAck:     {Closed},
	TimeWait:    {Closed, SynReceived, SynSent},
}

// Legal reports whether to may follow from. From or to Unknown is not legal.
func Legal(from, to State) bool {
	if from >= numStates {
		return false
	}
	for _, s := range edges[from] {
		if s == to {
			return true
		}
	}
	return false
}
