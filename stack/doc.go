// Package stack ends a sandbox's traffic in an embedded TCP/IP stack and
// carries on, upstream, what the policy lets through.
//
// Its one type is Gateway. For each connection that the guest asks for it
// decides, then dials, and only then completes the handshake, so that the
// guest sees what the upstream does: refused is RST, unreachable is the ICMP
// error, silence is silence. UDP and echo requests are flows, decided and opened
// the same way at their first packet, and forgotten when idle. It knows no gVisor type (that is the room
// internal/netstack) and no host socket (that is an Uplink).
//
// Begin with New, then Run.
package stack
