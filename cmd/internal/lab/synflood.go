package lab

import "fmt"

// SYNFlood is the lab of a queue of half-open connections that somebody else has
// filled, with syncookies and without.
func SYNFlood() Lab {
	const backlog = 16
	const full = backlog + 1 // Linux takes one more
	const flood = 3 * backlog
	// steps fill the queue, and have an honest client come.
	steps := func(kept, answered int, honest Figures) []Step {
		fill := Figures{"ok": answered, "guest.syn-received": kept}
		if answered < flood {
			fill["pending"] = flood - answered
		}
		return []Step{
			{Name: "listen", Listen: &Listen{At: ":80", Backlog: backlog}},
			{Name: "flood", In: InStack, Open: &Open{To: ":80", Times: flood, AtOnce: true, Within: 700}, Expect: fill},
			{Name: "aside", Set: &Set{Settings: []Setting{honestPorts}}},
			{Name: "honest", In: InStack, Open: &Open{To: ":80", Times: 1, Within: 700}, Expect: honest, By: crowdedFor},
		}
	}
	const recv = "TcpExtSyncookiesRecv"
	const sent = "TcpExtSyncookiesSent"

	return Lab{
		Name:     "syn-flood",
		Title:    "a flood of SYNs, with syncookies and without",
		Question: "When somebody fills a listener's queue with half-open connections, does an honest client get through, and what do syncookies change?",
		Story: []string{
			"Each SYN takes a place in the listener's queue for as long as tcp_synack_retries says. Somebody who sends SYNs and never completes a handshake can keep the queue full at no cost, and every " +
				"honest client's SYN is dropped.",
			"With syncookies the kernel answers although the queue is full, and remembers nothing: what it has to know is in the sequence number of the SYN-ACK. An honest " +
				"client's ACK brings it back, and the connection is made from that. The queue stays full all the while, and the honest client never has an entry in it: no SYN-RECEIVED is " +
				"seen of it.",
		},
		Setup: fmt.Sprintf("A program in the guest listens with a backlog of %d. %d clients send SYN at once and never complete the handshake; then an honest client comes. half are the guest's "+
			"requests in SYN-RECEIVED, hon is 1 if that client is connected, recv the cookies that came back.", backlog, flood),
		Settings: []Setting{
			floodPorts, "net.ipv4.tcp_syncookies=1", "net.ipv4.tcp_max_syn_backlog=4096", "net.core.somaxconn=4096", "net.ipv4.tcp_synack_retries=5", "net.ipv4.tcp_timestamps=1",
		},
		Faults:  []string{silentACK},
		Columns: []Column{{"half", "honest.guest.syn-received"}, {"hon", "honest.ok"}, {"recv", recv}},
		Variants: []Variant{
			{
				Name: "no-cookies", Group: Problem, Title: "tcp_syncookies=0", Note: "the honest client hangs",
				Why: fmt.Sprintf("%d requests fill the queue: one more than its backlog. The honest client's SYN is dropped, like the rest of the flood's, and counted in TcpExtTCPReqQFullDrop.", full),

				Settings: []Setting{"net.ipv4.tcp_syncookies=0"},
				Steps:    steps(full, full, Figures{"pending": 1, "guest.syn-received": full}),
				After:    Figures{sent: 0, recv: 0},
				Within:   map[string]Range{"TcpExtTCPReqQFullDrop": {flood - full + 1, most}},
			},
			{
				Name: "cookies", Group: Cure, Title: "tcp_syncookies=1", Note: "it connects; the queue is full",
				Why: "Once the queue is full every SYN is answered with a cookie: the rest of the flood gets one each, and none of them comes back. The honest client's does, and its " +
					"connection is made without a place in the queue.",
				Steps:  steps(full, flood, Figures{"ok": 1, "guest.syn-received": full, "guest.established": 1}),
				After:  Figures{recv: 1, "TcpExtTCPReqQFullDrop": 0},
				Within: map[string]Range{sent: {flood - full + 1, most}, "TcpExtTCPReqQFullDoCookies": {flood - full + 1, most}},
			},
			{
				Name: "always", Group: Price, Title: "tcp_syncookies=2", Note: "no queue, and no SYN-RECEIVED",
				Why: "Every SYN is answered with a cookie, from the first on. Nothing is ever in SYN-RECEIVED. It is meant for tests: a cookie has no room for all options, and without timestamps it loses " +
					"window scaling and SACK; and a SYN-ACK that is lost is not repeated.",
				Settings: []Setting{"net.ipv4.tcp_syncookies=2"},
				Steps:    steps(0, flood, Figures{"ok": 1, "guest.syn-received": 0, "guest.established": 1}),
				After:    Figures{recv: 1},
				Within:   map[string]Range{sent: {flood + 1, most}},
			},
			{
				Name: "no-queue", Group: Belief, Title: "cookies, and room for all", Note: "none is sent",
				Belief: "With syncookies the kernel needs no queue.",
				Why:    "With tcp_syncookies=1 the queue is used as long as there is room, and nobody gets a cookie. Cookies are what comes when it is full.",
				Steps: func() []Step {
					s := steps(flood, flood, Figures{"ok": 1, "guest.syn-received": flood, "guest.established": 1})
					s[0].Listen.Backlog = 2 * flood
					return s
				}(),
				After: Figures{sent: 0, recv: 0},
			},
			{
				Name: "somaxconn", Group: Belief, Title: "no cookies, larger sysctls", Note: "the queue is the program's",
				Belief: "A larger tcp_max_syn_backlog stops a flood.",
				Why:    "The program's backlog is the limit that is met first; and a flood fills every queue in the end.",

				Settings: []Setting{"net.ipv4.tcp_syncookies=0", "net.ipv4.tcp_max_syn_backlog=65536", "net.core.somaxconn=65536"},
				Steps:    steps(full, full, Figures{"pending": 1, "guest.syn-received": full}),
				After:    Figures{sent: 0, recv: 0},
				Within:   map[string]Range{"TcpExtTCPReqQFullDrop": {flood - full + 1, most}},
			},
		},
		Moral: []string{
			"Leave tcp_syncookies at 1: it costs nothing until the queue is full, and then it is what lets honest clients in.",
		},
		Production: []Look{
			{"nstat -az TcpExtSyncookiesSent TcpExtSyncookiesRecv TcpExtSyncookiesFailed", "cookies that went out, that came back, and ACKs that were none"},
			{"nstat -az TcpExtTCPReqQFullDoCookies TcpExtTCPReqQFullDrop", "SYNs that found a queue full: answered with a cookie, or dropped"},
			{"dmesg | grep -i 'SYN flooding'", "the kernel says it once for each port"},
			{"ss -Htan state syn-recv | awk '{print $4}' | sort | uniq -c | sort -n | tail", "from where"},
			{"sysctl net.ipv4.tcp_syncookies", "1: when the queue is full"},
		},
		Sources: []Source{
			{"RFC 4987", "floods of SYNs, and what is done about them"},
			{"Linux, net/ipv4/tcp_input.c", "tcp_conn_request and tcp_syn_flood_action: when a cookie is sent"},
			{"Linux, net/ipv4/syncookies.c", "what is in a cookie"},
			{"Linux, Documentation/networking/ip-sysctl.rst", "tcp_syncookies"},
		},
	}
}
