package lab

import "fmt"

// HostPortExhaustion is the lab of that name, on a host with a range of so many
// ports. ports is from 20 to 1000.
func HostPortExhaustion(ports int) Lab {
	const (
		server = "host.tcpbox.internal:8080"
		other  = "host.tcpbox.internal:8081"
	)
	more := ports + ports/2
	hostRange := func(n int) Setting {
		return Setting(fmt.Sprintf("host.net.ipv4.ip_local_port_range=%d %d", firstPort, firstPort+n-1))
	}
	serve := func(name, at string, then Then) Step {
		return Step{Name: name, In: InHost, Listen: &Listen{At: at, Then: then}}
	}
	connect := func(name string, when When, to string, times int, end Close, f Figures) Step {
		return Step{Name: name, When: when, Connect: &Connect{To: to, Times: times, Close: end}, Expect: f}
	}
	all := func(n int) Figures { return Figures{"ok": n} }
	// wall is one connection more than there are ports.
	wall := func(settings ...Setting) Variant {
		return Variant{
			Settings: settings,
			Steps: []Step{
				serve("server", ":8080", ThenReadEnd),
				connect("first", AtOnce, server, ports+1, ClientShutdown, Figures{"ok": ports, "ETIMEDOUT": 1, "first-failure": ports + 1}),
			},
			After:  Figures{upstreamTimeWait: ports},
			Within: map[string]Range{noPort: {1, most}},
		}
	}
	// free are more connections than there are ports, and none is refused.
	free := func(then Then, end Close, settings ...Setting) Variant {
		return Variant{
			Settings: settings,
			Steps: []Step{
				serve("server", ":8080", then),
				connect("first", AtOnce, server, more, end, all(more)),
			},
		}
	}
	row := func(v Variant, name string, group Group, title, note, belief, why string) Variant {
		v.Name, v.Group, v.Title, v.Note, v.Belief, v.Why = name, group, title, note, belief, why
		return v
	}
	with := func(v Variant, after Figures) Variant {
		v.After = after
		return v
	}

	return Lab{
		Name:     "host-port-exhaustion",
		Title:    "a proxy runs out of ports of its own, and its clients cannot see it",
		Question: "When a proxy opens a connection of its own for each of its clients', when do the ports of its host run out, and what does the client see?",
		Where:    OnHost,
		Story: []string{
			"A proxy that ends TCP, as a load balancer, a sidecar or tcpbox itself, has two connections where there was one: the client's, which " +
				"ends at the proxy, and its own to the server. The second takes an ephemeral port of the proxy's host. All clients share " +
				"these ports, and towards one address and port of a server there are as many connections at once as the range has ports, however many " +
				"the clients have themselves.",
			"Who closes first is passed on: where the client sends the first FIN, so does the proxy, and the TIME-WAIT of its own connection " +
				"holds the host's port for 60 seconds. So the wall of time-wait-exhaustion stands on the host once more.",
			"The client learns nothing of it. Its connect(2) does not fail with EADDRNOTAVAIL, for it has ports. tcpbox lacks a port and says nothing: the " +
				"SYN is dropped, and counted. The client's kernel repeats it, and gives up with ETIMEDOUT, as if the server were gone.",
			fmt.Sprintf("The lab gives the host %d ports. Its server is on the host's loopback, where Linux's default of tcp_tw_reuse, 2, would reuse ports; "+
				"it is set to 0, which to any other address is the same.", ports),
		},
		Setup: fmt.Sprintf("A guest connects to one server on the host, which has %d ports for what tcpbox dials. ok are the connections that succeeded, tw the sockets in "+
			"TIME-WAIT that tcpbox leaves on the host, drop the SYNs that it had to drop; a dot where it is not certain. A SYN that nobody answers is repeated twice.", ports),
		Peers: []string{},
		Settings: []Setting{
			hostRange(ports),
			"host.net.ipv4.tcp_tw_reuse=0",
			"host.net.ipv4.tcp_tw_reuse_delay=1000",
			"host.net.ipv4.tcp_timestamps=1",
			"host.net.ipv4.tcp_rfc1337=1",
			"net.ipv4.tcp_rfc1337=1",
			"net.ipv4.tcp_syn_retries=2",
			"net.ipv4.tcp_syn_linear_timeouts=0", // retries beside those
		},
		Columns: []Column{{"ok", "first.ok"}, {"again", "again.ok"}, {"tw", upstreamTimeWait}, {"drop", noPort}},
		Variants: []Variant{
			row(Variant{
				Steps: []Step{
					serve("server", ":8080", ThenHold),
					{Name: "first", Open: &Open{To: server, Times: more, AtOnce: true}, Expect: Figures{"ok": ports, "ETIMEDOUT": more - ports}},
				},
				After:  Figures{"upstream.established": ports, upstreamTimeWait: 0},
				Within: map[string]Range{noPort: {more - ports, most}},
			}, "open-at-once", Problem, "open at the same time", "a port for each; then silence", "",
				fmt.Sprintf("%d connections are begun at once and stay open. Each takes a port of the host; the other %d find none, whose SYNs are dropped. The guest's "+
					"own range, 28,232 ports, is hardly touched.", more, more-ports)),
			row(with(wall(), Figures{upstreamTimeWait: ports, stackTimeWait: 0}), "guest-first", Problem, "the guest closes first", "TIME-WAIT on the host too", "",
				fmt.Sprintf("One after the other, and only one is open at a time. But each leaves TIME-WAIT on the host, for the guest's FIN was passed on. Connection %d finds no "+
					"port, and would not for the rest of the 60 seconds.", ports+1)),
			row(with(free(ThenReadEnd, ClientShutdown, hostRange(2*ports)), Figures{upstreamTimeWait: more, noPort: 0}),
				"wider-range", Cure, "the host: twice the ports", "the wall is further away", "",
				"ip_local_port_range of the host, not of the sandbox, is what counts. It moves the wall, and does not remove it."),
			row(Variant{
				Settings: []Setting{"host.net.ipv4.tcp_tw_reuse=1"},
				Steps: []Step{
					serve("server", ":8080", ThenReadEnd),
					connect("first", AtOnce, server, ports, ClientShutdown, all(ports)),
					connect("again", AfterDelay, server, ports, ClientShutdown, all(ports)),
				},
			}, "reuse", Cure, "the host: tcp_tw_reuse=1", "each port once a second", "",
				"When the TIME-WAIT is older than tcp_tw_reuse_delay (1 s), the host's kernel gives its port out again. It is a setting of the host that tcpbox runs on: "+
					"tcpbox has no setting for it, as it does not change its host."),
			row(free(ThenReadEnd, ClientShutdown, "host.net.ipv4.tcp_tw_reuse=1", "host.net.ipv4.tcp_tw_reuse_delay=1"),
				"reuse-1ms", Cure, "the host: reuse, delay 1 ms", "no wall", "",
				"With tcp_tw_reuse_delay at 1 ms a port is free again when it is needed. How many are in TIME-WAIT at the end depends on which the kernel chose."),
			row(Variant{
				Steps: []Step{
					serve("server", ":8080", ThenReadEnd),
					serve("other", ":8081", ThenReadEnd),
					connect("first", AtOnce, server, ports, ClientShutdown, all(ports)),
					connect("again", AtOnce, other, ports, ClientShutdown, all(ports)),
				},
				After: Figures{upstreamTimeWait: 2 * ports, noPort: 0},
			}, "second-destination", Cure, "again to another port", "ports are counted per destination", "",
				"A port of the host is taken only for the same address and port of the server. A second one has all of them once more."),
			row(with(free(ThenClose, ServerFirst), Figures{upstreamTimeWait: 0}),
				"server-first", Cure, "the server closes first", "TIME-WAIT is the server's", "",
				"The server's FIN is passed on too: then the guest closes second, and so does tcpbox on the host. Neither holds TIME-WAIT towards the server."),
			row(with(free(ThenReadEnd, ClientReset), Figures{upstreamTimeWait: 0}),
				"linger-0", Price, "SO_LINGER 0 in the guest", "RST: what was in flight is lost", "",
				"An RST is passed on as RST, and leaves TIME-WAIT nowhere. What had not been delivered is thrown away, on both connections: the lab time-wait-exhaustion shows it."),
			row(wall("net.ipv4.ip_local_port_range=20000 60999"), "guest-range", Belief, "more ports in the guest", "not the guest's ports are short",
				"Ports are short, so the client needs a wider range.",
				"The guest had enough of them before. Its range is that of its own namespace; tcpbox dials from the host's."),
			row(Variant{
				Settings: []Setting{"guest.time-wait.timeout=1s"},
				Steps: []Step{
					serve("server", ":8080", ThenReadEnd),
					connect("first", AtOnce, server, ports, ClientShutdown, all(ports)),
					{Name: "gone", Wait: &Wait{Until: 30_000}, Expect: Figures{guestTimeWait: 0}},
					connect("again", AtOnce, server, 1, ClientShutdown, Figures{"ETIMEDOUT": 1, "first-failure": 1}),
				},
				After:  Figures{upstreamTimeWait: ports},
				Within: map[string]Range{noPort: {1, most}},
			}, "guest-time-wait", Belief, "no TIME-WAIT in the guest", "the host's stays",
				"TIME-WAIT is short in the client, so its ports come back.",
				"Here tcpbox ends the guest's TIME-WAIT after a second, and the guest has all its ports again. The host's socket has a TIME-WAIT of its own, the constant of 60 s of the host's kernel."),
			row(wall("stack.time-wait.timeout=0"), "stack-time-wait", Belief, "no TIME-WAIT in the stack", "the stack has no port of the host",
				"The proxy is tcpbox, so tcpbox's TIME-WAIT is to be shortened.",
				"stack.time-wait.timeout is for the stack's own endpoints, of which none is in TIME-WAIT here. The upstream socket is the host kernel's, which has no setting for it."),
			row(wall("host.net.ipv4.tcp_fin_timeout=1"), "fin-timeout", Belief, "the host: tcp_fin_timeout=1", "it is not about TIME-WAIT",
				"A lower tcp_fin_timeout on the proxy's host frees ports.",
				"It is the time that a closed socket waits in FIN-WAIT-2. TIME-WAIT is a constant."),
		},
		Moral: []string{
			fmt.Sprintf("With %d ports on the host, connection %d was not answered, and nothing in the client said why. Look at the proxy's host: its range, its TIME-WAITs, and "+
				"who closes first. What is set in the client does not help.", ports, ports+1),
		},
		Production: []Look{
			{"tcpbox stat NAME", "\"no port left\", in JSON no_port: SYNs that were dropped because the host had no port or descriptor left"},
			{"ss -Htan state time-wait | awk '{print $4}' | sort | uniq -c | sort -n", "on the host: TIME-WAITs by destination; one that comes near to the number of ports is the one that fails"},
			{"ss -Htn state established dst ADDRESS | wc -l", "on the host: connections that are open to one server at once"},
			{"sysctl net.ipv4.ip_local_port_range net.ipv4.tcp_tw_reuse", "on the host: how many ports there are, and whether they are reused"},
			{"nstat -az TcpExtTCPSynRetrans", "in the client: it repeats SYNs, and that is all it knows"},
		},
		Sources: []Source{
			{"RFC 9293, section 3.6", "who closes first goes through TIME-WAIT"},
			{"Linux, net/ipv4/inet_hashtables.c", "__inet_hash_connect looks for a port and returns EADDRNOTAVAIL"},
			{"Linux, net/ipv4/tcp_ipv4.c", "tcp_twsk_unique decides on the reuse of a port"},
			{"Linux, Documentation/networking/ip-sysctl.rst", "ip_local_port_range, tcp_tw_reuse, tcp_tw_reuse_delay, tcp_syn_retries"},
			{"tcpbox, docs/architecture.md", "who holds TIME-WAIT, on each leg"},
		},
	}
}
