package lab

// TimeWaitLength is the lab of how long TIME-WAIT lasts.
func TimeWaitLength() Lab {
	const server = "server:81"
	// closed is a connection that the guest has closed first.
	closed := func(more ...Step) []Step {
		return append(append(toStack(server),
			onKept("fin", "open", DoShutdown, 0, ok),
			inStack(onKept("end", "accept", DoClose, 0, ok)),
		), more...)
	}
	length := func(min, max int) Step {
		return Step{Name: "look", Wait: &Wait{}, Expect: Figures{"guest.time-wait": 1}, Within: map[string]Range{"timer.time-wait": {min, max}}}
	}
	whole := length(40_000, 60_100)
	one := Figures{guestTimeWait: 1}

	return Lab{
		Name:     "time-wait-length",
		Title:    "TIME-WAIT lasts 60 seconds on Linux, whatever is set",
		Question: "How long does TIME-WAIT last, and which setting changes that?",
		Story: []string{
			"The standard says twice the maximum segment lifetime, which it puts at two minutes: four minutes in all, as old systems had it. Linux has a constant instead, TCP_TIMEWAIT_LEN, 60 seconds, and no sysctl for it. The " +
				"timer can be read: sock_diag tells what is left on it.",
			"What can be had is an earlier end, from outside: a socket in TIME-WAIT can be destroyed, which is what tcpbox does when time-wait.timeout is set for the guest. The stack, which is no kernel, has " +
				"any length.",
		},
		Setup: "The guest opens a connection to a host in the stack and closes first. ms is what is left on the guest's timer of TIME-WAIT; it was set a moment ago. tw are the guest's sockets in " +
			"TIME-WAIT at the end.",
		Settings: []Setting{"guest.fin-timeout=60s"},
		Columns:  []Column{{"ms", "look.timer.time-wait"}, {"tw", guestTimeWait}},
		Variants: []Variant{
			{
				Name: "default", Group: Problem, Title: "as Linux comes", Note: "60 s on the timer",
				Why:   "The timer has been set to 60,000 milliseconds, less what has passed since.",
				Steps: closed(whole), After: one,
			},
			{
				Name: "guest-2s", Group: Cure, Title: "time-wait.timeout=2s", Note: "tcpbox ends it early",
				Why: "The kernel's timer is the same; after two seconds tcpbox has the kernel destroy the socket (SOCK_DESTROY). Longer than the kernel's cannot be had.",

				Settings: []Setting{"guest.time-wait.timeout=2s"},
				Steps:    closed(Step{Name: "gone", Wait: &Wait{For: 1000, Until: 30_000}, Expect: Figures{"guest.time-wait": 0}}), After: Figures{guestTimeWait: 0},
			},
			{
				Name: "stack-1s", Group: Cure, Title: "on the stack, 1 s", Note: "any length",
				Why: "Here the stack closes first and holds TIME-WAIT. Its length is a setting, from none at all to what the standard says.",

				Settings: []Setting{"stack.time-wait.timeout=1s"},
				Steps: append(toStack(server),
					inStack(onKept("fin", "accept", DoShutdown, 0, ok)),
					onKept("end", "open", DoClose, 0, ok),
					Step{Name: "gone", Wait: &Wait{For: 500, Until: 30_000}, Expect: Figures{"stack.time-wait": 0, "stack.fin-wait-2": 0}}),
				After: Figures{guestTimeWait: 0, stackTimeWait: 0},
			},
			{
				Name: "fin-timeout-short", Group: Belief, Title: "tcp_fin_timeout=1", Note: "60 s",
				Belief: "tcp_fin_timeout is the length of TIME-WAIT.",
				Why:    "It is the time that a closed socket waits in FIN-WAIT-2.",

				Settings: []Setting{"guest.fin-timeout=1s"},
				Steps:    closed(whole), After: one,
			},
			{
				Name: "fin-timeout-long", Group: Belief, Title: "tcp_fin_timeout=120", Note: "60 s",
				Belief: "tcp_fin_timeout makes TIME-WAIT longer.",
				Why:    "It does not either way.",

				Settings: []Setting{"guest.fin-timeout=120s"},
				Steps:    closed(whole), After: one,
			},
			{
				Name: "reuse", Group: Belief, Title: "tcp_tw_reuse=1", Note: "60 s",
				Belief: "tcp_tw_reuse shortens TIME-WAIT.",
				Why:    "It lets connect take the port of one that is in TIME-WAIT. The timer is the same.",

				Settings: []Setting{"guest.time-wait.reuse=on"},
				Steps:    closed(whole), After: one,
			},
		},
		Moral: []string{"On Linux TIME-WAIT is 60 seconds, by a constant in the kernel. No sysctl changes it."},
		Production: []Look{
			{"ss -tano state time-wait", "timer:(timewait,…): what is left of the 60 seconds"},
			{"ss -K state time-wait dst ADDRESS", "as root, and where the kernel has it: destroys them"},
			{"tcpbox run --tcp guest.time-wait.timeout=2s -- YOUR-PROGRAM", "your program with a short TIME-WAIT"},
		},
		Sources: []Source{
			{"RFC 9293, section 3.4.2", "the maximum segment lifetime is two minutes"},
			{"RFC 9293, section 3.6.1", "TIME-WAIT lasts twice that"},
			{"Linux, include/net/tcp.h", "TCP_TIMEWAIT_LEN, 60 seconds"},
			{"Linux, net/ipv4/tcp_minisocks.c", "tcp_time_wait sets the timer"},
		},
	}
}
