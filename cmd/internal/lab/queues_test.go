package lab

var synBacklogMutations = []mutation{
	{"backlog-8", "a backlog of 12", func(v *Variant) { v.Steps[0].Listen.Backlog = 12 }},
	{"syn-backlog-16", "room for all", func(v *Variant) { v.Settings = nil }},
	{"room", "a backlog of 8", func(v *Variant) { v.Steps[0].Listen.Backlog = 8 }},
	{"only-sysctl", "the program asks for more too", func(v *Variant) { v.Steps[0].Listen.Backlog = 4000 }},
	{"crowded", "the queue is not crowded", func(v *Variant) {
		v.Steps[0].Listen.Backlog = 100
		v.Steps[1].Expect = Figures{"ok": 20, "guest.syn-received": 20}
		v.Steps[2].Wait.Until = 0
	}},
	{"retries-0", "one retry", func(v *Variant) { v.Settings[0] = "net.ipv4.tcp_synack_retries=1" }},
	{"retries-1", "no retry", func(v *Variant) { v.Settings[0] = "net.ipv4.tcp_synack_retries=0" }},
	{"retries-2", "one retry", func(v *Variant) { v.Settings[0] = "net.ipv4.tcp_synack_retries=1" }},
}

var acceptOverflowMutations = []mutation{
	{"syn-dropped", "a longer queue", func(v *Variant) { v.Steps[0].Listen.Backlog = 64 }},
	{"ack-dropped", "a longer queue", func(v *Variant) { v.Steps[0].Listen.Backlog = 64 }},
	{"accepted", "nothing is accepted", func(v *Variant) { v.Steps = append(v.Steps[:2:2], v.Steps[3]); v.Steps[2].Open.Within = 300 }},
	{"longer", "a short queue", func(v *Variant) { v.Steps[0].Listen.Backlog = 4; v.Steps[1].Open.Within = 300 }},
	{"abort", "no abort", func(v *Variant) { v.Settings = nil }},
	{"only-sysctl", "the program asks for more too", func(v *Variant) { v.Steps[0].Listen.Backlog = 64 }},
}

var synFloodMutations = []mutation{
	{"no-cookies", "cookies", func(v *Variant) { v.Settings = nil }},
	{"no-cookies", "the flood completes its handshakes", func(v *Variant) { v.Steps[0].Listen.Backlog = 100 }},
	{"cookies", "no cookies", func(v *Variant) { v.Settings = []Setting{"net.ipv4.tcp_syncookies=0"} }},
	{"always", "cookies only when full", func(v *Variant) { v.Settings = nil }},
	{"no-queue", "a queue that is full", func(v *Variant) { v.Steps[0].Listen.Backlog = 16 }},
	{"somaxconn", "the program asks for more", func(v *Variant) { v.Steps[0].Listen.Backlog = 100 }},
}
