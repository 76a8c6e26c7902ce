package lab

var rstVsFINMutations = []mutation{
	{"unread", "the bytes are read", func(v *Variant) {
		v.Steps[5].Act = &Act{On: "open", Do: DoRead, Bytes: 1000}
		v.Steps[5].Expect = Figures{"ok": 1, "bytes": 1000}
		v.Steps = append(v.Steps[:6:6], onKept("really-close", "open", DoClose, 0, ok))
	}},
	{"bytes-after-close", "no bytes come", func(v *Variant) { v.Steps[4].Act.Do = DoShutdown }},
	{"read-first", "the bytes are not read", func(v *Variant) { v.Steps[4].Act.Bytes = 999; v.Steps[4].Expect["bytes"] = 999 }},
	{"shutdown", "closed without draining", func(v *Variant) { v.Steps[3].Act.Do = DoClose }},
	{"linger-0", "an ordinary close", func(v *Variant) { v.Steps[3].Act.Do = DoClose }},
	{"every-close", "a reset after all", func(v *Variant) { v.Steps[3].Act.Do = DoReset }},
}
