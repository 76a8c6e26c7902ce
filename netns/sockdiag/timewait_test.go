package sockdiag

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"tcpbox/stack/tcpstate"
)

func TestEndTimeWaits(t *testing.T) {
	err := CanDestroy()
	if err == nil && os.Geteuid() != 0 {
		err = errors.New("to end a socket of the machine's needs root")
	}
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0", "[::ffff:127.0.0.1]:0"} {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		var conns []net.Conn
		var pairs []Pair
		for range 3 {
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			conns = append(conns, c)
			near, far := c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()
			pairs = append(pairs, Pair{netip.AddrPortFrom(near.Addr().Unmap(), near.Port()), netip.AddrPortFrom(far.Addr().Unmap(), far.Port())})
			server, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			if len(conns) == 2 {
				continue // stays open
			}
			if err := c.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadAll(server); err != nil {
				t.Fatal(err)
			}
			server.Close()
			if _, err := io.ReadAll(c); err != nil {
				t.Fatal(err)
			}
		}
		states := func() (states []tcpstate.State) {
			found, err := Find(here{}, pairs)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range found {
				states = append(states, f.State)
			}
			return states
		}
		if got, want := states(), []tcpstate.State{tcpstate.TimeWait, tcpstate.Established, tcpstate.TimeWait}; !slices.Equal(got, want) {
			t.Fatalf("%s: before, %v, want %v", addr, got, want)
		}
		ended, err := EndTimeWaits(here{}, append(pairs, Pair{pairs[0].Remote, pairs[0].Local}))
		if want := []bool{true, false, true, false}; err != nil || !slices.Equal(ended, want) {
			t.Errorf("%s: EndTimeWaits() = %v, %v, want %v", addr, ended, err, want)
		}
		if got, want := states(), []tcpstate.State{0, tcpstate.Established, 0}; !slices.Equal(got, want) {
			t.Errorf("%s: after, %v, want %v", addr, got, want)
		}
	}
}
