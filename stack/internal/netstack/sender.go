package netstack

import (
	"fmt"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// What follows holds for connections that are opened, or whose handshake begins,
// from then on.

// SetDataRetries sets how often unacknowledged data is sent again before a
// connection ends with ETIMEDOUT.
func (s *Stack) SetDataRetries(n int) error {
	opt := tcpip.TCPMaxRetriesOption(n)
	return s.setOption(&opt)
}

// rto are the bounds of the retransmission timeout.
type rto struct {
	mu          sync.Mutex
	least, most time.Duration
}

// setRTO changes the bounds. gVisor refuses each one that contradicts the other,
// so the order in which they are set is by their direction.
func (s *Stack) setRTO(least, most time.Duration) error {
	if least > most {
		return fmt.Errorf("netstack: rto.min %v is more than rto.max %v: %w", least, most, syscall.EINVAL)
	}
	lo, hi := tcpip.TCPMinRTOOption(least), tcpip.TCPMaxRTOOption(most)
	opts := []tcpip.SettableTransportProtocolOption{&hi, &lo}
	if most < s.rto.least {
		opts = []tcpip.SettableTransportProtocolOption{&lo, &hi}
	}
	for _, opt := range opts {
		if err := s.setOption(opt); err != nil {
			return err
		}
	}
	s.rto.least, s.rto.most = least, most
	return nil
}

// SetMinRTO sets the least retransmission timeout, and raises the greatest to it
// if that is less.
func (s *Stack) SetMinRTO(d time.Duration) error {
	s.rto.mu.Lock()
	defer s.rto.mu.Unlock()
	return s.setRTO(d, max(d, s.rto.most))
}

// SetMaxRTO sets the greatest retransmission timeout, and lowers the least to it
// if that is more.
func (s *Stack) SetMaxRTO(d time.Duration) error {
	s.rto.mu.Lock()
	defer s.rto.mu.Unlock()
	return s.setRTO(min(d, s.rto.least), d)
}

// RTO returns the bounds of the retransmission timeout.
func (s *Stack) RTO() (least, most time.Duration) {
	s.rto.mu.Lock()
	defer s.rto.mu.Unlock()
	return s.rto.least, s.rto.most
}

// congestionControls are the algorithms that gVisor has.
var congestionControls = []string{"reno", "cubic"}

// SetCongestionControl sets the algorithm, one of congestionControls.
func (s *Stack) SetCongestionControl(name string) error {
	opt := tcpip.CongestionControlOption(name)
	return s.setOption(&opt)
}

// SetSACK says whether selective acknowledgements are offered and taken.
func (s *Stack) SetSACK(on bool) error {
	opt := tcpip.TCPSACKEnabled(on)
	return s.setOption(&opt)
}

// SetReceiveBuffer sets how many bytes of the guest's a connection holds that
// nobody has read, at least 4 KB. It does not grow: gVisor grows it only for
// owners that tell it of each read.
func (s *Stack) SetReceiveBuffer(size int) error {
	opt := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: size, Max: max(size, maxBufferSizeBytes)}
	if err := s.setOption(&opt); err != nil {
		return err
	}
	s.receiveBuffer.Store(int64(size))
	// The window of a forwarder is its own and cannot be changed.
	s.forwarder.Store(tcp.NewForwarder(s.ns, size, forwarderLimit, s.admission.handler))
	return nil
}

// SetSendBuffer sets how many bytes for the guest a connection holds that it has
// not acknowledged: first to begin with, most once it carries much. Both are at
// least 4 KB.
func (s *Stack) SetSendBuffer(first, most int) error {
	opt := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: first, Max: most}
	if err := s.setOption(&opt); err != nil {
		return err
	}
	s.sendBuffer.Store(int64(most))
	return nil
}

// BufferBytes is how much a connection that begins now may hold in its two
// buffers, at most: what SetReceiveBuffer and SetSendBuffer have last set.
func (s *Stack) BufferBytes() int64 { return s.receiveBuffer.Load() + s.sendBuffer.Load() }
