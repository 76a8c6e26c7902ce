package knob

import (
	"time"

	"tcpbox/stack/tcpstate"
)

// aliveKnobs say how long a connection that does not answer is held.
var aliveKnobs = []Def{
	{
		Key:         "keepalive.idle",
		Type:        Duration,
		MinDuration: time.Second,
		MaxDuration: 32767 * time.Second,
		Default:     "2h",
		Does:        "how long nothing has come before the first probe of a connection that has SO_KEEPALIVE",
		Not:         "it does not switch SO_KEEPALIVE on, which a program does for its sockets",
		Believed:    "that every connection is probed after two hours: only one whose program asked for it",
		Source:      "RFC 9293, section 3.8.4; Linux, networking/ip-sysctl, tcp_keepalive_time",
		Lab:         "nat-idle-drop",
		Guest: LegDef{
			Carries:  true,
			Text:     "net.ipv4.tcp_keepalive_time, for sockets that set no TCP_KEEPIDLE",
			Existing: "a connection follows when its timer is next set",
			Step:     time.Second,
		},
		Stack: LegDef{
			Carries:  true,
			Text:     "the stack's own endpoints; it does something with stack.keepalive=on",
			Existing: "open connections follow at once, and count anew",
		},
		Upstream: LegDef{
			Carries:  true,
			Text:     "TCP_KEEPIDLE of each host socket; it does something with upstream.keepalive=on",
			Existing: "open connections follow at once",
			Step:     time.Second,
		},
		sysctls: seconds("net.ipv4.tcp_keepalive_time"),
		says:    noProbes,
	},
	{
		Key:         "keepalive.interval",
		Type:        Duration,
		MinDuration: time.Second,
		MaxDuration: 32767 * time.Second,
		Default:     "75s",
		Does:        "how long after an unanswered probe comes the next",
		Not:         "it does not switch SO_KEEPALIVE on",
		Source:      "RFC 9293, section 3.8.4; Linux, networking/ip-sysctl, tcp_keepalive_intvl",
		Lab:         "nat-idle-drop",
		Guest: LegDef{
			Carries:  true,
			Text:     "net.ipv4.tcp_keepalive_intvl, for sockets that set no TCP_KEEPINTVL",
			Existing: "a connection follows when its timer is next set",
			Step:     time.Second,
		},
		Stack: LegDef{
			Carries:  true,
			Text:     "the stack's own endpoints; it does something with stack.keepalive=on",
			Existing: "open connections follow at once, and count anew",
		},
		Upstream: LegDef{
			Carries:  true,
			Text:     "TCP_KEEPINTVL of each host socket; it does something with upstream.keepalive=on",
			Existing: "open connections follow at the next probe",
			Step:     time.Second,
		},
		sysctls: seconds("net.ipv4.tcp_keepalive_intvl"),
		says:    noProbes,
	},
	{
		Key:     "keepalive.count",
		Type:    Int,
		MinInt:  1,
		MaxInt:  127,
		Default: "9",
		Does:    "how many probes without an answer end a connection",
		Not:     "it does not switch SO_KEEPALIVE on",
		Source:  "RFC 9293, section 3.8.4; Linux, networking/ip-sysctl, tcp_keepalive_probes",
		Lab:     "nat-idle-drop",
		Guest: LegDef{
			Carries:  true,
			Text:     "net.ipv4.tcp_keepalive_probes, for sockets that set no TCP_KEEPCNT",
			Existing: "from the next probe on",
		},
		Stack: LegDef{
			Carries:  true,
			Text:     "the stack's own endpoints; it does something with stack.keepalive=on",
			Existing: "open connections follow at once, and count anew",
		},
		Upstream: LegDef{
			Carries:  true,
			Text:     "TCP_KEEPCNT of each host socket; it does something with upstream.keepalive=on",
			Existing: "open connections follow at the next probe",
		},
		sysctls: number("net.ipv4.tcp_keepalive_probes"),
		says:    noProbes,
	},
	{
		Key:     "data-retries",
		Type:    Int,
		MinInt:  1,
		MaxInt:  255,
		Default: "15",
		Does:    "how often unacknowledged data is sent again before the connection ends with ETIMEDOUT",
		Not:     "the time between two of them doubles up to rto.max, so that 15 is about a quarter of an hour and not 15 round trips",
		Source:  "RFC 9293, section 3.8.3; Linux, networking/ip-sysctl, tcp_retries2",
		Guest: LegDef{
			Carries:  true,
			Text:     "net.ipv4.tcp_retries2, which the kernel turns into the time that so many would take at the least timeout",
			Existing: "from the next retransmission on",
		},
		Stack: LegDef{
			Carries:  true,
			Text:     "the stack's own endpoints: exactly so many of one segment",
			Existing: "only connections made from then on follow",
		},
		Upstream: LegDef{Text: "net.ipv4.tcp_retries2 of the host is for the whole host"},
		sysctls:  number("net.ipv4.tcp_retries2"),
	},
	{
		Key:         "rto.min",
		Type:        Duration,
		MinDuration: time.Millisecond,
		MaxDuration: time.Minute,
		Default:     "200ms",
		Does:        "the least retransmission timeout of an established connection",
		Not:         "it does not touch the handshake, whose first timeout is 1 s",
		Source:      "RFC 6298, rule 2.4; Linux, networking/ip-sysctl, tcp_rto_min_us",
		Guest: LegDef{
			Carries:  true,
			Text:     "net.ipv4.tcp_rto_min_us",
			Existing: "only connections made from then on follow",
			Step:     time.Microsecond,
		},
		Stack: LegDef{
			Carries:  true,
			Text:     "the stack's own endpoints; not more than rto.max",
			Existing: "only connections made from then on follow",
		},
		Upstream: LegDef{
			Carries:     true,
			Text:        "TCP_RTO_MIN_US of each host socket (6.15), which the kernel rounds up to its tick of 1 to 10 ms",
			Existing:    "open connections follow when they next measure a round trip",
			Step:        time.Microsecond,
			MaxDuration: 200 * time.Millisecond, // TCP_RTO_MIN
		},
		sysctls: func(s Setting) []Sysctl {
			s.Duration *= 1000 // in microseconds
			return milliseconds("net.ipv4.tcp_rto_min_us")(s)
		},
	},
	{
		Key:         "rto.max",
		Type:        Duration,
		MinDuration: time.Second,
		MaxDuration: 2 * time.Minute,
		Default:     "2m",
		Does:        "the greatest retransmission timeout",
		Not:         "it does not change how many retransmissions there are, which is data-retries",
		Source:      "RFC 6298, rule 2.5; Linux, networking/ip-sysctl, tcp_rto_max_ms (6.15)",
		Guest: LegDef{
			Carries:  true,
			Text:     "net.ipv4.tcp_rto_max_ms, which kernels before 6.15 have as a constant of 120 s",
			Existing: "only connections made from then on follow",
			Step:     time.Millisecond,
		},
		Stack: LegDef{
			Carries:  true,
			Text:     "the stack's own endpoints; not less than rto.min",
			Existing: "only connections made from then on follow",
		},
		Upstream: LegDef{
			Carries:  true,
			Text:     "TCP_RTO_MAX_MS of each host socket, which kernels before 6.15 have as a constant of 120 s",
			Existing: "open connections follow at the next retransmission",
			Step:     time.Millisecond,
		},
		sysctls: milliseconds("net.ipv4.tcp_rto_max_ms"),
	},
	{
		Key:      "keepalive",
		Type:     Word,
		Words:    []string{"off", "on"},
		Default:  "off",
		Does:     "whether a connection on which nothing comes is probed, so that one whose peer is gone ends",
		Not:      "it does not say when and how often, which is keepalive.idle, keepalive.interval and keepalive.count",
		Believed: "that TCP notices a peer that has gone: a connection that has nothing to send never does",
		Source:   "RFC 9293, section 3.8.4; Linux, socket(7), SO_KEEPALIVE",
		Lab:      "half-open-keepalive",
		Guest:    LegDef{Text: "a program switches SO_KEEPALIVE on for its own sockets, and no sysctl does it for it"},
		Stack: LegDef{
			Carries:  true,
			Text:     "the stack probes the guest; a connection that it ends is reset upstream",
			Existing: "open connections follow at once",
		},
		Upstream: LegDef{
			Carries:  true,
			Text:     "SO_KEEPALIVE of each host socket; a connection that it ends is reset for the guest",
			Existing: "open connections follow at once",
		},
	},
	{
		Key:         "user-timeout",
		Type:        Duration,
		Never:       true,
		MaxDuration: 24 * time.Hour,
		Default:     "never",
		Does:        "how long sent data may stay unacknowledged, or a window closed, before the connection ends with ETIMEDOUT, however many retransmissions that were",
		Not:         "it does not end a connection that is idle; with keepalive on it takes the place of keepalive.count",
		Believed:    "that it is a timeout for reading: nothing that the peer fails to send counts, only what it fails to acknowledge",
		Source:      "RFC 9293, section 3.8.3; RFC 5482; Linux, tcp(7), TCP_USER_TIMEOUT",
		Lab:         "nat-idle-drop",
		Guest:       LegDef{Text: "a program sets TCP_USER_TIMEOUT for its own sockets, and no sysctl does it for it; data-retries does nearly the same"},
		Stack: LegDef{
			Carries:  true,
			Text:     "the stack's own endpoints; it is looked at when a retransmission is due",
			Existing: "open connections follow at the next retransmission",
		},
		Upstream: LegDef{
			Carries:  true,
			Text:     "TCP_USER_TIMEOUT of each host socket; a dial that takes longer is given up too, and begun anew with the guest's next SYN",
			Existing: "open connections follow at the next retransmission",
			Step:     time.Millisecond,
		},
	},
}

// noProbes is what the three say that do nothing without keepalive.
var noProbes = []says{
	{leg: tcpstate.Stack, with: "keepalive=off", text: "the stack sends no probes while stack.keepalive is off, whatever keepalive.idle, keepalive.interval and keepalive.count are"},
	{leg: tcpstate.Upstream, with: "keepalive=off", text: "host sockets send no probes while upstream.keepalive is off, whatever keepalive.idle, keepalive.interval and keepalive.count are"},
}
