package knob

import (
	"time"

	"tcpbox/stack/tcpstate"
)

// noReuse is what reuse says that cannot be.
const noReuse = "time-wait.reuse has no effect on the guest's leg without TCP timestamps: Linux takes over only a port whose connection had them"

// timeWaitKnobs are those of TIME-WAIT.
var timeWaitKnobs = []Def{
	{
		Key:      "time-wait.timeout",
		Type:     Duration,
		Default:  "60s",
		Does:     "how long TIME-WAIT lasts; 0 ends it at once, and with it the protection against old duplicates (RFC 1337)",
		Not:      "it does not touch FIN-WAIT-2, which is fin-timeout",
		Believed: "that net.ipv4.tcp_fin_timeout shortens TIME-WAIT: it does not; Linux has a constant of 60 s",
		Source:   "RFC 9293, section 3.6.1",
		Lab:      "time-wait-exhaustion",
		Guest: LegDef{
			Carries: true,
			Text: "the kernel's constant of 60 s has no sysctl: tcpbox ends what is shorter through sock_diag, " +
				"about a tenth of a second late, and nothing makes it longer",
			Existing:    "those in TIME-WAIT follow too",
			MaxDuration: time.Minute,
		},
		Stack: LegDef{
			Carries:  true,
			Text:     "the timer of the stack's own endpoints",
			Existing: "those that enter TIME-WAIT from then on follow; those already in it keep the time they began with",
		},
		Upstream: LegDef{
			Text: "the host kernel's TIME-WAIT is a constant of 60 s, for which there is no socket option",
		},
	},
	{
		Key:      "time-wait.reuse",
		Type:     Word,
		Words:    []string{"off", "loopback", "on"},
		Default:  "loopback",
		Does:     "whether an active open may take over a local port whose connection to the same destination is in TIME-WAIT",
		Not:      "it does not shorten TIME-WAIT, and does nothing for who accepts, which is time-wait.newer-syn",
		Believed: "that it helps a server with many TIME-WAITs: it is for who connects, and on Linux only with TCP timestamps",
		Source:   "RFC 6191; Linux, networking/ip-sysctl, tcp_tw_reuse",
		Lab:      "time-wait-exhaustion",
		Guest: LegDef{
			Carries: true,
			Text: "net.ipv4.tcp_tw_reuse; the kernel reuses only what had TCP timestamps, and only after " +
				"net.ipv4.tcp_tw_reuse_delay (1 s; older kernels have it fixed)",
			Existing: "from the next connect on",
		},
		Stack: LegDef{
			Carries: true,
			Text: "connections that the stack opens towards the guest, from ports that it picks itself, once none is free; " +
				"it needs no timestamps; loopback is off there, for the stack connects to nothing but the guest",
			Existing: "from the next connect on",
		},
		Upstream: LegDef{
			Text: "net.ipv4.tcp_tw_reuse of the host is for the whole host, and there is no socket option",
		},
		sysctls: words("net.ipv4.tcp_tw_reuse", map[string]string{"off": "0", "on": "1", "loopback": "2"}),
		says: []says{
			{values: []string{"loopback", "on"}, text: "time-wait.reuse is for who connects and does nothing for listeners, which is time-wait.newer-syn"},
			{leg: tcpstate.Guest, values: []string{"loopback", "on"}, with: "timestamps=off", text: noReuse},
		},
	},
	{
		Key:         "time-wait.reuse-delay",
		Type:        Duration,
		MinDuration: time.Millisecond,
		MaxDuration: time.Minute,
		Default:     "1s",
		Does:        "how long a connection must have been in TIME-WAIT before an active open takes over its port",
		Not:         "it does nothing while time-wait.reuse is off",
		Source:      "Linux, networking/ip-sysctl, tcp_tw_reuse_delay (6.14)",
		Lab:         "time-wait-exhaustion",
		Guest: LegDef{
			Carries:  true,
			Text:     "net.ipv4.tcp_tw_reuse_delay, which kernels before 6.14 have as a constant of 1 s",
			Existing: "from the next connect on",
			Step:     time.Millisecond,
		},
		Stack: LegDef{
			Carries:  true,
			Text:     "how long an endpoint has been in TIME-WAIT when a connection that the stack opens takes its port",
			Existing: "from the next connect on",
		},
		Upstream: LegDef{
			Text: "the host's is for the whole host, and there is no socket option",
		},
		sysctls: milliseconds("net.ipv4.tcp_tw_reuse_delay"),
		says: []says{
			{leg: tcpstate.Guest, with: "time-wait.reuse=off", text: "guest.time-wait.reuse-delay does nothing while guest.time-wait.reuse is off"},
			{leg: tcpstate.Stack, with: "time-wait.reuse=off", text: "stack.time-wait.reuse-delay does nothing while stack.time-wait.reuse is off"},
		},
	},
	{
		Key:      "time-wait.max",
		Type:     Int,
		MaxInt:   1 << 20,
		Default:  "65536",
		Does:     "how many connections may be in TIME-WAIT at once; of more, the newest end without it",
		Not:      "it frees no port that is in TIME-WAIT already",
		Believed: "that a small tcp_max_tw_buckets cures exhaustion: it does, by giving up the protection TIME-WAIT is there for",
		Source:   "Linux, networking/ip-sysctl, tcp_max_tw_buckets",
		Lab:      "time-wait-exhaustion",
		Guest: LegDef{
			Carries:  true,
			Text:     "net.ipv4.tcp_max_tw_buckets; TCPTimeWaitOverflow counts what goes without",
			Existing: "those in TIME-WAIT stay",
		},
		Stack: LegDef{
			Carries: true,
			Text: "the stack's own endpoints, of about 6 KB each, exactly; what is beyond ends without a segment, " +
				"and if it has bytes that nobody has read, as soon as its owner has closed it",
			Existing: "of those in TIME-WAIT as many as are beyond it end at once, the newest or the oldest as time-wait.overflow says",
		},
		Upstream: LegDef{
			Text: "net.ipv4.tcp_max_tw_buckets of the host is for the whole host",
		},
		sysctls: number("net.ipv4.tcp_max_tw_buckets"),
	},
	{
		Key:     "time-wait.overflow",
		Type:    Word,
		Words:   []string{"drop-newest", "drop-oldest"},
		Default: "drop-newest",
		Does:    "which connection ends when more than time-wait.max are in TIME-WAIT: the one that has just entered it, or the one that has been there longest",
		Not:     "it sends nothing to the other end, which finds out when it sends something itself",
		Source:  "Linux, net/ipv4/tcp_minisocks.c, which drops the newest",
		Lab:     "time-wait-exhaustion",
		Guest: LegDef{
			Text: "the kernel always drops the newest",
		},
		Stack: LegDef{
			Carries:  true,
			Text:     "the stack's own endpoints; in the log they end by policy time-wait.max",
			Existing: "from the next one that is too many on",
		},
		Upstream: LegDef{
			Text: "the host's kernel always drops the newest",
		},
	},
	{
		Key:      "time-wait.newer-syn",
		Type:     Word,
		Words:    []string{"off", "on"},
		Default:  "on",
		Does:     "whether a SYN that is newer than all of a connection in TIME-WAIT opens a new one at once; an older one always gets an ACK",
		Not:      "it does nothing for who connects, which is time-wait.reuse",
		Believed: "that a server refuses a client whose port it has in TIME-WAIT: it takes the SYN if its timestamp or sequence number is newer",
		Source:   "RFC 6191; RFC 9293, section 3.10.7.4",
		Lab:      "port-reuse-rfc6191",
		Guest: LegDef{
			Text: "the kernel always takes a newer SYN, and there is no sysctl",
		},
		Stack: LegDef{
			Carries:  true,
			Text:     "SYNs from the guest on a connection of which the stack holds the TIME-WAIT; off answers them with an ACK",
			Existing: "from the next SYN on",
		},
		Upstream: LegDef{
			Text: "the upstream leg dials and has no listener",
		},
	},
	{
		Key:     "time-wait.recycle",
		Type:    Word,
		Words:   []string{"off", "on"},
		Default: "off",
		Does: "what net.ipv4.tcp_tw_recycle did: TIME-WAIT ends after 3.5 retransmission timeouts, and for a minute " +
			"SYNs are dropped whose timestamp is older than the last one from the same address",
		Not:      "it does nothing for connections without TCP timestamps",
		Believed: "that it is a safe cure for TIME-WAIT: of the clients behind one NAT it silently loses the SYNs of those whose clock is behind, which is why Linux 4.12 removed it",
		Source:   "Linux 4.11, networking/ip-sysctl, tcp_tw_recycle; net/ipv4/tcp_metrics.c, tcp_peer_is_proven",
		Lab:      "tw-recycle-nat",
		Guest: LegDef{
			Text: "Linux has removed net.ipv4.tcp_tw_recycle in 4.12",
		},
		Stack: LegDef{
			Carries: true,
			Text: "the stack's own endpoints, and the SYNs from the guest that find none; in the log a TIME-WAIT ends by policy time-wait.recycle, " +
				"and recycle_dropped counts the SYNs",
			Existing: "those that enter TIME-WAIT from then on follow, and from the next SYN on",
		},
		Upstream: LegDef{
			Text: "Linux has removed net.ipv4.tcp_tw_recycle in 4.12, and it was for the whole host",
		},
		says: []says{{values: []string{"on"}, text: "time-wait.recycle ends TIME-WAIT after 3.5 retransmission timeouts and drops SYNs with an older timestamp than " +
			"their address had, which loses clients behind a NAT; Linux removed it in 4.12"}},
	},
	{
		Key:     "time-wait.rfc1337",
		Type:    Word,
		Words:   []string{"off", "on"},
		Does:    "whether an RST leaves a connection in TIME-WAIT as it is; off lets it end there (TIME-WAIT assassination)",
		Not:     "it does not protect connections in other states",
		Source:  "RFC 1337; Linux, networking/ip-sysctl, tcp_rfc1337",
		Lab:     "rfc1337",
		Default: "off",
		Guest: LegDef{
			Carries:  true,
			Text:     "net.ipv4.tcp_rfc1337",
			Existing: "from the next segment on",
		},
		Stack: LegDef{
			Carries:  true,
			Text:     "RSTs from the guest at exactly the sequence number that is expected; any other is ignored in any case",
			Existing: "from the next segment on",
		},
		Upstream: LegDef{
			Text: "net.ipv4.tcp_rfc1337 of the host is for the whole host",
		},
		sysctls: words("net.ipv4.tcp_rfc1337", onOff),
	},
}
