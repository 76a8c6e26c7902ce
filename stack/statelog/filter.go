package statelog

import (
	"net/netip"
	"slices"
	"strings"

	"tcpbox/stack/tcpstate"
)

// Filter chooses records. It is what ParseFilter makes of an expression; the
// zero Filter matches every record. It is safe for concurrent use.
//
// The language is that of ss(8) where that has a word for it:
//
//	state S          a change into S or out of it. S is a state in any spelling,
//	                 or one of ss's groups: all, connected, synchronized, bucket, big
//	exclude S        not state S
//	from S, to S     a change out of S, into S
//	src, dst ADDRESS an end of the connection: address, CIDR, address:port, :port
//	sport, dport OP PORT
//	host ADDRESS, port OP PORT   either end
//	leg LEG          guest, stack, upstream
//	cause WORD       a kind of cause, or which one: timer, RST, close
//	source WORD      who saw it
//	conn N           the connection's number
//	pid N, command WORD   the guest's process
//	closed-by WORD   who closed first, or how: guest, upstream, stack, FIN, RST
//
// The last two lines, and host with a name instead of an address, are about facts
// of the connection: they match what is known of it when the record comes.
//
// src is the guest's end, or that of the host's socket on the upstream leg: the
// left one where a line shows both. OP is =, !=, <, <=, > or >=, or the word for
// it in ss, eq, ne, lt, le, gt, ge. It may be left out, which means =; words that
// are not of ports take = and !=.
//
// Terms are joined by and, or and not, also written &&, || and !, and by
// parentheses; and binds closer than or. Two terms side by side are joined by
// and, but states in a row mean any of them, as for ss.
type Filter struct{ root *node }

// nodeKind says what a node compares.
type nodeKind uint8

const (
	isAnd nodeKind = iota + 1
	isOr
	isNot
	isState
	isFrom
	isTo
	isSrc
	isDst
	isHost
	isSport
	isDport
	isPort
	isLeg
	isCause
	isSource
	isConn
	isPID
	isCommand
	isClosedBy
)

// node is a part of an expression: two or more joined, one negated, or a term.
type node struct {
	kind nodeKind
	kids []*node

	set    tcpstate.Set
	prefix netip.Prefix // the zero Prefix: any address
	op     portOp       // of an address: none, or equal to port
	port   uint16
	leg    tcpstate.Leg
	source tcpstate.Source
	cause  string // or the word of another kind of node
	conn   tcpstate.Conn
	pid    int
}

// portOp is how a port is compared.
type portOp uint8

const (
	noPort portOp = iota
	equalTo
	less
	lessOrEqual
	greater
	greaterOrEqual
)

// Match reports whether r is one of those that the filter chooses. A marker
// always is: where records are missing, some of them may have been. So is a change
// of a setting: it may be why the others are as they are.
// A record of facts is chosen by what they say, and by no term about states, legs,
// causes or sources.
func (f Filter) Match(r *Record) bool { return f.MatchKnown(r, r.Facts) }

// MatchKnown is Match where facts are what is known of the connection by now; nil
// is nothing.
func (f Filter) MatchKnown(r *Record, facts *tcpstate.Facts) bool {
	return f.root == nil || r.Dropped > 0 || r.Set != nil || f.root.match(&subject{Record: r, facts: facts})
}

// MatchState is MatchKnown for the state that r led into, instead of the change:
// "state S" and "to S" match if that is S.
func (f Filter) MatchState(r *Record, facts *tcpstate.Facts) bool {
	return f.root == nil || r.Dropped > 0 || r.Set != nil || f.root.match(&subject{Record: r, facts: facts, after: true})
}

// MatchLegs reports whether the filter chooses a connection by the states its legs
// are in: each as a record that led there. "state S" matches if any leg is in S;
// but a filter that names a leg, a cause or a source is about one leg, whichever
// it matches.
func (f Filter) MatchLegs(facts *tcpstate.Facts, legs []Record) bool {
	if f.root == nil {
		return true
	}
	if f.root.names(isLeg, isCause, isSource) {
		for i := range legs {
			if f.MatchState(&legs[i], facts) {
				return true
			}
		}
		return false
	}
	s := subject{Record: &Record{Conn: facts.Conn, Facts: facts}, facts: facts, after: true}
	for i := range legs {
		s.states |= tcpstate.SetOf(legs[i].To)
	}
	return f.root.match(&s)
}

// subject is what a filter is asked about.
type subject struct {
	*Record
	facts  *tcpstate.Facts // of its connection; nil: none are known
	after  bool            // it is about the state after the record
	states tcpstate.Set    // of all legs, if it is about those
}

// names reports whether a term of one of the kinds is anywhere in n.
func (n *node) names(kinds ...nodeKind) bool {
	return slices.Contains(kinds, n.kind) || slices.ContainsFunc(n.kids, func(kid *node) bool { return kid.names(kinds...) })
}

// IsZero reports whether the filter matches everything because it says nothing.
func (f Filter) IsZero() bool { return f.root == nil }

func (n *node) match(r *subject) bool {
	switch n.kind {
	case isAnd:
		for _, kid := range n.kids {
			if !kid.match(r) {
				return false
			}
		}
		return true
	case isOr:
		for _, kid := range n.kids {
			if kid.match(r) {
				return true
			}
		}
		return false
	case isNot:
		return !n.kids[0].match(r)
	case isState, isFrom, isTo:
		return n.matchStates(r)
	case isLeg:
		return r.Leg == n.leg
	case isSource:
		return r.Facts == nil && r.Source == n.source
	case isConn:
		return r.Conn == n.conn
	case isCause:
		return r.Facts == nil && isCausedBy(r.Cause, n.cause)
	case isPID, isCommand, isClosedBy:
		return r.facts != nil && n.matchFacts(r.facts)
	}
	return n.matchEnds(r)
}

func (n *node) matchStates(r *subject) bool {
	switch {
	case r.states != 0:
		return n.kind != isFrom && n.set&r.states != 0
	case r.Facts != nil:
		return false
	case n.kind == isFrom:
		return n.set.Has(r.From)
	}
	return n.set.Has(r.To) || n.kind == isState && !r.after && n.set.Has(r.From)
}

func (n *node) matchFacts(f *tcpstate.Facts) bool {
	switch n.kind {
	case isPID:
		return f.PID == n.pid
	case isCommand:
		return f.Command == n.cause
	}
	return f.Closed != nil && (strings.EqualFold(f.Closed.By.String(), n.cause) || strings.EqualFold(f.Closed.How.String(), n.cause))
}

// matchName compares a name, or one above it, with that of the connection.
func (n *node) matchName(f *tcpstate.Facts) bool {
	if f == nil || len(f.Name) < len(n.cause) {
		return false
	}
	above, end := f.Name[:len(f.Name)-len(n.cause)], f.Name[len(f.Name)-len(n.cause):]
	return strings.EqualFold(end, n.cause) && (above == "" || above[len(above)-1] == '.')
}

// matchEnds compares the addresses or ports of one end, or of either.
func (n *node) matchEnds(r *subject) bool {
	if n.kind == isHost && n.cause != "" {
		return n.matchName(r.facts)
	}
	src, dst := ends(r.Record)
	if r.Facts != nil && r.facts != nil {
		src, dst = r.facts.Guest, r.facts.Peer // a line need not have them
	}
	switch n.kind {
	case isSrc, isSport:
		return n.matchEnd(src)
	case isDst, isDport:
		return n.matchEnd(dst)
	}
	return n.matchEnd(src) || n.matchEnd(dst)
}

// ends returns the guest's end, or that of the host's socket on the upstream
// leg, and the other one.
func ends(r *Record) (src, dst netip.AddrPort) {
	switch {
	case r.Facts != nil:
		return r.Facts.Guest, r.Facts.Peer
	case r.Leg == tcpstate.Stack:
		return r.Remote, r.Local
	}
	return r.Local, r.Remote
}

// matchEnd compares one end. One that there is not, as a listener has no peer,
// matches nothing.
func (n *node) matchEnd(end netip.AddrPort) bool {
	if !end.IsValid() {
		return false
	}
	if n.prefix.IsValid() && !n.prefix.Contains(end.Addr().Unmap().WithZone("")) {
		return false
	}
	switch port := end.Port(); n.op {
	case equalTo:
		return port == n.port
	case less:
		return port < n.port
	case lessOrEqual:
		return port <= n.port
	case greater:
		return port > n.port
	case greaterOrEqual:
		return port >= n.port
	}
	return true
}

// isCausedBy compares a word with the kind of a cause, with which one it is, and
// with the words of that if it has several.
func isCausedBy(c tcpstate.Cause, word string) bool {
	if strings.EqualFold(c.Kind.String(), word) || strings.EqualFold(c.Which, word) {
		return true
	}
	for first, rest, more := strings.Cut(c.Which, " "); more; first, rest, more = strings.Cut(rest, " ") {
		if strings.EqualFold(first, word) || strings.EqualFold(rest, word) {
			return true
		}
	}
	return false
}
