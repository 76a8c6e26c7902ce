package knob

import "tcpbox/stack/tcpstate"

// pathKnobs are what both ends agree on, and how they share the path.
var pathKnobs = []Def{
	{
		Key:    "congestion-control",
		Type:   Name,
		Does:   "the algorithm that decides how much may be on its way",
		Not:    "it does not reach across tcpbox: each leg is a connection of its own, with its own algorithm",
		Source: "RFC 5681; Linux, networking/ip-sysctl, tcp_congestion_control",
		Guest: LegDef{
			Carries:  true,
			Text:     "net.ipv4.tcp_congestion_control, of those in tcp_allowed_congestion_control",
			Existing: "only connections made from then on follow",
			Default:  "the host's default",
		},
		Stack: LegDef{
			Carries:  true,
			Text:     "the stack has reno and cubic",
			Existing: "only connections made from then on follow",
			Default:  "reno",
		},
		Upstream: LegDef{
			Carries:  true,
			Text:     "TCP_CONGESTION of each host socket, of those in tcp_allowed_congestion_control of the host; root's tcpbox may take any that is loaded",
			Existing: "open connections follow at once",
			Default:  "the host's default",
		},
		sysctls: func(s Setting) []Sysctl {
			return []Sysctl{{Name: "net.ipv4.tcp_congestion_control", Value: s.Word}}
		},
	},
	{
		Key:     "sack",
		Type:    Word,
		Words:   []string{"off", "on"},
		Default: "on",
		Does:    "whether selective acknowledgements are offered and taken",
		Not:     "it does nothing for a connection whose other end does not offer them",
		Source:  "RFC 2018; Linux, networking/ip-sysctl, tcp_sack",
		Guest: LegDef{
			Carries:  true,
			Text:     "net.ipv4.tcp_sack",
			Existing: "only connections made from then on follow",
		},
		Stack: LegDef{
			Carries:  true,
			Text:     "what the stack offers, and takes of what the guest offers",
			Existing: "only connections made from then on follow",
		},
		Upstream: LegDef{Text: "there is no socket option for it"},
		sysctls:  words("net.ipv4.tcp_sack", onOff),
	},
	{
		Key:      "timestamps",
		Type:     Word,
		Words:    []string{"off", "on"},
		Default:  "on",
		Does:     "whether TCP timestamps are offered and taken",
		Not:      "without them there is no PAWS, and on Linux no time-wait.reuse",
		Believed: "that switching them off is free: reuse of TIME-WAIT and the protection against wrapped numbers go with them",
		Source:   "RFC 7323; Linux, networking/ip-sysctl, tcp_timestamps",
		Lab:      "why-time-wait-2",
		Guest: LegDef{
			Carries:  true,
			Text:     "net.ipv4.tcp_timestamps",
			Existing: "only connections made from then on follow",
		},
		Stack: LegDef{
			Carries:  true,
			Text:     "what the stack offers, and takes of what the guest offers: the option is taken out of SYNs",
			Existing: "only connections made from then on follow",
		},
		Upstream: LegDef{Text: "there is no socket option for it"},
		sysctls:  words("net.ipv4.tcp_timestamps", onOff),
		says:     []says{{leg: tcpstate.Guest, values: []string{"off"}, with: "time-wait.reuse=loopback,on", text: noReuse}},
	},
	{
		Key:     "window-scaling",
		Type:    Word,
		Words:   []string{"off", "on"},
		Default: "on",
		Does:    "whether windows may be larger than 65,535 bytes",
		Not:     "it does not enlarge a buffer, which is receive-buffer",
		Source:  "RFC 7323, section 2; Linux, networking/ip-sysctl, tcp_window_scaling",
		Guest: LegDef{
			Carries:  true,
			Text:     "net.ipv4.tcp_window_scaling",
			Existing: "only connections made from then on follow",
		},
		Stack: LegDef{
			Carries:  true,
			Text:     "what the stack offers, and takes of what the guest offers: the option is taken out of SYNs",
			Existing: "only connections made from then on follow",
		},
		Upstream: LegDef{Text: "there is no socket option for it"},
		sysctls:  words("net.ipv4.tcp_window_scaling", onOff),
	},
	{
		Key:     "ecn",
		Type:    Word,
		Words:   []string{"off", "on", "passive"},
		Default: "passive",
		Does:    "whether explicit congestion notification is offered (on) or taken when the peer offers it (passive)",
		Not:     "it marks nothing: routers do",
		Source:  "RFC 3168; Linux, networking/ip-sysctl, tcp_ecn",
		Guest: LegDef{
			Carries:  true,
			Text:     "net.ipv4.tcp_ecn; the stack does not take it, so that it works between two programs of the guest",
			Existing: "only connections made from then on follow",
		},
		Stack:    LegDef{Text: "the stack has no ECN"},
		Upstream: LegDef{Text: "there is no socket option for it"},
		sysctls:  words("net.ipv4.tcp_ecn", map[string]string{"off": "0", "on": "1", "passive": "2"}),
	},
	{
		Key:      "mss",
		Type:     Int,
		MinInt:   88,
		MaxInt:   32767,
		Does:     "how many bytes a segment carries at most, both ways: the peer is told in the SYN, and what is sent keeps to it",
		Not:      "it does not change a connection that stands, and does not make an interface's MTU smaller",
		Believed: "that both ends agree on one size: each tells the other what it takes, and the smaller MTU on the way is found out later",
		Source:   "RFC 9293, section 3.7.1; RFC 6691; Linux, tcp(7), TCP_MAXSEG",
		Guest:    LegDef{Text: "the kernel takes it from the MTU of the interface, and has no sysctl for it; with stack.mss the guest keeps to it all the same"},
		Stack: LegDef{
			Carries: true,
			Text: "the option of SYNs and SYN-ACKs, both ways, so that the guest keeps to it too; never more than the MTU of the interface gives, " +
				"and 536 with a guest that tells no size (RFC 9293, section 3.7.1)",
			Existing: "only connections made from then on follow",
			Default:  "what the MTU of the interface gives",
		},
		Upstream: LegDef{
			Carries:  true,
			Text:     "TCP_MAXSEG of each host socket; the kernel makes it no more than the MTU of the way gives",
			Existing: "only connections made from then on follow",
			Default:  "what the MTU of the way gives",
		},
	},
}
