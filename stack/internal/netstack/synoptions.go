package netstack

import (
	"encoding/binary"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// synOptions say what is changed in the options of SYNs and SYN-ACKs at the
// boundary, both ways, for gVisor has no settings for that. Other segments are
// not looked at: what a connection has agreed on stays.
type synOptions struct {
	mss             atomic.Uint32 // the greatest that is told; zero: as it is
	noTimestamps    atomic.Bool
	noWindowScaling atomic.Bool
}

// SetMSS sets how many bytes a segment carries at most, both ways, for
// connections whose handshake begins from now on. Zero means what the MTU gives.
func (s *Stack) SetMSS(n int) { s.synOptions.mss.Store(uint32(n)) }

// SetTimestamps says whether timestamps are offered and taken (RFC 7323, section
// 3), by connections whose SYN comes or is sent from now on.
func (s *Stack) SetTimestamps(on bool) { s.synOptions.noTimestamps.Store(!on) }

// SetWindowScaling is SetTimestamps for the scaling of windows (RFC 7323, section
// 2).
func (s *Stack) SetWindowScaling(on bool) { s.synOptions.noWindowScaling.Store(!on) }

// rewrite changes the options of a SYN or SYN-ACK; tcpHdr is its whole header.
// complete says that its checksum is that of the segment, and has to follow.
//
// Timestamps and scaling are taken out of SYNs alone: a SYN-ACK has what the SYN
// offered (RFC 7323, sections 2.2 and 3.2), and with a change in between the two
// ends would not agree.
func (o *synOptions) rewrite(tcpHdr header.TCP, complete bool) {
	mss, noTS, noWS := o.mss.Load(), false, false
	if !tcpHdr.Flags().Contains(header.TCPFlagAck) {
		noTS, noWS = o.noTimestamps.Load(), o.noWindowScaling.Load()
	}
	if mss == 0 && !noTS && !noWS {
		return
	}
	opts := tcpHdr[header.TCPMinimumSize:tcpHdr.DataOffset()]
	before := checksum.Checksum(opts, 0)
	for len(opts) > 0 && opts[0] != header.TCPOptionEOL {
		if opts[0] == header.TCPOptionNOP {
			opts = opts[1:]
			continue
		}
		if len(opts) < 2 || opts[1] < 2 || int(opts[1]) > len(opts) {
			break // malformed: gVisor and kernels read no further either
		}
		option := opts[:opts[1]]
		opts = opts[len(option):]
		switch kind := option[0]; {
		case kind == header.TCPOptionMSS && len(option) == header.TCPOptionMSSLength:
			if mss != 0 && uint32(binary.BigEndian.Uint16(option[2:])) > mss {
				binary.BigEndian.PutUint16(option[2:], uint16(mss))
			}
		case kind == header.TCPOptionTS && noTS, kind == header.TCPOptionWS && noWS:
			for i := range option {
				option[i] = header.TCPOptionNOP
			}
		}
	}
	if complete { // RFC 1624, equation 3
		after := checksum.Checksum(tcpHdr[header.TCPMinimumSize:tcpHdr.DataOffset()], 0)
		sum := checksum.Combine(checksum.Combine(^tcpHdr.Checksum(), ^before), after)
		tcpHdr.SetChecksum(^sum)
	}
}
