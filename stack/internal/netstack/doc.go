// Package netstack runs gVisor's TCP/IP stack on a tun.Device and adds what it
// lacks: a link endpoint with segmentation offload, an exact log of TCP state
// transitions, admission of SYNs, hosts that the guest reopens out of
// TIME-WAIT, and errors that are errnos.
//
// It is the only room that imports gVisor, and it shows none of gVisor's
// types; everyone else speaks netip.AddrPort, relay connections and
// time.Duration. It decides nothing: a SYN becomes a Request, and whoever owns
// the Stack accepts it, resets it, drops it or answers it with an ICMP error.
//
// Begin with New, then Run.
//
// Datagrams and echo requests to others than the stack itself have no endpoint:
// they are handed to the owner as they come in, and WriteUDP, WriteEchoReply
// and WriteError answer them.
//
//	                 ┌──────────────────────────────▶ Config.OnUDP, OnEcho
//	tun.Device ──▶ link ──▶ gVisor ──▶ admission ──▶ Config.OnSYN(Request)
//	                 │         │                           │ Accept
//	                 └── tracker (four hooks) ◀────────────┘ Conn
//	                        └──▶ Config.Sink(Transition)
package netstack
