package lab

import "fmt"

// firstPort begins the narrow range of ports. The end of what is usual for
// ephemeral ports (32768 to 60999) is further on.
const firstPort = 40000

// TimeWaitExhaustion is the lab of that name with a range of so many ports.
// ports is even, from 20 to 10000.
func TimeWaitExhaustion(ports int) Lab {
	const (
		server  = "server:80"
		other   = "other:80"
		closer  = "closer:80"
		website = "web:80"

		reuse   = "guest.time-wait.reuse="
		buckets = 10
	)
	times := ports + ports/2

	// some are the figures of a step in which the first ok connections stand
	// and the others find no port.
	some := func(ok int) Figures {
		f := Figures{}
		if ok > 0 {
			f["ok"] = ok
		}
		if ok < times {
			f["EADDRNOTAVAIL"] = times - ok
			f["first-failure"] = ok + 1
		}
		return f
	}
	connect := func(name string, when When, to string, end Close, ok int) Step {
		return Step{Name: name, When: when, Connect: &Connect{To: to, Times: times, Close: end}, Expect: some(ok)}
	}
	// thrice are the three steps of a row.
	thrice := func(to string, end Close, first, again, later int) []Step {
		return []Step{
			connect("first", AtOnce, to, end, first),
			connect("again", AtOnce, to, end, again),
			connect("later", AfterDelay, to, end, later),
		}
	}
	closesFirst := func(first, again, later int) []Step {
		return thrice(server, ClientShutdown, first, again, later)
	}
	// quickly keeps the reuse delay from passing during a step.
	quickly := func(steps []Step) []Step {
		for i := range steps {
			steps[i].Quick = true
		}
		return steps
	}
	fetch := func(name string, when When) Step {
		return Step{Name: name, When: when, Fetch: &Fetch{To: website, Times: times}, Expect: Figures{"ok": times, "connections": 1}}
	}
	portRange := func(n int) Setting {
		return Setting(fmt.Sprintf("net.ipv4.ip_local_port_range=%d %d", firstPort, firstPort+n-1))
	}
	// fromStack are three steps of the stack as the client of a server in the guest.
	fromStack := func(then Then, end Close, first, again, later int) []Step {
		steps := thrice(":80", end, first, again, later)
		for i := range steps {
			steps[i].In = InStack
		}
		return append([]Step{{Name: "listen", Listen: &Listen{At: ":80", Then: then}}}, steps...)
	}
	stackRange := []Setting{Setting(fmt.Sprintf("stack.port-range=%d-%d", firstPort, firstPort+ports-1))}
	waits := func(n int) Figures { return Figures{guestTimeWait: n} }

	return Lab{
		Name:     "time-wait-exhaustion",
		Title:    "a client that closes first runs out of ports",
		Question: "When a client connects to one server again and again and closes each connection first, when does connect(2) fail, and what cures it?",
		Story: []string{
			"Who sends the first FIN ends in TIME-WAIT, and stays there for 60 seconds on Linux. As long as it does, its local port is taken " +
				"for connections to the same address and port of the server. A client that closes first can therefore open no more connections " +
				"to one server in 60 seconds than it has ephemeral ports: 28,232 with Linux's own range, about 470 a second.",
			"The connection after that fails in connect(2) with EADDRNOTAVAIL, \"cannot assign requested address\". Nothing is wrong with the " +
				"network or with the server, and neither of them sees a packet of it.",
			fmt.Sprintf("The lab makes the range narrow, %d ports, so that the wall is met in milliseconds, and then changes one thing at a time.", ports),
		},
		Setup: fmt.Sprintf("A client with %d ports makes %d connections to one server, one after the other, and closes each first: at first, "+
			"again at once, and later, when the kernel's reuse delay has passed. The numbers are the connections that succeeded; tw is the "+
			"number of the client's sockets in TIME-WAIT at the end; a dot where it is not certain.", ports, times),
		Peers: []string{"server=discard:80", "other=discard:80", "closer=closer:80", "web=http:80"},
		Settings: []Setting{
			portRange(ports),
			reuse + "loopback",
			"net.ipv4.tcp_tw_reuse_delay=1000",
			"net.ipv4.tcp_timestamps=1",
			"net.ipv4.tcp_rfc1337=1", // on a busy machine a FIN comes twice, and the RST that answers the second ACK would end the TIME-WAIT
			"guest.fin-timeout=60s",
			"net.ipv4.tcp_max_tw_buckets=65536",
		},
		Columns: []Column{
			{"first", "first.ok"}, {"again", "again.ok"}, {"later", "later.ok"}, {"tw", guestTimeWait},
		},
		Variants: []Variant{
			{
				Name: "default", Group: Problem, Title: "as Linux comes", Note: "one connection for each port",
				Why: fmt.Sprintf("Every port carries one connection; connection %d finds none. tcp_tw_reuse is 2 by default, which "+
					"reuses ports only for connections over loopback.", ports+1),
				Steps: closesFirst(ports, 0, 0), After: waits(ports),
			},
			{
				Name: "reuse-off", Group: Problem, Title: "tcp_tw_reuse=0", Note: "the same",
				Why:      "No port in TIME-WAIT is reused. Beyond loopback this is the same as the default.",
				Settings: []Setting{reuse + "off"},
				Steps:    closesFirst(ports, 0, 0), After: waits(ports),
			},
			{
				Name: "stack-client", Group: Problem, Title: "the stack is the client", Note: "the same wall, in user space",
				Why: fmt.Sprintf("Connections through a published port are opened by the stack, with ports of its own, here %d. Where it closes first it holds TIME-WAIT, and "+
					"meets the same wall: EADDRNOTAVAIL.", ports),
				Settings: stackRange,
				Steps:    fromStack(ThenReadEnd, ClientShutdown, ports, 0, 0), After: Figures{stackTimeWait: ports, guestTimeWait: 0},
			},
			{
				Name: "reuse-on", Group: Cure, Title: "tcp_tw_reuse=1", Note: "each port once a second",
				Why: "The kernel gives out a port again whose connection to the same server is in TIME-WAIT, if both ends used TCP " +
					"timestamps and the TIME-WAIT is older than tcp_tw_reuse_delay (1 s). So nothing is won at once, and a second later " +
					"every port can be used again: the wall moves from ports in 60 seconds to ports in one second.",
				Settings: []Setting{reuse + "on"},
				Steps:    quickly(closesFirst(ports, 0, ports)), After: waits(ports),
			},
			{
				Name: "reuse-on-1ms", Group: Cure, Title: "tcp_tw_reuse=1, delay 1 ms", Note: "no wall",
				Why: "The delay is net.ipv4.tcp_tw_reuse_delay, in milliseconds; older kernels have it fixed at a second. With 1 ms a port is free again when it is needed. " +
					"How many of the ports are in TIME-WAIT at the end depends on which the kernel chose.",
				Settings: []Setting{reuse + "on", "net.ipv4.tcp_tw_reuse_delay=1"},
				Steps:    closesFirst(times, times, times),
			},
			{
				Name: "wider-range", Group: Cure, Title: "twice as many ports", Note: "the wall is further away",
				Why: "ip_local_port_range is the number of connections to one server in 60 seconds. A wider range moves the wall, and " +
					"does not remove it.",
				Settings: []Setting{portRange(2 * ports)},
				Steps:    closesFirst(times, 2*ports-times, 0), After: waits(2 * ports),
			},
			{
				Name: "second-destination", Group: Cure, Title: "again to another server", Note: "ports are counted per destination",
				Why: "A port is taken only for the same address and port of the server (RFC 9293: a connection is both ends). A second " +
					"address or port of the service has all the ports once more. The third step goes to the first server again.",
				Steps: []Step{
					connect("first", AtOnce, server, ClientShutdown, ports),
					connect("again", AtOnce, other, ClientShutdown, ports),
					connect("later", AfterDelay, server, ClientShutdown, 0),
				},
				After: waits(2 * ports),
			},
			{
				Name: "server-closes-first", Group: Cure, Title: "the server closes first", Note: "TIME-WAIT is the server's",
				Why: "Who closes first holds TIME-WAIT, so the client has none and its ports are free at once. The server's TIME-WAIT does not " +
					"refuse the client: a newer SYN on the same ports opens a new connection (RFC 6191). Not one SYN has to be repeated.",
				Steps: thrice(closer, ServerFirst, times, times, times), After: Figures{guestTimeWait: 0, synRetransmits: 0},
			},
			{
				Name: "keep-alive", Group: Cure, Title: "keep-alive", Note: "one connection, many requests",
				Why:   "The requests of a step go over one connection, so that a step leaves one TIME-WAIT. A pool of connections does this for any protocol.",
				Steps: []Step{fetch("first", AtOnce), fetch("again", AtOnce), fetch("later", AfterDelay)}, After: waits(3),
			},
			{
				Name: "shorter", Group: Cure, Title: "time-wait.timeout=2s", Note: "tcpbox ends TIME-WAIT early",
				Why: "Linux's TIME-WAIT is a constant, but it can be ended from outside: after two seconds tcpbox has the kernel destroy the socket. " +
					"Then every port is free again.",
				Settings: []Setting{"guest.time-wait.timeout=2s"},
				Steps: []Step{
					{Name: "first", Connect: &Connect{To: server, Times: times, Close: ClientShutdown}, Expect: some(ports), By: 1900},
					{Name: "gone", Wait: &Wait{For: 1000, Until: 30_000}, Expect: Figures{"guest.time-wait": 0}},
					{Name: "later", Connect: &Connect{To: server, Times: ports, Close: ClientShutdown}, Expect: Figures{"ok": ports}},
				},
			},
			{
				Name: "guest-serves", Group: Cure, Title: "the guest is the server", Note: "TIME-WAITs, and no wall",
				Why: fmt.Sprintf("Here the guest is the server and closes first: it has the TIME-WAITs, on its one port. The client, the stack, has %d ports, and none of them is "+
					"refused: a newer SYN opens a new connection where there is a TIME-WAIT.", ports),
				Settings: stackRange,
				Steps:    fromStack(ThenClose, ServerFirst, times, times, times),
			},
			{
				Name: "linger-0", Group: Price, Title: "SO_LINGER 0", Note: "RST: what was in flight is lost",
				Why: "close(2) with SO_LINGER 0 sends RST instead of FIN, and no TIME-WAIT follows. What had not been delivered is thrown away, " +
					"and the server's read fails with \"connection reset by peer\".",
				Steps: thrice(server, ClientReset, times, times, times), After: waits(0),
			},
			{
				Name: "linger-0-price", Group: Price, Title: "SO_LINGER 0, data under way", Note: "the server reads ECONNRESET",
				Why: "The client writes 1,000 bytes and closes with SO_LINGER 0 while nobody has read them. The server's read fails: what the client has written is lost, though write said that it was taken.",
				Steps: append(toStack("server:81"),
					onKept("send", "open", DoWrite, 1000, ok), onKept("reset", "open", DoReset, 0, ok),
					inStack(onKept("read", "accept", DoReadEnd, 0, Figures{"ECONNRESET": 1}))),
				After: waits(0),
			},
			{
				Name: "max-tw-buckets", Group: Price, Title: fmt.Sprintf("tcp_max_tw_buckets=%d", buckets), Note: "beyond it, no TIME-WAIT at all",
				Why: "Above the limit the kernel ends connections without TIME-WAIT and counts TcpExtTCPTimeWaitOverflow. The ports are free, and " +
					"what TIME-WAIT protects from can happen: a late segment of the old connection in the new one, a last ACK that nobody repeats.",
				Settings: []Setting{Setting(fmt.Sprintf("net.ipv4.tcp_max_tw_buckets=%d", buckets))},
				Steps:    closesFirst(times, times, times),
				After:    Figures{guestTimeWait: buckets, timeWaitOverflow: 3*times - buckets},
			},
			{
				Name: "recycle", Group: Price, Title: "tcp_tw_recycle on the stack", Note: "gone from Linux, for its price",
				Why: "What net.ipv4.tcp_tw_recycle did until Linux 4.12 removed it: TIME-WAIT ends after 3.5 retransmission timeouts. For a minute SYNs with an older timestamp from the same address are " +
					"dropped, which loses clients behind a NAT: the lab tw-recycle-nat shows it.",
				Settings: append(stackRange[:1:1], "stack.time-wait.recycle=on"),
				Steps: []Step{
					{Name: "listen", Listen: &Listen{At: ":80", Then: ThenReadEnd}},
					inStack(Step{Name: "first", Connect: &Connect{To: ":80", Times: ports, Close: ClientShutdown}, Expect: Figures{"ok": ports}}),
					{Name: "gone", Wait: &Wait{Until: 30_000}, Expect: Figures{"stack.time-wait": 0, "stack.fin-wait-2": 0}},
					inStack(Step{Name: "later", Connect: &Connect{To: ":80", Times: ports, Close: ClientShutdown}, Expect: Figures{"ok": ports}}),
				},
			},
			{
				Name: "fin-timeout", Group: Belief, Title: "tcp_fin_timeout=1", Note: "it is not about TIME-WAIT",
				Belief: "A lower tcp_fin_timeout shortens TIME-WAIT.",
				Why: "It is the time that a closed socket waits in FIN-WAIT-2 for the other side's FIN. Linux's TIME-WAIT is a constant of " +
					"60 seconds, TCP_TIMEWAIT_LEN, and there is no sysctl for it. The third step comes when a second has passed.",
				Settings: []Setting{"guest.fin-timeout=1s"},
				Steps:    thrice(server, ClientClose, ports, 0, 0), After: waits(ports),
			},
			{
				Name: "reuse-no-timestamps", Group: Belief, Title: "reuse=1, timestamps off", Note: "reuse needs TCP timestamps",
				Belief: "tcp_tw_reuse=1 is enough.",
				Why: "Without timestamps in the old connection the kernel cannot tell a late segment of it from a new one, and does not " +
					"reuse its port, at once or later. One side that does not offer them, such as a middlebox that strips them, is enough.",
				Settings: []Setting{reuse + "on", "net.ipv4.tcp_timestamps=0"},
				Steps:    closesFirst(ports, 0, 0), After: waits(ports),
			},
			{
				Name: "server-time-wait", Group: Belief, Title: "no TIME-WAIT on the server", Note: "the client holds it",
				Belief:   "TIME-WAIT is a matter of the server, so it is the server that must be tuned.",
				Why:      "TIME-WAIT belongs to who closed first. What the server does with its own is no help to a client that closes first.",
				Settings: []Setting{"stack.time-wait.timeout=0"},
				Steps:    closesFirst(ports, 0, 0), After: waits(ports),
			},
		},
		Client: &Yours{
			Setup: fmt.Sprintf("Your command runs with %d ports. It reaches http://server/ and http://other/, and is as expected if it ends with status 0. "+
				"opens are the connections that it began, tw its sockets in TIME-WAIT at the end.", ports),
			Peers: []string{"server=http:80", "other=http:80"},
			Rows: []string{
				"default", "reuse-off", "reuse-on", "reuse-on-1ms", "wider-range", "max-tw-buckets", "fin-timeout", "reuse-no-timestamps", "server-time-wait",
			},
			Steps:   []Step{{Name: "yours", Command: &Command{}, Expect: Figures{"ok": 1, "exit-status": 0}}},
			Columns: []Column{{"exit", "yours.exit-status"}, {"opens", "TcpActiveOpens"}, {"tw", guestTimeWait}},
		},
		Server: &Yours{
			Setup: fmt.Sprintf("Your command serves port 80 in the guest. The stack is its client: %d requests of HTTP/1.0, each over a connection that the server is to close "+
				"first. tw are the sockets in TIME-WAIT that the server has at the end: they take none of its ports, and refuse no client.", times),
			Rows: []string{"default", "max-tw-buckets"},
			Steps: []Step{
				{Name: "yours", Command: &Command{Stays: ":80"}, Expect: ok},
				{Name: "visits", In: InStack, Connect: &Connect{To: ":80", Times: times, Close: ServerFirst, Say: "GET / HTTP/1.0\r\n\r\n"}, Expect: Figures{"ok": times}},
			},
			Columns: []Column{{"ok", "visits.ok"}, {"tw", guestTimeWait}},
		},
		Moral: []string{
			fmt.Sprintf("With %d ports, connection %d failed with EADDRNOTAVAIL. Best cures: keep connections open, or let the server close "+
				"first; then tcp_tw_reuse=1, which needs timestamps and a second. tcp_fin_timeout does nothing.", ports, ports+1),
		},
		Production: []Look{
			{"ss -Htan state time-wait | awk '{print $4}' | sort | uniq -c | sort -n", "TIME-WAITs by destination; one that comes near to the number of ports is the one that fails"},
			{"sysctl net.ipv4.ip_local_port_range net.ipv4.tcp_tw_reuse", "how many ports there are, and whether they are reused"},
			{"cat /proc/net/sockstat", "tw: all TIME-WAITs of the network namespace"},
			{"nstat -az TcpExtTW TcpExtTWRecycled TcpExtTCPTimeWaitOverflow", "TIME-WAITs that ended, ports that were reused, TIME-WAITs that were refused"},
			{"ss -tin dst ADDRESS", "whether a connection has timestamps: \"ts\" in its second line"},
			{"tcpbox run --log - -- YOUR-CLIENT", "who closes first: CLOSE-WAIT on the stack's leg means your client, FIN-WAIT-1 the server"},
			{"tcpbox run --tcp guest.time-wait.reuse=on -- YOUR-CLIENT", "your client with the cure, and nothing else on the machine changed"},
		},
		Sources: []Source{
			{"RFC 9293, section 3.6", "who closes first goes through TIME-WAIT"},
			{"RFC 9293, section 3.6.1", "it stays for twice the maximum segment lifetime, and may accept a new SYN meanwhile"},
			{"RFC 6191", "timestamps tell a new SYN from an old segment, so that it can reopen a connection in TIME-WAIT"},
			{"Linux, include/net/tcp.h", "TCP_TIMEWAIT_LEN, 60 seconds"},
			{"Linux, net/ipv4/tcp_ipv4.c", "tcp_twsk_unique decides on the reuse of a port"},
			{"Linux, net/ipv4/inet_hashtables.c", "__inet_hash_connect looks for a port and returns EADDRNOTAVAIL"},
			{"Linux, Documentation/networking/ip-sysctl.rst", "ip_local_port_range, tcp_tw_reuse, tcp_tw_reuse_delay, tcp_fin_timeout, tcp_max_tw_buckets"},
		},
	}
}

// TimeWaitExhaustionScaled is the lab with the ports that Linux has.
func TimeWaitExhaustionScaled() Lab {
	const (
		ports = 60999 - 32768 + 1
		times = ports + 1000
		wall  = ports / 60 // connections a second
	)
	l := TimeWaitExhaustion(40)
	l.Setup = fmt.Sprintf("A client with Linux's own range, 32768 to 60999, makes %d connections to one server, one after the other, and closes each first: all of it "+
		"within the 60 seconds of the first TIME-WAIT. In production the wall is met wherever more than %d connections a second go to one server for a minute.", times, wall)
	for i, s := range l.Settings {
		if s.name() == "net.ipv4.ip_local_port_range" {
			l.Settings[i] = "net.ipv4.ip_local_port_range=32768 60999"
		}
	}
	l.Columns = []Column{{"first", "first.ok"}, {"tw", guestTimeWait}}
	l.Client, l.Server = nil, nil
	l.Moral = []string{fmt.Sprintf("%d ports in 60 seconds are %d connections a second to one server.", ports, wall)}
	keep := map[string]int{"default": ports, "reuse-on-1ms": times, "server-closes-first": times, "fin-timeout": ports, "max-tw-buckets": times}
	var rows []Variant
	for _, v := range l.Variants {
		ok, kept := keep[v.Name]
		if !kept {
			continue
		}
		step := v.Steps[0]
		connect := *step.Connect
		connect.Times = times
		step.Connect, step.Expect, step.By = &connect, Figures{"ok": ok}, 55_000
		if ok < times {
			step.Expect = Figures{"ok": ok, "EADDRNOTAVAIL": times - ok, "first-failure": ok + 1}
		}
		v.Steps, v.After = []Step{step}, nil
		if ok < times {
			v.After = Figures{guestTimeWait: ports}
		}
		rows = append(rows, v)
	}
	l.Variants = rows
	l.OneByOne = true
	return l
}
