package upstream

import (
	"context"
	"errors"
	"sync/atomic"
	"syscall"
)

// Stats counts what became of a Host's dials since it was made. Each dial of
// TCP that has ended is in exactly one of the fields after Flows.
type Stats struct {
	Dialing int64 // dials in progress now
	Conns   int64 // connections open now
	Flows   int64 // datagram sockets open now

	Connected    uint64
	Refused      uint64
	Unreachable  uint64 // network or host
	Prohibited   uint64
	TimedOut     uint64
	Cancelled    uint64 // given up by the caller
	TooManyDials uint64
	TooManyConns uint64
	NoPort       uint64
	NoDescriptor uint64
	NoMemory     uint64
	Other        uint64
}

type counters struct {
	connected, refused, unreachable, prohibited, timedOut, cancelled,
	tooManyDials, tooManyConns, noPort, noDescriptor, noMemory, other atomic.Uint64
}

// Stats returns the counters as they are now.
func (h *Host) Stats() Stats {
	c := &h.stats
	dialing := h.dialing.Load()
	return Stats{
		Dialing:      dialing,
		Conns:        max(0, h.open.Load()-dialing),
		Flows:        h.flows.Load(),
		Connected:    c.connected.Load(),
		Refused:      c.refused.Load(),
		Unreachable:  c.unreachable.Load(),
		Prohibited:   c.prohibited.Load(),
		TimedOut:     c.timedOut.Load(),
		Cancelled:    c.cancelled.Load(),
		TooManyDials: c.tooManyDials.Load(),
		TooManyConns: c.tooManyConns.Load(),
		NoPort:       c.noPort.Load(),
		NoDescriptor: c.noDescriptor.Load(),
		NoMemory:     c.noMemory.Load(),
		Other:        c.other.Load(),
	}
}

// count counts the end of one dial.
func (c *counters) count(ctx context.Context, err error) { c.of(ctx, err).Add(1) }

func (c *counters) of(ctx context.Context, err error) *atomic.Uint64 {
	var short *ShortageError
	switch {
	case err == nil:
		return &c.connected
	case errors.As(err, &short):
		switch short.Of {
		case Dials:
			return &c.tooManyDials
		case Conns:
			return &c.tooManyConns
		case Ports:
			return &c.noPort
		case Descriptors:
			return &c.noDescriptor
		}
		return &c.noMemory
	case errors.Is(err, syscall.ECONNREFUSED):
		return &c.refused
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return &c.unreachable
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return &c.prohibited
	case ctx.Err() != nil && errors.Is(err, context.Cause(ctx)):
		return &c.cancelled
	case errors.Is(err, syscall.ETIMEDOUT):
		return &c.timedOut
	}
	return &c.other
}
