package stack

import (
	"sync/atomic"
	"time"
)

// DefaultMaxConnections is how many connections of the guest there may be at
// once. Each takes a socket of the host and about 40 KB.
const DefaultMaxConnections = 1 << 16

// Limits bound what the guest can make grow in a Gateway. Zero means the
// default.
type Limits struct {
	Connections int // of the guest, at once, from the SYN to the end: DefaultMaxConnections
	Flows       int // of datagrams, at once: DefaultMaxFlows

	// Buffers is how many bytes the buffers of those connections may come to
	// together, each counted with the most that it may hold when it begins:
	// its receive-buffer and the largest size of its send-buffer. No limit.
	Buffers int64
}

// limits are those in force.
type limits struct {
	connections atomic.Int64
	now         atomic.Int64 // connections that there are
	buffers     atomic.Int64 // bytes; 0: no limit
	held        atomic.Int64 // bytes that those connections may hold

	limited    atomic.Uint64 // SYNs dropped
	unbuffered atomic.Uint64 // SYNs dropped for want of buffers

	saidConnections, saidFlows, saidBuffers said
}

// warnEvery is how often it is said that a limit is reached.
const warnEvery = 10 * time.Second

// said is when something was said last, in Unix seconds.
type said struct{ at atomic.Int64 }

// again reports whether it is time to say it, once.
func (s *said) again() bool {
	now, last := time.Now().Unix(), s.at.Load()
	return now-last >= int64(warnEvery/time.Second) && s.at.CompareAndSwap(last, now)
}

// SetLimits changes the limits. Connections beyond a smaller one go on; flows
// beyond end when the next one comes.
func (g *Gateway) SetLimits(l Limits) {
	if l.Connections == 0 {
		l.Connections = DefaultMaxConnections
	}
	if l.Flows == 0 {
		l.Flows = DefaultMaxFlows
	}
	g.limits.connections.Store(int64(l.Connections))
	g.limits.buffers.Store(l.Buffers)
	g.packets.setMax(l.Flows)
}

// enter counts a connection of the guest in, or reports that there are enough.
// The caller of one that is in calls leave with the bytes that were counted.
func (g *Gateway) enter() (bytes int64, ok bool) {
	if g.limits.now.Add(1) > g.limits.connections.Load() {
		g.limits.now.Add(-1)
		g.tooMany()
		return 0, false
	}
	bytes = g.net.BufferBytes()
	held, most := g.limits.held.Add(bytes), g.limits.buffers.Load()
	if most == 0 || held <= most {
		return bytes, true
	}
	g.leave(bytes)
	g.limits.unbuffered.Add(1)
	if g.limits.saidBuffers.again() {
		g.log.Warn("the buffers of the guest's connections come to as much as their limit lets them; SYNs beyond are dropped",
			"bytes", most, "bytes_each", bytes, "dropped", g.limits.unbuffered.Load())
	}
	return 0, false
}

// tooMany counts a SYN beyond the limit of connections, and says so.
func (g *Gateway) tooMany() {
	g.limits.limited.Add(1)
	if g.limits.saidConnections.again() {
		g.log.Warn("the guest has as many connections as its limit lets it; SYNs beyond are dropped",
			"connections", g.limits.connections.Load(), "dropped", g.limits.limited.Load())
	}
}

// leave counts a connection out that enter has counted in.
func (g *Gateway) leave(bytes int64) {
	g.limits.now.Add(-1)
	g.limits.held.Add(-bytes)
}

// evicted is told that flows gave way to a newer one.
func (g *Gateway) evicted() {
	if g.limits.saidFlows.again() {
		g.log.Warn("the guest has as many flows of UDP and ping as its limit lets it; the least used give way to new ones",
			"evicted", g.packets.evicted.Load())
	}
}
