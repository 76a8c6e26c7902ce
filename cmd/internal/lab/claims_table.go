package lab

// claims are those of the page, in the order of their sections.
var claims = []Claim{
	{
		sectionOpening, "Three segments open a connection.", True,
		"SYN, SYN+ACK, ACK: {1} SYN of the client, {2} SYN+ACK of the server, {3} ACK of the client. Each SYN has to be answered, and the " +
			"server's answer and its own SYN go in one segment. Four are what it would be without that.",
		[]Shown{
			{"handshake", "three-segments", "guest.SYN", 1, 0},
			{"handshake", "three-segments", "stack.SYN+ACK", 1, 0},
			{"handshake", "three-segments", "guest.ACK", 1, 0},
		},
	},
	{
		sectionOpening, "Both ends are ESTABLISHED when the last ACK has been sent.", False,
		"The client is so when the SYN+ACK is there, before it sends that ACK. The server is so when the ACK arrives: with one that was " +
			"under way for 10 s it stayed in SYN-RECEIVED for {1s}. If the ACK is lost, the first data takes its place.",
		[]Shown{{"handshake", "both-at-once", "stack.SYN-RECEIVED.ms", 10002, 0}},
	},
	{
		sectionOpening, "tcp_synack_retries=5 keeps a half-open connection for about 180 seconds.", False,
		"{1s}. The first SYN+ACK is repeated after 1 s, then after twice as long each time, and the wait for the sixth is 32 s: " +
			"1+2+4+8+16+32. It was about 180 s when the first wait was 3 s, up to Linux 3.0.",
		[]Shown{{"handshake", "synack-retries-180s", "stack.SYN-RECEIVED.ms", 63000, 0}, {"handshake", "synack-retries-180s", "stack.SYN+ACK", 6, 0}},
	},
	{
		sectionOpening, "A connection is in SYN-RECEIVED for 30 seconds to 2 minutes.", HalfTrue,
		"Only where nobody answers, and then for a time that follows from the number of retries: {1s} with 5, the default, and {2s} with 1. " +
			"Where the client answers it is a round trip, here {3s}.",
		[]Shown{
			{"handshake", "synack-unanswered", "stack.SYN-RECEIVED.ms", 63000, 0},
			{"handshake", "synack-retries-1", "stack.SYN-RECEIVED.ms", 3000, 0},
			{"handshake", "three-segments", "stack.SYN-RECEIVED.ms", 2, 0},
		},
	},
	{
		sectionOpening, "connect() to a host that does not answer fails after the time that tcp_syn_retries says, in seconds.", False,
		"It is a number of repetitions: with 6, the default, {2} SYNs go out, and connect fails after {1s}. A host where nobody listens " +
			"answers with RST, and connect fails at once.",
		[]Shown{{"handshake", "no-answer", "guest.SYN-SENT.ms", 127000, 0}, {"handshake", "no-answer", "guest.SYN", 7, 0}},
	},
	{
		sectionClosing, "A close takes four segments.", HalfTrue,
		"Each direction has its own FIN and its own ACK, so it does where they go one by one: of the {1} segments of the client two are of the close, " +
			"of the {2} of the server too. With ACK and FIN in one the server sends {3} in all; and a close may be {4} RST.",
		[]Shown{
			{"teardown", "client-first", "guest.segments", 4, 0},
			{"teardown", "client-first", "stack.segments", 3, 0},
			{"teardown", "merged", "stack.segments", 2, 0},
			{"teardown", "linger-0", "guest.RST+ACK", 1, 0},
		},
	},
	{
		sectionClosing, "A capture of a close often shows three segments.", True,
		"Nothing is lost then. An ACK may wait for a moment; if the program closes within it, ACK and FIN go as one " +
			"segment, {1} FIN+ACK, and the client goes from FIN-WAIT-1 to TIME-WAIT at once: FIN-WAIT-2 is entered {2} times.",
		[]Shown{{"teardown", "merged", "stack.FIN+ACK", 1, 0}, {"teardown", "merged", "guest.FIN-WAIT-2", 0, 0}},
	},
	{
		sectionClosing, "Every close() gives FIN, ACK, FIN, ACK.", False,
		"One with nothing unread does: {1} FIN and {2} RST. With 1,000 bytes that the program has not read it is {3} FIN and {4} RST; with " +
			"SO_LINGER 0 {5} FIN and {6} RST, whatever was read.",
		[]Shown{
			{"rst-vs-fin", "every-close", "sent.guest.FIN", 1, 0},
			{"rst-vs-fin", "every-close", "sent.guest.RST", 0, 0},
			{"rst-vs-fin", "unread", "sent.guest.FIN", 0, 0},
			{"rst-vs-fin", "unread", "sent.guest.RST", 1, 0},
			{"rst-vs-fin", "linger-0", "sent.guest.FIN", 0, 0},
			{"rst-vs-fin", "linger-0", "sent.guest.RST", 1, 0},
		},
	},
	{
		sectionClosing, "After a FIN nothing can be sent to whoever sent it.", HalfTrue,
		"A FIN ends one direction. After shutdown the other end may answer for as long as it likes: the client entered TIME-WAIT {1} time, " +
			"with the answer read. After close nobody reads any more, and bytes that come are answered with {2} RST.",
		[]Shown{{"teardown", "half-close", "guest.TIME-WAIT", 1, 0}, {"rst-vs-fin", "bytes-after-close", "sent.guest.RST", 1, 0}},
	},
	{
		sectionTimeWait, "TIME-WAIT is the server's.", False,
		"It is that of whoever sends the first FIN. Where the client closes first, the client enters it {1} time and the server {2} times; where the " +
			"server does, it is {3} and {4}.",
		[]Shown{
			{"teardown", "client-first", "guest.TIME-WAIT", 1, 0},
			{"teardown", "client-first", "stack.TIME-WAIT", 0, 0},
			{"teardown", "server-first", "guest.TIME-WAIT", 0, 0},
			{"teardown", "server-first", "stack.TIME-WAIT", 1, 0},
		},
	},
	{
		sectionTimeWait, "A lower tcp_fin_timeout reduces TIME-WAITs.", False,
		"It is about FIN-WAIT-2. With tcp_fin_timeout at 1 s the kernel's timer of a socket in TIME-WAIT has {1s} left; and {2} of {3} ports are in " +
			"TIME-WAIT when the second has passed, so that {4} connections succeed.",
		[]Shown{
			{"fin-wait2-stuck", "time-wait", "closed.timer.time-wait", 40000, 60100},
			{"time-wait-exhaustion", "fin-timeout", guestTimeWait, 40, 0},
			{"time-wait-exhaustion", "fin-timeout", "first.ok", 40, 0},
			{"time-wait-exhaustion", "fin-timeout", "later.ok", 0, 0},
		},
	},
	{
		sectionTimeWait, "Sockets in TIME-WAIT cannot be reused.", False,
		"With tcp_tw_reuse=1 the kernel gives their ports out again, when a second has passed: {1} at first, {2} at once, {3} later. With " +
			"tcp_tw_reuse_delay at 1 ms there is no wall: {4} of 60 at once.",
		[]Shown{
			{"time-wait-exhaustion", "reuse-on", "first.ok", 40, 0},
			{"time-wait-exhaustion", "reuse-on", "again.ok", 0, 0},
			{"time-wait-exhaustion", "reuse-on", "later.ok", 40, 0},
			{"time-wait-exhaustion", "reuse-on-1ms", "again.ok", 60, 0},
		},
	},
	{
		sectionTimeWait, "tcp_tw_reuse is off by default.", HalfTrue,
		"It is 2 since Linux 4.19: on for connections over loopback alone. To any other server it is as if it were off: {1} ports, and of the 60 " +
			"connections that come at once {2} succeed, as with 0, {3}.",
		[]Shown{
			{"time-wait-exhaustion", "default", "first.ok", 40, 0},
			{"time-wait-exhaustion", "default", "again.ok", 0, 0},
			{"time-wait-exhaustion", "reuse-off", "again.ok", 0, 0},
		},
	},
	{
		sectionTimeWait, "tcp_tw_reuse=1 is all that is needed.", False,
		"It needs TCP timestamps, by which a late segment is told from a new one. Without them {1} connections succeed later, and {2} with " +
			"them. A middlebox that strips the option is enough.",
		[]Shown{
			{"time-wait-exhaustion", "reuse-no-timestamps", "later.ok", 0, 0},
			{"time-wait-exhaustion", "reuse-on", "later.ok", 40, 0},
		},
	},
	{
		sectionTimeWait, "TIME-WAIT lasts 2 MSL, which is 4 minutes.", HalfTrue,
		"It is twice the maximum segment lifetime, which RFC 9293 takes to be 2 minutes and which hosts do not. Linux has a constant of 60 s, which no " +
			"sysctl changes: its timer has {1s} left when it begins on a busy machine. The stack has {2s}, and any time that time-wait.timeout says. Windows " +
			"had 240 s by default.",
		[]Shown{
			{"fin-wait2-stuck", "time-wait", "closed.timer.time-wait", 40000, 60100},
			{"teardown", "client-first", "guest.TIME-WAIT.ms", 60000, 0},
		},
	},
	{
		sectionTimeWait, "A server that closes first collects TIME-WAITs and runs out of ports.", False,
		"Its sockets share the one port on which it listens. Where the server closes first, {1} of 60 connections succeed again and again, and the client " +
			"holds {2} sockets in TIME-WAIT. A server runs out of memory, or of tcp_max_tw_buckets, not of ports; who runs out of ports is a " +
			"client that closes first, and a proxy is one.",
		[]Shown{
			{"time-wait-exhaustion", "server-closes-first", "later.ok", 60, 0},
			{"time-wait-exhaustion", "server-closes-first", guestTimeWait, 0, 0},
		},
	},
	{
		sectionTimeWait, "SO_LINGER 0 is a cure for TIME-WAIT.", HalfTrue,
		"There is none: {1}. But the close is an RST, and what the other end has not read by then it may never read: its call fails, {2} of {2} times, with " +
			"ECONNRESET.",
		[]Shown{
			{"time-wait-exhaustion", "linger-0", guestTimeWait, 0, 0},
			{"rst-vs-fin", "linger-0", "see.ECONNRESET", 1, 0},
		},
	},
	{
		sectionTimeWait, "A lower tcp_max_tw_buckets cures TIME-WAIT exhaustion.", HalfTrue,
		"Above it the kernel ends connections without TIME-WAIT: {1} of 60 connections succeed each time, {2} sockets are in TIME-WAIT, and {3} were " +
			"refused one. What TIME-WAIT protects from can then happen.",
		[]Shown{
			{"time-wait-exhaustion", "max-tw-buckets", "later.ok", 60, 0},
			{"time-wait-exhaustion", "max-tw-buckets", guestTimeWait, 10, 0},
			{"time-wait-exhaustion", "max-tw-buckets", timeWaitOverflow, 170, 0},
		},
	},
	{
		sectionStuck, "The passive end is in CLOSE-WAIT after the FIN came and before it has sent the ACK.", False,
		"The ACK goes out as CLOSE-WAIT begins. It is the wait for the program to call close, and lasts as long as that takes: {1s}, of 1,000 in which " +
			"the program did nothing.",
		[]Shown{{"teardown", "close-wait-before-ack", "stack.CLOSE-WAIT.ms", 1000001, 0}},
	},
	{
		sectionStuck, "CLOSE-WAIT comes from the program's code.", True,
		"The kernel waits for close, without a timer. Of three programs one forgets it: it has {1} sockets in CLOSE-WAIT, the other two {2} and {3}. " +
			"With close all have {4}.",
		[]Shown{
			{"close-wait-leak", "leak", "guest.close-wait.beta", 5, 0},
			{"close-wait-leak", "leak", "guest.close-wait.alpha", 0, 0},
			{"close-wait-leak", "leak", "guest.close-wait.gamma", 0, 0},
			{"close-wait-leak", "closes", "guest.close-wait", 0, 0},
		},
	},
	{
		sectionStuck, "tcp_fin_timeout, or keepalive, removes CLOSE-WAIT.", False,
		"There is no timer for it: {1} sockets are there with tcp_fin_timeout at 1 s, and {2} with keepalive after 1 s, as the program has to ask for that and the " +
			"other end answers the probes.",
		[]Shown{
			{"close-wait-leak", "fin-timeout", "guest.close-wait", 5, 0},
			{"close-wait-leak", "keepalive", "guest.close-wait", 5, 0},
		},
	},
	{
		sectionStuck, "tcp_fin_timeout is how long a socket is in FIN-WAIT-2.", HalfTrue,
		"Of one that the program has closed: its timer has {1s} left with the default, and with 1 s it is gone when that has passed: {2} are left. Of " +
			"one that it has only shut down there is no such timer, and {3} is left.",
		[]Shown{
			{"fin-wait2-stuck", "close", "close.timer.fin-wait-2", 40000, 60100},
			{"fin-wait2-stuck", "close-1s", "gone.guest.fin-wait-2", 0, 0},
			{"fin-wait2-stuck", "shutdown", "later.guest.fin-wait-2", 1, 0},
		},
	},
	{
		sectionHeader, "The acknowledgement number is the sequence number plus 1.", HalfTrue,
		"For a SYN and for a FIN, which take one number each. Data takes as many as it has bytes: {1} bytes of the client and {2} of the server were " +
			"acknowledged with their own numbers. An ACK without data takes none.",
		[]Shown{
			{"handshake", "ack-is-seq-plus-1", "guest.payload", 6, 0},
			{"handshake", "ack-is-seq-plus-1", "stack.payload", 1000, 0},
		},
	},
}
