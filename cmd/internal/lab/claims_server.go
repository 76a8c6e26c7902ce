package lab

// claimsServer are the claims about servers under load.
var claimsServer = []Claim{
	{
		sectionServer, "With syncookies the kernel needs no queue.", False,
		"With tcp_syncookies=1 the queue is used as long as there is room: with room for all {1} are in it, and {2w} cookie is sent. When " +
			"it is full, at {3}, every further SYN gets a cookie, and {4w} honest client that brings its own back is connected without a " +
			"place in the queue. Only with tcp_syncookies=2, which is for tests, is there {5w} half-open connection.",
		[]Shown{
			{"syn-flood", "no-queue", "honest.guest.syn-received", 48, 0},
			{"syn-flood", "no-queue", "TcpExtSyncookiesSent", 0, 0},
			{"syn-flood", "cookies", "flood.guest.syn-received", 17, 0},
			{"syn-flood", "cookies", "TcpExtSyncookiesRecv", 1, 0},
			{"syn-flood", "always", "flood.guest.syn-received", 0, 0},
		},
	},
	{
		sectionServer, "Thousands of sockets in SYN-RECEIVED, 7,314 say, are normal on a busy server.", False,
		"Where clients answer, one is in it for a round trip. How many there can be is bounded by the backlog that the program asks for: " +
			"{1} with a backlog of 16, and {2} with larger sysctls; when it is crowded, those that were answered three times are forgotten, and" +
			" {3} are left of {4w}. Thousands mean a flood, or clients whose ACK does not come.",
		[]Shown{
			{"syn-flood", "no-cookies", "flood.guest.syn-received", 17, 0},
			{"syn-flood", "somaxconn", "flood.guest.syn-received", 17, 0},
			{"syn-backlog", "crowded", "thin.guest.syn-received", 0, 4},
			{"syn-backlog", "crowded", "flood.guest.syn-received", 9, 0},
		},
	},
	{
		sectionServer, "Without syncookies a full queue is answered with RST.", False,
		"The SYN is dropped, and counted in TcpExtTCPReqQFullDrop, {1}; {2w} honest client hangs in SYN-SENT.",
		[]Shown{
			{"syn-flood", "no-cookies", "TcpExtTCPReqQFullDrop", 32, most},
			{"syn-flood", "no-cookies", "honest.pending", 1, 0},
		},
	},
	{
		sectionServer, "A larger tcp_max_syn_backlog, or somaxconn, makes the queue longer.", False,
		"They are upper bounds for what the program asks for. One that calls listen with 8 has room for {1w} half-open connections, with " +
			"large sysctls too, {2w}; one that asks for 4, for {3w} that wait to be accepted.",
		[]Shown{
			{"syn-backlog", "backlog-8", "flood.guest.syn-received", 9, 0},
			{"syn-backlog", "only-sysctl", "flood.guest.syn-received", 9, 0},
			{"accept-overflow", "only-sysctl", "queue.80", 5, 0},
		},
	},
	{
		sectionServer, "tcp_max_syn_backlog=16 means 16 half-open connections.", False,
		"It means {1}: without syncookies the last quarter is kept for addresses that the kernel knows.",
		[]Shown{
			{"syn-backlog", "syn-backlog-16", "flood.guest.syn-received", 13, 0},
		},
	},
	{
		sectionServer, "tcp_synack_retries is how many SYN+ACKs are sent.", HalfTrue,
		"It is how many are sent again: {1w} in all with 0, {2w} with 1, {3w} with 2; and the request is forgotten after 1, 3 and 7 s, give" +
			" or take what a busy machine does: {4s}, {5s} and {6s}.",
		[]Shown{
			{"syn-backlog", "retries-0", "gone.sent.guest.SYN-ACK", 1, 0},
			{"syn-backlog", "retries-1", "gone.sent.guest.SYN-ACK", 2, 0},
			{"syn-backlog", "retries-2", "gone.sent.guest.SYN-ACK", 3, 0},
			{"syn-backlog", "retries-0", "gone.ms", 500, 3000},
			{"syn-backlog", "retries-1", "gone.ms", 1500, 7000},
			{"syn-backlog", "retries-2", "gone.ms", 3500, 15000},
		},
	},
	{
		sectionServer, "A client that is ESTABLISHED has been accepted.", False,
		"It has the SYN+ACK. Where the program accepts too slowly, {1w} clients are ESTABLISHED, {2w} connections wait to be accepted, and " +
			"{3w} are in SYN-RECEIVED on the server, which has dropped their ACKs. With tcp_abort_on_overflow=1 those get an RST, and {4w} are " +
			"ESTABLISHED.",
		[]Shown{
			{"accept-overflow", "ack-dropped", "answer.stack.established", 8, 0},
			{"accept-overflow", "ack-dropped", "queue.80", 5, 0},
			{"accept-overflow", "ack-dropped", "answer.guest.syn-received", 3, 0},
			{"accept-overflow", "abort", "answer.stack.established", 5, 0},
		},
	},
}
