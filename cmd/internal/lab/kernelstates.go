package lab

import (
	"strings"

	"tcpbox/stack/tcpstate"
)

// AllStatesKernel is all-states with the guest's kernel in the guest's place.
func AllStatesKernel() Lab {
	const server = "server:81"
	each := map[string]Range{}
	for _, s := range tcpstate.All() {
		for _, leg := range []string{"guest", "stack"} {
			each["entered."+leg+"."+strings.ToLower(s.String())] = Range{1, 9}
		}
	}
	open := func(n string) []Step {
		return []Step{
			{Name: "open" + n, Open: &Open{To: server, Times: 1}, Expect: ok},
			{Name: "accept" + n, In: InStack, Accept: &Accept{At: server, Times: 1}, Expect: ok},
		}
	}
	listen := []Step{
		{Name: "listen", Listen: &Listen{At: ":80"}, Expect: Figures{"guest.listen": 1}},
		{Name: "serve", In: InStack, Listen: &Listen{At: server}},
	}
	guestFirst := append(open("1"),
		onKept("fin1", "open1", DoShutdown, 0, Figures{"ok": 1, "stack.close-wait": 1, "guest.fin-wait-2": 1}),
		inStack(onKept("end1", "accept1", DoClose, 0, Figures{"ok": 1, "guest.time-wait": 1})),
	)
	stackFirst := []Step{
		{Name: "open2", In: InStack, Open: &Open{To: ":80", Times: 1}, Expect: ok},
		{Name: "accept2", Accept: &Accept{At: ":80", Times: 1}, Expect: ok},
		inStack(onKept("fin2", "open2", DoShutdown, 0, Figures{"ok": 1, "guest.close-wait": 1, "stack.fin-wait-2": 1})),
		onKept("end2", "accept2", DoClose, 0, Figures{"ok": 1, "stack.time-wait": 1}),
	}
	crossed := until("crossed", Figures{"entered.guest.closing": 1, "entered.stack.closing": 1, "guest.time-wait": 2, "stack.time-wait": 2})
	crossed.By = 30_000
	both := append(open("3"),
		Step{Name: "hold", Set: &Set{Faults: []string{"hold fin 60s"}}},
		onKept("fin3", "open3", DoShutdown, 0, ok),
		inStack(onKept("end3", "accept3", DoShutdown, 0, Figures{"ok": 1, "guest.fin-wait-1": 1, "stack.fin-wait-1": 1})),
		Step{Name: "release", Set: &Set{NoFaults: true}},
		crossed,
	)
	join := func(parts ...[]Step) (all []Step) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	return Lab{
		Name:     "all-states-kernel",
		Title:    "each of the eleven states, on this machine's kernel and on the stack",
		Question: "Does the kernel's own TCP go through all eleven states, and who tells of each?",
		Story: []string{
			"The same as the lab all-states, with the guest's kernel for the guest's end. The guest opens a connection to the stack and closes first; the stack opens one to the guest and closes first; a third is " +
				"closed by both at once: a rule holds both FINs back until both are sent, and then they cross.",
			"What the kernel does is told by its tracepoint inet_sock_set_state, where tcpbox may use it: all but the beginning of SYN-RECEIVED, of which the trace tells only when it is over, and which is told by the SYN. " +
				"For an ordinary user it is told by the segments and sock_diag, which may miss that FINs have crossed: then the row is begun again. The stack's end tells of itself.",
		},
		Setup:   "A sandbox with a guest that listens on port 80, and a host in the stack. The numbers are how many states the guest's kernel and the stack have entered.",
		Peers:   []string{"server=discard:80"},
		Columns: []Column{{"guest", "entered.guest"}, {"stack", "entered.stack"}},
		Variants: []Variant{
			{
				Name: "three-connections", Group: Problem, Title: "three connections", Note: "11 of 11 on both ends",
				Why:    "Open and close by one end, by the other, and a close by both at once.",
				Steps:  join(listen, guestFirst, stackFirst, both),
				After:  Figures{"entered.guest": 11, "entered.stack": 11},
				Within: each,
			},
			{
				Name: "no-crossing", Group: Belief, Title: "without the third", Note: "10: CLOSING is missing",
				Belief: "Every state is seen in ordinary traffic.",
				Why:    "CLOSING takes two FINs that cross. Without somebody who holds them back that is a matter of luck.",
				Steps:  join(listen, guestFirst, stackFirst),
				After:  Figures{"entered.guest": 10, "entered.stack": 10, "entered.guest.closing": 0, "entered.stack.closing": 0},
			},
		},
		Moral: []string{"The guest's kernel and the stack have each been in all eleven states, in one sandbox."},
		Production: []Look{
			{"ss -tan", "the state of each socket, in the kernel's words"},
			{"tcpbox run --log - -- YOUR-PROGRAM", "each transition of the kernel's sockets (leg guest) and of their peers (leg stack), and who told"},
			{"tcpbox doctor", "whether the kernel's trace is there"},
		},
		Sources: []Source{
			{"RFC 9293, section 3.3.2", "the states, and figure 5, the diagram"},
			{"Linux, include/net/tcp_states.h", "the kernel's names"},
			{"Linux, include/trace/events/sock.h", "inet_sock_set_state"},
		},
	}
}
