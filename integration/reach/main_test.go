// Package reach tests how the tcpbox binary lives and how one reaches it: signals,
// terminals, exit statuses, exec, attach, servers published and restarted; in
// namespaces that the tests make. What goes through a sandbox is tested in
// package integration.
package reach

import (
	"context"
	"net"
	"net/netip"
	"os/exec"
	"syscall"
	"testing"

	"tcpbox/integration/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

// caller is who runs tcpbox.
type caller struct {
	name string
	cred *syscall.Credential
}

var callers = []caller{{"root", nil}, {"user", testnet.User}}

// run returns the command "tcpbox run flags -- guest", to be run in Uplink.
func (c caller) run(ctx context.Context, t testing.TB, n *testnet.Net, flags []string, guest ...string) *exec.Cmd {
	t.Helper()
	args := append([]string{"run"}, flags...)
	args = append(append(args, "--"), guest...)
	cmd := n.Uplink.CommandAs(ctx, c.cred, testnet.Binary(t), args...)
	cmd.Dir = "/"
	return cmd
}

var root, ordinary = callers[0], callers[1]

// uid is the caller's.
func (c caller) uid() int {
	if c.cred == nil {
		return 0
	}
	return int(c.cred.Uid)
}

// at is a port of the world.
func at(six bool, port uint16) netip.AddrPort {
	if six {
		return netip.AddrPortFrom(testnet.Public6, port)
	}
	return netip.AddrPortFrom(testnet.Public4, port)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func addrOf(a net.Addr) netip.AddrPort {
	p := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}
