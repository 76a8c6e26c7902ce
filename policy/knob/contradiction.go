package knob

import (
	"fmt"
	"slices"

	"tcpbox/stack/tcpstate"
)

// noPorts is the fault of a leg that has no port left to connect from.
func (lp legPlan) noPorts() error {
	const from, less = "port-range", "reserved-ports"
	ports, ok := lp.setting(from, lp.leg)
	reserved, set := lp.setting(less, lp.leg)
	if !ok || !set {
		return nil
	}
	ranges, _ := PortList(reserved.Word)
	for port := ports.Low; port <= ports.Hi; {
		i := slices.IndexFunc(ranges, func(r PortRange) bool { return int(r.Low) <= port && port <= int(r.Hi) })
		if i < 0 {
			return nil
		}
		port = int(ranges[i].Hi) + 1
	}
	fault := &Error{
		Input:   reserved.String(),
		Source:  reserved.Source,
		Message: fmt.Sprintf("it reserves every port of %s=%s, so that nothing can connect", ports.Name(), ports.Canonical()),
		Hint:    "leave some ports of port-range free",
	}
	if _, written := lp.find(less); !written {
		fault.Input, fault.Source = ports.String(), ports.Source
	}
	return fault
}

// noTimeout is the fault of bounds between which there is no retransmission timeout. It
// is the stack's alone: the kernel has the greatest win over the least, and takes of the
// upstream's sockets only bounds that go together.
func (lp legPlan) noTimeout() error {
	low, ok := lp.find("rto.min")
	high, set := lp.find("rto.max") // what only one of them can be goes with the other's default
	if lp.leg != tcpstate.Stack || !ok || !set || low.Duration <= high.Duration {
		return nil
	}
	return &Error{
		Input:   low.String(),
		Source:  low.Source,
		Message: fmt.Sprintf("it is more than %s=%s, so that no timeout is between them", high.Name(), high.Canonical()),
		Hint:    "make rto.min smaller, or rto.max greater",
	}
}
