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
}

// limits are those in force.
type limits struct {
	connections atomic.Int64
	now         atomic.Int64 // connections that there are

	limited atomic.Uint64 // SYNs dropped
	warned  atomic.Int64  // when, in Unix seconds, it was said last
}

// warnEvery is how often it is said that a limit is reached.
const warnEvery = 10 * time.Second

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
	g.packets.setMax(l.Flows)
}

// enter counts a connection of the guest in, or reports that there are enough.
// The caller of one that is in calls leave.
func (g *Gateway) enter() bool {
	if g.limits.now.Add(1) <= g.limits.connections.Load() {
		return true
	}
	g.limits.now.Add(-1)
	g.limits.limited.Add(1)
	now := time.Now().Unix()
	if last := g.limits.warned.Load(); now-last >= int64(warnEvery/time.Second) && g.limits.warned.CompareAndSwap(last, now) {
		g.log.Warn("the guest has as many connections as its limit lets it; SYNs beyond are dropped",
			"connections", g.limits.connections.Load(), "dropped", g.limits.limited.Load())
	}
	return false
}

func (g *Gateway) leave() { g.limits.now.Add(-1) }
