package lab

var timeWaitMutations = []mutation{
	{"default", "two ports more than are expected", func(v *Variant) {
		v.Settings = append(v.Settings, "net.ipv4.ip_local_port_range=40000 40041")
	}},
	{"reuse-off", "reuse when none is expected", func(v *Variant) {
		v.Settings = []Setting{"guest.time-wait.reuse=on"}
	}},
	{"reuse-on", "reuse without timestamps", func(v *Variant) {
		v.Settings = append(v.Settings, "net.ipv4.tcp_timestamps=0")
	}},
	{"reuse-no-timestamps", "timestamps when none are expected", func(v *Variant) {
		v.Settings = []Setting{"guest.time-wait.reuse=on"}
	}},
	{"wider-range", "a range that is not wider", func(v *Variant) { v.Settings = nil }},
	{"second-destination", "the same destination again", func(v *Variant) {
		v.Steps[1].Connect.To = v.Steps[0].Connect.To
	}},
	{"server-closes-first", "the client closes first after all", func(v *Variant) {
		for i := range v.Steps {
			v.Steps[i].Connect.To, v.Steps[i].Connect.Close = "server:80", ClientShutdown
		}
	}},
	{"keep-alive", "a connection for each request", func(v *Variant) {
		v.Steps[0].Fetch, v.Steps[0].Connect = nil, &Connect{To: "web:80", Times: 2, Close: ClientShutdown}
	}},
	{"linger-0", "FIN instead of RST", func(v *Variant) {
		for i := range v.Steps {
			v.Steps[i].Connect.Close = ClientClose
		}
	}},
	{"max-tw-buckets", "room for every TIME-WAIT", func(v *Variant) { v.Settings = nil }},
	{"fin-timeout", "a server that refuses", func(v *Variant) { v.Steps[0].Connect.To = "server:81" }},
	{"server-time-wait", "the client's TIME-WAIT is free at once", func(v *Variant) {
		v.Settings = append(v.Settings, "net.ipv4.tcp_max_tw_buckets=0")
	}},
	{"stack-client", "the stack has more ports", func(v *Variant) { v.Settings = []Setting{"stack.port-range=40000-40041"} }},
	{"shorter", "nothing ends it", func(v *Variant) { v.Settings = nil; v.Steps[1].Wait.Until = 0 }},
	{"guest-serves", "the client closes first", func(v *Variant) {
		v.Steps[0].Listen.Then = ThenReadEnd
		for i := range v.Steps[1:] {
			v.Steps[i+1].Connect.Close = ClientShutdown
		}
	}},
	{"linger-0-price", "an ordinary close", func(v *Variant) { v.Steps[4].Act.Do = DoClose }},
	{"recycle", "without it", func(v *Variant) { v.Settings = v.Settings[:1]; v.Steps[2].Wait.Until = 0 }},
}
