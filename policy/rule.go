package policy

import (
	"fmt"
	"net/netip"
	"strconv"
)

// Action is what a rule does with the requests it matches. The zero Action
// denies.
type Action uint8

// The actions.
const (
	Deny Action = iota
	Allow
)

// String returns "deny" or "allow".
func (a Action) String() string {
	switch a {
	case Deny:
		return "deny"
	case Allow:
		return "allow"
	default:
		return fmt.Sprintf("Action(%d)", uint8(a))
	}
}

// Rule allows or denies the requests that match its pattern. ParseRule makes
// one; Rules that mean the same are equal by ==. The zero Rule matches nothing.
type Rule struct {
	action      Action
	group       group        // noGroup: prefix
	prefix      netip.Prefix // the zero Prefix contains nothing
	first, last uint16       // ports, both ends included; 0: every port
	proto       Proto
	text        string // what String returns, made once so that Decide need not
}

// newRule fills in the text of r.
func newRule(r Rule) Rule {
	r.text = r.action.String() + " " + r.format()
	return r
}

// Action says whether the rule allows or denies.
func (r Rule) Action() Action { return r.action }

// String returns the action and the pattern: "allow [2001:db8::/32]:443/tcp".
func (r Rule) String() string {
	if r.text == "" {
		return r.action.String() + " nothing"
	}
	return r.text
}

// Pattern returns what stands behind --allow or --deny, in the one form that
// all spellings of the rule share. ParseRule turns it into the same Rule again.
func (r Rule) Pattern() string {
	if r.text == "" {
		return ""
	}
	return r.text[len(r.action.String())+1:]
}

func (r Rule) format() string {
	var b []byte
	switch {
	case r.group != noGroup:
		b = append(b, groupNames[r.group]...)
	case r.last != 0 && r.prefix.Addr().Is6():
		b = append(b, '[')
		b = appendTarget(b, r.prefix)
		b = append(b, ']')
	default:
		b = appendTarget(b, r.prefix)
	}
	if r.last != 0 {
		b = append(b, ':')
		b = strconv.AppendUint(b, uint64(r.first), 10)
		if r.last != r.first {
			b = append(b, '-')
			b = strconv.AppendUint(b, uint64(r.last), 10)
		}
	}
	if r.proto != AnyProto {
		b = append(b, '/')
		b = append(b, r.proto.String()...)
	}
	return string(b)
}

// appendTarget writes a prefix of one address as that address.
func appendTarget(b []byte, prefix netip.Prefix) []byte {
	if prefix.IsSingleIP() {
		return prefix.Addr().AppendTo(b)
	}
	return prefix.AppendTo(b)
}

// matches reports whether the rule decides a request of proto to port of d.
func (r *Rule) matches(proto Proto, port uint16, d *destination, h HostAddrs) bool {
	if r.proto != AnyProto && r.proto != proto {
		return false
	}
	if r.last != 0 && (proto == ICMP || port < r.first || port > r.last) {
		return false
	}
	if r.action == Allow {
		if r.group != noGroup {
			return r.group.narrow(d, h)
		}
		return r.prefix.Contains(d.addr)
	}
	if r.denies(d.addr, h) {
		return true
	}
	for _, c := range d.all() {
		if r.denies(c, h) {
			return true
		}
	}
	return false
}

func (r *Rule) denies(addr netip.Addr, h HostAddrs) bool {
	if r.group != noGroup {
		return r.group.wide(addr, h)
	}
	return r.prefix.Contains(addr)
}
