package netstack

import (
	"fmt"
	"slices"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"tcpbox/policy/knob"
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
// connect on. No connection of the stack's is from loopback to loopback.
func (s *Stack) SetTimeWaitReuse(r Reuse) { s.timeWait.reuse.Store(r == ReuseOn) }

// SetTimeWaitReuseDelay sets how long a connection must have been in TIME-WAIT
// before an active open reuses it, from the next connect on.
func (s *Stack) SetTimeWaitReuseDelay(d time.Duration) { s.timeWait.delayNanos.Store(int64(d)) }

// SetTimeWaitNewerSYN says whether a newer SYN on a 4-tuple in TIME-WAIT opens a
// connection at once (RFC 6191) or is answered with an ACK, as an older one is;
// from the next SYN on.
func (s *Stack) SetTimeWaitNewerSYN(opens bool) { s.timeWait.keepNewer.Store(!opens) }

// SetRFC1337 says whether an RST leaves a connection in TIME-WAIT as it is, from
// the next segment on.
func (s *Stack) SetRFC1337(on bool) { s.timeWait.rfc1337.Store(on) }

// SetFINTimeout sets how long FIN-WAIT-2 may last once the owner of the
// endpoint has closed it in both directions, for endpoints made from now on.
func (s *Stack) SetFINTimeout(d time.Duration) error {
	opt := tcpip.TCPLingerTimeoutOption(d)
	return s.setOption(&opt)
}

// SetSYNBacklog sets how many handshakes may be half-open, from the next SYN
// on.
func (s *Stack) SetSYNBacklog(n int) { s.admission.setBacklog(n) }

// SetPortRange sets the ports that active opens pick from, both ends included,
// from the next connect on. The first is at least 1 and no more than the last.
func (s *Stack) SetPortRange(first, last uint16) error {
	if first == 0 || first > last { // gVisor would make no port of 0-65535
		return fmt.Errorf("netstack: ports %d-%d: %w", first, last, syscall.EINVAL)
	}
	return errnoOf(s.ns.SetPortRange(first, last))
}

// SetReservedPorts sets the ports that active opens never pick, from the next connect
// on.
func (s *Stack) SetReservedPorts(ranges []knob.PortRange) {
	if len(ranges) == 0 {
		s.reservedPorts.Store(nil)
		return
	}
	s.reservedPorts.Store(&ranges)
}

// picks reports whether an active open may pick the port.
func (s *Stack) picks(port uint16) bool {
	first, last := s.ns.PortRange()
	return first <= port && port <= last && !s.reserved(port)
}

func (s *Stack) reserved(port uint16) bool {
	ranges := s.reservedPorts.Load()
	return ranges != nil && slices.ContainsFunc(*ranges, func(r knob.PortRange) bool { return r.Low <= port && port <= r.Hi })
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
	for _, opt := range []tcpip.SettableTransportProtocolOption{&sack, &recovery, &delay, &cc} {
		if err := s.setOption(opt); err != nil {
			return err
		}
	}
	s.rto.least, s.rto.most = tcp.MinRTO, tcp.MaxRTO
	s.live.idle, s.live.interval, s.live.count = DefaultKeepAliveIdle, DefaultKeepAliveInterval, DefaultKeepAliveCount
	s.SetOrphanTimeout(DefaultOrphanTimeout)
	s.SetOrphanRetries(DefaultOrphanRetries)
	s.SetOrphanMax(DefaultOrphanMax)
	s.SetSYNFlood(DefaultSYNFlood)
	s.SetSYNRetries(mostRetries)
	s.SetSYNACKRetries(DefaultSYNACKRetries)
	if err := s.SetSendBuffer(bufferSizeBytes, maxBufferSizeBytes); err != nil {
		return err
	}
	if err := s.SetReceiveBuffer(bufferSizeBytes); err != nil {
		return err
	}
	if err := s.SetTimeWaitTimeout(DefaultTimeWait); err != nil {
		return err
	}
	if err := s.SetFINTimeout(DefaultFINTimeout); err != nil {
		return err
	}
	// gVisor would reuse a TIME-WAIT after a second, always; see Stack.connect.
	reuse := tcpip.TCPTimeWaitReuseDisabled
	if err := s.setOption(&reuse); err != nil {
		return err
	}
	if err := s.SetPortRange(DefaultFirstPort, DefaultLastPort); err != nil {
		return err
	}
	s.SetTimeWaitReuseDelay(DefaultReuseDelay)
	s.SetTimeWaitMax(DefaultTimeWaitMax)
	return nil
}
