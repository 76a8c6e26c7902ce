package lab

// NATIdleDrop is the lab nat-idle-drop.
func NATIdleDrop() Lab {
	// idle is a connection that a middlebox stands in, and then silence.
	idle := func(silence SimStep, then ...SimStep) []Step {
		open := opened()
		open.Sim.Forgets = "350s"
		return []Step{open, act("talk", `guest writes "before"`, "all arrives", `stack reads "before"`), act("idle", append([]SimStep{silence}, then...)...)}
	}
	return Lab{
		Name: "nat-idle-drop", Where: OnStack,
		Title:    "a middlebox forgets an idle connection, and says nothing",
		Question: "What does a program see when a NAT or a firewall has forgotten its idle connection, and what keeps it from forgetting?",
		Story: []string{
			"NATs, firewalls and load balancers remember each connection, and forget one that has been silent for a while: 350 s is a common figure in clouds, five days " +
				"is Linux's. Both ends are ESTABLISHED as before: nothing was sent, so that nothing was refused.",
			"What is sent then is dropped. Who sends repeats it until the retransmissions give up, a quarter of an hour later. Who only reads never learns of it.",
			"TCP keepalive is a segment now and then that says nothing. It counts for the middlebox, if it comes more often than that forgets. The default is two hours.",
		},
		Setup: "Guest and stack talk through a middlebox that forgets after 350 s of silence. Then there is silence. The numbers are segments of the guest that were lost, " +
			"and what the stack's program has read in the end.",
		Columns: []Column{{"lost", "guest.lost"}, {"read", "stack.read"}},
		Variants: []Variant{
			{
				Name: "forgotten", Group: Problem, Title: "silent for 6 minutes", Note: "ETIMEDOUT, 18 minutes later",
				Why: "Both ends are ESTABLISHED. What the guest writes is lost, as are its repetitions, until data-retries=15 have failed. Linux repeats for about 15 minutes too.",
				Steps: idle("wait 360s flowing",
					"guest is ESTABLISHED",
					"stack is ESTABLISHED",
					`guest writes "after"`,
					"wait 900s flowing",
					"guest is ESTABLISHED",
					"guest reads nothing",
					"wait 300s flowing",
					"guest is CLOSED",
					"guest reads ETIMEDOUT",
					"stack reads nothing",
					"stack is ESTABLISHED",
				),
				After: Figures{"stack.read": 6},
			},
			{
				Name: "reader", Group: Problem, Title: "and nobody writes", Note: "it waits for ever",
				Why: "A program that only waits for its peer sends nothing, and so learns nothing. A day later both ends are ESTABLISHED: it is half a connection on each side.",
				Steps: idle("wait 1h",
					"guest reads nothing",
					"guest is ESTABLISHED",
					"stack is ESTABLISHED",
				),
				After: Figures{"guest.lost": 0, "stack.read": 6},
			},
			{
				Name: "in-time", Group: Problem, Title: "silent for 5 minutes", Note: "nothing happens",
				Why:   "300 s are less than 350.",
				Steps: idle("wait 300s flowing", `guest writes "after"`, "all arrives", `stack reads "after"`),
				After: Figures{"guest.lost": 0, "stack.read": 11},
			},
			{
				Name: "keepalive-60", Group: Cure, Title: "keepalive.idle=60s", Note: "the middlebox remembers",
				Why:      "A probe each minute, which the stack answers. Half an hour later the connection is as good as new. A program sets SO_KEEPALIVE and TCP_KEEPIDLE for itself.",
				Settings: []Setting{"guest.keepalive=on", "guest.keepalive.idle=60s"},
				Steps:    idle("wait 1800s flowing", `guest writes "after"`, "all arrives", `stack reads "after"`),
				After:    Figures{"guest.lost": 0, "stack.read": 11},
			},
			{
				Name: "user-timeout", Group: Cure, Title: "user-timeout=30s", Note: "it is known after 30 s, not 18 min",
				Why:      "It does not keep the middlebox from forgetting, but a program learns soon, and can connect again. A program sets TCP_USER_TIMEOUT.",
				Settings: []Setting{"guest.user-timeout=30s"},
				Steps:    idle("wait 360s flowing", `guest writes "after"`, "wait 60s flowing", "guest is CLOSED", "guest reads ETIMEDOUT"),
				After:    Figures{"stack.read": 6},
			},
			{
				Name: "keepalive-default", Group: Belief, Title: "keepalive as it comes", Note: "two hours are too long",
				Belief:   "SO_KEEPALIVE keeps connections alive.",
				Why:      "The first probe comes after two hours. By then the middlebox has forgotten, and all nine probes are lost: keepalive finds the connection dead, 2 h 11 min after the last byte.",
				Settings: []Setting{"guest.keepalive=on"},
				Steps:    idle("wait 7190s flowing", "guest is ESTABLISHED", "wait 700s flowing", "guest is CLOSED", "guest reads ETIMEDOUT"),
				After:    Figures{"guest.lost": 9, "stack.read": 6},
			},
			{
				Name: "keepalive-400", Group: Belief, Title: "keepalive.idle=400s", Note: "50 s too late",
				Belief:   "Any keepalive shorter than the default is enough.",
				Why:      "It has to be shorter than the time after which the middlebox forgets, with room for a probe that is lost.",
				Settings: []Setting{"guest.keepalive=on", "guest.keepalive.idle=400s"},
				Steps:    idle("wait 1200s flowing", "guest is CLOSED", "guest reads ETIMEDOUT"),
				After:    Figures{"guest.lost": 9, "stack.read": 6},
			},
		},
		Moral: []string{
			"A middlebox that has forgotten says nothing: a write fails a quarter of an hour later, a read never. Keepalive cures it if it comes more often than the middlebox forgets.",
		},
		Production: []Look{
			{"ss -tano state established", "timer:(keepalive,59sec,0): the connection has keepalive, and when the next probe is due"},
			{"ss -tino state established", "lastrcv: how long ago, in ms, something was received"},
			{"sysctl net.ipv4.tcp_keepalive_time net.ipv4.tcp_keepalive_intvl net.ipv4.tcp_keepalive_probes", "when probes come, for those who ask for them"},
			{"nstat -az TcpExtTCPKeepAlive TcpExtTCPAbortOnTimeout", "probes sent, and connections given up"},
			{"tcpbox run --tcp guest.keepalive.idle=60s -- YOUR-CLIENT", "your client, if it sets SO_KEEPALIVE"},
		},
		Sources: []Source{
			{"RFC 9293, section 3.8.4", "keepalives: off by default, two hours by default"},
			{"RFC 5382, section 5", "a NAT should keep an idle connection for 2 h 4 min"},
			{"RFC 5482", "the user timeout"},
			{"Linux, Documentation/networking/nf_conntrack-sysctl.rst", "nf_conntrack_tcp_timeout_established: 432000 s"},
			{"Linux, net/ipv4/tcp_timer.c", "tcp_keepalive_timer, retransmits_timed_out"},
		},
	}
}
