package lab

// ZeroWindow is the lab of a program that does not read.
func ZeroWindow() Lab {
	const server = "server:81"
	steps := func(more ...Step) []Step { return append(toStack(server), more...) }
	filled := func(s Step) Step {
		s.Within = map[string]Range{"bytes": {1, most}}
		return s
	}
	guestFills := filled(onKept("fill", "open", DoFill, 0, ok))
	stackFills := filled(inStack(onKept("fill", "accept", DoFill, 0, ok)))
	const probes = "TcpExtTCPWinProbe"

	return Lab{
		Name:     "zero-window",
		Title:    "a program that does not read stops its peer",
		Question: "What happens to a connection whose receiver does not read, and how long does it last?",
		Story: []string{
			"What nobody reads fills the receive buffer, and the window that the receiver offers becomes 0. The sender keeps what it has, and its write blocks. It must not give up: it asks again and again by a " +
				"probe, a segment that the other side has to answer, so that a window that opens is not missed (RFC 9293, 3.8.6.1).",
			"As long as the probes are answered the connection lasts, days if it must. What looks like a slow network is a program that does not read.",
		},
		Setup: "The guest and a host in the stack have a connection. One side writes until no more is taken, the other does not read. est are the guest's sockets in ESTABLISHED at the end.",
		Settings: []Setting{
			"net.ipv4.tcp_rmem=4096 65536 65536", "net.ipv4.tcp_wmem=4096 65536 65536", "net.ipv4.tcp_retries2=15",
		},
		Columns: []Column{{"est", "guest.established"}},
		Variants: []Variant{
			{
				Name: "peer-slow", Group: Problem, Title: "the peer does not read", Note: "the guest's write blocks",
				Why: "The guest's kernel has bytes that it may not send, and sends probes, which TcpExtTCPWinProbe counts. In ss the timer is called persist.",
				Steps: steps(guestFills, Step{
					Name: "probe", Wait: &Wait{Until: 20_000}, Within: map[string]Range{probes: {1, most}, "unsent.established": {1, most}},
				}),
				After: Figures{"guest.established": 1},
			},
			{
				Name: "guest-slow", Group: Problem, Title: "the guest does not read", Note: "its Recv-Q is full",
				Why:   "The guest's kernel tells the peer a window of 0: TcpExtTCPToZeroWindowAdv. What has come waits in the receive queue.",
				Steps: steps(stackFills, until("full", Figures{"guest.established": 1})),
				After: Figures{"guest.established": 1}, Within: map[string]Range{"unread.established": {10_000, most}, "TcpExtTCPToZeroWindowAdv": {1, most}},
			},
			{
				Name: "reads", Group: Cure, Title: "the guest reads after all", Note: "the window opens, it goes on",
				Why: "A read opens the window, TcpExtTCPFromZeroWindowAdv, and the peer goes on where it was.",
				Steps: steps(stackFills, Step{
					Name: "drain", Act: &Act{On: "open", Do: DoRead, Bytes: 200_000}, Expect: Figures{"ok": 1, "bytes": 200_000},
				}, Step{
					Name: "opens", Wait: &Wait{}, Within: map[string]Range{"TcpExtTCPFromZeroWindowAdv": {1, most}},
				}),
				After: Figures{"guest.established": 1},
			},
			{
				Name: "user-timeout", Group: Price, Title: "TCP_USER_TIMEOUT of 1 s", Note: "given up, though the peer lives",
				Why: "The program has said how long bytes may wait for an ACK. With a window of 0 that runs out too, although every probe is answered: the connection ends with ETIMEDOUT.",
				Steps: func() []Step {
					s := steps(guestFills, onKept("read", "open", DoReadEnd, 0, Figures{"ETIMEDOUT": 1}))
					s[1].Open.UserTimeout = 1000
					return s
				}(),
				After: Figures{"guest.established": 0},
			},
			{
				Name: "retries", Group: Belief, Title: "tcp_retries2=2", Note: "answered probes do not count",
				Belief: "A window of 0 ends a connection after tcp_retries2 probes.",
				Why:    "It counts what is not answered. Each probe gets its ACK, and the count begins anew.",

				Settings: []Setting{"net.ipv4.tcp_retries2=2"},
				Steps: steps(guestFills, Step{
					Name: "later", Wait: &Wait{Until: 30_000}, Within: map[string]Range{probes: {4, most}},
				}),
				After: Figures{"guest.established": 1},
			},
		},
		Moral: []string{
			"A connection that stands still with a full Send-Q on one side and a full Recv-Q on the other waits for a program to read, and nothing else ends it.",
		},
		Production: []Look{
			{"ss -tnoi state established '( sport = :PORT )'", "Recv-Q: bytes that the program has not read; Send-Q and timer:(persist,…): the peer does not read"},
			{"nstat -az TcpExtTCPToZeroWindowAdv TcpExtTCPFromZeroWindowAdv TcpExtTCPWinProbe", "windows of 0 that were told, that opened, and probes that were sent"},
			{"tcpdump -ni any 'tcp[14:2] = 0 and tcp[tcpflags] & tcp-rst = 0'", "segments with a window of 0"},
			{"tcpbox conn freeze NAME CONN", "a peer that stops reading, on demand"},
		},
		Sources: []Source{
			{"RFC 9293, section 3.8.6.1", "zero-window probes: they are sent for ever as long as they are answered"},
			{"RFC 5482", "TCP_USER_TIMEOUT"},
			{"Linux, net/ipv4/tcp_timer.c", "tcp_probe_timer"},
			{"Linux, net/ipv4/tcp_output.c", "tcp_select_window: TCPToZeroWindowAdv, TCPFromZeroWindowAdv"},
		},
	}
}
