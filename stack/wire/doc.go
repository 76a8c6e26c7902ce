// Package wire watches the segments that pass between the guest and the stack.
//
// A Tap wraps a tun.Device. It shows, in order and with their times, the
// segments that can change a TCP state: SYN, FIN and RST, and the ACKs that
// answer them. All others pass at the price of a look at the flags.
//
//	guest kernel ──▶ tun.Device ──▶ Tap ──▶ stack
//	                                 ├─ OnSegment ──▶ Machine: what both ends went through
//	                                 └─ Tracer: the headers of each connection, bounded
//
// A Machine concludes from those segments in which states both ends are. It is
// pure. Where segments do not tell, it says tcpstate.Unknown. A Tracer keeps
// the headers of whole connections, for drawing them.
//
// Begin with NewTap.
package wire
