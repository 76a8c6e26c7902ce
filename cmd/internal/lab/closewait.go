package lab

import "fmt"

// CloseWaitLeak is the lab of programs that forget to close.
func CloseWaitLeak() Lab {
	const (
		clients = 5
		leaked  = "guest.close-wait"
	)
	programs := []string{"alpha", "beta", "gamma"}
	at := func(i int) string { return fmt.Sprintf(":%d", 81+i) }
	// serve has the three listen; beta does then.
	serve := func(then Then) (steps []Step) {
		for i, name := range programs {
			does := ThenReadEnd
			if name == "beta" {
				does = then
			}
			steps = append(steps, Step{Name: name, In: name, Listen: &Listen{At: at(i), Then: does}})
		}
		return steps
	}
	// visit has the clients come and go.
	visit := func(then Then, more ...Step) []Step {
		steps := serve(then)
		for i, name := range programs {
			steps = append(steps, Step{
				Name: "clients-" + name, In: InStack,
				Open: &Open{To: at(i), Times: clients}, Expect: Figures{"ok": clients},
			}, inStack(onKept("leave-"+name, "clients-"+name, DoClose, 0, Figures{"ok": clients})))
		}
		return append(steps, more...)
	}
	leaks := func(beta int) Figures {
		return Figures{
			leaked: beta, "guest.close-wait.alpha": 0, "guest.close-wait.beta": beta, "guest.close-wait.gamma": 0,
		}
	}
	still := after("later", 2500, Figures{leaked: clients})

	return Lab{
		Name:     "close-wait-leak",
		Title:    "a program forgets to close, and which one it is",
		Question: "Where do sockets in CLOSE-WAIT come from, which of three programs makes them, and what removes them?",
		Story: []string{
			"CLOSE-WAIT means: the other side has sent FIN, the kernel has acknowledged it and told the program by an end of file, and the program has not called " +
				"close. The kernel waits for that call, for ever. So a pile of CLOSE-WAIT is a defect of a program: it has lost the descriptor, or is stuck where it " +
				"does not come to close it. It runs out of descriptors in the end.",
			"Three servers run in the guest. Clients come to each and leave. Two servers close when they have read to the end, one forgets to.",
		},
		Setup: fmt.Sprintf("Three programs serve in the guest; %d clients come to each from the stack, and close. cw are the guest's sockets in CLOSE-WAIT at the end, "+
			"by the kernel; alpha, beta and gamma are those of each program, by whose they are in the state log.", clients),
		Settings: []Setting{"guest.fin-timeout=60s"},
		Columns: []Column{
			{"cw", leaked}, {"alpha", "guest.close-wait.alpha"}, {"beta", "guest.close-wait.beta"}, {"gamma", "guest.close-wait.gamma"},
		},
		Variants: []Variant{
			{
				Name: "leak", Group: Problem, Title: "beta forgets to close", Note: "each client leaves a socket",
				Why: "beta reads to the end of file and goes on without close. Each of its clients leaves a socket in CLOSE-WAIT; the stack, which has " +
					"closed, waits in FIN-WAIT-2.",
				Steps: visit(ThenLeak, still), After: leaks(clients),
			},
			{
				Name: "closes", Group: Cure, Title: "beta closes", Note: "the only cure that is one",
				Why:   "When the program calls close on the end of file, CLOSE-WAIT lasts microseconds.",
				Steps: visit(ThenReadEnd), After: leaks(0),
			},
			{
				Name: "restart", Group: Price, Title: "beta is killed", Note: "until the next leak",
				Why:   "The end of the process closes its descriptors: FIN goes out, and the sockets end. Whoever was being served is cut off too.",
				Steps: visit(ThenLeak, still, Step{Name: "kill", Stop: &Stop{Program: "beta"}}, until("gone", Figures{leaked: 0})),
				After: Figures{leaked: 0, "guest.close-wait.alpha": 0, "guest.close-wait.gamma": 0},
			},
			{
				Name: "fin-timeout", Group: Belief, Title: "tcp_fin_timeout=1", Note: "it is the other side's timer",
				Belief: "tcp_fin_timeout removes CLOSE-WAIT.",
				Why:    "It bounds FIN-WAIT-2, which is the state of the other side here. There is no timer for CLOSE-WAIT.",

				Settings: []Setting{"guest.fin-timeout=1s"},
				Steps:    visit(ThenLeak, still), After: Figures{leaked: clients},
			},
			{
				Name: "keepalive", Group: Belief, Title: "keepalive after 1 s", Note: "the other side answers",
				Belief: "TCP keepalive removes CLOSE-WAIT.",
				Why: "A program that has not set SO_KEEPALIVE is not probed whatever the sysctls say; and one that has is answered as long as " +
					"the other side is in FIN-WAIT-2.",
				Settings: []Setting{"net.ipv4.tcp_keepalive_time=1", "net.ipv4.tcp_keepalive_intvl=1", "net.ipv4.tcp_keepalive_probes=1"},
				Steps:    visit(ThenLeak, still), After: Figures{leaked: clients},
			},
		},
		Client: &Yours{
			Setup: "Your command reaches the host closer, port 80, which closes every connection at once, and is to end by itself. cw is as many of its sockets as " +
				"were in CLOSE-WAIT when it had ended: those of programs that it has left running.",
			Peers:   []string{"closer=closer:80"},
			Rows:    []string{"leak"},
			Steps:   []Step{{Name: "yours", Command: &Command{}, Expect: ok}},
			After:   Figures{leaked: 0},
			Columns: []Column{{"cw", leaked}},
		},
		Server: &Yours{
			Setup: fmt.Sprintf("Your command serves port 80 in the guest. %d clients come from the stack, say nothing, and send FIN. "+
				"cw are the server's sockets in CLOSE-WAIT afterwards: none, if it closes.", 4*clients),
			Rows: []string{"leak"},
			Steps: []Step{
				{Name: "yours", Command: &Command{Stays: ":80"}, Expect: ok},
				{Name: "visits", In: InStack, Open: &Open{To: ":80", Times: 4 * clients}, Expect: Figures{"ok": 4 * clients}},
				inStack(onKept("leave", "visits", DoShutdown, 0, Figures{"ok": 4 * clients})),
			},
			After:   Figures{leaked: 0},
			Columns: []Column{{"ok", "visits.ok"}, {"cw", leaked}},
		},
		Moral: []string{
			"CLOSE-WAIT comes from the program's code, and it goes with the program's close. No sysctl ends it.",
		},
		Production: []Look{
			{"ss -Htanp state close-wait", "each with the process that has it: that is the program with the defect"},
			{"ss -Htan state close-wait | awk '{print $3}' | sort | uniq -c | sort -n", "by local address: which of its ports"},
			{"ls /proc/PID/fd | wc -l", "how near the program is to its limit of descriptors"},
			{"tcpbox ss --state close-wait", "the guest's, with program and age"},
			{"tcpbox lab run close-wait-leak --server YOUR-SERVER", "whether your server leaks them"},
		},
		Sources: []Source{
			{"RFC 9293, section 3.6", "the side that got a FIN is in CLOSE-WAIT until its user closes"},
			{"Linux, net/ipv4/tcp_input.c", "tcp_fin: CLOSE-WAIT, and no timer is set"},
		},
	}
}
