package relay

import (
	"fmt"
	"net/netip"
)

// Packets is one end of a flow of datagrams: a connected UDP socket, or ICMP
// echo with one destination, where each datagram is a whole ICMP message. All
// methods may be called concurrently; receivers take turns, and so do senders.
type Packets interface {
	// Send sends one datagram, which may be empty, and does not wait. hops is
	// the TTL or hop limit it leaves with; zero means the sender's default. An
	// error is an errno: EAGAIN and ENOBUFS mean that there was no room for it
	// now. Send keeps nothing of p.
	Send(p []byte, hops uint8) error

	// Receive waits until a datagram has come, and hands it and those behind it
	// to take, each valid only during the call; take must not call Close. An
	// *ICMPError is about a datagram that was sent and lost; like every error
	// but net.ErrClosed, receiving can go on after it.
	Receive(take func(p []byte)) error

	// MTU is the largest IP packet in bytes that is known to reach the other
	// end whole; zero if it is not known.
	MTU() int

	// Close ends Receive. It is safe to call twice.
	Close() error
}

// ICMPError is an ICMP or ICMPv6 error message that came back for a datagram.
// It is an error of the path: it matches no errno.
type ICMPError struct {
	Type, Code uint8
	Info       uint32     // the MTU of the next link for "too big", else zero
	From       netip.Addr // who sent it; invalid if that is not known

	// Quoted is the start of the datagram it is about, as far as it is known.
	Quoted []byte
}

// Error says what the message was and who sent it.
func (e *ICMPError) Error() string {
	return fmt.Sprintf("icmp type %d code %d from %v", e.Type, e.Code, e.From)
}
