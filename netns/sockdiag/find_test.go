package sockdiag

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"tcpbox/stack/tcpstate"
)

func TestFindTCP(t *testing.T) {
	f, err := NewFinder()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, network := range []string{"tcp4", "tcp6"} {
		l, err := net.Listen(network, map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0"}[network])
		if err != nil {
			t.Logf("%s: %v", network, err) // a machine without IPv6
			continue
		}
		defer l.Close()
		c, err := net.Dial(network, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		far, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		local, remote := c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()
		s, ok, err := f.FindTCP(local, remote)
		if err != nil || !ok || s.State != tcpstate.Established || s.Local != local || s.Remote != remote {
			t.Errorf("%s: found %+v, %v, %v", network, s, ok, err)
		}
		// This end closes first, and waits.
		c.Close()
		if _, err := far.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: no FIN", network)
		}
		far.Close()
		await := func(what string, f func() bool) {
			for deadline := time.Now().Add(30 * time.Second); !f(); time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("%s: %s: found %+v, %v, %v", network, what, s, ok, err)
				}
			}
		}
		await("after the close", func() bool {
			s, ok, err = f.FindTCP(local, remote)
			return err == nil && ok && s.State == tcpstate.TimeWait && s.Timer.Kind == TimeWaiting && s.Timer.Left > 0
		})
		// The other end was closed last, and is gone: of its port there is a listener.
		await("the other end", func() bool {
			s, ok, err = f.FindTCP(remote, local)
			return err == nil && !ok
		})
	}
	f.Close()
	if _, _, err := f.FindTCP(netip.AddrPort{}, netip.AddrPort{}); err == nil {
		t.Error("a closed Finder finds")
	}
}
