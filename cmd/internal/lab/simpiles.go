package lab

// about are bounds of a time that ends when the stack's sweeper looks, which it
// does once a second, and only then.
func about(figure string, ms int) map[string]Range {
	return map[string]Range{figure: {Min: ms, Max: ms + 1500}}
}

// LastAck is the lab last-ack.
func LastAck() Lab {
	// finned goes as far as the server's FIN.
	finned := func(then ...SimStep) []Step {
		return []Step{opened(), act("close", append([]SimStep{
			"guest closes",
			"guest sends FIN+ACK",
			"stack sends ACK",
			"stack closes",
			"stack is LAST-ACK",
		}, then...)...)}
	}
	return Lab{
		Name: "last-ack", Where: OnStack,
		Title:    "LAST-ACK: the other end has gone, or its ACK was lost",
		Question: "How long does a connection stay in LAST-ACK, and what do many of them mean?",
		Story: []string{
			"An end in LAST-ACK has received the other's FIN and sent its own; its program has closed. It waits for one ACK and repeats its FIN until that comes, " +
				"an RST comes, or it gives up. For this it needs no program: the connection is an orphan, the kernel's own.",
			"Many LAST-ACKs mean that the other ends are gone without a word, or that what they send is lost: clients that lost their network, a firewall that " +
				"forgets a connection at its first FIN.",
		},
		Setup: "The guest has closed, the stack's program closes too. Then the guest's last ACK is lost, or nobody is there. The numbers are FINs of the stack, and " +
			"how many milliseconds it was in LAST-ACK.",
		Columns: []Column{{"FIN", "stack.FIN+ACK"}, {"ms", "stack.LAST-ACK.ms"}},
		Variants: []Variant{
			{
				Name: "answered", Group: Problem, Title: "the ACK comes", Note: "as long as a segment takes twice",
				Why:   "LAST-ACK lasts for the way of the FIN and the way of its ACK.",
				Steps: finned("stack sends FIN+ACK", "guest sends ACK", "stack is CLOSED"),
				After: Figures{"stack.FIN+ACK": 1, "stack.LAST-ACK.ms": 2},
			},
			{
				Name: "ack-lost", Group: Problem, Title: "the ACK is lost", Note: "TIME-WAIT answers the next FIN",
				Why:   "The FIN comes again when the retransmission timeout is over, and the guest answers it out of TIME-WAIT.",
				Steps: finned("stack sends FIN+ACK", "guest sends ACK, lost", "wait 300ms", "stack is LAST-ACK", "stack sends FIN+ACK", "guest sends ACK", "stack is CLOSED"),
				After: Figures{"stack.FIN+ACK": 2, "stack.LAST-ACK.ms": 303},
			},
			{
				Name: "gone", Group: Problem, Title: "the other end is gone", Note: "until orphan.retries give up",
				Why: "No ACK and no RST: the FIN is repeated at growing intervals. With orphan.retries=8, Linux's default where tcp_orphan_retries is 0, that is 102 s with the " +
					"least retransmission timeout of 200 ms, and longer on a slower line. The stack looks once a second, so that it may come to one FIN more.",
				Steps: finned("wait 60s losing", "stack is LAST-ACK", "wait 60s losing", "stack is CLOSED"),
				After: Figures{"stack.FIN+ACK": 10}, Within: about("stack.LAST-ACK.ms", 102200),
			},
			{
				Name: "no-memory", Group: Problem, Title: "nobody remembers: RST", Note: "at once",
				Why:      "A guest without TIME-WAIT answers the repeated FIN with RST. LAST-ACK is over; that all bytes had arrived nobody can tell any more.",
				Settings: []Setting{"guest.time-wait.timeout=0"},
				Steps:    finned("stack sends FIN+ACK", "guest sends ACK, lost", "wait 300ms", "stack sends FIN+ACK", "guest sends RST", "stack is CLOSED"),
				After:    Figures{"stack.FIN+ACK": 2, "stack.LAST-ACK.ms": 303},
			},
			{
				Name: "fewer-retries", Group: Cure, Title: "orphan.retries=2", Note: "a second",
				Why:      "Fewer repetitions of an orphan's FIN. A client on a bad line is given up sooner as well, which costs nothing here: the bytes are there.",
				Settings: []Setting{"stack.orphan.retries=2"},
				Steps:    finned("wait 60s losing", "stack is CLOSED"),
				After:    Figures{"stack.FIN+ACK": 4}, Within: about("stack.LAST-ACK.ms", 1400),
			},
			{
				Name: "fin-timeout", Group: Belief, Title: "fin-timeout=1s", Note: "it is about FIN-WAIT-2",
				Belief:   "A lower tcp_fin_timeout ends LAST-ACK sooner.",
				Why:      "It limits FIN-WAIT-2 of an end whose program has closed. LAST-ACK repeats its FIN as before.",
				Settings: []Setting{"stack.fin-timeout=1s"},
				Steps:    finned("wait 60s losing", "stack is LAST-ACK", "wait 60s losing", "stack is CLOSED"),
				After:    Figures{"stack.FIN+ACK": 10}, Within: about("stack.LAST-ACK.ms", 102200),
			},
		},
		Moral: []string{
			"LAST-ACK lasts for one round trip. Where it lasts, the other end is gone or its ACKs are lost; orphan.retries says for how long, fin-timeout does not.",
		},
		Production: []Look{
			{"ss -tano state last-ack", "the timer of the FIN, and how often it was sent: timer:(on,12sec,6)"},
			{"cat /proc/net/sockstat", "orphan: connections without a program"},
			{"sysctl net.ipv4.tcp_orphan_retries net.ipv4.tcp_max_orphans", "when they are given up"},
			{"nstat -az TcpExtTCPAbortOnTimeout TcpExtTCPAbortOnMemory TcpExtTCPTimeouts", "how they ended"},
			{"tcpbox run --tcp stack.orphan.retries=2 --log - -- YOUR-CLIENT", "your client, whose peers give up soon"},
		},
		Sources: []Source{
			{"RFC 9293, section 3.6", "the close of both ends"},
			{"RFC 6298, section 5", "the interval of repetitions doubles"},
			{"Linux, net/ipv4/tcp_timer.c", "tcp_orphan_retries, tcp_out_of_resources"},
			{"Linux, Documentation/networking/ip-sysctl.rst", "tcp_orphan_retries: 0 is 8 for a connection that was closed here"},
		},
	}
}

// FinWait1Pile is the lab fin-wait1-pile.
func FinWait1Pile() Lab {
	vanished := []Step{opened(), act("close",
		`guest writes "goodbye"`,
		"guest closes",
		"guest is FIN-WAIT-1",
		"wait 60s losing",
		"guest is FIN-WAIT-1",
		"wait 60s losing",
		"guest is CLOSED",
	)}
	// stopped fills the stack's window, which its program does not empty.
	stopped := func(then ...SimStep) []Step {
		return []Step{opened(), act("close", append([]SimStep{
			"guest writes 10000 bytes",
			"all arrives",
			"guest closes",
			"all arrives",
			"guest is FIN-WAIT-1",
		}, then...)...)}
	}
	const small = Setting("stack.receive-buffer=4096")
	return Lab{
		Name: "fin-wait1-pile", Where: OnStack,
		Title:    "FIN-WAIT-1 piles up: the peer is gone, or has stopped reading",
		Question: "Why do closed connections stay in FIN-WAIT-1, and what limits them?",
		Story: []string{
			"An end in FIN-WAIT-1 has closed, and its FIN is not acknowledged. Either nobody answers: then it is repeated until orphan.retries give up. Or the FIN has not " +
				"been sent at all: it stands behind data for which the other end's window has no room, because the program there has stopped reading.",
			"The second kind has no end of its own: the window is probed, each probe is answered, and so the connection lives. It holds memory, " +
				"and no program. It is an old way of attacking servers.",
		},
		Setup: "The guest's program writes and closes. Then everything is lost, or the stack's program does not read, with room for 4 KB. The numbers are FINs of the guest, " +
			"and how many milliseconds it was in FIN-WAIT-1.",
		Columns: []Column{{"FIN", "guest.FIN+ACK"}, {"ms", "guest.FIN-WAIT-1.ms"}},
		Variants: []Variant{
			{
				Name: "vanished", Group: Problem, Title: "the peer is gone", Note: "data and FIN again and again",
				Why:    "Data and FIN are repeated at growing intervals until orphan.retries=8 have failed.",
				Steps:  vanished,
				Within: about("guest.FIN-WAIT-1.ms", 102200),
			},
			{
				Name: "stopped-reading", Group: Problem, Title: "the peer stopped reading", Note: "probes are answered: it lives",
				Why: "4 KB are taken, 6 KB and the FIN wait. The probes of the window are answered, which says that the peer lives: after nine minutes the end is in FIN-WAIT-1 and has not sent a FIN. " +
					"The stack gives an orphan up after 10 minutes, orphan.timeout; Linux has no such limit, only tcp_max_orphans and memory.",
				Settings: []Setting{small},
				Steps:    stopped("wait 540s flowing", "guest is FIN-WAIT-1"),
				After:    Figures{"guest.FIN+ACK": 0},
			},
			{
				Name: "reads-again", Group: Cure, Title: "the peer reads", Note: "data, FIN, FIN-WAIT-2",
				Why:      "Whatever waits is sent when there is room, the FIN behind it. The cure is a program that reads to the end, or closes.",
				Settings: []Setting{small},
				Steps: stopped("wait 10s flowing", "stack reads ok", "all arrives", "stack reads ok", "all arrives", "stack reads ok", "all arrives",
					"stack reads ok", "all arrives", "stack reads ok", "all arrives",
					"stack is CLOSE-WAIT", "guest is FIN-WAIT-2"),
				After: Figures{"guest.FIN+ACK": 1, "stack.read": 10000},
			},
			{
				Name: "fewer-retries", Group: Cure, Title: "orphan.retries=2", Note: "a second, if the peer is gone",
				Why:      "An orphan whose peer is gone is given up sooner. It does nothing where probes are answered.",
				Settings: []Setting{"guest.orphan.retries=2"},
				Steps:    []Step{opened(), act("close", `guest writes "goodbye"`, "guest closes", "guest is FIN-WAIT-1", "wait 10s losing", "guest is CLOSED")},
				Within:   about("guest.FIN-WAIT-1.ms", 1400),
			},
			{
				Name: "orphan-timeout", Group: Price, Title: "orphan.timeout=60s", Note: "a minute, reading or not",
				Why:      "It limits both kinds. A peer that reads slowly loses what it has not read. Linux has no such setting; a program there uses SO_LINGER or TCP_USER_TIMEOUT.",
				Settings: []Setting{small, "guest.orphan.timeout=60s"},
				Steps:    stopped("wait 50s flowing", "guest is FIN-WAIT-1", "wait 20s flowing", "guest is CLOSED"),
				After:    Figures{"guest.FIN+ACK": 0},
			},
			{
				Name: "fin-timeout", Group: Belief, Title: "fin-timeout=1s", Note: "it is about FIN-WAIT-2",
				Belief:   "A lower tcp_fin_timeout clears FIN-WAIT-1.",
				Why:      "It begins with FIN-WAIT-2, when the FIN has been acknowledged. That is what is missing here.",
				Settings: []Setting{"guest.fin-timeout=1s"},
				Steps:    vanished,
				Within:   about("guest.FIN-WAIT-1.ms", 102200),
			},
		},
		Moral: []string{
			"FIN-WAIT-1 means that the FIN is not acknowledged: the peer is gone, or does not read. orphan.retries ends the first kind; the second lasts as long as the peer answers.",
		},
		Production: []Look{
			{"ss -tanmo state fin-wait-1", "Send-Q says how much waits in front of the FIN; the timer says whether it is repeated (on) or the window is probed (persist)"},
			{"cat /proc/net/sockstat", "orphan: connections without a program; mem: what they hold"},
			{"nstat -az TcpExtTCPAbortOnMemory TcpExtTCPAbortOnTimeout", "orphans that were ended"},
			{"sysctl net.ipv4.tcp_orphan_retries net.ipv4.tcp_max_orphans", "what limits them"},
			{"tcpbox run --tcp stack.orphan.timeout=60s -- YOUR-CLIENT", "your client, whose peers do not wait for it"},
		},
		Sources: []Source{
			{"RFC 9293, section 3.8.6.1", "a window is probed for as long as the probes are answered"},
			{"RFC 9293, section 3.10.4", "CLOSE: the FIN goes out behind all data"},
			{"RFC 6429", "connections that persist, and that a host may end them"},
			{"Linux, net/ipv4/tcp_timer.c", "tcp_probe_timer, tcp_out_of_resources"},
		},
	}
}
