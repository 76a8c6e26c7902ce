package lab

// claimsStuck are the claims about states that stay.
var claimsStuck = []Claim{
	{
		sectionStuck, "The passive end is in CLOSE-WAIT after the FIN came and before it has sent the ACK.", False,
		"The ACK goes out as CLOSE-WAIT begins. It is the wait for the program to call close, and lasts as long as that takes: with a " +
			"program that does nothing for 1,000 s, {1s}.",
		[]Shown{{"teardown", "close-wait-before-ack", "stack.CLOSE-WAIT.ms", 1000001, 0}},
	},
	{
		sectionStuck, "CLOSE-WAIT comes from the program's code.", True,
		"The kernel waits for close, without a timer. Of three programs one forgets it: it has {1w} sockets in CLOSE-WAIT, the other two " +
			"have {2} and {3}. When it closes there is {4w} such socket.",
		[]Shown{
			{"close-wait-leak", "leak", "guest.close-wait.beta", 5, 0},
			{"close-wait-leak", "leak", "guest.close-wait.alpha", 0, 0},
			{"close-wait-leak", "leak", "guest.close-wait.gamma", 0, 0},
			{"close-wait-leak", "closes", "guest.close-wait", 0, 0},
		},
	},
	{
		sectionStuck, "tcp_fin_timeout, or keepalive, removes CLOSE-WAIT.", False,
		"There is no timer for it: {1w} sockets are there with tcp_fin_timeout at 1 s, and {2w} with keepalive after 1 s, as the program " +
			"has to ask for that and the other end answers the probes.",
		[]Shown{
			{"close-wait-leak", "fin-timeout", "guest.close-wait", 5, 0},
			{"close-wait-leak", "keepalive", "guest.close-wait", 5, 0},
		},
	},
	{
		sectionStuck, "tcp_fin_timeout is how long a socket is in FIN-WAIT-2.", HalfTrue,
		"Of one that the program has closed: its timer has 60 s, less what has passed, {1s}; with 1 s there is {2w} socket left when that " +
			"has passed. Of one that it has only shut down there is no such timer, and {3w} is left.",
		[]Shown{
			{"fin-wait2-stuck", "close", "close.timer.fin-wait-2", 40000, 60100},
			{"fin-wait2-stuck", "close-1s", "gone.guest.fin-wait-2", 0, 0},
			{"fin-wait2-stuck", "shutdown", "later.guest.fin-wait-2", 1, 0},
		},
	},
	{
		sectionStuck, "Many LAST-ACKs mean that the program hangs.", False,
		"The program has closed. They mean that the ACK of the FIN does not come: because the other end has gone, which takes {1s} of " +
			"repetitions with the default of tcp_orphan_retries, {2s} with 2, and {5s} with tcp_fin_timeout at 1 s; or because it was lost, " +
			"{3s}. Where it comes, LAST-ACK lasts {4s}.",
		[]Shown{
			{"last-ack", "gone", "stack.LAST-ACK.ms", 102200, 103700},
			{"last-ack", "fewer-retries", "stack.LAST-ACK.ms", 1400, 2900},
			{"last-ack", "ack-lost", "stack.LAST-ACK.ms", 303, 0},
			{"last-ack", "answered", "stack.LAST-ACK.ms", 2, 0},
			{"last-ack", "fin-timeout", "stack.LAST-ACK.ms", 102200, 103700},
		},
	},
	{
		sectionStuck, "Many FIN-WAIT-1s mean an attack, or a lower tcp_fin_timeout is needed.", False,
		"They mean that the ACK of the FIN is missing: the peer is gone, which lasts {1s}, with tcp_fin_timeout at 1 s {2s}, with " +
			"tcp_orphan_retries=2 {3s}; or it has stopped reading, and then there has been {4w} FIN as yet. When it reads again, there is {5w}.",
		[]Shown{
			{"fin-wait1-pile", "vanished", "guest.FIN-WAIT-1.ms", 102200, 103700},
			{"fin-wait1-pile", "fin-timeout", "guest.FIN-WAIT-1.ms", 102200, 103700},
			{"fin-wait1-pile", "fewer-retries", "guest.FIN-WAIT-1.ms", 1400, 2900},
			{"fin-wait1-pile", "stopped-reading", "guest.FIN+ACK", 0, 0},
			{"fin-wait1-pile", "reads-again", "guest.FIN+ACK", 1, 0},
		},
	},
	{
		sectionStuck, "SO_KEEPALIVE keeps a connection alive through a middlebox.", HalfTrue,
		"Not with its default of two hours: a middlebox that forgets after 350 s has done so, and {1w} probes are lost. So are {2w} with " +
			"400 s. With 60 s {3w} segment is lost, and all {4w} bytes arrive.",
		[]Shown{
			{"nat-idle-drop", "keepalive-default", "guest.lost", 9, 0},
			{"nat-idle-drop", "keepalive-400", "guest.lost", 9, 0},
			{"nat-idle-drop", "keepalive-60", "guest.lost", 0, 0},
			{"nat-idle-drop", "keepalive-60", "stack.read", 11, 0},
		},
	},
	{
		sectionStuck, "ESTABLISHED means that the other end is there.", False,
		"It means that nothing has been heard to the contrary. Of a connection that a middlebox has forgotten the other end has {1w} bytes," +
			" and both are ESTABLISHED a day later: nothing is sent, and {2w} segment is lost.",
		[]Shown{
			{"nat-idle-drop", "reader", "stack.read", 6, 0},
			{"nat-idle-drop", "reader", "guest.lost", 0, 0},
		},
	},
	{
		sectionStuck, "net.ipv4.tcp_keepalive_time switches keepalive on.", False,
		"It is for sockets that have SO_KEEPALIVE. With all of its sysctls at 1 s, and a program that has not asked, no timer runs ({1} ms " +
			"are on it), and {2w} connection is ESTABLISHED though its peer is gone. With SO_KEEPALIVE the read fails {3x}, with ETIMEDOUT.",
		[]Shown{
			{"half-open-keepalive", "only-sysctl", "later.timer.established", 0, 0},
			{"half-open-keepalive", "only-sysctl", "guest.established", 1, 0},
			{"half-open-keepalive", "keepalive", "read.ETIMEDOUT", 1, 0},
		},
	},
	{
		sectionStuck, "With SO_KEEPALIVE a dead peer is noticed soon.", False,
		"The first probe is two hours away: the timer has that left, less what has passed, {1s}. Nine probes, 75 s apart, follow.",
		[]Shown{
			{"half-open-keepalive", "default-times", "look.timer.established", 7000000, 7200100},
		},
	},
	{
		sectionStuck, "A window of 0 ends a connection after tcp_retries2 probes.", False,
		"Each probe is answered, and the count begins anew: with tcp_retries2=2 there were {1} probes, and {2w} connection stands. With " +
			"TCP_USER_TIMEOUT of a second it ends, {3x}, with ETIMEDOUT.",
		[]Shown{
			{"zero-window", "retries", "later.TcpExtTCPWinProbe", 4, most},
			{"zero-window", "retries", "guest.established", 1, 0},
			{"zero-window", "user-timeout", "read.ETIMEDOUT", 1, 0},
		},
	},
}
