package lab

// FinWait2Stuck is the lab of FIN-WAIT-2 and tcp_fin_timeout.
func FinWait2Stuck() Lab {
	const server = "server:81"
	steps := func(more ...Step) []Step { return append(toStack(server), more...) }
	const waiting = "guest.fin-wait-2"
	closes := func(do Do) Step { return onKept("close", "open", do, 0, Figures{"ok": 1, waiting: 1}) }
	finTimeout := func(text string) []Setting { return []Setting{Setting("guest.fin-timeout=" + text)} }
	timer := func(s Step, min, max int) Step {
		s.Within = map[string]Range{"timer.fin-wait-2": {min, max}}
		return s
	}
	left := func(fw2, tw int) Figures { return Figures{waiting: fw2, guestTimeWait: tw} }

	return Lab{
		Name:     "fin-wait2-stuck",
		Title:    "FIN-WAIT-2, and what tcp_fin_timeout is for",
		Question: "How long does a connection stay in FIN-WAIT-2 when the other side does not close, and what does tcp_fin_timeout change?",
		Story: []string{
			"Who has sent FIN and got its ACK is in FIN-WAIT-2, and waits for the other side's FIN. TCP sets no limit to that: the other side may " +
				"have much to send yet. So a program that has called shutdown and keeps its descriptor waits as long as the other side likes.",
			"With close(2) it is different: nobody is left who could read. Linux then keeps a small record of the connection, and throws that " +
				"away after tcp_fin_timeout, 60 seconds, without a word to the other side. That is all that tcp_fin_timeout does. TIME-WAIT comes afterwards, when " +
				"the other side's FIN has come, and is 60 seconds whatever tcp_fin_timeout is.",
		},
		Setup: "The guest opens a connection to a host in the stack and ends its direction of it; the host does not close. fw2 are the guest's sockets in " +
			"FIN-WAIT-2 at the end, tw those in TIME-WAIT. What is left on the kernel's timers is read through sock_diag, in milliseconds.",
		Settings: []Setting{"guest.fin-timeout=60s"},
		Columns:  []Column{{"fw2", waiting}, {"tw", guestTimeWait}},
		Variants: []Variant{
			{
				Name: "shutdown", Group: Problem, Title: "shutdown, timeout 1 s", Note: "no timer runs at all",
				Why: "The program has the descriptor still, and may read. tcp_fin_timeout is of no concern: after two and a half seconds the socket is " +
					"in FIN-WAIT-2 as before, and no timer runs that could end it.",
				Settings: finTimeout("1s"),
				Steps:    steps(closes(DoShutdown), after("later", 2500, Figures{waiting: 1, "timer.fin-wait-2": 0})), After: left(1, 0),
			},
			{
				Name: "close", Group: Problem, Title: "close, as Linux comes", Note: "up to 60 s on the timer",
				Why:   "Nobody has the descriptor. The kernel's timer says that the record is thrown away after tcp_fin_timeout, 60 seconds.",
				Steps: steps(timer(closes(DoClose), 40_000, 60_100)), After: left(1, 0),
			},
			{
				Name: "close-1s", Group: Cure, Title: "close, timeout 1 s", Note: "gone after a second, unsaid",
				Why: "The record is gone when the timer has run out. No segment tells the other side, which stays in CLOSE-WAIT; " +
					"if it sends something later, it is answered with RST.",
				Settings: finTimeout("1s"),
				Steps: steps(onKept("close", "open", DoClose, 0, ok), Step{Name: "gone", Wait: &Wait{For: 1500, Until: 20_000}, Expect: Figures{waiting: 0, "stack.close-wait": 1}},
					inStack(onKept("send", "accept", DoWrite, 10, ok)), until("reset", Figures{"stack.close-wait": 0, "sent.guest.RST": 1})),
				After: left(0, 0),
			},
			{
				Name: "peer-closes", Group: Cure, Title: "the other side closes", Note: "the only end with an answer",
				Why:   "Its FIN is what FIN-WAIT-2 waits for. What is left is a TIME-WAIT.",
				Steps: steps(closes(DoShutdown), inStack(onKept("end", "accept", DoClose, 0, ok)), until("closed", Figures{"guest.time-wait": 1})), After: left(0, 1),
			},
			{
				Name: "longer", Group: Belief, Title: "close, timeout 120 s", Note: "the socket stays whole at first",
				Belief: "tcp_fin_timeout is at most 60 seconds.",
				Why: "Beyond 60 seconds the kernel keeps the whole socket until 60 are left, and only then the small record. The timer that " +
					"runs first is therefore of 60 seconds.",
				Settings: finTimeout("120s"),
				Steps:    steps(timer(closes(DoClose), 40_000, 60_100)), After: left(1, 0),
			},
			{
				Name: "time-wait", Group: Belief, Title: "TIME-WAIT, timeout 1 s", Note: "60 s all the same",
				Belief: "A lower tcp_fin_timeout shortens TIME-WAIT.",
				Why:    "When the other side's FIN has come, the timer is set to 60 seconds, TCP_TIMEWAIT_LEN, whatever tcp_fin_timeout is.",

				Settings: finTimeout("1s"),
				Steps: steps(closes(DoShutdown), inStack(onKept("end", "accept", DoClose, 0, ok)), Step{
					Name: "closed", Wait: &Wait{}, Expect: Figures{"guest.time-wait": 1},
					Within: map[string]Range{"timer.time-wait": {40_000, 60_100}},
				}),
				After: left(0, 1),
			},
		},
		Moral: []string{
			"FIN-WAIT-2 with a program is that program's to end; without one it ends after tcp_fin_timeout. No setting of it touches TIME-WAIT.",
		},
		Production: []Look{
			{"ss -tanpo state fin-wait-2", "those with a process have no timer: look at that program. Those without have timer:(timewait,…), which is tcp_fin_timeout"},
			{"sysctl net.ipv4.tcp_fin_timeout", "how long the ones without a process last"},
			{"tcpbox ss --state fin-wait-2", "which side has not closed: the other leg is in CLOSE-WAIT"},
		},
		Sources: []Source{
			{"RFC 9293, section 3.6", "half-closed connections; FIN-WAIT-2 waits for the other side"},
			{"Linux, net/ipv4/tcp.c", "__tcp_close: FIN-WAIT-2 becomes a time-wait record with tcp_fin_timeout, above 60 seconds later"},
			{"Linux, net/ipv4/tcp_minisocks.c", "tcp_timewait_state_process: the FIN sets the timer to TCP_TIMEWAIT_LEN"},
			{"Linux, Documentation/networking/ip-sysctl.rst", "tcp_fin_timeout"},
		},
	}
}
