// Package policy decides which connections a sandbox may make. It is pure: it
// parses rules and answers questions, and applies nothing.
package policy

import (
	"context"
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
)

// Request is one attempt to reach an address.
type Request struct {
	Proto Proto
	Src   netip.AddrPort // the guest's end
	Dst   netip.AddrPort // where it wants to go; port 0 for ICMP
	Name  string         // the name the guest resolved to get Dst, if known
}

// Verdict is the answer to a Request. The zero Verdict denies.
type Verdict struct {
	Allow bool
	// Rule is the text of the rule that decided ("allow 192.0.2.0/24:443"), or
	// "net public" and the like when no rule matched.
	Rule string
	// Hint is, for a refusal, the exact flag that would allow the request.
	Hint string
}

// Decide answers a Request. It may wait, and gives up when ctx ends.
type Decide func(context.Context, Request) Verdict
