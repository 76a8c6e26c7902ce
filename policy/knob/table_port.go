package knob

import "strconv"

// portKnobs are those of local ports.
var portKnobs = []Def{
	{
		Key:      "port-range",
		Type:     Range,
		Default:  "32768-60999",
		MinInt:   1,
		MaxInt:   65535,
		Does:     "the local ports that an active open without bind(2) takes",
		Not:      "one port serves many destinations: what runs out is ports to one destination",
		Believed: "that a host has 65,535 connections: it has so many to one destination address and port, less what is outside the range",
		Source:   "RFC 6056; Linux, networking/ip-sysctl, ip_local_port_range",
		Lab:      "time-wait-exhaustion",
		Guest: LegDef{
			Carries:  true,
			Text:     "net.ipv4.ip_local_port_range",
			Existing: "from the next connect on",
		},
		Stack: LegDef{
			Carries:  true,
			Text:     "the ports that the stack picks for connections to the guest, which are those from a published port whose client's port is taken",
			Existing: "from the next connect on",
		},
		Upstream: LegDef{
			Carries:  true,
			Text:     "IP_LOCAL_PORT_RANGE of each host socket (6.3), within net.ipv4.ip_local_port_range of the host",
			Existing: "from the next connect on",
			Default:  "the host's range",
		},
		sysctls: func(s Setting) []Sysctl {
			return []Sysctl{{Name: "net.ipv4.ip_local_port_range", Value: strconv.Itoa(s.Low) + " " + strconv.Itoa(s.Hi)}}
		},
	},
	{
		Key:     "reserved-ports",
		Type:    Ports,
		Default: "none",
		Does:    "local ports that an active open without bind(2) never takes",
		Not:     "a program may bind to them",
		Source:  "Linux, networking/ip-sysctl, ip_local_reserved_ports",
		Guest: LegDef{
			Carries:  true,
			Text:     "net.ipv4.ip_local_reserved_ports",
			Existing: "from the next connect on",
		},
		Stack: LegDef{
			Carries:  true,
			Text:     "the ports that the stack picks for connections to the guest; a client of a published port keeps its own, as far as that is free",
			Existing: "from the next connect on",
		},
		Upstream: LegDef{Text: "net.ipv4.ip_local_reserved_ports of the host is for the whole host"},
		sysctls: func(s Setting) []Sysctl {
			if s.Word == "none" {
				return []Sysctl{{Name: "net.ipv4.ip_local_reserved_ports", Value: ""}}
			}
			return []Sysctl{{Name: "net.ipv4.ip_local_reserved_ports", Value: s.Word}}
		},
	},
}
