package lab

import "fmt"

// floodPorts are the stack's ports of clients that never complete a handshake,
// and honestPorts those of clients that do.
const (
	floodPorts  = "stack.port-range=20000-29999"
	honestPorts = "stack.port-range=30000-39999"
	silentACK   = "drop ack in src=:20000-29999"
)

// crowdedFor is how long every request lives at least, also in a queue that is
// more than half full, less a second: its SYN-ACK is repeated twice.
const crowdedFor = 6000

// most is a bound for figures that only have a lower one.
const most = 1 << 30

// SYNBacklog is the lab of half-open connections, with so many retries of a
// SYN-ACK side by side.
func SYNBacklog(retries int) Lab {
	const flood = 20
	half := func(n int) Figures { return Figures{"guest.syn-received": n} }
	listen := func(backlog int) Step {
		return Step{Name: "listen", Listen: &Listen{At: ":80", Backlog: backlog}}
	}
	// fill begins the handshakes that are never completed.
	fill := func(kept int) Step {
		s := Step{
			Name: "flood", In: InStack, Open: &Open{To: ":80", Times: flood, AtOnce: true, Within: 700},
			Expect: Figures{"ok": kept, "guest.syn-received": kept},
			By:     crowdedFor,
		}
		if kept < flood {
			s.Expect["pending"] = flood - kept
		}
		return s
	}
	atLeast := func(name string, n int) map[string]Range { return map[string]Range{name: {n, most}} }

	l := Lab{
		Name:     "syn-backlog",
		Title:    "half-open connections: how many, and for how long",
		Question: "How many half-open connections does a listener keep, and how long does each live for each value of tcp_synack_retries?",
		Story: []string{
			"A listener answers a SYN with a SYN-ACK and remembers the request: SYN-RECEIVED. If the last ACK does not come, the kernel sends the SYN-ACK again after 1, 3, 7, " +
				"15 and 31 seconds, tcp_synack_retries times, and forgets the request after the next pause: 2^(retries+1)-1 seconds in all, 63 with the " +
				"default of 5.",
			"How many requests there may be has two limits. One is the backlog of listen(2), cut down to net.core.somaxconn: one more than that may be half-open, and as many may " +
				"wait for accept. The other one is tcp_max_syn_backlog: with syncookies off the kernel keeps its last quarter for addresses that it knows already. " +
				"Whatever does not fit is dropped without an answer.",
			"A queue that is more than half full is thinned out: the kernel repeats SYN-ACKs twice only, and forgets requests after 7 seconds, until half of the " +
				"queue is free again.",
			"The clients here are the stack's. They get the SYN-ACK and answer it, and a fault drops that ACK before the guest has it.",
		},
		Setup: fmt.Sprintf("A program in the guest listens. %d clients, or one, send SYN at once and never complete the handshake. half are the requests in SYN-RECEIVED when they have done so; "+
			"s-ack are the SYN-ACKs that one client got until the kernel had forgotten it, and ms how long that took after the first.", flood),
		Settings: []Setting{
			floodPorts, "net.ipv4.tcp_syncookies=0", "net.ipv4.tcp_max_syn_backlog=4096", "net.core.somaxconn=4096", "net.ipv4.tcp_synack_retries=5",
		},
		Faults: []string{silentACK},
		Columns: []Column{
			{"half", "flood.guest.syn-received"}, {"s-ack", "gone.sent.guest.SYN-ACK"}, {"ms", "gone.ms"},
		},
		Variants: []Variant{
			{
				Name: "backlog-8", Group: Problem, Title: "listen(8)", Note: "9, and the rest is dropped",
				Why: "The backlog of listen bounds the half-open connections: there may be one more. Each further SYN is dropped and counted as " +
					"TcpExtTCPReqQFullDrop.",
				Steps: []Step{listen(8), fill(9)}, Within: atLeast("TcpExtTCPReqQFullDrop", flood-9),
			},
			{
				Name: "syn-backlog-16", Group: Problem, Title: "tcp_max_syn_backlog=16", Note: "13: a quarter is kept back",
				Why: "With syncookies off the last quarter is for addresses that the kernel knows. The SYN that would be the 14th of 16 is dropped, and counted in " +
					"TcpExtListenDrops only.",
				Settings: []Setting{"net.ipv4.tcp_max_syn_backlog=16"},
				Steps:    []Step{listen(0), fill(13)}, After: Figures{"TcpExtTCPReqQFullDrop": 0}, Within: atLeast("TcpExtListenDrops", flood-13),
			},
			{
				Name: "room", Group: Cure, Title: "room for all", Note: "both limits are large",
				Why:   "The program asks for a large backlog, and somaxconn and tcp_max_syn_backlog allow it.",
				Steps: []Step{listen(0), fill(flood)}, After: Figures{"TcpExtListenDrops": 0},
			},
			{
				Name: "only-sysctl", Group: Belief, Title: "only the sysctls are raised", Note: "the program asks for 8",
				Belief: "Raising somaxconn and tcp_max_syn_backlog makes the queue longer.",
				Why:    "They are upper bounds. A program that calls listen with 8 has room for 9, whatever they are.",

				Settings: []Setting{"net.ipv4.tcp_max_syn_backlog=65536", "net.core.somaxconn=65536"},
				Steps:    []Step{listen(8), fill(9)}, Within: atLeast("TcpExtTCPReqQFullDrop", flood-9),
			},
			{
				Name: "crowded", Group: Belief, Title: "a crowded queue, retries=5", Note: "after 7 s half of it is gone",
				Belief: "With tcp_synack_retries=5 each half-open connection lasts 63 seconds.",
				Why: "Only where there is room. In a queue that is more than half full those that have been answered three times are forgotten, until it is " +
					"half empty.",
				Steps: []Step{
					listen(8), fill(9),
					{
						Name: "thin", Wait: &Wait{Until: 40_000},
						Within: map[string]Range{"guest.syn-received": {0, 4}},
					},
				},
			},
		},
		Moral: []string{
			"Half-open connections are bounded by the smaller of listen's backlog and three quarters of tcp_max_syn_backlog, and each lives for " +
				"2^(tcp_synack_retries+1)-1 seconds: 63 s with Linux's 5, not 180.",
		},
		Production: []Look{
			{"ss -Htan state syn-recv | wc -l", "half-open connections now"},
			{"nstat -az TcpExtTCPReqQFullDrop TcpExtTCPReqQFullDoCookies TcpExtListenDrops TcpExtTCPSynRetrans", "SYNs that were dropped or answered with cookies because a queue was full; all drops at listeners; SYN-ACKs that were repeated"},
			{"ss -ltn", "Send-Q of a listener is its backlog as it was cut down"},
			{"sysctl net.core.somaxconn net.ipv4.tcp_max_syn_backlog net.ipv4.tcp_synack_retries net.ipv4.tcp_syncookies", "the limits"},
		},
		Sources: []Source{
			{"RFC 9293, section 3.10.7.2", "LISTEN: a SYN is answered, and the state is SYN-RECEIVED"},
			{"Linux, net/ipv4/tcp_input.c", "tcp_conn_request: the two limits, and the quarter that is kept back"},
			{"Linux, net/ipv4/inet_connection_sock.c", "reqsk_timer_handler: SYN-ACKs are repeated with doubled pauses"},
			{"Linux, Documentation/networking/ip-sysctl.rst", "tcp_synack_retries, tcp_max_syn_backlog, somaxconn"},
		},
	}
	for n := range retries + 1 {
		life := 1<<(n+1) - 1
		l.Variants = append(l.Variants, Variant{
			Name: fmt.Sprint("retries-", n), Group: Cure, Title: fmt.Sprintf("tcp_synack_retries=%d", n),
			Note: fmt.Sprintf("%d SYN-ACKs, forgotten after %d s", n+1, life),
			Why: fmt.Sprintf("The SYN-ACK is sent %d times in all; the pauses double from one second on. After the last of them the kernel forgets "+
				"the request: %d seconds after the SYN.", n+1, life),
			Settings: []Setting{Setting(fmt.Sprint("net.ipv4.tcp_synack_retries=", n))},
			Steps: []Step{
				listen(0),
				{Name: "silent", In: InStack, Open: &Open{To: ":80", Times: 1}, Expect: ok},
				{
					Name: "gone", Wait: &Wait{Until: life*1000 + 20_000}, Expect: Figures{"guest.syn-received": 0, "sent.guest.SYN-ACK": n + 1},
					Within: map[string]Range{"ms": {life * 500, life*2000 + 1000}},
				},
			},
			After: half(0),
		})
	}
	return l
}
