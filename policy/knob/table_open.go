package knob

// openKnobs are those of the handshake.
var openKnobs = []Def{
	{
		Key:     "syn-backlog",
		Type:    Int,
		MinInt:  1,
		MaxInt:  1 << 20,
		Default: "1024",
		Does:    "how many handshakes may be half-open (SYN-RECEIVED) at once",
		Not: "it does not count dials in progress, for which the guest is still in SYN-SENT, nor connections that wait " +
			"for accept(2), which listen(2) and accept-backlog limit",
		Believed: "that more of it is a cure for a program that does not accept: those wait in another queue, accept-backlog",
		Source:   "RFC 4987, section 3; Linux, networking/ip-sysctl, tcp_max_syn_backlog",
		Lab:      "syn-backlog",
		Guest: LegDef{
			Carries: true,
			Text: "net.ipv4.tcp_max_syn_backlog, which is a hint to the kernel and not a count: with 16 and listen(128), " +
				"Linux 6.18 held 13 half-open handshakes without SYN cookies and 129 with them",
			Existing: "from the next SYN on",
		},
		Stack: LegDef{
			Carries:  true,
			Text:     "the stack's admission, exactly; it has no SYN cookies, and drops and counts the SYNs beyond",
			Existing: "from the next SYN on",
		},
		Upstream: LegDef{
			Text: "the upstream leg dials and has no listener",
		},
		sysctls: number("net.ipv4.tcp_max_syn_backlog"),
	},
	{
		Key:     "syn-overflow",
		Type:    Word,
		Words:   []string{"drop", "reset"},
		Default: "drop",
		Does:    "what becomes of a SYN beyond syn-backlog, pending.max, pending.per-destination, pending.per-source or syn-rate: dropped, so that its sender tries again, or answered with RST",
		Not:     "it does not speak of the last ACK of a handshake, which is accept-overflow",
		Source:  "RFC 4987, section 3",
		Guest:   LegDef{Text: "the kernel always drops them"},
		Stack: LegDef{
			Carries:  true,
			Text:     "SYNs from the guest; reset makes its connect(2) fail at once with ECONNREFUSED",
			Existing: "from the next SYN on",
		},
		Upstream: LegDef{
			Text: "the upstream leg dials and has no listener",
		},
	},
	{
		Key:     "syn-rate",
		Type:    Int,
		MaxInt:  1 << 20,
		Default: "0",
		Does:    "how many connections may be begun in a second, and as many at once after a rest; 0 means no limit",
		Not:     "SYNs that are sent again while a dial is in progress do not count",
		Source:  "RFC 4987, section 3",
		Guest:   LegDef{Text: "the kernel has no such limit: syn-backlog and accept-backlog are what it has"},
		Stack: LegDef{
			Carries:  true,
			Text:     "SYNs from the guest, in all",
			Existing: "from the next SYN on",
		},
		Upstream: LegDef{
			Text: "the upstream leg dials and has no listener",
		},
	},
	{
		Key:     "syn-flood",
		Type:    Int,
		MaxInt:  1 << 20,
		Default: "100",
		Does: "how many SYNs that are dropped in a second, because of any limit, count as a flood: its begin and, when ten seconds have had " +
			"fewer, its end are told, and counted; 0 means never",
		Not:      "it drops nothing itself and lets nothing in: the limits are syn-backlog, pending.max, pending.per-destination, pending.per-source, syn-rate and that of connections",
		Believed: "that many SYNs are a flood: those that the limits let in are connections",
		Source:   "RFC 4987, section 2",
		Guest:    LegDef{Text: "the kernel tells of a flood on a listener in its own log, and has no number for when"},
		Stack: LegDef{
			Carries:  true,
			Text:     "SYNs from the guest, looked at once a second",
			Existing: "from the next second on",
		},
		Upstream: LegDef{
			Text: "the upstream leg dials and has no listener",
		},
	},
	{
		Key:     "pending.max",
		Type:    Int,
		MinInt:  1,
		MaxInt:  1 << 20,
		Default: "8192",
		Does:    "how many dials may be in progress at once, for which the guest is in SYN-SENT",
		Not:     "it does not count handshakes that are half-open, which is syn-backlog",
		Source:  "docs/architecture.md",
		Guest:   LegDef{Text: "the kernel has no such limit: syn-backlog and accept-backlog are what it has"},
		Stack: LegDef{
			Carries:  true,
			Text:     "SYNs from the guest, exactly",
			Existing: "from the next SYN on",
		},
		Upstream: LegDef{
			Text: "the upstream leg dials and has no listener",
		},
	},
	{
		Key:     "pending.per-destination",
		Type:    Int,
		MaxInt:  1 << 20,
		Default: "0",
		Does:    "how many dials to one destination may be in progress at once, so that one that never answers does not starve the others; 0 means half of pending.max",
		Not:     "it does not allow more than pending.max in all",
		Source:  "docs/architecture.md",
		Guest:   LegDef{Text: "the kernel has no such limit: syn-backlog and accept-backlog are what it has"},
		Stack: LegDef{
			Carries:  true,
			Text:     "SYNs from the guest, by address and port of the destination",
			Existing: "from the next SYN on",
		},
		Upstream: LegDef{
			Text: "the upstream leg dials and has no listener",
		},
	},
	{
		Key:     "pending.per-source",
		Type:    Int,
		MaxInt:  1 << 20,
		Default: "0",
		Does: "how many connections of one source may be opening at once, dials in progress and half-open handshakes together, " +
			"so that one that floods leaves room for the others; 0 means no limit",
		Not: "it does not count connections that stand; of IPv6 a source is a network of 64 bits, of which whoever has one address has all",
		Believed: "that it stops a flood: whoever makes up sources has as many as the addresses that he may send from, " +
			"and those that are not the sandbox's own are dropped in any case",
		Source: "RFC 4987, section 3",
		Guest:  LegDef{Text: "the kernel has no such limit: syn-backlog and accept-backlog are what it has"},
		Stack: LegDef{
			Carries: true,
			Text: "SYNs from the guest, by its address, of which a program with raw sockets or a namespace of somebody else's may have several; " +
				"and connections to published ports, by the client's address: one that is too many is reset, for the host has accepted it",
			Existing: "from the next SYN on; what is opening already does not count",
		},
		Upstream: LegDef{
			Text: "the upstream leg dials and has no listener",
		},
	},
	{
		Key:     "accept-backlog",
		Type:    Int,
		MinInt:  1,
		MaxInt:  1 << 16,
		Default: "4096",
		Does:    "how many connections may wait for accept(2) at one listener, at most; listen(2) asks for less or more",
		Not:     "it does not count half-open handshakes, which is syn-backlog",
		Source:  "Linux, networking/ip-sysctl, somaxconn",
		Lab:     "accept-overflow",
		Guest: LegDef{
			Carries:  true,
			Text:     "net.core.somaxconn; net.ipv4.tcp_abort_on_overflow says what becomes of more",
			Existing: "listeners follow at their next listen(2)",
		},
		Stack: LegDef{
			Text: "connections are dialled before the stack answers for them, so that none waits",
		},
		Upstream: LegDef{
			Text: "the upstream leg dials and has no listener",
		},
		sysctls: number("net.core.somaxconn"),
	},
	{
		Key:     "accept-overflow",
		Type:    Word,
		Words:   []string{"drop", "reset"},
		Default: "drop",
		Does:    "what becomes of the last ACK of a handshake when the listener's queue is full: dropped, so that the peer tries again, or answered with RST",
		Not:     "it does not speak of SYNs beyond syn-backlog",
		Source:  "Linux, networking/ip-sysctl, tcp_abort_on_overflow",
		Lab:     "accept-overflow",
		Guest: LegDef{
			Carries:  true,
			Text:     "net.ipv4.tcp_abort_on_overflow",
			Existing: "from the next handshake on",
		},
		Stack: LegDef{
			Text: "connections are dialled before the stack answers for them, so that none waits",
		},
		Upstream: LegDef{
			Text: "the upstream leg dials and has no listener",
		},
		sysctls: words("net.ipv4.tcp_abort_on_overflow", map[string]string{"drop": "0", "reset": "1"}),
	},
	{
		Key:      "syn-cookies",
		Type:     Word,
		Words:    []string{"off", "on", "always"},
		Default:  "on",
		Does:     "whether a listener answers SYNs without remembering them when its half-open handshakes are too many",
		Not:      "connections made so have no SYN-RECEIVED entry, and lose options that the cookie has no bits for",
		Believed: "that they need no queue: a connection made so still waits for accept(2)",
		Source:   "RFC 4987, section 3.6; Linux, networking/ip-sysctl, tcp_syncookies",
		Lab:      "syn-flood",
		Guest: LegDef{
			Carries:  true,
			Text:     "net.ipv4.tcp_syncookies",
			Existing: "from the next SYN on",
		},
		Stack: LegDef{
			Text: "the stack dials before it answers a SYN and has no cookies; syn-backlog limits its half-open handshakes",
		},
		Upstream: LegDef{
			Text: "the upstream leg dials and has no listener",
		},
		sysctls: words("net.ipv4.tcp_syncookies", map[string]string{"off": "0", "on": "1", "always": "2"}),
	},
	{
		Key:     "syn-retries",
		Type:    Int,
		MinInt:  1,
		MaxInt:  127,
		Default: "6",
		Does:    "how often a SYN is sent again before connect(2) fails with ETIMEDOUT: 1 s after the first, then at double the distance, so that n take 2^(n+1)-1 s",
		Not:     "it does not shorten the time between two of them",
		Source:  "RFC 9293, section 3.8.3; Linux, networking/ip-sysctl, tcp_syn_retries",
		Lab:     "handshake",
		Guest: LegDef{
			Carries: true,
			Text: "net.ipv4.tcp_syn_retries; since Linux 6.5 the first four come a second apart (tcp_syn_linear_timeouts), " +
				"and as many as fit into the same time: with 1, 2 in 3 s; with 2, 5 in 7 s",
			Existing: "from the next retransmission on",
		},
		Stack: LegDef{
			Carries:  true,
			Text:     "SYNs to the guest, for published ports",
			Existing: "from the next retransmission on",
			MaxInt:   6, // the stack gives up after 127 s in any case
		},
		Upstream: LegDef{
			Text: "a dial lasts as long as the guest goes on asking, so that guest.syn-retries ends it too",
		},
		sysctls: number("net.ipv4.tcp_syn_retries"),
	},
	{
		Key:      "synack-retries",
		Type:     Int,
		MinInt:   1,
		MaxInt:   127,
		Default:  "5",
		Does:     "how often a SYN-ACK is sent again before the half-open handshake is given up",
		Not:      "it does not shorten the time between two of them, which doubles from 1 s",
		Believed: "that 5 means about 180 s: it means 63 s",
		Source:   "Linux, networking/ip-sysctl, tcp_synack_retries",
		Lab:      "handshake",
		Guest: LegDef{
			Carries:  true,
			Text:     "net.ipv4.tcp_synack_retries",
			Existing: "from the next retransmission on",
		},
		Stack: LegDef{
			Carries:  true,
			Text:     "the handshakes that the guest begins",
			Existing: "from the next retransmission on",
			MaxInt:   6, // the stack gives up after 127 s in any case
		},
		Upstream: LegDef{
			Text: "the upstream leg dials and sends no SYN-ACK",
		},
		sysctls: number("net.ipv4.tcp_synack_retries"),
	},
	{
		Key:     "fast-open",
		Type:    Word,
		Words:   []string{"off", "client", "server", "both"},
		Default: "client",
		Does:    "who may carry data in a SYN (TCP Fast Open)",
		Not:     "a program must ask for it as well, with MSG_FASTOPEN, TCP_FASTOPEN_CONNECT or TCP_FASTOPEN",
		Source:  "RFC 7413; Linux, networking/ip-sysctl, tcp_fastopen",
		Guest: LegDef{
			Carries:  true,
			Text:     "net.ipv4.tcp_fastopen; the stack gives no cookies, so that it works between two programs of the guest",
			Existing: "from the next connect or listen on",
		},
		Stack: LegDef{
			Text: "the stack has no Fast Open: it answers such a SYN without its data, and the guest's kernel sends it again",
		},
		Upstream: LegDef{
			Text: "a host socket connects before there is a byte to carry",
		},
		sysctls: words("net.ipv4.tcp_fastopen", map[string]string{"off": "0", "client": "1", "server": "2", "both": "3"}),
	},
}
