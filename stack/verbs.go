package stack

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"tcpbox/stack/relay"
	"tcpbox/stack/tcpstate"
)

// A ConnVerb is what can be done to a connection from outside. The zero ConnVerb is
// none.
type ConnVerb uint8

// The verbs.
const (
	ConnRST    ConnVerb = iota + 1 // RST to both ends, at once
	ConnClose                      // what has come is delivered, then FIN to both ends
	ConnFreeze                     // no byte moves between the legs
	ConnThaw                       // the bytes go on

	numConnVerbs
)

var connVerbNames = [numConnVerbs]string{"none", "rst", "close", "freeze", "thaw"}

// ConnVerbs returns the verbs, without none.
func ConnVerbs() []ConnVerb { return []ConnVerb{ConnRST, ConnClose, ConnFreeze, ConnThaw} }

// String returns "rst", "close", "freeze" or "thaw", and "none" for the zero
// ConnVerb.
func (v ConnVerb) String() string {
	if v < numConnVerbs {
		return connVerbNames[v]
	}
	return fmt.Sprintf("ConnVerb(%d)", uint8(v))
}

// Errors of ConnDo.
var (
	// ErrNoConn says that a connection is neither relayed nor one of a host inside
	// the stack: not yet, not any more, or it never was.
	ErrNoConn = errors.New("there is no such connection")

	// ErrNoFreeze says that a connection cannot be frozen or thawed.
	ErrNoFreeze = errors.New("it ends in a host inside the stack, so there are no two legs to hold bytes back between")

	// ErrConnClosing says that a connection is being closed, so that it cannot be
	// frozen.
	ErrConnClosing = errors.New("it is being closed")
)

// ConnDo does what verb says to a connection that is relayed, or that ends in a host
// inside the stack: of the latter rst and close act on the stack's endpoint, and close
// is FIN, behind which the host goes on to read. It does not wait for what follows.
// To freeze what is frozen, to thaw what is not, and to close what is being closed does
// nothing. The log has it: as the cause of a state ("policy conn rst", "policy conn
// close"), or as a fact.
func (g *Gateway) ConnDo(id tcpstate.Conn, verb ConnVerb) error {
	g.carriedMu.Lock()
	c := g.carried[id]
	g.carriedMu.Unlock()
	if c == nil {
		return ErrNoConn
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	closed := c.finSeen.Load() // the FIN that is asked for may be seen before do returns
	var err error
	if c.host != nil {
		err = c.host.do(verb)
	} else {
		err = c.do(verb)
	}
	switch {
	case errors.Is(err, relay.ErrNotJoined), errors.Is(err, net.ErrClosed), errors.Is(err, syscall.ENOTCONN):
		return ErrNoConn
	case errors.Is(err, relay.ErrClosing):
		return ErrConnClosing
	case err != nil:
		return fmt.Errorf("stack: %w", err)
	}
	g.log.Debug("done to a connection", "conn", id, "verb", verb)
	if f := c.toldLocked(id, verb, closed); f != nil && g.facts != nil {
		g.facts(f)
	}
	return nil
}

// do acts on the relay.
func (c *carried) do(verb ConnVerb) error {
	switch verb {
	case ConnRST:
		return c.handle.Reset()
	case ConnClose:
		return c.handle.Close()
	case ConnFreeze:
		return c.handle.Freeze()
	case ConnThaw:
		return c.handle.Thaw()
	}
	return fmt.Errorf("%v: nothing that can be done to a connection", verb)
}

// toldLocked is what the log is told of a verb beside the states that follow; nil if
// nothing has changed. closed: an end had closed before.
func (c *carried) toldLocked(id tcpstate.Conn, verb ConnVerb, closed bool) *tcpstate.Facts {
	if c.host != nil || c.over {
		return nil
	}
	f := &tcpstate.Facts{Time: time.Now(), Conn: id}
	before := c.frozen
	c.frozen = c.handle.Frozen()
	if c.frozen != before {
		now := c.frozen
		f.Frozen = &now
	}
	if verb == ConnClose && !c.closed && !closed {
		c.closed = true
		f.Closed = &tcpstate.Ending{By: tcpstate.Stack, How: tcpstate.ByFIN}
	}
	if f.Frozen == nil && f.Closed == nil {
		return nil
	}
	return f
}

// do acts on the stack's endpoint.
func (c *hostConn) do(verb ConnVerb) error {
	switch verb {
	case ConnRST:
		defer c.once.Do(c.end)
		return c.ResetAsked()
	case ConnClose:
		return c.CloseWriteAsked()
	case ConnFreeze, ConnThaw:
		return ErrNoFreeze
	}
	return c.carried.do(verb)
}
