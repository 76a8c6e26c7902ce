package knob

import "time"

// closeKnobs are those of the way to an end.
var closeKnobs = []Def{
	{
		Key:         "fin-timeout",
		Type:        Duration,
		MinDuration: time.Millisecond,
		MaxDuration: 24 * time.Hour,
		Default:     "60s",
		Does:        "how long FIN-WAIT-2 lasts once the endpoint's owner has closed it in both directions",
		Not: "it does not shorten TIME-WAIT, and does not cut a half-close, whose owner still reads: " +
			"that is half-close-timeout",
		Believed: "that it reduces the number of TIME-WAITs: it ends FIN-WAIT-2, which most connections pass in a round trip",
		Source:   "Linux, networking/ip-sysctl, tcp_fin_timeout; RFC 9293 has no such timer",
		Lab:      "fin-wait2-stuck",
		Guest: LegDef{
			Carries:  true,
			Text:     "net.ipv4.tcp_fin_timeout; the kernel does not go below 3.5 retransmission timeouts of the connection",
			Existing: "those that are closed from then on follow; those already closed keep the time they began with",
			Step:     time.Second,
		},
		Stack: LegDef{
			Carries:  true,
			Text:     "the timer of the stack's own endpoints",
			Existing: "only connections made from then on follow",
		},
		Upstream: LegDef{
			Carries:     true,
			Text:        "TCP_LINGER2 of each host socket; the kernel does not go below 3.5 retransmission timeouts of the connection",
			Existing:    "those that are closed from then on follow; those already closed keep the time they began with",
			Step:        time.Second,
			MaxDuration: 2 * time.Minute, // TCP_FIN_TIMEOUT_MAX; the kernel makes 120 of more without a word
		},
		sysctls: seconds("net.ipv4.tcp_fin_timeout"),
		says:    []says{{text: "fin-timeout is FIN-WAIT-2's and does not shorten TIME-WAIT, which is time-wait.timeout"}},
	},
	{
		Key:     "half-close-timeout",
		Type:    Duration,
		Never:   true,
		Default: "never",
		Does:    "how long a relayed connection of which one direction has ended may stay without a byte in the other before it is cut",
		Not:     "it does not touch a connection that is open both ways, nor one that both ends have closed",
		Source:  "RFC 9293, section 3.6.1, which lets a half-close last for ever",
		Guest: LegDef{
			Text: "a kernel has no timer for a half-closed connection whose owner still holds it; the stack cuts the guest's end with its own",
		},
		Stack: LegDef{
			Carries:  true,
			Text:     "the relay between the stack and upstream, which resets both",
			Existing: "only connections made from then on follow",
		},
		Upstream: LegDef{
			Text: "a kernel has no timer for a half-closed connection whose owner still holds it; the stack cuts the upstream end with its own",
		},
	},
	{
		Key:      "orphan.retries",
		Type:     Int,
		MinInt:   1,
		MaxInt:   255,
		Default:  "8",
		Does:     "how often a segment of a connection that its owner has closed is sent again before it is given up",
		Not:      "it does not touch a connection whose owner still holds it, which is data-retries",
		Believed: "that 0 means none: Linux makes 8 of it",
		Source:   "Linux, networking/ip-sysctl, tcp_orphan_retries",
		Lab:      "last-ack",
		Guest: LegDef{
			Carries:  true,
			Text:     "net.ipv4.tcp_orphan_retries; the kernel gives up sooner if it is short of memory",
			Existing: "from the next retransmission on",
		},
		Stack: LegDef{
			Carries: true,
			Text: "the stack's own endpoints; it counts while nothing at all comes from the guest, so that a closed window is left to orphan.timeout, " +
				"and looks once a second: what falls due until then is sent still, and then an RST",
			Existing: "those that are closed already follow too",
		},
		Upstream: LegDef{
			Text: "net.ipv4.tcp_orphan_retries of the host is for the whole host",
		},
		sysctls: number("net.ipv4.tcp_orphan_retries"),
	},
	{
		Key:      "orphan.max",
		Type:     Int,
		MaxInt:   1 << 20,
		Default:  "16384",
		Does:     "how many connections there may be whose owner has closed them and that are not in TIME-WAIT yet; the excess is reset, and counted",
		Not:      "it does not count TIME-WAITs, which is time-wait.max, nor a connection whose owner still holds it",
		Believed: "that closing a socket frees it: it holds what was not acknowledged until it is, or nobody waits for that any longer",
		Source:   "Linux, networking/ip-sysctl, tcp_max_orphans",
		Guest:    LegDef{Text: "net.ipv4.tcp_max_orphans of the host is for the whole host"},
		Stack: LegDef{
			Carries:  true,
			Text:     "the stack's own endpoints, exactly: the one that is closed last is reset; bytes that were not acknowledged are lost",
			Existing: "those that are closed already follow too, the newest first",
		},
		Upstream: LegDef{Text: "net.ipv4.tcp_max_orphans of the host is for the whole host"},
	},
	{
		Key:         "orphan.timeout",
		Type:        Duration,
		Never:       true,
		MaxDuration: 24 * time.Hour,
		Default:     "10m",
		Does:        "how long a connection that its owner has closed may stay in FIN-WAIT-1, CLOSING or LAST-ACK, however much of it is acknowledged",
		Not:         "it does not touch FIN-WAIT-2, which is fin-timeout, nor a connection whose owner still holds it",
		Believed:    "that fin-timeout ends these too: Linux has no such timer, and counts retransmissions instead",
		Source:      "RFC 9293, section 3.8.6.1, by which a peer with a closed window may hold a connection for ever",
		Lab:         "fin-wait1-pile",
		Guest:       LegDef{Text: "the kernel has no such timer; orphan.retries is what it has"},
		Stack: LegDef{
			Carries: true,
			Text: "the stack's own endpoints, looked at once a second; the guest has an RST, but for CLOSING, which ends after a minute " +
				"or time-wait.timeout in any case. 10m is more than Linux lets a closed window last, and lets a slow program read 4 MB at 7 kB/s",
			Existing: "those that are closed already follow too",
		},
		Upstream: LegDef{Text: "the host's kernel has no such timer"},
	},
	{
		Key:     "linger",
		Type:    Word,
		Words:   []string{"keep", "reset"},
		Default: "keep",
		Does:    "what becomes of a host socket that the relay closes: keep has the kernel deliver what is left and end in order, reset lets go of it at once, with RST",
		Not: "it does not reset a connection that both sides have ended: the FIN that completes it makes the kernel's " +
			"TIME-WAIT before anybody can close",
		Believed: "that SO_LINGER with 0 s spares every TIME-WAIT: it does for who closes before the peer's FIN has come, " +
			"and it throws away what the peer has not acknowledged",
		Source: "RFC 9293, section 3.10.5; Linux, socket(7), SO_LINGER",
		Lab:    "rst-vs-fin",
		Guest:  LegDef{Text: "a program sets SO_LINGER for its own sockets, and no sysctl does it for it"},
		Stack: LegDef{
			Carries:  true,
			Text:     "an RST when the relay or a peer closes a connection that the guest has not closed too; bytes that were not acknowledged are lost",
			Existing: "those that are closed from then on follow",
		},
		Upstream: LegDef{
			Carries: true,
			Text: "SO_LINGER with 0 s when the relay closes: nothing stays in FIN-WAIT, CLOSING or LAST-ACK; " +
				"bytes that were not acknowledged are lost",
			Existing: "those that are closed from then on follow",
		},
	},
}
