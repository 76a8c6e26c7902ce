package lab

var hostPortMutations = []mutation{
	{"open-at-once", "two ports more than are expected", func(v *Variant) {
		v.Settings = append(v.Settings, "host.net.ipv4.ip_local_port_range=40000 40041")
	}},
	{"guest-first", "the server closes first", func(v *Variant) {
		v.Steps[0].Listen.Then, v.Steps[1].Connect.Close = ThenClose, ServerFirst
	}},
	{"wider-range", "a range that is not wider", func(v *Variant) {
		v.Settings = nil
		v.Steps[1].Connect.Times, v.Steps[1].Expect = 41, Figures{"ok": 41}
	}},
	{"reuse", "no reuse", func(v *Variant) { v.Settings = nil; v.Steps[2].Connect.Times = 1; v.Steps[2].Expect = Figures{"ok": 1} }},
	{"second-destination", "the same destination again", func(v *Variant) {
		v.Steps[3].Connect.To, v.Steps[3].Connect.Times = v.Steps[2].Connect.To, 1
		v.Steps[3].Expect = Figures{"ok": 1}
	}},
	{"server-first", "the guest closes first after all", func(v *Variant) {
		v.Steps[0].Listen.Then, v.Steps[1].Connect.Close, v.Steps[1].Connect.Times = ThenReadEnd, ClientShutdown, 20
		v.Steps[1].Expect = Figures{"ok": 20}
	}},
	{"linger-0", "FIN instead of RST", func(v *Variant) {
		v.Steps[1].Connect.Close, v.Steps[1].Connect.Times = ClientShutdown, 20
		v.Steps[1].Expect = Figures{"ok": 20}
	}},
	{"fin-timeout", "reuse on the host when none is expected", func(v *Variant) {
		v.Settings = []Setting{"host.net.ipv4.tcp_tw_reuse=1", "host.net.ipv4.tcp_tw_reuse_delay=1"}
	}},
}
