// Package knob is the table of TCP knobs: for each its key, unit and range,
// and what it means on each leg of a connection. It applies nothing; what
// carries a knob is a Carrier.
//
// A connection through tcpbox has three legs (package tcpstate): the kernel
// socket of the guest, the endpoint of the embedded stack, and the host socket
// upstream. Each has timers and queues of its own, and not each can be tuned.
// ParseSetting reads
//
//	fin-timeout=5s          every leg that can carry it
//	stack.fin-timeout=5s    one leg: guest, stack or upstream
//
// and Resolve lays a list of settings out over the legs. A key without a leg
// sets every leg that can carry it, says of each other why it cannot, and is
// refused if none can. A key with a leg is refused if that leg cannot carry it.
//
// Of several settings of the same key and leg the last wins. A setting of one
// leg wins over one of every leg, wherever it stands:
//
//	stack.fin-timeout=5s, fin-timeout=30s    stack 5s, the other legs 30s
package knob

import "tcpbox/stack/tcpstate"

// Outcome is what one leg makes of one setting.
type Outcome struct {
	Leg     tcpstate.Leg
	Key     string // such as "time-wait.timeout"
	Applied bool   // the leg carries it
	// Text says what was or will be done ("net.ipv4.tcp_fin_timeout = 5"), or
	// why the leg cannot carry it.
	Text string
}

// String returns one line for people: "guest.fin-timeout:
// net.ipv4.tcp_fin_timeout = 5", or "guest.time-wait.timeout is not set: " and
// why.
func (o Outcome) String() string {
	if o.Applied {
		return o.Leg.String() + "." + o.Key + ": " + o.Text
	}
	return o.Leg.String() + "." + o.Key + " is not set: " + o.Text
}

// Carrier is a leg that can be tuned: the Gateway, the upstream host, the
// guest's kernel.
type Carrier interface {
	// Plan says for each setting what Apply would do, in the order of the
	// settings. It changes nothing.
	Plan([]Setting) []Outcome

	// Apply sets all settings, or none of them and returns an error.
	Apply([]Setting) error
}
