package policy

import (
	"context"
	"fmt"
	"net/netip"
)

// Proto is an Internet protocol that a rule or a request is about.
type Proto uint8

// The protocols. The zero Proto, in a rule, means every protocol.
const (
	AnyProto Proto = iota
	TCP
	UDP
	ICMP

	numProtos
)

var protoNames = [numProtos]string{"any", "tcp", "udp", "icmp"}

// String returns "tcp", "udp" or "icmp", and "any" for AnyProto.
func (p Proto) String() string {
	if p < numProtos {
		return protoNames[p]
	}
	return fmt.Sprintf("Proto(%d)", uint8(p))
}

// Request is one attempt to reach an address.
type Request struct {
	Proto Proto
	Src   netip.AddrPort // the guest's end
	Dst   netip.AddrPort // where it wants to go; port 0 for ICMP
	Name  string         // the name the guest resolved to get Dst, if known

	// Host says that the guest means the host's loopback, by the address that
	// stands for it in the sandbox; Dst is then the loopback address. Such a
	// request is allowed by a rule "allow @host" alone, under every Net. It
	// must never be set because of an address that the guest named itself.
	Host bool
}

// Verdict is the answer to a Request. The zero Verdict denies.
type Verdict struct {
	Allow bool
	// Rule is the text of the rule that decided ("allow 192.0.2.0/24:443"), or
	// "net public" and the like when no rule matched, or "never loopback" and
	// the like for what nothing can allow.
	Rule string
	// Hint is, for a refusal, the exact flag that would allow the request, as
	// a shell takes it: "--allow '[fd00::1]:443'". It must stand before the
	// rule that refused. Empty when nothing can allow the request.
	Hint string
}

// Decide answers a Request. It may wait, and gives up when ctx ends.
type Decide func(context.Context, Request) Verdict
