package knob

import "strconv"

// bufferKnobs are those of memory for what is on its way.
var bufferKnobs = []Def{
	{
		Key:    "receive-buffer",
		Type:   SizeRange,
		MinInt: 4 << 10,
		MaxInt: 1 << 30,
		Does:   "how many bytes a connection may hold that its program has not read: to begin with, and with auto-tuning at most",
		Not:    "it is no window: the kernel keeps a part of it for itself",
		Source: "RFC 9293, section 3.8.6; Linux, networking/ip-sysctl, tcp_rmem",
		Lab:    "zero-window",
		Guest: LegDef{
			Carries:  true,
			Text:     "net.ipv4.tcp_rmem, for sockets that set no SO_RCVBUF",
			Existing: "only connections made from then on follow",
			Default:  "the host's default",
		},
		Stack: LegDef{
			Carries:  true,
			Text:     "the first size for the stack's own endpoints, which do not grow; the window that the guest is offered is half of it",
			Existing: "only connections made from then on follow",
			Default:  "1M",
		},
		Upstream: LegDef{
			Carries:  true,
			Text:     "SO_RCVBUF of each host socket: fixed at the second size, for it switches auto-tuning off; net.core.rmem_max of the host is its limit",
			Existing: "only connections made from then on follow",
			Default:  "the host's default",
		},
		sysctls: memory("net.ipv4.tcp_rmem"),
	},
	{
		Key:    "send-buffer",
		Type:   SizeRange,
		MinInt: 4 << 10,
		MaxInt: 1 << 30,
		Does:   "how many bytes a connection may hold that its peer has not acknowledged: to begin with, and with auto-tuning at most",
		Not:    "it does not limit what is on its way, which the peer's window and congestion control do",
		Source: "Linux, networking/ip-sysctl, tcp_wmem",
		Guest: LegDef{
			Carries:  true,
			Text:     "net.ipv4.tcp_wmem, for sockets that set no SO_SNDBUF",
			Existing: "only connections made from then on follow",
			Default:  "the host's default",
		},
		Stack: LegDef{
			Carries:  true,
			Text:     "the stack's own endpoints, which grow to the second size whatever auto-tuning says",
			Existing: "only connections made from then on follow",
			Default:  "1M-4M",
		},
		Upstream: LegDef{
			Carries:  true,
			Text:     "SO_SNDBUF of each host socket: fixed at the second size, for it switches auto-tuning off; net.core.wmem_max of the host is its limit",
			Existing: "only connections made from then on follow",
			Default:  "the host's default",
		},
		sysctls: memory("net.ipv4.tcp_wmem"),
	},
	{
		Key:     "auto-tuning",
		Type:    Word,
		Words:   []string{"off", "on"},
		Default: "on",
		Does:    "whether the receive buffer grows with what a connection carries",
		Not:     "it does not touch sockets that set SO_RCVBUF",
		Source:  "Linux, networking/ip-sysctl, tcp_moderate_rcvbuf",
		Guest: LegDef{
			Carries:  true,
			Text:     "net.ipv4.tcp_moderate_rcvbuf",
			Existing: "from the next segment on",
		},
		Stack:    LegDef{Text: "the stack's receive buffers do not grow: they have the first size of receive-buffer"},
		Upstream: LegDef{Text: "there is no socket option for it"},
		sysctls:  words("net.ipv4.tcp_moderate_rcvbuf", onOff),
	},
}

// memory is the sysctl of least, first and greatest size.
func memory(name string) func(Setting) []Sysctl {
	return func(s Setting) []Sysctl {
		return []Sysctl{{Name: name, Value: "4096 " + strconv.Itoa(s.Low) + " " + strconv.Itoa(s.Hi)}}
	}
}
