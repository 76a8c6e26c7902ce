package lab

// SimultaneousOpen is the lab simultaneous-open.
func SimultaneousOpen() Lab {
	return Lab{
		Name: "simultaneous-open", Where: OnStack,
		Title:    "both ends connect to each other, and it is one connection",
		Question: "What happens when two programs connect to each other's port at the same time?",
		Story: []string{
			"TCP knows no client and no server, only ends. If both send a SYN before they have the other's, the two SYNs cross. Each end takes the other's SYN " +
				"for what it is, goes to SYN-RECEIVED and answers with SYN+ACK. When its own SYN is acknowledged it is ESTABLISHED: one connection, without a listener.",
			"Sockets can do it: both bind a port and connect to the other's. Programs that go through NATs from both sides use it.",
		},
		Setup: "The guest connects from port 40001 to the stack's port 80, and the stack from port 80 to the guest's port 40001. The numbers are SYNs and SYN+ACKs of " +
			"the guest (g) and of the stack (s).",
		Columns: []Column{{"g.SYN", "guest.SYN"}, {"s.SYN", "stack.SYN"}, {"g.S+A", "guest.SYN+ACK"}, {"s.S+A", "stack.SYN+ACK"}},
		Variants: []Variant{
			{
				Name: "crossing", Group: Problem, Title: "the SYNs cross", Note: "SYN-RECEIVED on both ends",
				Why: "Both ends go SYN-SENT, SYN-RECEIVED, ESTABLISHED, and each SYN is acknowledged with its number plus 1. The standard's figure has four segments. The stack " +
					"takes a SYN+ACK in SYN-RECEIVED for a repetition and answers it with an ACK, which makes the other end ESTABLISHED: here there are six.",
				Steps: []Step{act("open",
					"guest connects 40001 > 80",
					"guest sends SYN seq=0, held as from-guest",
					"stack connects 80 > 40001",
					"stack sends SYN seq=0, held as from-stack",
					"deliver from-guest",
					"stack is SYN-RECEIVED",
					"deliver from-stack",
					"guest is SYN-RECEIVED",
					"guest sends SYN+ACK seq=0 ack=1",
					"stack sends SYN+ACK seq=0 ack=1",
					"all arrives",
					"guest connect gives ok",
					"stack connect gives ok",
					"guest went SYN-SENT SYN-RECEIVED ESTABLISHED",
					"stack went SYN-SENT SYN-RECEIVED ESTABLISHED",
				), act("talk",
					`guest writes "hello"`,
					`stack writes "hello too"`,
					"all arrives",
					`stack reads "hello"`,
					`guest reads "hello too"`,
				)},
				After: Figures{"guest.SYN": 1, "stack.SYN": 1, "guest.SYN+ACK": 1, "stack.SYN+ACK": 1},
			},
			{
				Name: "synack-lost", Group: Problem, Title: "a SYN+ACK is lost", Note: "the other end's makes up for it",
				Why: "Any acknowledgement of its SYN makes an end ESTABLISHED: for the stack it is the guest's next ACK, for the guest the first data of the stack's.",
				Steps: []Step{act("open",
					"guest connects 40001 > 80",
					"guest sends SYN, held as from-guest",
					"stack connects 80 > 40001",
					"stack sends SYN, held as from-stack",
					"deliver from-guest",
					"deliver from-stack",
					"guest sends SYN+ACK, lost",
					"stack sends SYN+ACK",
					"guest sends ACK ack=1",
					"stack is ESTABLISHED",
					"guest is SYN-RECEIVED",
					`stack writes "hello"`,
					"stack sends ACK ack=1 len=5",
					"guest is ESTABLISHED",
					`guest reads "hello"`,
				)},
				After: Figures{"guest.SYN": 1, "stack.SYN": 1, "guest.SYN+ACK": 1, "stack.SYN+ACK": 1},
			},
			{
				Name: "not-at-once", Group: Belief, Title: "two SYNs, two connections", Note: "one, or EADDRINUSE",
				Belief: "Two connects make two connections.",
				Why: "A connection is two addresses and two ports, whoever asks. When the stack's program connects, the guest's SYN has been there already and is accepted: " +
					"the pair of ports is taken, and its own connect has nothing left to open.",
				Steps: []Step{act("open",
					"guest connects 40001 > 80",
					"guest sends SYN",
					"stack accepts",
					"stack sends SYN+ACK",
					"guest sends ACK",
					"stack is ESTABLISHED",
					"stack connects 80 > 40001",
					"stack connect gives EADDRNOTAVAIL",
					"stack sends nothing",
				)},
				After: Figures{"guest.SYN": 1, "stack.SYN": 0, "guest.SYN+ACK": 0, "stack.SYN+ACK": 1},
			},
		},
		Moral: []string{
			"SYNs that cross open one connection: SYN-SENT, SYN-RECEIVED, ESTABLISHED on both ends, without a listener. It is the only way on which the end that connects is in SYN-RECEIVED.",
		},
		Production: []Look{
			{"ss -tan state syn-recv", "here also ends that have called connect"},
			{"ss -tanp 'sport = :80 and dport = :40001'", "both ends of it, on one machine"},
			{"tcpbox run --log - -- YOUR-PROGRAM", "SYN-SENT, then SYN-RECEIVED, caused by a SYN"},
		},
		Sources: []Source{
			{"RFC 9293, section 3.5, figure 7", "simultaneous connection synchronization"},
			{"RFC 9293, section 3.10.7.3", "SYN-SENT: a SYN without an acceptable ACK leads to SYN-RECEIVED"},
			{"Linux, net/ipv4/tcp_input.c", "tcp_rcv_synsent_state_process, \"simultaneous connect\""},
		},
	}
}

// SimultaneousClose is the lab simultaneous-close.
func SimultaneousClose() Lab {
	crossing := []SimStep{
		"guest closes",
		"guest sends FIN+ACK, held as from-guest",
		"stack closes",
		"stack sends FIN+ACK, held as from-stack",
		"deliver from-guest",
		"stack is CLOSING",
		"deliver from-stack",
		"guest is CLOSING",
	}
	and := func(then ...SimStep) []Step {
		return []Step{opened(), act("close", append(crossing[:len(crossing):len(crossing)], then...)...)}
	}
	return Lab{
		Name: "simultaneous-close", Where: OnStack,
		Title:    "both ends close at once: CLOSING, and TIME-WAIT on both",
		Question: "What is the state CLOSING, and who has TIME-WAIT when both ends close at the same time?",
		Story: []string{
			"An end that has sent its FIN and receives the other's before the ACK to its own is in CLOSING: both streams are closed, and only that ACK is missing. " +
				"Then it is in TIME-WAIT. When the FINs cross this happens to both ends, for each has sent the first FIN that it knows of.",
			"CLOSING lasts for as long as an ACK takes. One that is seen in ss has lost its ACK.",
		},
		Setup: "Guest and stack close in the same moment. The numbers are how often each was in CLOSING (clos), and for how many milliseconds in TIME-WAIT (tw).",
		Columns: []Column{
			{"gclos", "guest.CLOSING"}, {"sclos", "stack.CLOSING"}, {"g.tw", "guest.TIME-WAIT.ms"}, {"s.tw", "stack.TIME-WAIT.ms"},
		},
		Variants: []Variant{
			{
				Name: "crossing", Group: Problem, Title: "the FINs cross", Note: "CLOSING and TIME-WAIT on both",
				Why: "FIN-WAIT-1, CLOSING, TIME-WAIT on both ends. Four segments, as in any close, but no end was in CLOSE-WAIT or LAST-ACK.",
				Steps: and(
					"guest sends ACK seq=2 ack=2",
					"stack is TIME-WAIT",
					"stack sends ACK seq=2 ack=2",
					"guest is TIME-WAIT",
					"wait 61s",
					"guest went SYN-SENT ESTABLISHED FIN-WAIT-1 CLOSING TIME-WAIT CLOSED",
					"stack went SYN-RECEIVED ESTABLISHED FIN-WAIT-1 CLOSING TIME-WAIT CLOSED",
				),
				After: Figures{"guest.CLOSING": 1, "stack.CLOSING": 1, "guest.TIME-WAIT.ms": 60000, "stack.TIME-WAIT.ms": 60000},
			},
			{
				Name: "ack-lost", Group: Problem, Title: "an ACK is lost", Note: "CLOSING until the FIN comes again",
				Why: "The guest sends its FIN again when its retransmission timeout is over; the stack, in TIME-WAIT, acknowledges it again.",
				Steps: and(
					"guest sends ACK",
					"stack sends ACK, lost",
					"guest is CLOSING",
					"wait 150ms",
					"guest is CLOSING",
					"wait 150ms",
					"guest sends FIN+ACK seq=1",
					"stack sends ACK",
					"guest is TIME-WAIT",
				),
				After: Figures{"guest.CLOSING": 1, "stack.CLOSING": 1, "guest.FIN+ACK": 2},
			},
			{
				Name: "not-crossing", Group: Belief, Title: "CLOSING comes in each close", Note: "only when FINs cross",
				Belief: "CLOSING is a state between ESTABLISHED and CLOSED that each connection goes through.",
				Why:    "If the first FIN has arrived before the second is sent, one end goes through FIN-WAIT-1, FIN-WAIT-2 and TIME-WAIT, and the other through CLOSE-WAIT and LAST-ACK.",
				Steps: []Step{opened(), closedByGuest(), act("then",
					"guest went SYN-SENT ESTABLISHED FIN-WAIT-1 FIN-WAIT-2 TIME-WAIT",
					"stack went SYN-RECEIVED ESTABLISHED CLOSE-WAIT LAST-ACK CLOSED",
				)},
				After: Figures{"guest.CLOSING": 0, "stack.CLOSING": 0, "guest.TIME-WAIT": 1, "stack.TIME-WAIT": 0},
			},
		},
		Moral: []string{"When FINs cross, both ends go through CLOSING and both have a TIME-WAIT of 60 s. CLOSING lasts as long as one ACK."},
		Production: []Look{
			{"ss -tano state closing", "ends whose ACK is on its way or lost, with the timer of their FIN"},
			{"ss -tan state time-wait", "a TIME-WAIT on both machines for one connection"},
			{"tcpbox run --log - -- YOUR-CLIENT", "FIN-WAIT-1, CLOSING: which FINs crossed"},
		},
		Sources: []Source{
			{"RFC 9293, section 3.6, figure 13", "simultaneous close sequence"},
			{"RFC 9293, section 3.10.7.4", "FIN-WAIT-1: a FIN before the ACK leads to CLOSING"},
			{"Linux, net/ipv4/tcp_input.c", "tcp_fin, tcp_rcv_state_process"},
		},
	}
}
