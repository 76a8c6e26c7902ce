package statelog

import (
	"strconv"
	"strings"
)

// String returns the filter as an expression that ParseFilter makes the same
// filter of; "" for the zero Filter.
func (f Filter) String() string {
	if f.root == nil {
		return ""
	}
	var b strings.Builder
	f.root.print(&b)
	return b.String()
}

var kindNames = func() map[nodeKind]string {
	names := make(map[nodeKind]string)
	for word, kind := range keywords {
		if word != "exclude" {
			names[kind] = word
		}
	}
	return names
}()

var opNames = map[portOp]string{equalTo: "=", less: "<", lessOrEqual: "<=", greater: ">", greaterOrEqual: ">="}

func (n *node) print(b *strings.Builder) {
	switch n.kind {
	case isAnd, isOr:
		between := " and "
		if n.kind == isOr {
			between = " or "
		}
		for i, kid := range n.kids {
			if i > 0 {
				b.WriteString(between)
			}
			kid.printInside(b)
		}
	case isNot:
		b.WriteString("not ")
		n.kids[0].printInside(b)
	case isState:
		for i, name := range n.set.Names() {
			if i > 0 {
				b.WriteByte(' ')
			}
			b.WriteString("state " + name)
		}
	default:
		b.WriteString(kindNames[n.kind] + " " + n.value())
	}
}

// printInside prints n as a part of another node.
func (n *node) printInside(b *strings.Builder) {
	if n.kind != isAnd && n.kind != isOr {
		n.print(b)
		return
	}
	b.WriteString("( ")
	n.print(b)
	b.WriteString(" )")
}

// value is what stands behind the keyword of a term.
func (n *node) value() string {
	switch n.kind {
	case isFrom, isTo:
		return strings.Join(n.set.Names(), " ") // always one
	case isSport, isDport, isPort:
		return opNames[n.op] + " :" + strconv.Itoa(int(n.port))
	case isLeg:
		return n.leg.String()
	case isSource:
		return n.source.String()
	case isCause, isCommand, isClosedBy:
		return n.cause
	case isPID:
		return strconv.Itoa(n.pid)
	case isConn:
		return strconv.FormatUint(uint64(n.conn), 10)
	}
	return n.address()
}

func (n *node) address() string {
	if n.cause != "" {
		return n.cause // the name of a host
	}
	text := ""
	if addr := n.prefix.Addr(); n.prefix.IsValid() {
		if text = addr.String(); addr.Is6() {
			text = "[" + text + "]"
		}
		if !n.prefix.IsSingleIP() {
			text += "/" + strconv.Itoa(n.prefix.Bits())
		}
	}
	switch {
	case n.op == equalTo:
		return text + ":" + strconv.Itoa(int(n.port))
	case text == "":
		return "*"
	}
	return text
}
