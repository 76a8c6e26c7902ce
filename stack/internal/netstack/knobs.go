package netstack

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Reuse says when an active open of the stack may take over the 4-tuple of an
// endpoint in TIME-WAIT, as net.ipv4.tcp_tw_reuse does on Linux.
type Reuse uint8

// The values of Reuse. The zero value is Linux's default.
const (
	ReuseLoopback Reuse = iota
	ReuseOff
	ReuseOn
)

// SetTimeWaitTimeout sets how long TIME-WAIT lasts, for endpoints that enter
// it from now on. Zero ends it at once.
func (s *Stack) SetTimeWaitTimeout(d time.Duration) error {
	opt := tcpip.TCPTimeWaitTimeoutOption(d)
	if err := s.setOption(&opt); err != nil {
		return err
	}
	s.timeWait.timeoutNanos.Store(int64(d))
	return nil
}

// SetTimeWaitReuse sets when active opens reuse a TIME-WAIT, from the next
// connect on.
func (s *Stack) SetTimeWaitReuse(r Reuse) error {
	opt := tcpip.TCPTimeWaitReuseLoopbackOnly
	switch r {
	case ReuseOff:
		opt = tcpip.TCPTimeWaitReuseDisabled
	case ReuseOn:
		opt = tcpip.TCPTimeWaitReuseGlobal
	}
	return s.setOption(&opt)
}

// SetFINTimeout sets how long FIN-WAIT-2 may last once the owner of the
// endpoint has closed it in both directions, for endpoints made from now on.
func (s *Stack) SetFINTimeout(d time.Duration) error {
	opt := tcpip.TCPLingerTimeoutOption(d)
	return s.setOption(&opt)
}

// SetSYNBacklog sets how many handshakes may be half-open, from the next SYN
// on.
func (s *Stack) SetSYNBacklog(n int) { s.admission.setBacklog(n) }

// setPortRange sets the ports that active opens pick from, both ends included.
func (s *Stack) setPortRange(first, last uint16) error {
	return errnoOf(s.ns.SetPortRange(first, last))
}

func (s *Stack) setOption(opt tcpip.SettableTransportProtocolOption) error {
	return errnoOf(s.ns.SetTransportProtocolOption(tcp.ProtocolNumber, opt))
}

// setDefaults sets what is the same in every sandbox. Selective
// acknowledgements on; RACK off, for it retransmits without need on links that
// never reorder; Reno; no delay.
func (s *Stack) setDefaults() error {
	sack := tcpip.TCPSACKEnabled(true)
	recovery := tcpip.TCPRecovery(0)
	delay := tcpip.TCPDelayEnabled(false)
	cc := tcpip.CongestionControlOption("reno")
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: bufferSizeBytes, Max: maxBufferSizeBytes}
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: bufferSizeBytes, Max: maxBufferSizeBytes}
	for _, opt := range []tcpip.SettableTransportProtocolOption{&sack, &recovery, &delay, &cc, &send, &receive} {
		if err := s.setOption(opt); err != nil {
			return err
		}
	}
	if err := s.SetTimeWaitTimeout(DefaultTimeWait); err != nil {
		return err
	}
	if err := s.SetFINTimeout(DefaultFINTimeout); err != nil {
		return err
	}
	return s.SetTimeWaitReuse(ReuseLoopback)
}
