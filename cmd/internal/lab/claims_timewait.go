package lab

// claimsTimeWait are the claims about TIME-WAIT.
var claimsTimeWait = []Claim{
	{
		sectionTimeWait, "TIME-WAIT is the server's.", False,
		"It is that of whoever sends the first FIN. Where the client closes first, the client enters it {1x} and the server {2x}; where the" +
			" server does, the client {3x} and the server {4x}. A server without any TIME-WAIT is no help to a client that closes first: {5} of" +
			" its 40 ports are in it.",
		[]Shown{
			{"teardown", "client-first", "guest.TIME-WAIT", 1, 0},
			{"teardown", "client-first", "stack.TIME-WAIT", 0, 0},
			{"teardown", "server-first", "guest.TIME-WAIT", 0, 0},
			{"teardown", "server-first", "stack.TIME-WAIT", 1, 0},
			{"time-wait-exhaustion", "server-time-wait", guestTimeWait, 40, 0},
		},
	},
	{
		sectionTimeWait, "A lower tcp_fin_timeout reduces TIME-WAITs.", False,
		"It is about FIN-WAIT-2. With tcp_fin_timeout at 1 s the kernel's timer of a socket in TIME-WAIT has 60 s left, less what has " +
			"passed meanwhile: {1s}. Of {3} ports {2} are in TIME-WAIT when the second has passed, and {4w} connection succeeds.",
		[]Shown{
			{"fin-wait2-stuck", "time-wait", "closed.timer.time-wait", 40000, 60100},
			{"time-wait-exhaustion", "fin-timeout", guestTimeWait, 40, 0},
			{"time-wait-exhaustion", "fin-timeout", "first.ok", 40, 0},
			{"time-wait-exhaustion", "fin-timeout", "later.ok", 0, 0},
		},
	},
	{
		sectionTimeWait, "A client that runs out of ports needs a wider range.", HalfTrue,
		"It moves the wall, where the ports are the client's: twice the range is {1} TIME-WAITs instead of {2}. Behind a proxy it is the proxy's " +
			"host whose ports are short, and the wider range of the client changes nothing: {3} connections succeed, as before, {4}, and the next gets no answer.",
		[]Shown{
			{"time-wait-exhaustion", "wider-range", guestTimeWait, 80, 0},
			{"time-wait-exhaustion", "default", guestTimeWait, 40, 0},
			{"host-port-exhaustion", "guest-range", "first.ok", 40, 0},
			{"host-port-exhaustion", "guest-first", "first.ok", 40, 0},
			{"host-port-exhaustion", "guest-range", "first.ETIMEDOUT", 1, 0},
		},
	},
	{
		sectionTimeWait, "Sockets in TIME-WAIT cannot be reused.", False,
		"With tcp_tw_reuse=1 the kernel gives their ports out again, when a second has passed: of 40 ports {1} at first, {2} at once, {3} " +
			"later. With tcp_tw_reuse_delay at 1 ms there is no wall: {4} of 60 at once.",
		[]Shown{
			{"time-wait-exhaustion", "reuse-on", "first.ok", 40, 0},
			{"time-wait-exhaustion", "reuse-on", "again.ok", 0, 0},
			{"time-wait-exhaustion", "reuse-on", "later.ok", 40, 0},
			{"time-wait-exhaustion", "reuse-on-1ms", "again.ok", 60, 0},
		},
	},
	{
		sectionTimeWait, "tcp_tw_reuse is off by default.", HalfTrue,
		"It is 2 since Linux 4.19: on for connections over loopback alone. To any other server it is as if it were off: when {1} ports have" +
			" been used, {2} of 60 connections succeed, as with tcp_tw_reuse=0, {3}.",
		[]Shown{
			{"time-wait-exhaustion", "default", "first.ok", 40, 0},
			{"time-wait-exhaustion", "default", "again.ok", 0, 0},
			{"time-wait-exhaustion", "reuse-off", "again.ok", 0, 0},
		},
	},
	{
		sectionTimeWait, "tcp_tw_reuse=1 is all that is needed.", False,
		"It needs TCP timestamps, by which a late segment is told from a new one. Without them {1w} connection succeeds a second later, " +
			"with them {2}. A middlebox that strips the option is enough.",
		[]Shown{
			{"time-wait-exhaustion", "reuse-no-timestamps", "later.ok", 0, 0},
			{"time-wait-exhaustion", "reuse-on", "later.ok", 40, 0},
		},
	},
	{
		sectionTimeWait, "TIME-WAIT lasts 2 MSL, which is 4 minutes.", HalfTrue,
		"It is twice the maximum segment lifetime, which RFC 9293 takes to be 2 minutes and which hosts do not. Linux has a constant of 60 " +
			"s, which no sysctl changes: its timer has that left, less what has passed, {1s}; with tcp_fin_timeout at 120 s too, {2s}. The " +
			"stack has {3s}, or any time that time-wait.timeout says: with 1 s there is {4w} socket left when it has passed. Windows had 240 s " +
			"once.",
		[]Shown{
			{"time-wait-length", "default", "look.timer.time-wait", 40000, 60100},
			{"time-wait-length", "fin-timeout-long", "look.timer.time-wait", 40000, 60100},
			{"teardown", "client-first", "guest.TIME-WAIT.ms", 60000, 0},
			{"time-wait-length", "stack-1s", "gone.stack.time-wait", 0, 0},
			{"time-wait-length", "fin-timeout-short", "look.timer.time-wait", 40000, 60100},
		},
	},
	{
		sectionTimeWait, "tcp_tw_reuse shortens TIME-WAIT.", False,
		"It lets connect take the port of one. The timer is the same: 60 s, less what has passed, {1s}.",
		[]Shown{{"time-wait-length", "reuse", "look.timer.time-wait", 40000, 60100}},
	},
	{
		sectionTimeWait, "A server that closes first collects TIME-WAITs and runs out of ports.", HalfTrue,
		"It collects them, and they share the one port on which it listens: with the guest as the server {1} of 60 connections succeed, " +
			"again and again. What it runs out of is memory, or tcp_max_tw_buckets. Who runs out of ports is a client that closes first: " +
			"connect fails {2} times of 60 at first, {3} times at once; a proxy is one; where the server closes first, its client has {4w} " +
			"socket in TIME-WAIT.",
		[]Shown{
			{"time-wait-exhaustion", "guest-serves", "later.ok", 60, 0},
			{"time-wait-exhaustion", "default", "first.EADDRNOTAVAIL", 20, 0},
			{"time-wait-exhaustion", "default", "again.EADDRNOTAVAIL", 60, 0},
			{"time-wait-exhaustion", "server-closes-first", guestTimeWait, 0, 0},
		},
	},
	{
		sectionTimeWait, "SO_LINGER 0 is a cure for TIME-WAIT.", HalfTrue,
		"There is {1w} TIME-WAIT. But the close is an RST, and what the other end has not read by then it may never read: its call fails, " +
			"{2x}, with ECONNRESET.",
		[]Shown{
			{"time-wait-exhaustion", "linger-0", guestTimeWait, 0, 0},
			{"rst-vs-fin", "linger-0", "see.ECONNRESET", 1, 0},
		},
	},
	{
		sectionTimeWait, "A lower tcp_max_tw_buckets cures TIME-WAIT exhaustion.", HalfTrue,
		"Above it the kernel ends connections without TIME-WAIT: {1} of 60 connections succeed each time, {2} sockets are in TIME-WAIT, and" +
			" {3} were refused one. What TIME-WAIT protects from can then happen.",
		[]Shown{
			{"time-wait-exhaustion", "max-tw-buckets", "later.ok", 60, 0},
			{"time-wait-exhaustion", "max-tw-buckets", guestTimeWait, 10, 0},
			{"time-wait-exhaustion", "max-tw-buckets", timeWaitOverflow, 170, 0},
		},
	},
	{
		sectionTimeWait, "TIME-WAIT is there to answer a FIN that comes again.", True,
		"If the last ACK is lost, the other end sends its FIN again, {1w} in all, and TIME-WAIT answers it with an ACK: there is {2w} RST. " +
			"Without TIME-WAIT there is {3w}, and the other end's program gets ECONNRESET though all bytes have arrived.",
		[]Shown{
			{"why-time-wait-1", "lost", "stack.FIN+ACK", 2, 0},
			{"why-time-wait-1", "lost", "guest.RST", 0, 0},
			{"why-time-wait-1", "no-time-wait", "guest.RST", 1, 0},
		},
	},
	{
		sectionTimeWait, "Without TIME-WAIT, old segments corrupt the next connection.", HalfTrue,
		"They can: where there is a next connection on the same ports, {1w} in all, and it expects the very number, its program reads what " +
			"another one once said. With TIME-WAIT there is none as yet, only the first {2w}. With timestamps there are {3w}, and the old " +
			"segment is known by its age. And of a connection that has sent little the number does not fit: both read {4} bytes, all of them " +
			"their own.",
		[]Shown{
			{"why-time-wait-2", "no-time-wait", "guest.ESTABLISHED", 2, 0},
			{"why-time-wait-2", "client-waits", "guest.ESTABLISHED", 1, 0},
			{"why-time-wait-2", "paws", "guest.ESTABLISHED", 2, 0},
			{"why-time-wait-2", "slow", "stack.read", 36, 0},
		},
	},
	{
		sectionTimeWait, "A lower tcp_max_tw_buckets only saves memory.", False,
		"Beyond it there is no TIME-WAIT ({1s}), and a FIN that comes again is answered with {2w} RST.",
		[]Shown{
			{"why-time-wait-1", "no-buckets", "guest.TIME-WAIT.ms", 0, 0},
			{"why-time-wait-1", "no-buckets", "guest.RST", 1, 0},
		},
	},
	{
		sectionTimeWait, "Nothing ends a TIME-WAIT early.", False,
		"A late segment may: it is answered with an ACK, the other end knows nothing of that and says RST, and by default TIME-WAIT ends, " +
			"here after {1s} (RFC 1337). With tcp_rfc1337=1 it lasts {2s}. A forged RST has to have the very number.",
		[]Shown{
			{"rfc1337", "off", "guest.TIME-WAIT.ms", 4, 0},
			{"rfc1337", "on", "guest.TIME-WAIT.ms", 60000, 0},
			{"rfc1337", "wrong-number", "stack.RST", 0, 0},
		},
	},
	{
		sectionTimeWait, "A server in TIME-WAIT refuses a client that comes from the same port.", False,
		"Not if its SYN is newer, by its timestamp or by its number: {1w} connections are established, and TIME-WAIT has lasted {2s} (RFC " +
			"6191). One that is not newer gets an ACK, and TIME-WAIT goes on, {3s}. It is the client's own TIME-WAIT that keeps it from its " +
			"port: {4w} connection is established then.",
		[]Shown{
			{"port-reuse-rfc6191", "newer-timestamp", "stack.ESTABLISHED", 2, 0},
			{"port-reuse-rfc6191", "newer-timestamp", "stack.TIME-WAIT.ms", 12, 0},
			{"port-reuse-rfc6191", "older-number", "stack.TIME-WAIT.ms", 60000, 0},
			{"port-reuse-rfc6191", "own-time-wait", "stack.ESTABLISHED", 1, 0},
		},
	},
	{
		sectionTimeWait, "tcp_tw_recycle=1 shortens TIME-WAIT, and that is all.", HalfTrue,
		"On a server it does: {1s} instead of {2s}, if there are timestamps. But the server then remembers the newest timestamp of each " +
			"address, and of two clients behind one address it drops the SYNs of the one whose clock is behind, silently: for the two it has " +
			"sent {3w} SYN+ACKs, the second when a minute was over and the SYN had come three times in vain. Linux removed it in 4.12.",
		[]Shown{
			{"tw-recycle-nat", "recycle", "stack.TIME-WAIT.ms", 700, 1700},
			{"tw-recycle-nat", "no-timestamps", "stack.TIME-WAIT.ms", 60000, 0},
			{"tw-recycle-nat", "recycle", "stack.SYN+ACK", 2, 0},
		},
	},
	{
		sectionTimeWait, "tcp_tw_reuse is as dangerous as tcp_tw_recycle.", False,
		"It is about the end that connects, which may use a port of its own again. It looks at no SYN that comes in: of two clients behind " +
			"one address {1w} are served, as without either, {2w}.",
		[]Shown{
			{"tw-recycle-nat", "reuse", "stack.ESTABLISHED", 2, 0},
			{"tw-recycle-nat", "off", "stack.ESTABLISHED", 2, 0},
		},
	},
}
