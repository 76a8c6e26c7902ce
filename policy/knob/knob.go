// Package knob is the table of TCP knobs: for each its key, unit and range,
// and what it means on each leg of a connection. It applies nothing; what
// carries a knob is a Carrier.
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

// Carrier is a leg that can be tuned: the Gateway, the upstream host, the
// guest's kernel.
type Carrier interface {
	// Plan says for each setting what Apply would do. It changes nothing.
	Plan([]Setting) []Outcome

	// Apply sets all settings, or none of them and returns an error.
	Apply([]Setting) error
}
