package policy

import (
	"net/netip"
	"strconv"
	"strings"
)

// Policy is an ordered list of rules and what decides when none of them
// matches. The zero Policy allows nothing. It is safe for concurrent use as
// long as no one changes it.
type Policy struct {
	Net   Net
	Rules []Rule
}

// String lists the rules in their order, one on a line, and then the Net:
//
//	deny @metadata
//	allow 10.0.0.0/8:5432
//	net public
func (p Policy) String() string {
	var b strings.Builder
	for _, r := range p.Rules {
		b.WriteString(r.String())
		b.WriteByte('\n')
	}
	b.WriteString("net ")
	b.WriteString(p.Net.String())
	return b.String()
}

// Decide answers one request. The package comment has the order in which it
// does. A nil h owns nothing but loopback and the unspecified addresses. An
// answer that allows does not allocate.
func (p Policy) Decide(req Request, h HostAddrs) Verdict {
	d := newDestination(req.Dst.Addr())
	if req.Host {
		return p.decideHost(req, &d)
	}
	if why := never(req.Proto, &d); why != "" {
		return Verdict{Rule: why}
	}
	for i := range p.Rules {
		r := &p.Rules[i]
		if r.matches(req.Proto, req.Dst.Port(), &d, h) {
			return verdict(r.action == Allow, r.text, req, &d)
		}
	}
	switch p.Net {
	case NetAll:
		return verdict(true, netVerdicts[NetAll], req, &d)
	case NetPublic:
		return verdict(public.narrow(&d, h), netVerdicts[NetPublic], req, &d)
	default:
		return verdict(false, netVerdicts[NetNone], req, &d)
	}
}

// never says why nothing can allow proto to d, or returns "".
func never(proto Proto, d *destination) string {
	switch {
	case !d.addr.IsValid():
		return "never without an address"
	case proto == AnyProto || proto >= numProtos:
		return "never without a protocol"
	case d.addr.IsUnspecified():
		return "never unspecified"
	case d.addr.IsLoopback():
		return "never loopback"
	}
	// Local NAT64 is left to the rules: one of its readings is right, and
	// which is not known.
	if !nat64Local.Contains(d.addr) {
		for _, c := range d.all() {
			if c.IsLoopback() {
				return "never loopback"
			}
		}
	}
	if proto == TCP {
		switch {
		case d.addr.IsMulticast():
			return "never tcp to multicast"
		case d.addr == broadcast:
			return "never tcp to broadcast"
		}
	}
	return ""
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

func verdict(allow bool, rule string, req Request, d *destination) Verdict {
	if allow {
		return Verdict{Allow: true, Rule: rule}
	}
	return Verdict{Rule: rule, Hint: hint(req.Proto, d.addr, req.Dst.Port())}
}

// hint returns the flag that allows proto to port of addr and nothing else but,
// for TCP, UDP to the same port.
func hint(proto Proto, addr netip.Addr, port uint16) string {
	b := []byte("--allow ")
	switch {
	case proto == ICMP:
		b = addr.AppendTo(b)
	case port == 0:
		// No port can be written that means 0; this opens them all.
		b = addr.AppendTo(b)
	case addr.Is4():
		b = addr.AppendTo(b)
		b = append(b, ':')
		b = strconv.AppendUint(b, uint64(port), 10)
	default:
		// A shell would take the brackets for a pattern.
		b = append(b, '\'', '[')
		b = addr.AppendTo(b)
		b = append(b, "]:"...)
		b = strconv.AppendUint(b, uint64(port), 10)
	}
	if proto != TCP {
		b = append(b, '/')
		b = append(b, proto.String()...)
	}
	if b[len("--allow ")] == '\'' {
		b = append(b, '\'')
	}
	return string(b)
}
