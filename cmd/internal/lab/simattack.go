package lab

// ChallengeACK is the lab challenge-ack.
func ChallengeACK() Lab {
	return Lab{
		Name: "challenge-ack", Where: OnStack,
		Title:    "a forged RST or SYN is asked about, not believed",
		Question: "What can somebody do who knows the addresses and ports of a connection, but not its numbers?",
		Story: []string{
			"An RST used to end a connection if its number was anywhere in the receiver's window: with a window of 64 KB, 65,536 blind guesses hit one. Now it has to be the " +
				"very next number that is expected. One that is only in the window is answered with an ACK: the challenge. If the peer meant it, its host " +
				"answers that ACK with an RST which has the right number.",
			"A SYN in a connection that stands used to end it. Now it too is answered with an ACK. A peer that has restarted and knows nothing answers that with RST, and asks again.",
		},
		Setup:   "Segments are forged in the guest's name, and arrive at the stack. The numbers are ACKs of the stack, and whether its end came to CLOSED.",
		Columns: []Column{{"ACKs", "stack.ACK"}, {"end", "stack.CLOSED"}},
		Variants: []Variant{
			{
				Name: "rst-in-window", Group: Problem, Title: "an RST in the window", Note: "asked about: challenge ACK",
				Why: "Its number is 1000 beyond what is expected. The stack says what it expects; the guest, which knows nothing of an RST, has no reason to answer. The connection stands.",
				Steps: []Step{opened(), act("attack",
					"guest forges RST seq=1001",
					"stack sends ACK seq=1 ack=1",
					"stack is ESTABLISHED",
					`guest writes "still here"`,
					"all arrives",
					`stack reads "still here"`,
				)},
				After: Figures{"stack.ACK": 2, "stack.CLOSED": 0},
			},
			{
				Name: "rst-outside", Group: Problem, Title: "an RST outside the window", Note: "dropped",
				Why: "It cannot be the peer's. It is not even answered.",
				Steps: []Step{opened(), act("attack",
					"guest forges RST seq=-1000",
					"stack sends nothing",
					"guest forges RST seq=100000000",
					"stack sends nothing",
					"stack is ESTABLISHED",
				)},
				After: Figures{"stack.ACK": 0, "stack.CLOSED": 0},
			},
			{
				Name: "rst-exact", Group: Problem, Title: "an RST with the number", Note: "ECONNRESET",
				Why: "Who can see the connection knows the number, and can end it: one guess in 4 billion otherwise. This is what middleboxes do that cut connections.",
				Steps: []Step{opened(), act("attack",
					"guest forges RST seq=1",
					"stack is CLOSED",
					"stack reads ECONNRESET",
					"stack sends nothing",
					"guest is ESTABLISHED",
				)},
				After: Figures{"stack.ACK": 0, "stack.CLOSED": 1},
			},
			{
				Name: "syn", Group: Problem, Title: "a SYN in between", Note: "asked about: challenge ACK",
				Why: "Whatever its number: a SYN in a connection that stands is answered with an ACK. The guest drops it, for to the guest it says nothing new.",
				Steps: []Step{opened(), act("attack",
					"guest forges SYN seq=5000",
					"stack sends ACK seq=1 ack=1",
					"stack is ESTABLISHED",
					"guest sends nothing",
				)},
				After: Figures{"stack.ACK": 1, "stack.CLOSED": 0},
			},
			{
				Name: "restarted", Group: Cure, Title: "the peer did restart", Note: "ACK, RST, and a new connection",
				Why: "The guest has lost its connection without a word, and opens a new one from the same port. Its SYN is asked about; its host says RST, with the number of the " +
					"challenge; the old end is gone, and the SYN that comes again opens a connection.",
				Steps: []Step{opened(), act("restart",
					"guest resets",
					"guest sends RST+ACK, lost",
					"guest connects 40001 > 80",
					"guest sends SYN",
					"stack sends ACK seq=1",
					"guest sends RST",
					"stack is CLOSED",
					"stack reads ECONNRESET",
					"wait 1s",
					"guest sends SYN",
					"stack accepts",
					"all arrives",
					"guest connect gives ok",
					"stack is ESTABLISHED",
				)},
				After: Figures{"stack.CLOSED": 1},
			},
			{
				Name: "limited", Group: Price, Title: "many forged RSTs", Note: "answers have a rate",
				Why: "Challenges could be used to make a host send. They have a rate: the stack answers a connection once in 500 ms, Linux with tcp_invalid_ratelimit does too. " +
					"Linux's rate for the whole host, 100 in a second before 4.7, could be counted by an attacker to learn numbers (CVE-2016-5696).",
				Steps: []Step{opened(), act("attack",
					"guest forges RST seq=1001",
					"stack sends ACK",
					"guest forges RST seq=2001",
					"guest forges RST seq=3001",
					"stack sends nothing",
					"wait 600ms",
					"guest forges RST seq=4001",
					"stack sends ACK",
					"stack is ESTABLISHED",
				)},
				After: Figures{"stack.ACK": 2, "stack.CLOSED": 0},
			},
			{
				Name: "data-forged", Group: Belief, Title: "so nothing can be injected", Note: "data in the window is taken",
				Belief: "Challenge ACKs keep foreign bytes out.",
				Why:    "They protect from blind RSTs and SYNs. Data whose number is the one that is expected, and whose acknowledgement fits, is read by the program: only encryption protects from that.",
				Steps: []Step{opened(), act("attack",
					"guest forges ACK seq=1 ack=1 len=5",
					`stack reads "fffff"`,
				)},
				After: Figures{"stack.CLOSED": 0},
			},
		},
		Moral: []string{
			"A blind RST or SYN gets a question for an answer, and ends nothing. An RST with the right number ends the connection. A peer that did restart is found out by one more RST.",
		},
		Production: []Look{
			{"nstat -az TcpExtTCPChallengeACK TcpExtTCPSYNChallenge", "questions that this host has asked"},
			{"nstat -az TcpEstabResets TcpExtTCPACKSkippedChallenge", "connections that an RST has ended; questions that the rate has suppressed"},
			{"sysctl net.ipv4.tcp_challenge_ack_limit net.ipv4.tcp_invalid_ratelimit", "the rates"},
			{"tcpbox run --log - -- YOUR-CLIENT", "which segment has ended a connection"},
		},
		Sources: []Source{
			{"RFC 5961, section 3", "blind reset attacks: the RST must have the exact number"},
			{"RFC 5961, section 4", "blind SYN attacks"},
			{"RFC 5961, section 7", "a rate for challenge ACKs"},
			{"RFC 9293, section 3.10.7.4", "the same, in the standard"},
			{"Linux, net/ipv4/tcp_input.c", "tcp_validate_incoming, tcp_send_challenge_ack"},
		},
	}
}

// RFC1337 is the lab rfc1337.
func RFC1337() Lab {
	// assassin is an old duplicate of the stack's, which the guest answers, and the
	// stack's answer to that.
	assassin := func(then ...SimStep) []Step {
		return []Step{opened(), act("talk",
			`stack writes "the answer"`,
			"stack sends ACK len=10, kept as duplicate",
			"all arrives",
			`guest reads "the answer"`,
		), closedByGuest(), act("late", append([]SimStep{
			"guest is TIME-WAIT",
			"deliver duplicate",
			"guest sends ACK",
			"# The stack has forgotten the connection.",
			"stack sends RST",
		}, then...)...)}
	}
	return Lab{
		Name: "rfc1337", Where: OnStack,
		Title:    "a late segment ends TIME-WAIT by way of an RST",
		Question: "Can TIME-WAIT be ended by a segment of its own connection, and what is the sysctl tcp_rfc1337 for?",
		Story: []string{
			"A late segment arrives in TIME-WAIT. It is answered with an ACK, which says where the connection stood. The other end, which closed second, has no TIME-WAIT " +
				"and knows nothing of the connection any more: to it the ACK belongs to nothing, and it answers with RST. That RST has exactly the number that TIME-WAIT expects.",
			"If it is obeyed, TIME-WAIT is over within a round trip of any late segment: the very segments that it is to protect from. RFC 1337 calls it TIME-WAIT assassination and " +
				"says: ignore RSTs in TIME-WAIT. Linux obeys them unless net.ipv4.tcp_rfc1337 is 1.",
		},
		Setup:   "The guest closes first and is in TIME-WAIT. A late copy of the stack's data arrives. The numbers are RSTs of the stack, and how many milliseconds the guest was in TIME-WAIT.",
		Columns: []Column{{"RST", "stack.RST"}, {"tw", "guest.TIME-WAIT.ms"}},
		Variants: []Variant{
			{
				Name: "off", Group: Problem, Title: "rfc1337=off", Note: "TIME-WAIT ends at once",
				Why:      "The RST ends TIME-WAIT a few milliseconds after it began. This is Linux's default, and the stack's.",
				Settings: []Setting{"guest.time-wait.rfc1337=off"},
				Steps:    assassin("guest is CLOSED"),
				After:    Figures{"stack.RST": 1, "guest.TIME-WAIT.ms": 4},
			},
			{
				Name: "on", Group: Cure, Title: "rfc1337=on", Note: "the RST is ignored: 60 s",
				Why:      "TIME-WAIT goes on for the time that it has left. It is not begun anew: only a FIN does that.",
				Settings: []Setting{"guest.time-wait.rfc1337=on"},
				Steps:    assassin("guest is TIME-WAIT", "wait 59s", "guest is TIME-WAIT", "wait 1s", "guest is CLOSED"),
				After:    Figures{"stack.RST": 1, "guest.TIME-WAIT.ms": 60000},
			},
			{
				Name: "wrong-number", Group: Belief, Title: "any RST ends TIME-WAIT", Note: "only one with the very number",
				Belief:   "Anybody can end a TIME-WAIT with a forged RST.",
				Why:      "Its number has to be exactly the one that is expected, as in any other state. The RST above is right because it answers an ACK.",
				Settings: []Setting{"guest.time-wait.rfc1337=off"},
				Steps: []Step{opened(), closedByGuest(), act("late",
					"stack forges RST seq=1000",
					"stack forges RST seq=1",
					"guest is TIME-WAIT",
					"stack forges RST seq=2",
					"guest is CLOSED",
				)},
				After: Figures{"stack.RST": 0},
			},
		},
		Moral: []string{
			"With rfc1337=off, one late segment ends TIME-WAIT in a round trip, with timestamps too: it is the answer to it that brings the RST. With rfc1337=on TIME-WAIT lasts.",
		},
		Production: []Look{
			{"sysctl net.ipv4.tcp_rfc1337", "whether RSTs are obeyed in TIME-WAIT: 0 is yes"},
			{"nstat -az TcpExtTW TcpExtPAWSTimewait", "TIME-WAITs that ended; in newer kernels, late segments in TIME-WAIT"},
			{"ss -tano state time-wait", "timer:(timewait,59sec,0): how long each has left"},
			{"tcpbox run --tcp time-wait.rfc1337=on -- YOUR-CLIENT", "your client, with the RFC"},
		},
		Sources: []Source{
			{"RFC 1337", "TIME-WAIT assassination hazards; fix F1: ignore RSTs in TIME-WAIT"},
			{"RFC 9293, section 3.10.7.4", "TIME-WAIT: an RST with the right number leads to CLOSED"},
			{"Linux, net/ipv4/tcp_minisocks.c", "tcp_timewait_state_process, \"kill\""},
			{"Linux, Documentation/networking/ip-sysctl.rst", "tcp_rfc1337"},
		},
	}
}

// PortReuse is the lab port-reuse-rfc6191.
func PortReuse() Lab {
	closedByStack := act("close",
		"stack closes",
		"stack sends FIN+ACK",
		"guest sends ACK",
		"guest closes",
		"guest sends FIN+ACK",
		"stack sends ACK",
		"guest is CLOSED",
		"stack is TIME-WAIT",
	)
	again := act("again",
		"wait 10ms",
		"guest connects 40001 > 80",
		"guest sends SYN",
		"stack accepts",
		"stack sends SYN+ACK",
		"guest sends ACK",
		"guest connect gives ok",
		"stack went SYN-RECEIVED ESTABLISHED FIN-WAIT-1 FIN-WAIT-2 TIME-WAIT CLOSED SYN-RECEIVED ESTABLISHED",
	)
	return Lab{
		Name: "port-reuse-rfc6191", Where: OnStack,
		Title:    "a newer SYN opens a connection out of TIME-WAIT, an older one gets an ACK",
		Question: "Is a pair of ports taken for as long as one end of it is in TIME-WAIT?",
		Story: []string{
			"A server that closed first has the TIME-WAIT, and its client's port is free at once. When the client uses it again its SYN arrives at the TIME-WAIT. The standard lets a host open " +
				"the new connection, if the SYN is newer than all that the old one has sent: by its timestamp, and without timestamps by its sequence number.",
			"An older SYN is one that comes late. It gets the answer of any late segment: an ACK. That is why servers that close first and have thousands of TIME-WAITs serve their clients all the same.",
		},
		Setup:   "The stack closes first and is in TIME-WAIT. A SYN of the guest arrives on the same ports. The numbers are connections that the stack had, and how many milliseconds its TIME-WAIT lasted.",
		Columns: []Column{{"conns", "stack.ESTABLISHED"}, {"tw", "stack.TIME-WAIT.ms"}},
		Variants: []Variant{
			{
				Name: "newer-timestamp", Group: Problem, Title: "a newer SYN, timestamps", Note: "a connection at once",
				Why:      "Its timestamp is later than the last one of the old connection.",
				Settings: []Setting{"timestamps=on"},
				Steps:    []Step{opened(), closedByStack, again},
				After:    Figures{"stack.ESTABLISHED": 2, "stack.TIME-WAIT.ms": 12},
			},
			{
				Name: "newer-number", Group: Problem, Title: "a newer SYN, no timestamps", Note: "the same, by its number",
				Why:      "Its sequence number is beyond all that the old connection used, for the clock from which it is taken has gone on.",
				Settings: []Setting{"timestamps=off"},
				Steps:    []Step{opened(), closedByStack, again},
				After:    Figures{"stack.ESTABLISHED": 2, "stack.TIME-WAIT.ms": 12},
			},
			{
				Name: "older-number", Group: Problem, Title: "an older SYN", Note: "an ACK; TIME-WAIT goes on",
				Why:      "The old connection's own SYN comes a second time. The ACK says where that connection stood; the guest, which has no such connection, answers with RST.",
				Settings: []Setting{"timestamps=off", "stack.time-wait.rfc1337=on"},
				Steps: []Step{opened(), closedByStack, act("late",
					"guest forges SYN seq=0",
					"stack sends ACK",
					"guest sends RST",
					"stack is TIME-WAIT",
					"wait 60s",
					"stack is CLOSED",
				)},
				After: Figures{"stack.ESTABLISHED": 1, "stack.TIME-WAIT.ms": 60000},
			},
			{
				Name: "not-reopened", Group: Price, Title: "newer-syn=off", Note: "the client waits 60 s",
				Why:      "A stack that opens nothing out of TIME-WAIT, as the standard allows too. The guest's SYN is answered with an ACK, and it tries again until TIME-WAIT is over.",
				Settings: []Setting{"timestamps=on", "stack.time-wait.newer-syn=off", "stack.time-wait.rfc1337=on"},
				Steps: []Step{opened(), closedByStack, act("again",
					"wait 10ms",
					"guest connects 40001 > 80",
					"guest sends SYN",
					"stack sends ACK",
					"guest sends RST",
					"stack is TIME-WAIT",
					"guest connect gives nothing",
				)},
				After: Figures{"stack.ESTABLISHED": 1},
			},
			{
				Name: "own-time-wait", Group: Belief, Title: "the client closes first", Note: "EADDRNOTAVAIL: its own port",
				Belief:   "A pair of ports in TIME-WAIT can always be used again at once.",
				Why:      "RFC 6191 speaks of the end that is asked. The end that asks does not use a port of its own that is in TIME-WAIT: connect fails, unless tcp_tw_reuse lets it.",
				Settings: []Setting{"timestamps=on"},
				Steps: []Step{opened(), closedByGuest(), act("again",
					"wait 10ms",
					"guest connects 40001 > 80",
					"guest connect gives EADDRNOTAVAIL",
					"guest sends nothing",
				)},
				After: Figures{"stack.ESTABLISHED": 1},
			},
		},
		Moral: []string{
			"A server's TIME-WAIT refuses nobody: a newer SYN opens a connection at once, an older one gets an ACK. A client's own TIME-WAIT does hold its port.",
		},
		Production: []Look{
			{"ss -Htan state time-wait 'sport = :80' | wc -l", "TIME-WAITs of a server, which refuse nobody"},
			{"nstat -az TcpExtTWRecycled TcpExtPAWSPassive TcpExtTCPACKSkippedTimeWait", "own ports that were used again; SYNs that were too old; answers in TIME-WAIT that the rate has suppressed"},
			{"sysctl net.ipv4.tcp_timestamps", "without timestamps the sequence number decides"},
			{"tcpbox run --tcp stack.time-wait.newer-syn=off -- YOUR-CLIENT", "your client, with peers that open nothing out of TIME-WAIT"},
		},
		Sources: []Source{
			{"RFC 6191, section 2", "reducing the TIME-WAIT state using TCP timestamps"},
			{"RFC 9293, section 3.10.7.4", "TIME-WAIT: a SYN"},
			{"RFC 1122, section 4.2.2.13", "a SYN with a larger number may open a connection"},
			{"Linux, net/ipv4/tcp_minisocks.c", "tcp_timewait_state_process returns TCP_TW_SYN"},
		},
	}
}
