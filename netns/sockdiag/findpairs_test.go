package sockdiag

import (
	"net"
	"net/netip"
	"testing"

	"tcpbox/stack/tcpstate"
)

func TestFindPairs(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0", "[::ffff:127.0.0.1]:0"} {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		near, far := c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()
		near, far = netip.AddrPortFrom(near.Addr().Unmap(), near.Port()), netip.AddrPortFrom(far.Addr().Unmap(), far.Port())
		nobody := netip.AddrPortFrom(near.Addr(), 1)
		got, err := Find(here{}, []Pair{{near, far}, {nobody, far}, {far, near}, {far, nobody}})
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []bool{true, false, true, false} {
			if got[i].OK != want {
				t.Errorf("%s: %d: %+v", addr, i, got[i])
			}
		}
		if s := got[0]; s.State != tcpstate.Established || s.Inode == 0 || s.Local.Port() != near.Port() {
			t.Errorf("%s: %+v", addr, s)
		}
		// Both families in one dump.
		all, err := Dump(here{}, Query{Proto: TCP})
		if err != nil {
			t.Fatal(err)
		}
		there := false
		for _, s := range all {
			there = there || s.Local.Port() == near.Port() && s.Remote.Port() == far.Port() && s.State == tcpstate.Established
		}
		if !there {
			t.Errorf("%s: not in a dump of both families", addr)
		}
	}
}

func BenchmarkDump(b *testing.B) {
	for b.Loop() {
		if _, err := Dump(here{}, Query{Proto: TCP}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFind(b *testing.B) {
	at := netip.MustParseAddrPort("127.0.0.1:1")
	for b.Loop() {
		if _, err := Find(here{}, []Pair{{at, at}}); err != nil {
			b.Fatal(err)
		}
	}
}
