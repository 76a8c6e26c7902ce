package lab

var finWait2Mutations = []mutation{
	{"shutdown", "the program closes", func(v *Variant) { v.Steps[3].Act.Do = DoClose }},
	{"close", "a timeout of 5 s", func(v *Variant) { v.Settings = []Setting{"guest.fin-timeout=5s"} }},
	{"close-1s", "a timeout of 60 s", func(v *Variant) { v.Settings = nil; v.Steps[4].Wait.Until = 0 }},
	{"peer-closes", "the peer does not close", func(v *Variant) { v.Steps[4].Act = &Act{On: "accept", Do: DoWrite, Bytes: 1} }},
	{"longer", "a timeout of 5 s", func(v *Variant) { v.Settings = []Setting{"guest.fin-timeout=5s"} }},
	{"time-wait", "the peer does not close", func(v *Variant) { v.Steps[4].Act = &Act{On: "accept", Do: DoWrite, Bytes: 1} }},
}
