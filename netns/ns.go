// Package netns works on a Linux network namespace: it makes the TUN device
// in it, gives it addresses and routes, and is the way in for whoever needs a
// socket or a sysctl of the namespace. What runs inside it is package guest's.
package netns

import "os"

// NS is the way into a network namespace. Its methods may be called
// concurrently.
type NS interface {
	// Socket makes a socket inside the namespace. The open socket pins the
	// namespace, so close it after use.
	Socket(domain, typ, proto int) (*os.File, error)

	// Sysctl reads a sysctl by its dotted name, such as
	// "net.ipv4.tcp_fin_timeout". The value has no line end.
	Sysctl(name string) (string, error)

	// SetSysctl writes one.
	SetSysctl(name, value string) error

	// ProcNet reads /proc/net/name of the namespace.
	ProcNet(name string) ([]byte, error)

	Close() error
}
