package statelog

import (
	"net/netip"
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
	cause  string
	conn   tcpstate.Conn
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
// always is: where records are missing, some of them may have been.
func (f Filter) Match(r *Record) bool {
	return f.root == nil || r.Dropped > 0 || f.root.match(r, false)
}

// MatchState is Match for the state that r led into, instead of the change:
// "state S" and "to S" match if that is S.
func (f Filter) MatchState(r *Record) bool {
	return f.root == nil || r.Dropped > 0 || f.root.match(r, true)
}

// IsZero reports whether the filter matches everything because it says nothing.
func (f Filter) IsZero() bool { return f.root == nil }

func (n *node) match(r *Record, after bool) bool {
	switch n.kind {
	case isAnd:
		for _, kid := range n.kids {
			if !kid.match(r, after) {
				return false
			}
		}
		return true
	case isOr:
		for _, kid := range n.kids {
			if kid.match(r, after) {
				return true
			}
		}
		return false
	case isNot:
		return !n.kids[0].match(r, after)
	case isState:
		return n.set.Has(r.To) || !after && n.set.Has(r.From)
	case isFrom:
		return n.set.Has(r.From)
	case isTo:
		return n.set.Has(r.To)
	case isLeg:
		return r.Leg == n.leg
	case isSource:
		return r.Source == n.source
	case isConn:
		return r.Conn == n.conn
	case isCause:
		return isCausedBy(r.Cause, n.cause)
	}
	return n.matchEnds(r)
}

// matchEnds compares the addresses or ports of one end, or of either.
func (n *node) matchEnds(r *Record) bool {
	src, dst := ends(r)
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
	if r.Leg == tcpstate.Stack {
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
