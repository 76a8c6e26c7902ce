package netstack

import "tcpbox/stack/tcpstate"

// Progress tells whether anything happens: two values that differ say that
// something did in between.
type Progress struct {
	Unsettled int    // endpoints that are neither CLOSED nor in TIME-WAIT
	Segments  uint64 // received and sent
}

// Progress returns where the Stack is.
func (s *Stack) Progress() Progress {
	var p Progress
	for _, r := range s.tracker.snapshot() {
		switch r.state() {
		case tcpstate.Closed, tcpstate.TimeWait:
		default:
			p.Unsettled++
		}
	}
	if s.ender.waiting() {
		p.Unsettled++
	}
	st := s.ns.Stats().TCP
	p.Segments = st.SegmentsSent.Value() + st.ValidSegmentsReceived.Value()
	return p
}
