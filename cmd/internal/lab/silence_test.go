package lab

var keepaliveMutations = []mutation{
	{"silent", "the peer resets", func(v *Variant) { v.Steps[3] = inStack(onKept("reset", "accept", DoReset, 0, ok)) }},
	{"keepalive", "the peer lives", func(v *Variant) {
		v.Steps[3].Set.Faults = nil
		v.Steps[3].Set.NoFaults = true
		v.Steps[4] = after("wait", 1500, dead0())
	}},
	{"write", "the peer lives", func(v *Variant) {
		v.Steps[3].Set.Faults = nil
		v.Steps[3].Set.NoFaults = true
		v.Steps[5] = after("wait", 1500, dead0())
	}},
	{"comes-back", "it has forgotten nothing", func(v *Variant) {
		v.Steps[4] = onKept("hold", "open", DoWrite, 1, ok)
		v.Steps[6] = after("wait", 1500, dead0())
	}},
	{"only-sysctl", "the program asks for it", func(v *Variant) { v.Steps[1].Open.Keepalive = true }},
	{"default-times", "the program does not ask", func(v *Variant) { v.Steps[1].Open.Keepalive = false }},
}

// dead0 expects the guest to have no connection.
func dead0() Figures { return Figures{"guest.established": 0} }

var zeroWindowMutations = []mutation{
	{"peer-slow", "the peer reads", func(v *Variant) {
		v.Steps[0].Listen.Then = ThenReadEnd
		v.Steps = append(v.Steps[:2:2], onKept("write", "open", DoWrite, 1000, ok), v.Steps[4])
		v.Steps[3].Wait.Until = 0
	}},
	{"guest-slow", "nothing is sent", func(v *Variant) { v.Steps[3] = inStack(onKept("write", "accept", DoWrite, 100, ok)) }},
	{"reads", "nothing was full", func(v *Variant) {
		v.Steps[3] = inStack(onKept("write", "accept", DoWrite, 30_000, ok))
		v.Steps[4].Act.Bytes = 30_000
		v.Steps[4].Expect["bytes"] = 30_000
	}},
	{"user-timeout", "none is set", func(v *Variant) { v.Steps[1].Open.UserTimeout = 0; v.Steps[4] = after("wait", 1500, dead0()) }},
	{"retries", "the probes are not answered", func(v *Variant) {
		v.Steps[4] = Step{Name: "later", Set: &Set{Faults: []string{"drop"}}}
		v.Steps = append(v.Steps, onKept("read", "open", DoReadEnd, 0, Figures{"EAGAIN": 1}))
	}},
}

var timeWaitLengthMutations = []mutation{
	{"default", "tcpbox ends it", func(v *Variant) {
		v.Settings = []Setting{"guest.time-wait.timeout=1s"}
		v.Steps = append(v.Steps[:5:5], Step{Name: "gone", Wait: &Wait{For: 2500}, Expect: Figures{"guest.time-wait": 1}})
	}},
	{"guest-2s", "nothing is set", func(v *Variant) { v.Settings = nil; v.Steps[5].Wait.Until = 0 }},
	{"stack-1s", "the stack's own length", func(v *Variant) { v.Settings = nil; v.Steps[5].Wait.Until = 0 }},
	{"fin-timeout-short", "the other side does not close", func(v *Variant) { v.Steps[4] = inStack(onKept("end", "accept", DoWrite, 1, ok)) }},
	{"fin-timeout-long", "the other side closes first", func(v *Variant) {
		v.Steps[3], v.Steps[4] = inStack(onKept("end", "accept", DoShutdown, 0, ok)), onKept("fin", "open", DoClose, 0, ok)
	}},
	{"reuse", "the connection is reset", func(v *Variant) { v.Steps[3].Act.Do = DoReset }},
}
