package integration

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/net/nettest"

	"tcpbox/integration/testnet"
)

// TestConformance runs the conformance tests for net.Conn on connections that
// pass through a sandbox.
func TestConformance(t *testing.T) {
	n := testnet.New(t)
	b := start(t, n, root)
	for _, server := range []netip.Addr{testnet.Public4, testnet.Public6} {
		l := n.Remote.Listen(t, "tcp", netip.AddrPortFrom(server, 80))
		nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
			guest, err := b.DialTCP(t.Context(), netip.AddrPort{}, addrOf(l.Addr()))
			if err != nil {
				return nil, nil, nil, err
			}
			remote, err := l.AcceptTCP()
			if err != nil {
				guest.Close()
				return nil, nil, nil, err
			}
			return guest, remote, func() { guest.Close(); remote.Close() }, nil
		})
	}
}
