package tcpstate

import "time"

// Change is a setting that has changed while the sandbox ran.
type Change struct {
	Time time.Time

	Leg Leg    // zero: of the sandbox
	Key string // of a knob, or "policy", "limits", or a sysctl's name

	// From and To are values; From is empty where nobody knows what held.
	From, To string
}
