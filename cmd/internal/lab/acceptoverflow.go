package lab

import "fmt"

// AcceptOverflow is the lab of connections that nobody accepts.
func AcceptOverflow() Lab {
	const (
		backlog = 4
		kept    = backlog + 1 // Linux takes one more
		clients = 8
		late    = "delay 400ms ack in dst=:80"
	)
	listen := func(backlog int) Step {
		return Step{Name: "listen", Listen: &Listen{At: ":80", Backlog: backlog}}
	}
	open := func(name string, f Figures) Step {
		return Step{Name: name, In: InStack, Open: &Open{To: ":80", Times: clients, AtOnce: true}, Expect: f}
	}
	// full has the queue full when further clients come.
	full := func(f Figures) []Step {
		return []Step{
			listen(backlog),
			{Name: "first", In: InStack, Open: &Open{To: ":80", Times: kept}, Expect: Figures{"ok": kept, "queue.80": kept}},
			{Name: "more", In: InStack, Open: &Open{To: ":80", Times: clients - kept, AtOnce: true, Within: 700}, Expect: f},
		}
	}
	// crowd fills the queue by half, and has the ACKs of the others come late, all at
	// once.
	crowd := func(f Figures) []Step {
		return []Step{
			listen(backlog),
			{Name: "first", In: InStack, Open: &Open{To: ":80", Times: clients - kept}, Expect: Figures{"ok": clients - kept, "queue.80": clients - kept}},
			{Name: "slow", Set: &Set{Faults: []string{late}}},
			{Name: "more", In: InStack, Open: &Open{To: ":80", Times: kept, AtOnce: true}, Expect: Figures{"ok": kept, "queue.80": kept}},
			{Name: "answer", Wait: &Wait{}, Expect: f, By: crowdedFor},
		}
	}
	refused := Figures{"pending": clients - kept, "queue.80": kept, "guest.syn-received": 0}
	drops := map[string]Range{"TcpExtListenOverflows": {clients - kept, most}}

	return Lab{
		Name:     "accept-overflow",
		Title:    "a program that accepts too slowly, seen from its clients",
		Question: "What does a client see when the queue of connections that wait for accept(2) is full?",
		Story: []string{
			"A connection whose handshake is complete waits in the listener's queue until the program accepts it. The queue holds one more than the backlog of listen(2). " +
				"When it is full, Linux drops further SYNs: those clients hang in SYN-SENT and try again after 1, 3, 7 seconds.",
			"Worse is the client whose SYN came while there was room, and whose ACK comes when there is none. It has its SYN-ACK, so for it the connection stands, and it sends its request. The " +
				"kernel has dropped its ACK, keeps the request in SYN-RECEIVED, and repeats the SYN-ACK as if nothing had come. With tcp_abort_on_overflow it gets an RST instead.",
		},
		Setup: fmt.Sprintf("A program in the guest listens with a backlog of %d and does not accept. %d clients come from the stack. queue are the connections that wait for accept at the end, "+
			"est the clients that believe to be connected.", backlog, clients),
		Settings: []Setting{"net.ipv4.tcp_syncookies=1", "net.ipv4.tcp_abort_on_overflow=0", "net.core.somaxconn=4096", "net.ipv4.tcp_max_syn_backlog=4096", "net.ipv4.tcp_synack_retries=5"},
		Columns:  []Column{{"queue", "queue.80"}, {"est", "stack.established"}},
		Variants: []Variant{
			{
				Name: "syn-dropped", Group: Problem, Title: "a full queue at the SYN", Note: "silence: clients hang in SYN-SENT",
				Why:   "The SYNs of the last clients are dropped without an answer, and counted in TcpExtListenOverflows and TcpExtListenDrops.",
				Steps: full(refused), After: Figures{"queue.80": kept, "guest.syn-received": 0, "stack.established": kept}, Within: drops,
			},
			{
				Name: "ack-dropped", Group: Problem, Title: "a full queue at the ACK", Note: "the client believes it stands",
				Why: "Three connections wait already. The other SYNs come while there is room, and are answered. Their ACKs come later, all at once: those for which there is no room are dropped. Their " +
					"clients are in ESTABLISHED, the guest in SYN-RECEIVED.",
				Steps: crowd(Figures{"guest.syn-received": clients - kept, "stack.established": clients, "TcpExtListenOverflows": clients - kept}),
				After: Figures{"queue.80": kept, "stack.established": clients},
			},
			{
				Name: "accepted", Group: Cure, Title: "the program accepts", Note: "the queue is empty",
				Why: "A program that accepts at once never has a queue. Where it stalls for moments, a longer queue carries it over; where it is too slow, none does.",
				Steps: []Step{
					listen(backlog),
					{Name: "first", In: InStack, Open: &Open{To: ":80", Times: kept}, Expect: Figures{"ok": kept}},
					{Name: "accept", Accept: &Accept{At: ":80", Times: kept}, Expect: Figures{"ok": kept}},
					{Name: "more", In: InStack, Open: &Open{To: ":80", Times: clients - kept, AtOnce: true}, Expect: Figures{"ok": clients - kept}},
					{Name: "again", Accept: &Accept{At: ":80", Times: clients - kept}, Expect: Figures{"ok": clients - kept}},
				},
				After: Figures{"queue.80": 0, "guest.syn-received": 0, "stack.established": clients, "TcpExtListenOverflows": 0},
			},
			{
				Name: "longer", Group: Cure, Title: "listen(64)", Note: "room for all of them",
				Why:   "The program asks for more, and somaxconn allows it.",
				Steps: []Step{listen(64), open("clients", Figures{"ok": clients})},
				After: Figures{"queue.80": clients, "guest.syn-received": 0, "stack.established": clients, "TcpExtListenOverflows": 0},
			},
			{
				Name: "abort", Group: Price, Title: "tcp_abort_on_overflow=1", Note: "an RST instead of a wrong belief",
				Why: "The ACK for which there is no room is answered with RST: the client learns at once, and a moment of stalling becomes errors. SYNs that find the queue full are dropped as " +
					"before.",
				Settings: []Setting{"net.ipv4.tcp_abort_on_overflow=1"},
				Steps:    crowd(Figures{"guest.syn-received": 0, "stack.established": kept, "TcpExtListenOverflows": clients - kept}),
				After:    Figures{"queue.80": kept, "guest.syn-received": 0, "stack.established": kept},
			},
			{
				Name: "only-sysctl", Group: Belief, Title: "somaxconn=65536", Note: "the program asks for 4",
				Belief: "Raising somaxconn makes the queue longer.",
				Why:    "It is an upper bound for what programs ask for, and this one asks for 4. It has to listen with more, and to be started again.",

				Settings: []Setting{"net.core.somaxconn=65536", "net.ipv4.tcp_max_syn_backlog=65536"},
				Steps:    full(refused), After: Figures{"queue.80": kept, "guest.syn-received": 0, "stack.established": kept}, Within: drops,
			},
		},
		Moral: []string{
			"Clients that hang while connecting, or whose requests are never answered, with TcpExtListenOverflows rising: the program does not accept fast enough.",
		},
		Production: []Look{
			{"ss -ltn", "Recv-Q of a listener are the connections that wait, Send-Q its backlog; full is Recv-Q greater than Send-Q"},
			{"nstat -az TcpExtListenOverflows TcpExtListenDrops", "SYNs and ACKs that were dropped because the queue was full"},
			{"sysctl net.core.somaxconn net.ipv4.tcp_abort_on_overflow", "the upper bound, and what happens to an ACK without room"},
			{"strace -e trace=listen PROGRAM", "what backlog the program asks for"},
		},
		Sources: []Source{
			{"Linux, net/ipv4/tcp_input.c", "tcp_conn_request: a full queue drops the SYN"},
			{"Linux, net/ipv4/tcp_minisocks.c", "tcp_check_req: an ACK without room, and tcp_abort_on_overflow"},
			{"Linux, include/net/sock.h", "sk_acceptq_is_full: full is more than the backlog"},
			{"listen(2)", "the backlog, and somaxconn"},
		},
	}
}
