// Package peer provides hosts that live inside the stack, for offline use and
// for tests: small servers that each do one thing to a connection, among them
// the things that real servers do only by accident (hold it for ever, close it
// first, reset it).
//
// A Spec names one ("web=http", "db=holder:5432"), a Kind says what it does and
// Serve does it, on a listener that it is given. Addresses, names and the
// kinds that never accept (Kind.Listens) are the caller's business. Nothing
// here knows what the listener is made of: inside a sandbox it belongs to the
// embedded stack, in a test it may be an ordinary one on loopback.
package peer

import (
	"fmt"
	"slices"
	"strings"

	"tcpbox/policy/spell"
)

// Kind is what a peer does with a connection. The zero Kind is none.
type Kind uint8

// The kinds.
const (
	// HTTP answers HTTP/1.1: a short page at /, N bytes at /bytes/N, and the
	// request's body back at /echo.
	HTTP Kind = iota + 1

	// Echo sends back what it receives (RFC 862). When the client has sent FIN
	// and everything is sent back, it sends FIN.
	Echo

	// Discard throws away what it receives (RFC 863) and closes when the client
	// has sent FIN.
	Discard

	// Source sends printable bytes without end (RFC 864) and throws away what
	// it receives. A client's FIN does not stop it; its RST does.
	Source

	// Closer closes every connection, in both directions, as soon as it is
	// established, having read nothing: it closes first, so its side holds
	// TIME-WAIT. Bytes sent to it are answered with RST, as by every host
	// whose program has closed.
	Closer

	// Holder reads and throws away what it receives, and never closes, not even
	// after the client's FIN: then its side stays in CLOSE-WAIT.
	Holder

	// Resetter sends RST as soon as a connection is established.
	Resetter

	// Refuse has no listener: its port answers SYN with RST.
	Refuse

	// Blackhole has no listener: its port answers nothing at all.
	Blackhole

	numKinds
)

var kindNames = [numKinds]string{
	"none", "http", "echo", "discard", "source", "closer", "holder", "resetter", "refuse", "blackhole",
}

// Kinds returns every kind, in the order in which the documentation lists them.
func Kinds() []Kind {
	all := make([]Kind, 0, numKinds-1)
	for k := HTTP; k < numKinds; k++ {
		all = append(all, k)
	}
	return all
}

// Listens reports whether a peer of this kind accepts connections, and so
// whether Serve can carry it out. Refuse and Blackhole do not: whoever owns the
// stack answers for their port, with RST or with silence.
func (k Kind) Listens() bool { return k >= HTTP && k < Refuse }

// String returns the name, such as "http", and "none" for the zero Kind.
func (k Kind) String() string {
	if k < numKinds {
		return kindNames[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// MarshalText implements encoding.TextMarshaler.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *Kind) UnmarshalText(text []byte) error {
	p, err := ParseKind(string(text))
	if err != nil {
		return err
	}
	*k = p
	return nil
}

// ParseKind returns the kind called name. The error names the nearest kind
// where one is near, and else all of them.
func ParseKind(name string) (Kind, error) {
	if i := slices.Index(kindNames[HTTP:], name); i >= 0 {
		return HTTP + Kind(i), nil
	}
	if near, ok := nearest(strings.ToLower(name)); ok {
		return 0, fmt.Errorf("peer: %q is not a kind of peer; did you mean %q?", name, near)
	}
	return 0, fmt.Errorf("peer: %q is not a kind of peer; the kinds are %s", name, strings.Join(kindNames[HTTP:], ", "))
}

// nearest returns the kind's name that name was probably meant to be: the one
// that the fewest slips lead to, if those are at most a third of its letters.
func nearest(name string) (string, bool) {
	if len(name) > 16 {
		return "", false
	}
	best := spell.Nearest(name, kindNames[HTTP:], len(name)+1)
	return best, best != "" && spell.Slips(name, best) <= max(1, (len(best)+1)/3)
}
