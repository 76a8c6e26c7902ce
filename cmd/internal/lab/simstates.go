package lab

import (
	"strings"

	"tcpbox/cmd/internal/view"
	"tcpbox/stack/tcpstate"
)

// AllStates is the lab all-states.
func AllStates() Lab {
	every := Figures{"guest.states": 11, "stack.states": 11}
	for leg, end := range map[string][2]int{"guest": {1, 2}, "stack": {1, 2}} {
		every[leg+".LISTEN"] = end[0]
		every[leg+".SYN-SENT"] = end[1]
		every[leg+".SYN-RECEIVED"] = 2 // once for a client, once because both connected
		every[leg+".ESTABLISHED"] = 3
		every[leg+".FIN-WAIT-1"] = 2
		every[leg+".FIN-WAIT-2"] = 1
		every[leg+".CLOSE-WAIT"] = 1
		every[leg+".CLOSING"] = 1
		every[leg+".LAST-ACK"] = 1
		every[leg+".TIME-WAIT"] = 2
		every[leg+".CLOSED"] = 4 // three connections and a listener
	}
	listen := act("listen", "guest listens 80", "stack listens 80")
	guestOpens := opened()
	guestOpens.Name = "guest-opens"
	guestCloses := closedByGuest()
	guestCloses.Name = "guest-closes"
	stackOpens := act("stack-opens",
		"wait 61s",
		"stack connects 50001 > 80",
		"stack sends SYN",
		"guest accepts",
		"guest sends SYN+ACK",
		"stack sends ACK",
		"guest is ESTABLISHED",
	)
	stackCloses := act("stack-closes",
		"stack closes",
		"stack sends FIN+ACK",
		"guest sends ACK",
		"guest closes",
		"guest sends FIN+ACK",
		"stack sends ACK",
		"guest is CLOSED",
		"wait 61s",
	)
	bothOpen := act("both-open",
		"guest connects 40002 > 50002",
		"guest sends SYN, held as one",
		"stack connects 50002 > 40002",
		"stack sends SYN, held as two",
		"deliver one",
		"deliver two",
		"all arrives",
		"guest is ESTABLISHED",
		"stack is ESTABLISHED",
	)
	bothClose := act("both-close",
		"guest closes",
		"guest sends FIN+ACK, held as three",
		"stack closes",
		"stack sends FIN+ACK, held as four",
		"deliver three",
		"deliver four",
		"guest is CLOSING",
		"stack is CLOSING",
		"all arrives",
		"wait 61s",
		"guest stops listening",
		"stack stops listening",
	)
	return Lab{
		Name: "all-states", Where: OnStack, Draw: DrawStates,
		Title:    "each of the eleven states, on both ends, in one run",
		Question: "Which ways lead through the eleven states of TCP, and by what does an end go each of them?",
		Story: []string{
			"Three connections and two listeners are enough. The guest opens the first and closes it first; the stack opens the second and closes it first; the third is opened by both at " +
				"once and closed by both at once, for only so does an end come to CLOSING.",
			"Each transition that is counted was told by the end itself, when a segment arrived, a call was made or a timer ran out. LISTEN is counted when the listener is noted, and a connection that " +
				"begins with a SYN of the other end is drawn as coming from there, as in RFC 9293.",
		},
		Setup:   "Both ends are simulated hosts of the embedded stack. The numbers are how many of the eleven states each has entered, and how many transitions led to CLOSED.",
		Columns: []Column{{"guest", "guest.states"}, {"stack", "stack.states"}, {"g.end", "guest.CLOSED"}, {"s.end", "stack.CLOSED"}},
		Variants: []Variant{
			{
				Name: "three-connections", Group: Problem, Title: "three connections", Note: "11 of 11 on both ends",
				Why:   "Open and close by one end, by the other, and by both at once: every state, and every arrow of the diagram but three: FIN+ACK in one, a close in SYN-RECEIVED, a connect that fails.",
				Steps: []Step{listen, guestOpens, guestCloses, stackOpens, stackCloses, bothOpen, bothClose},
				After: every,
			},
			{
				Name: "one-connection", Group: Belief, Title: "one connection", Note: "6 on one end, 5 on the other",
				Belief: "An end goes through all the states of the diagram.",
				Why:    "It goes one way through it. Who opens and closes first is in six, CLOSED among them; who accepts and closes second in five, and LISTEN belongs to another socket.",
				Steps:  []Step{guestOpens, guestCloses, act("wait", "wait 61s")},
				After:  Figures{"guest.states": 6, "stack.states": 5, "guest.CLOSED": 1, "stack.CLOSED": 1},
			},
		},
		Moral: []string{"Eleven of eleven on the guest's end and on the stack's, each by a segment, a call or a timer. CLOSING and a SYN-RECEIVED that was SYN-SENT need both ends at once."},
		Production: []Look{
			{"ss -tan", "the state of each socket of this machine, in the kernel's words"},
			{"ss -tan | awk 'NR>1 {n[$1]++} END {for (s in n) print n[s], s}'", "how many there are in each"},
			{"tcpbox run --log - -- YOUR-PROGRAM", "each transition, on both ends, and by what"},
		},
		Sources: []Source{
			{"RFC 9293, section 3.3.2", "the states, and figure 5, the diagram"},
			{"RFC 9293, section 3.10", "what each event does in each state"},
			{"Linux, include/net/tcp_states.h", "the kernel's names; TCP_NEW_SYN_RECV is a twelfth"},
		},
	}
}

// Draw says what a report draws of a lab, beside its table.
type Draw string

// DrawStates: the diagram of the states, with what the first row has gone
// through.
const DrawStates Draw = "states"

// StateCounts returns how often each end went each way through the states. It is
// empty for a row that was not measured in virtual time.
func (r *Row) StateCounts() view.StateCounts {
	c := view.StateCounts{}
	for name, n := range r.Measured {
		end, edge, _ := strings.Cut(name, ".")
		from, to, ok := strings.Cut(edge, ">")
		if leg, known := legOf(end); ok && known {
			a, errA := tcpstate.Parse(from)
			b, errB := tcpstate.Parse(to)
			for range n {
				if errA == nil && errB == nil {
					c.Add(leg, a, b)
				}
			}
		}
	}
	return c
}
