package lab

// RecycleNAT is the lab tw-recycle-nat.
func RecycleNAT() Lab {
	// first is the connection of the first client, which the server closes first.
	first := []Step{opened(), act("close",
		"stack closes",
		"stack sends FIN+ACK",
		"guest sends ACK",
		"guest closes",
		"guest sends FIN+ACK",
		"stack sends ACK",
		"guest is CLOSED",
		"stack is TIME-WAIT",
	)}
	second := func(script ...SimStep) []Step {
		return append(first[:len(first):len(first)], act("second", append([]SimStep{
			"# Another client behind the same address, whose clock is 1000 s behind.",
			"wait 2s",
		}, script...)...))
	}
	accepted := []SimStep{
		"guest forges SYN seq=0 from=40002 ts=-1000000",
		"stack accepts",
		"stack sends SYN+ACK ack=1, lost",
		"guest forges ACK seq=1 ack=1 from=40002 ts=-999999",
		"stack is ESTABLISHED",
	}
	return Lab{
		Name: "tw-recycle-nat", Where: OnStack,
		Title:    "tcp_tw_recycle loses the SYNs of clients behind one NAT",
		Question: "What did net.ipv4.tcp_tw_recycle do, and why were some clients behind a NAT silently refused by servers that had it on?",
		Story: []string{
			"TIME-WAIT keeps late segments out. tcp_tw_recycle ended it after 3.5 retransmission timeouts, a second or less, and kept late segments out by something else: it remembered the last timestamp " +
				"of each address for a minute, and dropped each SYN from there whose timestamp was older.",
			"A timestamp comes from the sender's clock, and each host has its own. Behind a NAT many hosts have one address. The one whose clock is ahead sets the mark; the SYNs of the others are dropped, " +
				"without an RST, without a line in a log. They try again and again, and sometimes, a minute after the other has gone, they succeed.",
			"Linux 4.10 gave every connection an offset of its own, which made it drop SYNs of a single client as well; 4.12 removed the setting. The stack models it as the knob time-wait.recycle.",
		},
		Setup: "A client has a connection with the stack, which closes first. Two seconds later a second client's SYN comes from the same address, with an older timestamp. The numbers are SYN+ACKs of the stack, " +
			"connections that it had, and how many milliseconds its TIME-WAIT lasted.",
		Settings: []Setting{"timestamps=on"},
		Columns:  []Column{{"S+A", "stack.SYN+ACK"}, {"conns", "stack.ESTABLISHED"}, {"tw", "stack.TIME-WAIT.ms"}},
		Variants: []Variant{
			{
				Name: "recycle", Group: Problem, Title: "recycle=on, two clients", Note: "SYNs are silently dropped",
				Why:      "The second client's SYN is older than the first client's last segment. It is dropped, as are the two that follow; the one that comes when the minute is over is answered. (The simulation has no second client: what is sent to it is lost, and what it sends is forged.)",
				Settings: []Setting{"stack.time-wait.recycle=on"},
				Steps: second(
					"guest forges SYN seq=0 from=40002 ts=-1000000",
					"stack is not asked",
					"stack sends nothing",
					"wait 1s",
					"guest forges SYN seq=0 from=40002 ts=-999000",
					"stack is not asked",
					"stack sends nothing",
					"wait 2s",
					"guest forges SYN seq=0 from=40002 ts=-997000",
					"stack is not asked",
					"stack sends nothing",
					"# A minute after the first client's last segment.",
					"wait 57s",
					"guest forges SYN seq=0 from=40002 ts=-940000",
					"stack accepts",
					"stack sends SYN+ACK",
				),
				After: Figures{"stack.SYN+ACK": 2}, Within: map[string]Range{"stack.TIME-WAIT.ms": {700, 1700}},
			},
			{
				Name: "off", Group: Cure, Title: "recycle=off", Note: "both are served",
				Why:   "Nothing is remembered of an address. TIME-WAIT lasts for its 60 s and is on other ports: it refuses nobody.",
				Steps: second(accepted...),
				After: Figures{"stack.SYN+ACK": 2, "stack.ESTABLISHED": 2},
			},
			{
				Name: "one-clock", Group: Cure, Title: "recycle=on, one clock", Note: "the next SYN is newer",
				Why:      "The same client again, or another one whose clock is ahead: its SYN is newer than what was remembered. That is what it was tried with.",
				Settings: []Setting{"stack.time-wait.recycle=on"},
				Steps: second(
					"guest forges SYN seq=0 from=40002 ts=2000",
					"stack accepts",
					"stack sends SYN+ACK ack=1, lost",
					"guest forges ACK seq=1 ack=1 from=40002 ts=2001",
					"stack is ESTABLISHED",
				),
				After: Figures{"stack.SYN+ACK": 2, "stack.ESTABLISHED": 2},
			},
			{
				Name: "no-timestamps", Group: Price, Title: "recycle=on, no timestamps", Note: "it does nothing at all",
				Why: "Without timestamps nothing is remembered, nothing is dropped, and TIME-WAIT lasts 60 s. Servers whose guides had both switched on had no effect of it, and those clients that " +
					"send no timestamps never had the trouble.",
				Settings: []Setting{"stack.time-wait.recycle=on", "timestamps=off"},
				Steps: second(
					"guest forges SYN seq=0 from=40002",
					"stack accepts",
					"stack sends SYN+ACK ack=1, lost",
					"guest forges ACK seq=1 ack=1 from=40002",
					"stack is ESTABLISHED",
					"wait 61s",
				),
				After: Figures{"stack.SYN+ACK": 2, "stack.ESTABLISHED": 2, "stack.TIME-WAIT.ms": 60000},
			},
			{
				Name: "reuse", Group: Belief, Title: "reuse=on instead", Note: "it drops nothing",
				Belief:   "tcp_tw_reuse is as dangerous as tcp_tw_recycle.",
				Why:      "tcp_tw_reuse is about the end that connects: it may use a port of its own again. It looks at no SYN that comes in, and a server does not even notice it.",
				Settings: []Setting{"stack.time-wait.reuse=on"},
				Steps:    second(accepted...),
				After:    Figures{"stack.SYN+ACK": 2, "stack.ESTABLISHED": 2},
			},
		},
		Moral: []string{
			"tcp_tw_recycle shortened TIME-WAIT to a second and lost the SYNs of clients whose clock was behind that of another one with the same address. It has been gone since Linux 4.12. A server's " +
				"TIME-WAITs refuse nobody: there was nothing to cure.",
		},
		Production: []Look{
			{"sysctl net.ipv4.tcp_tw_recycle", "on kernels before 4.12; later ones do not know it"},
			{"nstat -az TcpExtPAWSPassive", "SYNs that were dropped for their timestamp, on kernels before 4.12 (netstat -s: \"passive connections rejected because of time stamp\")"},
			{"tcpdump -n 'tcp[tcpflags] & tcp-syn != 0'", "SYNs that come again and again from a client that others of its address do not share"},
			{"tcpbox run --tcp stack.time-wait.recycle=on --log - -- YOUR-CLIENT", "your client, with a peer that does it"},
		},
		Sources: []Source{
			{"RFC 7323, appendix B.2", "a last timestamp for each host instead of TIME-WAIT, which the setting carried out"},
			{"RFC 6191, section 2", "what may be done with timestamps, for one pair of ports"},
			{"Linux 4.11, net/ipv4/tcp_metrics.c", "tcp_peer_is_proven"},
			{"Linux 4.11, net/ipv4/tcp_minisocks.c", "tcp_time_wait, \"recycle_ok\""},
			{"Linux, commit 4396e46187ca", "tcp: remove tcp_tw_recycle"},
		},
	}
}
