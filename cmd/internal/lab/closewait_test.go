package lab

var closeWaitMutations = []mutation{
	{"leak", "beta closes", func(v *Variant) { v.Steps[1].Listen.Then = ThenReadEnd }},
	{"leak", "it is alpha that leaks", func(v *Variant) { v.Steps[0].Listen.Then, v.Steps[1].Listen.Then = ThenLeak, ThenReadEnd }},
	{"closes", "beta forgets", func(v *Variant) { v.Steps[1].Listen.Then = ThenLeak }},
	{"restart", "another one is killed", func(v *Variant) {
		v.Steps[len(v.Steps)-2].Stop.Program = "gamma"
		delete(v.After, "guest.close-wait.gamma")
	}},
	{"fin-timeout", "beta closes", func(v *Variant) { v.Steps[1].Listen.Then = ThenReadEnd }},
	{"keepalive", "beta closes", func(v *Variant) { v.Steps[1].Listen.Then = ThenReadEnd }},
}
