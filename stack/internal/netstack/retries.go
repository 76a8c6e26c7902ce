package netstack

import (
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// retries are how often SYNs and SYN-ACKs are sent again. gVisor's own options
// for that do nothing: it always sends them six times more, with a wait of 1 s
// that doubles, and gives up after 127 s.
type retries struct {
	syn, synAck atomic.Int64
}

// mostRetries is how often gVisor sends them again.
const mostRetries = 6

// handshakeFacts is what is known of a record's SYN or SYN-ACK. It is used by
// the egress hook alone, with the endpoint locked.
type handshakeFacts struct {
	begun  bool
	synAck bool
	at     tcpip.MonotonicTime // when the first one left
}

// exhausted is told of each SYN and SYN-ACK that is about to leave, and reports
// whether it is one too many. That goes by the time at which its timer runs out,
// for the guest's own SYNs have a SYN-ACK sent again too.
func (h *handshakeFacts) exhausted(synAck bool, now tcpip.MonotonicTime, k *retries) bool {
	if !h.begun || h.synAck != synAck {
		*h = handshakeFacts{begun: true, synAck: synAck, at: now}
		return false
	}
	n := k.syn.Load()
	if synAck {
		n = k.synAck.Load()
	}
	if n >= mostRetries {
		return false
	}
	// The first retransmission comes after one wait, the second after three ...
	due := (firstRetransmission << (n + 1)) - firstRetransmission
	// A timer is late, but never early by more than it took to send the first.
	return now.Sub(h.at) >= due-100*time.Millisecond
}

// SetSYNRetries sets how often a SYN is sent again before a dial fails with
// ETIMEDOUT, from the next one on. More than six are six.
func (s *Stack) SetSYNRetries(n int) { s.tracker.retries.syn.Store(int64(n)) }

// SetSYNACKRetries is SetSYNRetries for SYN-ACKs, and ends Request.Accept.
func (s *Stack) SetSYNACKRetries(n int) { s.tracker.retries.synAck.Store(int64(n)) }
