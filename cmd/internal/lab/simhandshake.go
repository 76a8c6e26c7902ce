package lab

import "slices"

// act is a step of a simulated row.
func act(name string, script ...SimStep) Step {
	return Step{Name: name, Sim: &Sim{Script: script}}
}

// opened is the step in which the guest opens a connection to the stack.
func opened() Step {
	return act("open",
		"guest connects 40001 > 80",
		"guest sends SYN",
		"stack accepts",
		"stack sends SYN+ACK",
		"guest sends ACK",
		"stack is ESTABLISHED",
	)
}

// Handshake is the lab of that name.
func Handshake() Lab {
	return Lab{
		Name: "handshake", Where: OnStack,
		Title:    "three segments open a connection, and who is ESTABLISHED when",
		Question: "Which segments open a connection, what do their numbers mean, and which end is ESTABLISHED first?",
		Story: []string{
			"Each end has a first sequence number to tell the other, and has to know that it was heard: two messages and two answers. " +
				"The server's answer and its own message go in one segment, SYN+ACK, so that three are left.",
			"A SYN takes one sequence number, as if it were a byte, so that it can be acknowledged: SYN with the number j is answered with j+1. " +
				"So does a FIN. Nothing else does: data takes as many numbers as it has bytes, and an ACK alone takes none.",
			"The client is ESTABLISHED when it has the SYN+ACK, and may send data at once. The server is ESTABLISHED when the last ACK has " +
				"arrived, not when it was sent. Until then it is in SYN-RECEIVED, and when the ACK is lost it stays there and sends its SYN+ACK again.",
		},
		Setup: "The guest opens a connection to the stack, and each segment is looked at before it goes on. The numbers are segments: SYNs of " +
			"the guest, SYN+ACKs of the stack, ACKs of both; and ms, how long the end that waits was in SYN-SENT or SYN-RECEIVED.",
		Columns: []Column{
			{"SYN", "guest.SYN"}, {"S+A", "stack.SYN+ACK"}, {"ACK", "guest.ACK"}, {"sent", "guest.SYN-SENT.ms"}, {"rcvd", "stack.SYN-RECEIVED.ms"},
		},
		Variants: []Variant{
			{
				Name: "three-segments", Group: Problem, Title: "the handshake", Note: "SYN, SYN+ACK, ACK",
				Why: "The client's SYN, the server's SYN+ACK, the client's ACK. Each SYN is answered with its number plus 1.",
				Steps: []Step{act("open",
					"stack listens 80",
					"guest connects 40001 > 80",
					"guest is SYN-SENT",
					"guest sends SYN seq=0 len=0",
					"stack accepts",
					"stack is SYN-RECEIVED",
					"stack sends SYN+ACK seq=0 ack=1 len=0",
					"guest connect gives ok",
					"guest is ESTABLISHED",
					"guest sends ACK seq=1 ack=1 len=0",
					"stack accept gives ok",
					"stack is ESTABLISHED",
					"guest sends nothing",
					"stack sends nothing",
				)},
				After: Figures{
					"guest.SYN": 1, "stack.SYN+ACK": 1, "guest.ACK": 1, "guest.SYN-SENT.ms": 2, "stack.SYN-RECEIVED.ms": 2,
					"guest.options.most": 20, "guest.options.least": 12, // of the SYN, and of the ACK
				},
			},
			{
				Name: "syn-lost", Group: Problem, Title: "two SYNs are lost", Note: "again after 1 s, after 2 s more",
				Why: "Nobody tells the client that its SYN was lost. It waits a second, then twice as long each time: with two lost SYNs connect(2) takes 3 s. " +
					"Linux does so up to 6.4; later ones wait a second four times more before they double, so that two lost SYNs cost 2 s (tcp_syn_linear_timeouts).",
				Steps: []Step{act("open",
					"guest connects 40001 > 80",
					"guest sends SYN seq=0, lost",
					"wait 999ms",
					"guest sends nothing",
					"wait 1ms",
					"guest sends SYN seq=0, lost",
					"wait 2s",
					"guest sends SYN seq=0",
					"stack accepts",
					"stack sends SYN+ACK",
					"guest sends ACK",
					"guest connect gives ok",
				)},
				After: Figures{"guest.SYN": 3, "stack.SYN+ACK": 1, "guest.ACK": 1, "guest.SYN-SENT.ms": 3002},
			},
			{
				Name: "no-answer", Group: Problem, Title: "nobody answers", Note: "7 SYNs, 127 s, ETIMEDOUT",
				Why: "One SYN and six more, after 1, 2, 4, 8, 16 and 32 s, and 64 s of waiting for the last: 127 s, as on Linux up to 6.4 with tcp_syn_retries=6. " +
					"Since then four SYNs come first, a second apart (tcp_syn_linear_timeouts), and it is 131 s. " +
					"An address where no host is, or a firewall that drops, looks like this. A port where nobody listens does not: see the row with RST.",
				Steps: []Step{act("open",
					"guest connects 40001 > 80",
					"wait 126999ms losing",
					"guest connect gives nothing",
					"wait 1ms losing",
					"guest connect gives ETIMEDOUT",
				)},
				After: Figures{"guest.SYN": 7, "stack.SYN+ACK": 0, "guest.ACK": 0, "guest.SYN-SENT.ms": 127000},
			},
			{
				Name: "refused", Group: Problem, Title: "nobody listens", Note: "RST, ECONNREFUSED, at once",
				Why: "A host without a listener answers a SYN with RST, and connect(2) fails with ECONNREFUSED as soon as that is there.",
				Steps: []Step{act("open",
					"guest connects 40001 > 80",
					"guest sends SYN seq=0",
					"stack refuses",
					"stack sends RST+ACK ack=1",
					"guest connect gives ECONNREFUSED",
					"guest is CLOSED",
				)},
				After: Figures{"guest.SYN": 1, "stack.SYN+ACK": 0, "guest.ACK": 0, "guest.SYN-SENT.ms": 2, "stack.options.most": 0},
			},
			{
				Name: "synack-unanswered", Group: Problem, Title: "the last ACK never comes", Note: "6 SYN+ACKs, 63 s",
				Why: "A client that has vanished, or whose address was forged: the server sends its SYN+ACK again after 1, 2, 4, 8 and 16 s and waits 32 s " +
					"for the last. 63 s with synack-retries=5, Linux's default; 2^(n+1)-1 seconds with n.",
				Steps: []Step{act("open",
					"guest connects 40001 > 80",
					"guest sends SYN",
					"stack accepts",
					"stack sends SYN+ACK, lost",
					"wait 62999ms losing",
					"stack is SYN-RECEIVED",
					"stack accept gives nothing",
					"wait 1ms losing",
					"stack accept gives ETIMEDOUT",
					"stack is CLOSED",
				)},
				After: Figures{"stack.SYN+ACK": 6, "stack.SYN-RECEIVED.ms": 63000},
			},
			{
				Name: "data-is-the-ack", Group: Cure, Title: "the last ACK is lost: data", Note: "data carries the ACK again",
				Why: "The client is ESTABLISHED and does not know of the loss. Its first data acknowledges the SYN+ACK too, as every segment does, " +
					"and makes the server ESTABLISHED. Nothing has to be repeated.",
				Steps: []Step{act("open",
					"guest connects 40001 > 80",
					"guest sends SYN",
					"stack accepts",
					"stack sends SYN+ACK",
					"guest sends ACK, lost",
					"stack is SYN-RECEIVED",
					"guest connect gives ok",
					`guest writes "hello"`,
					"guest sends ACK seq=1 ack=1 len=5",
					"stack is ESTABLISHED",
					`stack reads "hello"`,
				)},
				After: Figures{"guest.SYN": 1, "stack.SYN+ACK": 1, "guest.ACK": 2, "guest.SYN-SENT.ms": 2},
			},
			{
				Name: "synack-retries-1", Group: Cure, Title: "synack-retries=1", Note: "2 SYN+ACKs, 3 s",
				Why:      "Fewer repetitions free the place in the backlog sooner, and give up on clients with a bad line sooner.",
				Settings: []Setting{"stack.synack-retries=1"},
				Steps: []Step{act("open",
					"guest connects 40001 > 80",
					"guest sends SYN",
					"stack accepts",
					"stack sends SYN+ACK, lost",
					"wait 2999ms losing",
					"stack is SYN-RECEIVED",
					"wait 1ms losing",
					"stack accept gives ETIMEDOUT",
				)},
				After: Figures{"stack.SYN+ACK": 2, "stack.SYN-RECEIVED.ms": 3000},
			},
			{
				Name: "both-at-once", Group: Belief, Title: "both ESTABLISHED at once", Note: "the server later, by one segment",
				Belief: "Both ends are ESTABLISHED when the client has sent the last ACK.",
				Why: "The client was so before it sent that ACK, and the server becomes so when it arrives. In between, ss on the server shows SYN-RECV " +
					"and accept(2) does not return.",
				Steps: []Step{act("open",
					"guest connects 40001 > 80",
					"guest sends SYN",
					"stack accepts",
					"stack sends SYN+ACK",
					"guest is ESTABLISHED",
					"guest sends ACK, held as the-last",
					"wait 10s losing",
					"stack is SYN-RECEIVED",
					"stack accept gives nothing",
					"deliver the-last",
					"stack is ESTABLISHED",
					"stack accept gives ok",
				)},
				After: Figures{"guest.SYN": 1, "stack.SYN-RECEIVED.ms": 10002},
			},
			{
				Name: "ack-is-seq-plus-1", Group: Belief, Title: "ack is seq plus 1", Note: "for SYN and FIN; data its length",
				Belief: "The acknowledgement number is the sequence number plus 1.",
				Why: "It is the next number that is expected: the segment's number plus its bytes, and 1 for a SYN or a FIN in it. " +
					"An ACK without data takes no number, so that the next segment has the same one.",
				Steps: []Step{
					opened(),
					act("data",
						`guest writes "hello"`,
						"guest sends ACK seq=1 len=5",
						"stack sends ACK seq=1 ack=6",
						"stack writes 1000 bytes",
						"stack sends ACK seq=1 ack=6 len=1000",
						"guest sends ACK seq=6 ack=1001 len=0",
						`guest writes "x"`,
						"guest sends ACK seq=6 len=1",
						"stack sends ACK ack=7",
						"guest shuts down",
						"guest sends FIN+ACK seq=7 len=0",
						"stack sends ACK ack=8",
					),
				},
				After: Figures{"guest.SYN": 1, "stack.SYN+ACK": 1, "guest.payload": 6, "stack.payload": 1000},
			},
			{
				Name: "large-response", Group: Belief, Title: "each segment is acked", Note: "one ACK is for all before it",
				Belief: "A large response goes out in segments, and each has to be acknowledged.",
				Why: "It goes out in segments of at most the other end's MSS. An ACK says that all before its number has arrived: here nine of ten are " +
					"lost, and nothing is sent again, for the tenth says it all. A receiver need not send more than one for every two full segments.",
				Steps: []Step{
					opened(),
					act("data", slices.Concat(
						[]SimStep{"stack writes 14000 bytes"},
						slices.Repeat([]SimStep{"stack sends ACK"}, 10),
						slices.Repeat([]SimStep{"guest sends ACK, lost"}, 9),
						[]SimStep{"guest sends ACK ack=14001", "wait 60s losing", "stack sends nothing"},
					)...),
				},
				After: Figures{"guest.SYN": 1, "stack.SYN+ACK": 1, "stack.payload": 14000, "stack.ACK": 10, "guest.lost": 9},
			},
			{
				Name: "synack-retries-180s", Group: Belief, Title: "5 retries are 180 s", Note: "63 s",
				Belief: "tcp_synack_retries=5 keeps a half-open connection for about 180 seconds.",
				Why: "That was so when the first wait was 3 s (RFC 1122); it has been 1 s since RFC 6298: 1+2+4+8+16+32 = 63. " +
					"Linux took that up in 3.1, and its text on the sysctl says 63 seconds.",
				Settings: []Setting{"stack.synack-retries=5"},
				Steps: []Step{act("open",
					"guest connects 40001 > 80",
					"guest sends SYN",
					"stack accepts",
					"wait 180s losing",
					"stack is CLOSED",
				)},
				After: Figures{"stack.SYN+ACK": 6, "stack.SYN-RECEIVED.ms": 63000},
			},
		},
		Moral: []string{
			"Three segments. The client is ESTABLISHED with the second, the server with the third. What is lost is sent again after 1 s, 2 s, 4 s: " +
				"connect(2) gives up after 127 s (131 s on Linux since 6.5), a server in SYN-RECEIVED after 63 s. A SYN counts as one byte, data as many as it has.",
		},
		Production: []Look{
			{"ss -tan state syn-sent", "connects that nobody has answered"},
			{"ss -tan state syn-recv", "handshakes whose last ACK has not arrived"},
			{"nstat -az TcpExtTCPSynRetrans TcpExtTCPTimeouts TcpAttemptFails", "SYNs and SYN+ACKs that were repeated, and handshakes that failed"},
			{"sysctl net.ipv4.tcp_syn_retries net.ipv4.tcp_syn_linear_timeouts net.ipv4.tcp_synack_retries", "how often each is repeated"},
			{"tcpbox run --log - -- YOUR-CLIENT", "when each end came to which state, and by which segment"},
			{"tcpbox run --tcp stack.synack-retries=1 -- YOUR-CLIENT", "your client, and a peer that gives up soon"},
		},
		Sources: []Source{
			{"RFC 9293, section 3.5", "the three-way handshake"},
			{"RFC 9293, section 3.4", "what takes a sequence number"},
			{"RFC 9293, section 3.10.7.3 and 3.10.7.4", "SYN-SENT becomes ESTABLISHED by the SYN+ACK, SYN-RECEIVED by the ACK"},
			{"RFC 6298, section 2", "the first wait is 1 s, and doubles"},
			{"Linux, net/ipv4/tcp_input.c", "tcp_rcv_synsent_state_process, tcp_rcv_state_process"},
			{"Linux, net/ipv4/inet_connection_sock.c", "reqsk_timer_handler repeats the SYN+ACK"},
			{"Linux, Documentation/networking/ip-sysctl.rst", "tcp_syn_retries, tcp_syn_linear_timeouts, tcp_synack_retries"},
		},
	}
}
