package stack

import (
	"net/netip"

	"tcpbox/policy"
)

// loopbackOf returns the host's loopback address that addr stands for, or the
// zero Addr.
func (g *Gateway) loopbackOf(addr netip.Addr) netip.Addr {
	for _, h := range g.loopback {
		if h != addr {
			continue
		}
		if h.Is4() {
			return netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		return netip.IPv6Loopback()
	}
	return netip.Addr{}
}

// request is what the policy is asked about a flow of the guest's. Its Dst is
// where the flow is dialled.
func (g *Gateway) request(proto policy.Proto, src, dst netip.AddrPort) policy.Request {
	r := policy.Request{Proto: proto, Src: src, Dst: dst}
	if lo := g.loopbackOf(dst.Addr()); lo.IsValid() {
		r.Dst, r.Host = netip.AddrPortFrom(lo, dst.Port()), true
	}
	return r
}

// inSubnets reports whether addr is in the sandbox's own subnets.
func (g *Gateway) inSubnets(addr netip.Addr) bool {
	for _, p := range g.subnets {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
