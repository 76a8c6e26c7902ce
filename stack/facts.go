package stack

import (
	"errors"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"tcpbox/stack/internal/netstack"
	"tcpbox/stack/relay"
	"tcpbox/stack/tcpstate"
)

// admitted tells what is known of a connection when it is let in.
func (g *Gateway) admitted(id tcpstate.Conn, d tcpstate.Direction, guest, peer netip.AddrPort, rule string) {
	if g.facts == nil {
		return
	}
	f := &tcpstate.Facts{Time: time.Now(), Conn: id, Guest: guest, Peer: peer, Direction: d, Rule: rule}
	if d == tcpstate.Outbound && g.nameOf != nil {
		f.Name = g.nameOf(peer.Addr())
	}
	g.facts(f)
}

// carried is a connection that is relayed now, or ends in a host inside the stack.
type carried struct {
	counts   relay.Counts
	upstream relay.Conn   // nil: it ends in a host
	handle   relay.Handle // of the relay
	host     *hostConn    // nil: it is relayed
	finSeen  atomic.Bool  // an end has closed

	mu     sync.Mutex // one verb at a time
	over   bool       // its end has been told
	frozen bool
	closed bool // by a verb
}

// pathOf is what an end knows of the way to its peer: an upstream.Conn does.
func pathOf(c relay.Conn) *tcpstate.Path {
	if p, ok := c.(interface{ Path() (tcpstate.Path, bool) }); ok {
		if path, known := p.Path(); known {
			return &path
		}
	}
	return nil
}

func (c *carried) facts(id tcpstate.Conn) *tcpstate.Facts {
	return &tcpstate.Facts{
		Time: time.Now(), Conn: id, Path: pathOf(c.upstream),
		Bytes: &tcpstate.Bytes{Outbound: uint64(c.counts.Outbound.Load()), Inbound: uint64(c.counts.Inbound.Load())},
	}
}

// ended tells how a relayed connection ended.
func (g *Gateway) ended(id tcpstate.Conn, c *carried, r relay.Result) {
	if g.facts == nil {
		return
	}
	f := c.facts(id)
	f.Closed = endingOf(r)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if c.frozen {
		f.Frozen = new(bool)
	}
	g.facts(f)
}

// endingOf is who closed first, and how.
func endingOf(r relay.Result) *tcpstate.Ending {
	legs := map[relay.Side]tcpstate.Leg{relay.Neither: tcpstate.Stack, relay.Guest: tcpstate.Guest, relay.Upstream: tcpstate.Upstream}
	switch {
	case r.First != relay.Neither && r.FirstBy == relay.ByRST:
		return &tcpstate.Ending{By: legs[r.First], How: tcpstate.ByRST}
	case r.First == relay.Neither && r.FirstBy == relay.ByRST:
		return &tcpstate.Ending{By: tcpstate.Stack, How: tcpstate.ByRST}
	case r.First == relay.Neither && r.FirstBy == relay.ByFIN:
		return &tcpstate.Ending{By: tcpstate.Stack, How: tcpstate.ByFIN}
	case r.First != relay.Neither:
		return &tcpstate.Ending{By: legs[r.First], How: tcpstate.ByFIN}
	case errors.Is(r.Err, syscall.ETIMEDOUT), r.End == relay.ByTimeout:
		return &tcpstate.Ending{By: legs[r.By], How: tcpstate.ByTimeout}
	case r.By == relay.Neither:
		return &tcpstate.Ending{By: tcpstate.Stack, How: tcpstate.ByStop}
	}
	return &tcpstate.Ending{By: legs[r.By], How: tcpstate.ByError}
}

// Carried tells of each connection that is relayed now what has been carried so far,
// and what its host socket says. It asks the kernel once for each.
func (g *Gateway) Carried() []*tcpstate.Facts {
	g.carriedMu.Lock()
	all := make(map[tcpstate.Conn]*carried, len(g.carried))
	for id, c := range g.carried {
		all[id] = c
	}
	g.carriedMu.Unlock()
	facts := make([]*tcpstate.Facts, 0, len(all))
	for id, c := range all {
		facts = append(facts, c.facts(id))
	}
	return facts
}

func (g *Gateway) carry(id tcpstate.Conn, c *carried) (stop func()) {
	g.carriedMu.Lock()
	defer g.carriedMu.Unlock()
	if g.carried == nil {
		g.carried = make(map[tcpstate.Conn]*carried)
	}
	g.carried[id] = c
	return func() {
		g.carriedMu.Lock()
		delete(g.carried, id)
		g.carriedMu.Unlock()
	}
}

// hostConn is a connection of a host inside the stack, which counts what is carried.
type hostConn struct {
	*netstack.Conn
	carried
	g    *Gateway
	once sync.Once
	stop func()
}

func (g *Gateway) hostConn(c *netstack.Conn) *hostConn {
	h := &hostConn{Conn: c, g: g}
	h.host = h
	h.stop = g.carry(c.ID(), &h.carried)
	return h
}

// WriteTo implements io.WriterTo. What it has carried is counted when it ends.
func (c *hostConn) WriteTo(w io.Writer) (int64, error) {
	n, err := c.Conn.WriteTo(w)
	c.counts.Outbound.Add(n)
	return n, err
}

// ReadFrom implements io.ReaderFrom. What it has carried is counted when it ends.
func (c *hostConn) ReadFrom(r io.Reader) (int64, error) {
	n, err := c.Conn.ReadFrom(r)
	c.counts.Inbound.Add(n)
	return n, err
}

// Read implements net.Conn.
func (c *hostConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.counts.Outbound.Add(int64(n))
	return n, err
}

// Write implements net.Conn.
func (c *hostConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.counts.Inbound.Add(int64(n))
	return n, err
}

// Close implements net.Conn.
func (c *hostConn) Close() error {
	defer c.once.Do(c.end)
	return c.Conn.Close()
}

// Reset implements relay.Conn.
func (c *hostConn) Reset() error {
	defer c.once.Do(c.end)
	return c.Conn.Reset()
}

func (c *hostConn) end() {
	c.stop()
	if c.g.facts != nil {
		c.g.facts(c.facts(c.ID()))
	}
}
