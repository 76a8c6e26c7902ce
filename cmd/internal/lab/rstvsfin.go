package lab

// RSTVsFIN is the lab of how a close becomes an RST.
func RSTVsFIN() Lab {
	const (
		server = "server:81"
		bytes  = 1000
	)
	established := func(more ...Step) []Step { return append(toStack(server), more...) }
	guest := func(name string, do Do, f Figures) Step { return onKept(name, "open", do, bytes, f) }
	stack := func(name string, do Do, f Figures) Step { return inStack(onKept(name, "accept", do, bytes, f)) }
	read := Figures{"ok": 1, "bytes": bytes}
	ends := func(fin, rst int, more Figures) Figures {
		f := Figures{"sent.guest.FIN": fin, "sent.guest.RST": rst}
		for name, n := range more {
			f[name] = n
		}
		return f
	}
	// unread waits until bytes have arrived that nobody has read.
	unread := Step{Name: "arrive", Wait: &Wait{}, Expect: Figures{"unread.established": bytes}}

	return Lab{
		Name:     "rst-vs-fin",
		Title:    "the same close(2) sends FIN, or RST",
		Question: "When does close(2) send RST instead of FIN, and what does the other side see of it?",
		Story: []string{
			"A close is an orderly end only when nothing is left to be read. If bytes have arrived that the program has not read, Linux " +
				"sends RST at once, as RFC 2525 and RFC 9293 ask for: the bytes were acknowledged and will never reach a program, and the other side must " +
				"not believe that they did. The other side's read fails with ECONNRESET, \"connection reset by peer\".",
			"A server that answers without reading the whole request, and closes, resets its client by that, and the client may lose " +
				"the answer with it. SO_LINGER 0 does the same on purpose; and bytes that arrive for a program that has closed are answered by RST too.",
		},
		Setup: "The guest opens a connection to a host in the stack, which in most rows sends 1,000 bytes. Then the guest closes. fin and rst are the " +
			"segments with those flags that the guest's kernel has sent; tw its sockets in TIME-WAIT at the end.",
		Columns: []Column{{"fin", "sent.guest.FIN"}, {"rst", "sent.guest.RST"}, {"tw", guestTimeWait}},
		Variants: []Variant{
			{
				Name: "unread", Group: Problem, Title: "close with bytes unread", Note: "RST: the peer reads ECONNRESET",
				Why: "1,000 bytes are in the receive queue when the program calls close. The kernel sends RST and counts " +
					"TcpExtTCPAbortOnClose. There is no FIN and no TIME-WAIT.",
				Steps: established(stack("send", DoWrite, ok), unread, guest("close", DoClose, ok), stack("see", DoReadEnd, Figures{"ECONNRESET": 1})),
				After: ends(0, 1, Figures{"TcpExtTCPAbortOnClose": 1, guestTimeWait: 0}),
			},
			{
				Name: "bytes-after-close", Group: Problem, Title: "bytes come after the close", Note: "FIN, and RST for the bytes",
				Why: "The program closes when nothing has arrived, so that a FIN goes out. The peer sends bytes, which it may: a FIN " +
					"ends one direction only. But nobody can read them any more: the kernel, which has only a small record of the connection left, answers with RST.",
				Steps: established(guest("close", DoClose, Figures{"ok": 1, "stack.close-wait": 1}), stack("send", DoWrite, ok),
					Step{Name: "reset", Wait: &Wait{}, Expect: Figures{"stack.close-wait": 0}}),
				After: ends(1, 1, Figures{"TcpOutRsts": 1, guestTimeWait: 0}),
			},
			{
				Name: "read-first", Group: Cure, Title: "read, then close", Note: "FIN and TIME-WAIT",
				Why:   "Nothing is left in the queue, and close sends FIN.",
				Steps: established(stack("send", DoWrite, ok), guest("read", DoRead, read), guest("close", DoClose, ok), stack("see", DoReadEnd, ok), stack("end", DoClose, ok)),
				After: ends(1, 0, Figures{"TcpExtTCPAbortOnClose": 0, guestTimeWait: 1}),
			},
			{
				Name: "shutdown", Group: Cure, Title: "shutdown, read, close", Note: "the orderly end",
				Why: "shutdown(SHUT_WR) sends the FIN and leaves the reading open. The program reads to the other's FIN and closes: " +
					"whatever was under way has arrived, and nothing is reset. This is how a server ends that has not read all.",
				Steps: established(guest("fin", DoShutdown, Figures{"ok": 1, "stack.close-wait": 1}), stack("send", DoWrite, ok), stack("end", DoClose, ok),
					guest("drain", DoReadEnd, ok), guest("close", DoClose, ok)),
				After: ends(1, 0, Figures{"TcpExtTCPAbortOnClose": 0, guestTimeWait: 1}),
			},
			{
				Name: "linger-0", Group: Price, Title: "SO_LINGER 0", Note: "RST on purpose, no TIME-WAIT",
				Why: "close(2) of a socket with SO_LINGER 0 resets the connection whether or not something is unread. What was sent and not yet read " +
					"by the peer may be lost.",
				Steps: established(guest("close", DoReset, ok), stack("see", DoReadEnd, Figures{"ECONNRESET": 1})),
				After: ends(0, 1, Figures{"TcpExtTCPAbortOnData": 1, guestTimeWait: 0}),
			},
			{
				Name: "every-close", Group: Belief, Title: "close with nothing unread", Note: "this one is four segments",
				Belief: "Every close() gives FIN, ACK, FIN, ACK.",
				Why: "Only one with nothing unread and without SO_LINGER 0: here each side sends a FIN. In the rows above the same call gives a " +
					"single RST.",
				Steps: established(guest("close", DoClose, ok), stack("see", DoReadEnd, ok), stack("end", DoClose, ok)),
				After: ends(1, 0, Figures{"sent.stack.FIN": 1, guestTimeWait: 1}),
			},
		},
		Moral: []string{
			"A close with bytes unread is a reset: read to the end, or shut down and drain. ECONNRESET at a client often means that its server has not " +
				"read the whole request.",
		},
		Production: []Look{
			{"nstat -az TcpExtTCPAbortOnClose TcpExtTCPAbortOnData TcpOutRsts", "closes with bytes unread; closes with SO_LINGER 0; all RST that were sent"},
			{"tcpdump -ni any 'tcp[tcpflags] & tcp-rst != 0'", "which end sends the RST"},
			{"ss -tn state established '( recv-q > 0 )'", "connections with bytes that nobody has read yet; Recv-Q is the first number"},
			{"tcpbox run --log - -- YOUR-PROGRAM", "by=segment RST on the stack's leg: your program has reset"},
		},
		Sources: []Source{
			{"RFC 9293, section 3.10.4", "CLOSE; and that an implementation may reset a connection that is closed with bytes unread"},
			{"RFC 2525, section 2.17", "a close with bytes unread must be told by RST"},
			{"Linux, net/ipv4/tcp.c", "__tcp_close: data_was_unread, TCPAbortOnClose; SO_LINGER 0, TCPAbortOnData"},
			{"Linux, net/ipv4/tcp_minisocks.c", "tcp_timewait_state_process: bytes in FIN-WAIT-2 when the program has closed"},
		},
	}
}
