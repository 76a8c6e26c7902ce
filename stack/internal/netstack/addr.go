package netstack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gvstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

const nicID tcpip.NICID = 1

// fromAddr turns gVisor's address into ours, and toAddr the other way.
func fromAddr(a tcpip.Address) netip.Addr {
	switch a.Len() {
	case 4:
		return netip.AddrFrom4(a.As4())
	case 16:
		return netip.AddrFrom16(a.As16())
	}
	return netip.Addr{}
}

func toAddr(a netip.Addr) tcpip.Address {
	if a.Is4() {
		return tcpip.AddrFrom4(a.As4())
	}
	return tcpip.AddrFrom16(a.As16())
}

func netProtoOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}

func fullAddr(ap netip.AddrPort) tcpip.FullAddress {
	fa := tcpip.FullAddress{NIC: nicID, Port: ap.Port()}
	if ap.Addr().IsValid() {
		fa.Addr = toAddr(ap.Addr())
	}
	return fa
}

// localOf and remoteOf are the stack's and the guest's end of a 4-tuple.
func localOf(id gvstack.TransportEndpointID) netip.AddrPort {
	return netip.AddrPortFrom(fromAddr(id.LocalAddress), id.LocalPort)
}

func remoteOf(id gvstack.TransportEndpointID) netip.AddrPort {
	return netip.AddrPortFrom(fromAddr(id.RemoteAddress), id.RemotePort)
}

// tupleOf is the inverse of localOf and remoteOf.
func tupleOf(local, remote netip.AddrPort) gvstack.TransportEndpointID {
	return gvstack.TransportEndpointID{
		LocalAddress: toAddr(local.Addr()), LocalPort: local.Port(),
		RemoteAddress: toAddr(remote.Addr()), RemotePort: remote.Port(),
	}
}
