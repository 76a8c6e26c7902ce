package netstack

import "gvisor.dev/gvisor/pkg/tcpip/faketime"

// newStandingClock returns a clock that stands still until it is advanced.
func newStandingClock() *faketime.ManualClock { return faketime.NewManualClock() }
