package lab

// HalfOpenKeepalive is the lab of a peer that has gone without a word.
func HalfOpenKeepalive() Lab {
	const server = "server:81"
	const vanished = "drop"
	// open makes a connection whose peer vanishes.
	open := func(keepalive bool, more ...Step) []Step {
		steps := toStack(server)
		steps[1].Open.Keepalive = keepalive
		return append(append(steps, Step{Name: "vanish", Set: &Set{Faults: []string{vanished}}}), more...)
	}
	probes := []Setting{"net.ipv4.tcp_keepalive_time=1", "net.ipv4.tcp_keepalive_intvl=1", "net.ipv4.tcp_keepalive_probes=2"}
	read := func(f Figures) Step { return onKept("read", "open", DoReadEnd, 0, f) }
	dead := Figures{"guest.established": 0}
	alive := Figures{"guest.established": 1}

	return Lab{
		Name:     "half-open-keepalive",
		Title:    "the peer is gone, and nobody has said so",
		Question: "When a peer vanishes without FIN or RST, how does a program learn of it, and when?",
		Story: []string{
			"A machine that loses its power, a cable that is cut, a middlebox that forgets the connection: no segment tells. For TCP a silent peer is a peer that has nothing to say. A program that waits " +
				"in read waits for ever, and its socket is ESTABLISHED.",
			"There are two ways to learn of it. Who sends something gets no ACK, repeats it with doubled pauses, and gives up after tcp_retries2 repetitions: with the default of 15 in 15 to 30 minutes. " +
				"Who only reads needs SO_KEEPALIVE, which the program has to ask for: after tcp_keepalive_time, 2 hours by default, the kernel sends probes, and ends the connection with " +
				"ETIMEDOUT when so many of them are not answered.",
		},
		Setup: "The guest opens a connection to a host in the stack, and then a fault drops every packet in both directions. est are the guest's sockets in ESTABLISHED at the end; " +
			"err is 1 if the program's read failed with ETIMEDOUT.",
		Settings: []Setting{"net.ipv4.tcp_keepalive_time=7200", "net.ipv4.tcp_keepalive_intvl=75", "net.ipv4.tcp_keepalive_probes=9", "net.ipv4.tcp_retries2=15"},
		Columns:  []Column{{"est", "guest.established"}, {"err", "read.ETIMEDOUT"}},
		Variants: []Variant{
			{
				Name: "silent", Group: Problem, Title: "a program that waits", Note: "for ever",
				Why:   "Nothing is sent, and so nothing is missed. No timer runs on the socket.",
				Steps: open(false, after("later", 3000, Figures{"guest.established": 1, "timer.established": 0})), After: alive,
			},
			{
				Name: "keepalive", Group: Cure, Title: "SO_KEEPALIVE, 1 s, 2 probes", Note: "ETIMEDOUT after 3 s",
				Why: "A second without a segment, two probes a second apart, and a second for the last one: the read fails with ETIMEDOUT.",

				Settings: probes,
				Steps:    open(true, read(Figures{"ETIMEDOUT": 1})), After: dead,
			},
			{
				Name: "write", Group: Cure, Title: "a write, tcp_retries2=3", Note: "ETIMEDOUT after some seconds",
				Why: "What was written is repeated and not acknowledged. Linux takes the time that tcp_retries2 repetitions would need with the shortest pauses, and gives up when it has passed.",

				Settings: []Setting{"net.ipv4.tcp_retries2=3"},
				Steps:    open(false, onKept("write", "open", DoWrite, 100, ok), read(Figures{"ETIMEDOUT": 1})), After: dead,
			},
			{
				Name: "comes-back", Group: Cure, Title: "the peer has forgotten it", Note: "the probe is answered with RST",
				Why: "A peer that was started again knows nothing of the connection, and answers the first probe with RST: ECONNRESET instead of ETIMEDOUT.",

				Settings: probes[:2],
				Steps: open(true, inStack(onKept("forget", "accept", DoReset, 0, ok)),
					Step{Name: "return", Set: &Set{NoFaults: true}}, read(Figures{"ECONNRESET": 1})), After: dead,
			},
			{
				Name: "only-sysctl", Group: Belief, Title: "only the sysctls are set", Note: "the program has not asked",
				Belief: "net.ipv4.tcp_keepalive_time switches keepalive on.",
				Why:    "It is the time for sockets that have SO_KEEPALIVE. One that has not is never probed.",

				Settings: probes,
				Steps:    open(false, after("later", 4000, Figures{"guest.established": 1, "timer.established": 0})), After: alive,
			},
			{
				Name: "default-times", Group: Belief, Title: "SO_KEEPALIVE as it comes", Note: "in two hours",
				Belief: "With SO_KEEPALIVE a dead peer is noticed soon.",
				Why:    "The first probe goes out after tcp_keepalive_time, 7,200 seconds, as the socket's timer says; with 9 probes 75 seconds apart it is over two hours and eleven minutes later.",
				Steps: open(true, Step{
					Name: "look", Wait: &Wait{}, Within: map[string]Range{"timer.established": {7_000_000, 7_200_100}},
				}), After: alive,
			},
		},
		Moral: []string{
			"A program that only reads needs SO_KEEPALIVE with times of its own (TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT), or a timeout of its protocol; the sysctls alone do nothing.",
		},
		Production: []Look{
			{"ss -tno state established", "timer:(keepalive,…) is there only for sockets that have asked; timer:(on,…) is a retransmission under way"},
			{"nstat -az TcpExtTCPKeepAlive TcpExtTCPTimeouts TcpExtTCPAbortOnTimeout", "probes that were sent, retransmissions by timeout, connections that were given up"},
			{"sysctl net.ipv4.tcp_keepalive_time net.ipv4.tcp_keepalive_intvl net.ipv4.tcp_keepalive_probes net.ipv4.tcp_retries2", "the times"},
			{"tcpbox run --fault 'blackhole when idle>350s' -- YOUR-PROGRAM", "your program behind a middlebox that forgets"},
		},
		Sources: []Source{
			{"RFC 9293, section 3.8.4", "keepalive: off unless the program asks, and two hours at least by default"},
			{"RFC 1122, section 4.2.3.5", "R2: when a retransmission is given up"},
			{"Linux, net/ipv4/tcp_timer.c", "tcp_keepalive_timer, tcp_write_timeout, retransmits_timed_out"},
			{"Linux, Documentation/networking/ip-sysctl.rst", "tcp_keepalive_time, tcp_keepalive_intvl, tcp_keepalive_probes, tcp_retries2"},
		},
	}
}
