package tcpbox

import (
	"errors"
	"fmt"

	"tcpbox/stack"
	"tcpbox/stack/tcpstate"
)

// ConnError says why nothing was done to a connection. It matches one of the errors
// below, with a hint.
type ConnError struct {
	Conn tcpstate.Conn
	Verb ConnVerb
	Err  error
	Hint string // or ""
}

func (e *ConnError) Error() string {
	return fmt.Sprintf("%v of connection %d: %v", e.Verb, e.Conn, e.Err)
}

func (e *ConnError) Unwrap() error { return e.Err }

// What a ConnError matches.
var (
	ErrConnUnknown = errors.New("nothing is known of it")
	ErrConnEnded   = errors.New("it has ended")

	// ErrConnNotRelayed says that no bytes are carried: the connection is not
	// complete, or it is a listener, or what is left of it is a kernel's, such as a
	// TIME-WAIT.
	ErrConnNotRelayed = errors.New("nothing of it is relayed: it has not begun, or all that is left is its end")

	ErrNoFreeze    = stack.ErrNoFreeze    // it ends in a host inside the stack
	ErrConnClosing = stack.ErrConnClosing // it is being closed, and cannot be frozen
)

// ParseConnVerb reads "rst", "close", "freeze" or "thaw".
func ParseConnVerb(text string) (ConnVerb, error) {
	for _, v := range stack.ConnVerbs() {
		if v.String() == text {
			return v, nil
		}
	}
	return 0, fmt.Errorf("%.40q is nothing that can be done to a connection", text)
}

// ConnDo does something to a connection that is relayed, or that ends in a host
// inside the stack: outbound or through a published port. It does not wait for what
// follows, which the log has.
//
//	ConnRST     RST to both ends at once. What was not delivered is lost
//	ConnClose   what has come is delivered, then FIN goes to both ends. What they
//	            still send is thrown away, for five seconds; from then on it is
//	            answered by RST, and who has not closed is left to the FIN-WAIT-2
//	            timers (the knob fin-timeout). What is frozen is thawed for it
//	ConnFreeze  no byte and no FIN moves between the legs: what comes fills the
//	            buffers until both windows are closed. RST is passed on
//	ConnThaw    all that was held goes on
//
// Of a host inside the stack, ConnRST and ConnClose act on the stack's endpoint; behind
// the FIN the host goes on to read. To freeze what is frozen, to thaw what is not and to
// close what is being closed does nothing. The error is a *ConnError.
func (s *Sandbox) ConnDo(conn tcpstate.Conn, verb ConnVerb) error {
	err := s.gateway.ConnDo(conn, verb)
	if errors.Is(err, stack.ErrNoConn) && s.outer != nil {
		err = s.outer.ConnDo(conn, verb) // an inbound one
	}
	if err == nil {
		return nil
	}
	e := &ConnError{Conn: conn, Verb: verb, Err: err}
	switch {
	case errors.Is(err, stack.ErrNoFreeze):
		e.Err, e.Hint = ErrNoFreeze, "rst and close work on it"
	case errors.Is(err, stack.ErrConnClosing):
		e.Err, e.Hint = ErrConnClosing, "rst ends it at once"
	case errors.Is(err, stack.ErrNoConn):
		e.Err, e.Hint = s.log.present.whyNot(conn), `"tcpbox ss" shows the connections that there are`
	}
	return e
}

// whyNot says why nothing can be done to a connection that is not relayed.
func (p *present) whyNot(conn tcpstate.Conn) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	row, known := p.table.Find(p.name, conn)
	switch {
	case !known:
		return ErrConnUnknown
	case row.Ended():
		return ErrConnEnded
	}
	return ErrConnNotRelayed
}
