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
//	tun.Device ──▶ link ──▶ gVisor ──▶ admission ──▶ Config.OnSYN(Request)
//	                 │         │                           │ Accept
//	                 └── tracker (four hooks) ◀────────────┘ Conn
//	                        └──▶ Config.Sink(Transition)
package netstack
