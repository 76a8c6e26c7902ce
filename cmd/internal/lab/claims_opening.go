package lab

// claimsOpening are the claims about opening a connection.
var claimsOpening = []Claim{
	{
		sectionOpening, "Three segments open a connection.", True,
		"SYN, SYN+ACK, ACK: {1w} SYN and {3w} ACK of the client, {2w} SYN+ACK of the server. Each SYN has to be answered, and the server's " +
			"answer and its own SYN go in one segment. Four are what it would be without that.",
		[]Shown{
			{"handshake", "three-segments", "guest.SYN", 1, 0},
			{"handshake", "three-segments", "stack.SYN+ACK", 1, 0},
			{"handshake", "three-segments", "guest.ACK", 1, 0},
		},
	},
	{
		sectionOpening, "Both ends are ESTABLISHED when the last ACK has been sent.", False,
		"The client is so when the SYN+ACK is there, before it sends that ACK. The server is so when the ACK arrives: with one that was " +
			"under way for 10 s it stayed in SYN-RECEIVED for {1s}. If the ACK is lost, the first data takes its place.",
		[]Shown{{"handshake", "both-at-once", "stack.SYN-RECEIVED.ms", 10002, 0}},
	},
	{
		sectionOpening, "tcp_synack_retries=5 keeps a half-open connection for about 180 seconds.", False,
		"It is {1s}. The first SYN+ACK is repeated after 1 s, then after twice as long each time, and the wait for the sixth is 32 s: " +
			"1+2+4+8+16+32. It was about 180 s when the first wait was 3 s, up to Linux 3.0.",
		[]Shown{{"handshake", "synack-retries-180s", "stack.SYN-RECEIVED.ms", 63000, 0}, {"handshake", "synack-retries-180s", "stack.SYN+ACK", 6, 0}},
	},
	{
		sectionOpening, "A connection is in SYN-RECEIVED for 30 seconds to 2 minutes.", HalfTrue,
		"Only where nobody answers, and then for a time that follows from the number of retries: {1s} with 5, the default, and {2s} with 1." +
			" Where the client answers it is a round trip, here {3s}.",
		[]Shown{
			{"handshake", "synack-unanswered", "stack.SYN-RECEIVED.ms", 63000, 0},
			{"handshake", "synack-retries-1", "stack.SYN-RECEIVED.ms", 3000, 0},
			{"handshake", "three-segments", "stack.SYN-RECEIVED.ms", 2, 0},
		},
	},
	{
		sectionOpening, "connect() to a host that does not answer fails after the time that tcp_syn_retries says, in seconds.", False,
		"It is a number of repetitions: with 6, the default, {2w} SYNs go out, and connect fails after {1s}. Linux sends four more since 6.5, a " +
			"second apart, and fails after 131 s. A host where nobody listens answers with RST, and connect fails at once.",
		[]Shown{{"handshake", "no-answer", "guest.SYN-SENT.ms", 127000, 0}, {"handshake", "no-answer", "guest.SYN", 7, 0}},
	},
	{
		sectionOpening, "Two programs that connect to each other at once make two connections.", False,
		"It is one connection, as a connection is two addresses and two ports, whoever asks: SYNs that cross take both ends through SYN-" +
			"RECEIVED, and each sends {1w} SYN+ACK. Where they do not cross, the second is accepted, and sends {2w} SYN of its own.",
		[]Shown{
			{"simultaneous-open", "crossing", "guest.SYN+ACK", 1, 0},
			{"simultaneous-open", "not-at-once", "stack.SYN", 0, 0},
		},
	},
	{
		sectionOpening, "An RST ends a connection.", HalfTrue,
		"Only one whose number is the very one that is expected. One that is merely in the window is asked about with a challenge ACK, and " +
			"closes {1w} connection; the exact one closes {2w}. Outside the window it is dropped, and there is {3w} ACK.",
		[]Shown{
			{"challenge-ack", "rst-in-window", "stack.CLOSED", 0, 0},
			{"challenge-ack", "rst-exact", "stack.CLOSED", 1, 0},
			{"challenge-ack", "rst-outside", "stack.ACK", 0, 0},
		},
	},
}
