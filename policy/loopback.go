package policy

import "strconv"

// noHostRule is the Verdict.Rule of a refusal of the host's loopback when no
// rule matched: no Net allows it.
const noHostRule = "no rule allows @host"

// decideHost answers a request that means the host's loopback.
func (p Policy) decideHost(req Request, d *destination) Verdict {
	switch {
	case !d.addr.IsLoopback():
		return Verdict{Rule: "never the host by an address that is not loopback"}
	case req.Proto == AnyProto || req.Proto >= numProtos:
		return Verdict{Rule: "never without a protocol"}
	}
	for i := range p.Rules {
		r := &p.Rules[i]
		if r.action == Allow && r.group != host || !r.matches(req.Proto, req.Dst.Port(), d, nil) {
			continue
		}
		if r.action == Allow {
			return Verdict{Allow: true, Rule: r.text}
		}
		return Verdict{Rule: r.text, Hint: hostHint(req)}
	}
	return Verdict{Rule: noHostRule, Hint: hostHint(req)}
}

// hostHint returns the flag that allows this port of the host. It opens the
// port on all of the host's addresses.
func hostHint(req Request) string {
	b := []byte("--allow @host")
	if req.Proto != ICMP && req.Dst.Port() != 0 {
		b = append(b, ':')
		b = strconv.AppendUint(b, uint64(req.Dst.Port()), 10)
	}
	if req.Proto != TCP {
		b = append(b, '/')
		b = append(b, req.Proto.String()...)
	}
	return string(b)
}

// isLoopback reports whether the rule has a prefix and means nothing but
// loopback.
func (r Rule) isLoopback() bool {
	return r.group == noGroup && r.prefix.Addr().IsLoopback() && (r.prefix.Addr().Is6() || r.prefix.Bits() >= 8)
}
