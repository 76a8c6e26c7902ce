package lab

// WhyTimeWait1 is the lab why-time-wait-1.
func WhyTimeWait1() Lab {
	// closing goes as far as the server's FIN, after which the last ACK is sent.
	closing := func(then ...SimStep) []Step {
		return []Step{opened(), act("close", append([]SimStep{
			"guest closes",
			"guest sends FIN+ACK",
			"stack sends ACK",
			"stack shuts down",
			"stack sends FIN+ACK seq=1 ack=2",
			"guest sends ACK ack=2, lost",
			"stack is LAST-ACK",
		}, then...)...)}
	}
	refused := func(settings ...Setting) Variant {
		return Variant{
			Settings: settings,
			Steps: closing(
				"guest is CLOSED",
				"wait 300ms",
				"stack sends FIN+ACK seq=1 ack=2",
				"# The guest knows of no such connection.",
				"guest sends RST",
				"stack is CLOSED",
				"stack reads ECONNRESET",
			),
			After: Figures{"stack.FIN+ACK": 2, "guest.RST": 1, "guest.TIME-WAIT.ms": 0},
		}
	}
	none := refused("guest.time-wait.timeout=0")
	none.Name, none.Group, none.Title, none.Note = "no-time-wait", Price, "without TIME-WAIT", "RST, ECONNRESET"
	none.Why = "Nobody is left on the client who could answer the repeated FIN, so its host says what it says of every segment that belongs to nothing: RST. " +
		"The server's close has failed, although all bytes have arrived: its program sees ECONNRESET."
	overflow := refused("guest.time-wait.max=0")
	overflow.Name, overflow.Group, overflow.Title, overflow.Note = "no-buckets", Belief, "time-wait.max=0", "RST, ECONNRESET"
	overflow.Belief = "A low tcp_max_tw_buckets only saves memory."
	overflow.Why = "Beyond the limit there is no TIME-WAIT, on Linux with a count in TcpExtTCPTimeWaitOverflow. What TIME-WAIT was for happens."
	return Lab{
		Name: "why-time-wait-1", Where: OnStack,
		Title:    "the last ACK is lost: TIME-WAIT answers the FIN that comes again",
		Question: "What does TIME-WAIT do for the other end when the last ACK is lost?",
		Story: []string{
			"The last segment of a close is an ACK, and nobody acknowledges an ACK. When it is lost, the end in LAST-ACK sends its FIN again, " +
				"and somebody has to be there who knows the connection and sends the ACK again.",
			"That is the first of TIME-WAIT's two purposes. Each FIN that comes again begins its time anew.",
		},
		Setup: "The guest closes first, the stack's program shuts down and reads; the guest's last ACK is lost. The numbers are FINs of the stack, " +
			"RSTs of the guest, and how many milliseconds the guest was in TIME-WAIT.",
		Columns: []Column{{"FIN", "stack.FIN+ACK"}, {"RST", "guest.RST"}, {"tw", "guest.TIME-WAIT.ms"}},
		Variants: []Variant{
			{
				Name: "lost", Group: Problem, Title: "the last ACK is lost", Note: "answered out of TIME-WAIT",
				Why: "The stack's FIN comes again after its retransmission timeout; the guest is in TIME-WAIT, answers, and waits for 60 s from then on.",
				Steps: closing(
					"guest is TIME-WAIT",
					"wait 300ms",
					"stack sends FIN+ACK seq=1 ack=2",
					"guest sends ACK seq=2 ack=2",
					"stack is CLOSED",
					"stack reads EOF",
					"wait 61s",
					"guest is CLOSED",
				),
				After: Figures{"stack.FIN+ACK": 2, "guest.RST": 0, "guest.TIME-WAIT.ms": 60301},
			},
			{
				Name: "lost-again", Group: Problem, Title: "and so is the next", Note: "answered again",
				Why: "It may be lost as often as it likes, as long as TIME-WAIT lasts: the FIN comes at growing intervals, and each is answered.",
				Steps: closing(
					"wait 300ms",
					"stack sends FIN+ACK",
					"guest sends ACK, lost",
					"wait 400ms",
					"stack sends FIN+ACK",
					"guest sends ACK, lost",
					"wait 800ms",
					"stack sends FIN+ACK",
					"guest sends ACK",
					"stack is CLOSED",
					"stack reads EOF",
				),
				After: Figures{"stack.FIN+ACK": 4, "guest.RST": 0},
			},
			none, overflow,
		},
		Moral: []string{
			"TIME-WAIT is there for the other end: it answers the FIN that comes again. Without it the other end's orderly close ends with an RST and ECONNRESET.",
		},
		Production: []Look{
			{"ss -tano state last-ack", "ends that wait for the last ACK, with the timer of the FIN that comes again"},
			{"nstat -az TcpExtTCPTimeWaitOverflow", "TIME-WAITs that there was no room for"},
			{"nstat -az TcpEstabResets TcpOutRsts", "connections that an RST has ended, and RSTs sent"},
			{"tcpbox run --tcp guest.time-wait.max=0 --log - -- YOUR-CLIENT", "your client, without TIME-WAIT"},
		},
		Sources: []Source{
			{"RFC 9293, section 3.6.1", "the end that closes first waits twice the maximum segment lifetime"},
			{"RFC 9293, section 3.10.7.4", "TIME-WAIT: acknowledge a FIN that comes again, and begin the 2 MSL anew"},
			{"RFC 9293, section 3.10.7.1", "CLOSED: a segment is answered with RST"},
			{"Linux, net/ipv4/tcp_minisocks.c", "tcp_timewait_state_process"},
		},
	}
}

// foreign is what the old connection has said.
const foreign = "pay 100 to Mallory"

// WhyTimeWait2 is the lab why-time-wait-2.
func WhyTimeWait2() Lab {
	// first is the old connection. Its last words stay on the way, a second time.
	first := func(paws bool, writes int, closes ...SimStep) Step {
		script := []SimStep{"guest connects 40001 > 80", "guest sends SYN", "stack accepts", "stack sends SYN+ACK", "guest sends ACK"}
		for range writes {
			script = append(script, "guest writes 31250 bytes", "all arrives", "stack reads ok")
		}
		script = append(script, `guest writes "`+foreign+`"`, "guest sends ACK len=18, kept as duplicate", "all arrives", `stack reads "`+foreign+`"`)
		s := act("old", append(script, closes...)...)
		s.Sim.Latency, s.Sim.PAWS = "10us", paws
		return s
	}
	guestFirst := []SimStep{
		"guest closes", "guest sends FIN+ACK", "stack sends ACK", "stack closes", "stack sends FIN+ACK", "guest sends ACK", "stack is CLOSED",
	}
	stackFirst := []SimStep{
		"stack closes", "stack sends FIN+ACK", "guest sends ACK", "guest closes", "guest sends FIN+ACK", "stack sends ACK", "guest is CLOSED",
	}
	again := []SimStep{
		"wait until 10ms",
		"guest connects 40001 > 80", "guest sends SYN", "stack accepts", "stack sends SYN+ACK", "guest sends ACK", "stack is ESTABLISHED",
	}
	const gone = Setting("time-wait.timeout=0")
	return Lab{
		Name: "why-time-wait-2", Where: OnStack,
		Title:    "an old duplicate enters the next connection on the same ports",
		Question: "Can a segment of a connection that is over be taken for one of the next connection between the same two addresses and ports, and what prevents it?",
		Story: []string{
			"A segment may be sent twice and arrive twice, the second time much later: a router's queue, a route that flapped. If the connection has been " +
				"closed and opened again on the same addresses and ports meanwhile, only its sequence number says that it is foreign.",
			"The first number of a connection is taken from a clock that ticks every 64 ns, on Linux and on the stack. The next connection so begins behind " +
				"all that the old one used, unless the old one sent faster than 15.6 MB/s: that is any connection on a gigabit link. Then an old number can be exactly " +
				"the one that is expected.",
			"TIME-WAIT is the older remedy: for twice the time that a segment can live, the two ports are not used again. Timestamps are the younger one: a segment " +
				"whose timestamp is older than the last one seen is not taken (PAWS).",
		},
		Setup: "The guest sends 156,250 bytes in less than 10 ms, and \"" + foreign + "\" behind them, of which a copy stays on the way. The connection is closed. " +
			"10 ms after it began, the next one begins on the same ports, and the copy arrives. The numbers are connections that the guest had, and bytes that the stack's program has read.",
		Settings: []Setting{"timestamps=off"},
		Columns:  []Column{{"conns", "guest.ESTABLISHED"}, {"read", "stack.read"}},
		Variants: []Variant{
			{
				Name: "no-time-wait", Group: Problem, Title: "no TIME-WAIT, no timestamps", Note: "the program reads foreign bytes",
				Why: "The copy's sequence number is the very one that the new connection expects. The host cannot know, acknowledges it, and the program reads what " +
					"another connection once said. The new connection's own data is then taken for a repetition and dropped.",
				Settings: []Setting{gone},
				Steps: []Step{first(false, 5, guestFirst...), act("new", append(again[:len(again):len(again)],
					"deliver duplicate",
					`stack reads "`+foreign+`"`,
					"stack sends ACK seq=1 ack=19",
					`guest writes "give 100 to Alice!"`,
					"guest sends ACK seq=1 len=18",
					"stack reads nothing",
				)...)},
				After: Figures{"guest.ESTABLISHED": 2, "stack.read": 156250 + 2*len(foreign)},
			},
			{
				Name: "client-waits", Group: Cure, Title: "TIME-WAIT at the client", Note: "the ports are taken for 60 s",
				Why: "The guest closed first and is in TIME-WAIT: it does not open the same ports again. The copy finds nobody on the stack, and is answered with RST.",
				Steps: []Step{first(false, 5, guestFirst...), act("new",
					"wait until 10ms",
					"guest connects 40001 > 80",
					"guest connect gives EADDRNOTAVAIL",
					"deliver duplicate",
					"stack sends RST",
					"stack went SYN-RECEIVED ESTABLISHED CLOSE-WAIT LAST-ACK CLOSED",
				)},
				After: Figures{"guest.ESTABLISHED": 1, "stack.read": 156250 + len(foreign)},
			},
			{
				Name: "server-waits", Group: Cure, Title: "TIME-WAIT at the server", Note: "the SYN is not newer: it waits",
				Why: "The stack closed first and is in TIME-WAIT. A SYN whose number is behind all that were used would open a new connection; this one is not, and gets an ACK. " +
					"The guest's RST to that must not end TIME-WAIT: rfc1337=on. The copy is acknowledged and goes to nobody.",
				Settings: []Setting{"stack.time-wait.rfc1337=on"},
				Steps: []Step{first(false, 5, stackFirst...), act("new",
					"wait until 10ms",
					"guest connects 40001 > 80",
					"guest sends SYN",
					"stack sends ACK",
					"guest sends RST",
					"stack is TIME-WAIT",
					"deliver duplicate",
					"stack is TIME-WAIT",
					"guest connect gives nothing",
				)},
				After: Figures{"guest.ESTABLISHED": 1, "stack.read": 156250 + len(foreign)},
			},
			{
				Name: "paws", Group: Cure, Title: "timestamps and PAWS", Note: "the copy is too old: an ACK",
				Why: "The copy's number fits, and its timestamp is older than that of the new SYN: it is not taken, and an ACK says what is expected. The stack itself has no such check; " +
					"the simulation puts that of RFC 7323 in front of both hosts. Linux has it, and counts TcpExtPAWSEstab.",
				Settings: []Setting{gone, "timestamps=on"},
				Steps: []Step{first(true, 5, guestFirst...), act("new", append(again[:len(again):len(again)],
					"deliver duplicate",
					"stack sends ACK seq=1 ack=1",
					"stack reads nothing",
					`guest writes "give 100 to Alice!"`,
					"guest sends ACK seq=1 len=18",
					`stack reads "give 100 to Alice!"`,
				)...)},
				After: Figures{"guest.ESTABLISHED": 2, "stack.read": 156250 + 2*len(foreign)},
			},
			{
				Name: "killed-by-rst", Group: Price, Title: "rfc1337=off at the server", Note: "an RST ends it: foreign bytes",
				Why: "The same as with TIME-WAIT at the server, but its RST ends TIME-WAIT, as by Linux's default. The guest's SYN comes again at once, opens a connection, " +
					"and its numbers are still those of the copy.",
				Settings: []Setting{"stack.time-wait.rfc1337=off"},
				Steps: []Step{first(false, 5, stackFirst...), act("new",
					"wait until 10ms",
					"guest connects 40001 > 80",
					"guest sends SYN",
					"stack sends ACK",
					"guest sends RST",
					"stack is CLOSED",
					"# The guest tries again soon, with the same number.",
					"wait 10ms",
					"guest sends SYN seq=0",
					"stack accepts",
					"all arrives",
					"stack is ESTABLISHED",
					"deliver duplicate",
					`stack reads "`+foreign+`"`,
				)},
				After: Figures{"guest.ESTABLISHED": 2, "stack.read": 156250 + 2*len(foreign)},
			},
			{
				Name: "slow", Group: Belief, Title: "any duplicate gets in", Note: "not of a slow connection",
				Belief: "Without TIME-WAIT each late duplicate corrupts the next connection.",
				Why: "This connection has sent a few bytes in 10 ms. The clock has gone on by 156,250 numbers meanwhile, so that the new connection expects much later ones: " +
					"the copy is outside its window and is answered with an ACK.",
				Settings: []Setting{gone},
				Steps: []Step{first(false, 0, guestFirst...), act("new", append(again[:len(again):len(again)],
					"deliver duplicate",
					"stack sends ACK seq=1 ack=1",
					"stack reads nothing",
					`guest writes "give 100 to Alice!"`,
					"guest sends ACK",
					`stack reads "give 100 to Alice!"`,
				)...)},
				After: Figures{"guest.ESTABLISHED": 2, "stack.read": 2 * len(foreign)},
			},
		},
		Moral: []string{
			"Without TIME-WAIT and without timestamps a program can read bytes of a connection that is over. TIME-WAIT keeps the ports until such segments are gone, " +
				"PAWS knows them by their age. It takes a connection faster than 15.6 MB/s, or one that lasts: numbers come round after 275 s.",
		},
		Production: []Look{
			{"ss -tin", "\"ts\": the connection has timestamps"},
			{"nstat -az TcpExtPAWSEstab TcpExtPAWSActive TcpExtPAWSPassive", "segments that were too old"},
			{"sysctl net.ipv4.tcp_timestamps net.ipv4.tcp_rfc1337 net.ipv4.tcp_tw_reuse", "what protects, and what takes protection away"},
			{"tcpbox run --tcp guest.timestamps=off -- YOUR-CLIENT", "your client without timestamps"},
		},
		Sources: []Source{
			{"RFC 9293, section 3.4.1 and 3.4.3", "initial sequence numbers, and the quiet time"},
			{"RFC 7323, section 5", "PAWS"},
			{"RFC 1337", "what can go wrong in TIME-WAIT"},
			{"RFC 6191", "timestamps, and a new connection out of TIME-WAIT"},
			{"RFC 6528", "the first number: a clock, and a secret for each pair of addresses and ports"},
			{"Linux, net/core/secure_seq.c", "seq_scale: 64 ns"},
			{"Linux, net/ipv4/tcp_input.c", "tcp_paws_discard"},
		},
	}
}
