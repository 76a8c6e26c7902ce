package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tcpbox/integration/testnet"
	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

// shown is what "tcpbox ss --json" has of a connection.
type shown struct {
	Conn     uint64
	Upstream *struct {
		State  tcpstate.State
		Source string
	}
	HostAddr    netip.AddrPort `json:"host_addr"`
	FarAddr     netip.AddrPort `json:"far_addr"`
	RTT         *float64       `json:"rtt"`
	Retransmits *uint32        `json:"retransmits"`
}

// TestUpstreamLeg follows the host's socket of a connection through the log and
// "tcpbox ss --json": its states up to TIME-WAIT, which the kernel has after
// the socket is closed, the round trip, and the segments that were sent again because
// their ACKs did not come.
func TestUpstreamLeg(t *testing.T) {
	for _, c := range callers {
		t.Run(c.name, func(t *testing.T) {
			n := testnet.New(t)
			testnet.Programs(t, "ip", "ss")
			l := n.Remote.Listen(t, "tcp4", netip.AddrPortFrom(testnet.Public4, 80))
			name := fmt.Sprintf("upstream-%s-%d", c.name, os.Getpid())
			b := start(t, n, c, "--name", name, "--no-ipv6")
			guest, err := b.DialTCP(t.Context(), netip.AddrPort{}, netip.AddrPortFrom(testnet.Public4, 80))
			must(t, err)
			defer guest.Close()
			far, err := l.AcceptTCP()
			must(t, err)
			defer far.Close()
			host := far.RemoteAddr().(*net.TCPAddr).AddrPort()

			// is waits until ss shows the connection in a state, and more.
			is := func(state tcpstate.State, more func(shown) error) (s shown) {
				t.Helper()
				testnet.Eventually(t, func() error {
					out := testnet.Output(t, n.Uplink.CommandAs(t.Context(), c.cred, testnet.Binary(t), "ss", "--json", name))
					var all struct{ Connections []shown }
					if err := json.Unmarshal([]byte(out), &all); err != nil {
						return err
					}
					i := slices.IndexFunc(all.Connections, func(s shown) bool { return s.HostAddr == host })
					if i < 0 {
						return fmt.Errorf("ss has no connection from %v: %s", host, out)
					}
					if s = all.Connections[i]; s.Upstream == nil || s.Upstream.State != state {
						return fmt.Errorf("ss has %s, want the host's socket in %v", out, state)
					}
					return more(s)
				})
				return s
			}
			talk := func() {
				t.Helper()
				for _, way := range [][2]net.Conn{{guest, far}, {far, guest}} {
					_, err := way[0].Write([]byte("hello"))
					must(t, err)
					_, err = io.ReadFull(way[1], make([]byte, 5))
					must(t, err)
				}
			}
			talk()
			is(tcpstate.Established, func(s shown) error {
				if s.RTT == nil || *s.RTT <= 0 || s.FarAddr != l.Addr().(*net.TCPAddr).AddrPort() {
					return fmt.Errorf("its RTT is %v, its far end %v", s.RTT, s.FarAddr)
				}
				return nil
			})

			// The far end's ACKs get lost, until the host has sent something again.
			before := n.Uplink.Counter(t, "Tcp", "RetransSegs")
			hole := netip.PrefixFrom(host.Addr(), 32)
			n.Remote.AddBlackhole(t, hole)
			_, err = guest.Write([]byte("again"))
			must(t, err)
			testnet.Eventually(t, func() error {
				if n.Uplink.Counter(t, "Tcp", "RetransSegs") == before {
					return errors.New("nothing was sent again")
				}
				return nil
			})
			testnet.Output(t, n.Remote.Command(t.Context(), "ip", "route", "del", "blackhole", hole.String()))
			_, err = io.ReadFull(far, make([]byte, 5))
			must(t, err)
			talk()
			again := is(tcpstate.Established, func(s shown) error {
				if s.Retransmits == nil || *s.Retransmits == 0 {
					return errors.New("ss has no retransmits")
				}
				return nil
			})

			// The guest closes first, so TIME-WAIT is the host's as well.
			must(t, guest.CloseWrite())
			_, err = io.Copy(io.Discard, far)
			must(t, err)
			must(t, far.Close())
			is(tcpstate.TimeWait, func(s shown) error {
				if s.Upstream.Source != "diag" && s.Upstream.Source != "socket" {
					return fmt.Errorf("who has seen it: %s", s.Upstream.Source)
				}
				return nil
			})
			out := testnet.Output(t, n.Uplink.Command(t.Context(), "ss", "-Htan", "state", "time-wait"))
			if !strings.Contains(out, host.String()) {
				t.Errorf("ss(8) of the host has no TIME-WAIT of %v: %s", host, out)
			}
			checkUpstreamLog(t, b.log, again)
		})
	}
}

// checkUpstreamLog holds the log against what ss has shown of a connection.
func checkUpstreamLog(t *testing.T, log string, s shown) {
	t.Helper()
	f, err := os.Open(filepath.Clean(log))
	must(t, err)
	defer f.Close()
	var path []tcpstate.State
	var known *tcpstate.Path
	for r := statelog.NewReader(f); ; {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		switch {
		case uint64(rec.Conn) != s.Conn:
		case rec.Facts != nil && rec.Facts.Path != nil:
			known = rec.Facts.Path
		case rec.Facts == nil && rec.Leg == tcpstate.Upstream:
			if rec.Local != s.HostAddr || rec.Remote != s.FarAddr || len(path) > 0 && path[len(path)-1] != rec.From {
				t.Errorf("after %v the log has %+v", path, rec)
			}
			path = append(path, rec.To)
		}
	}
	// A FIN-WAIT-2 may end before anybody looks.
	path = slices.DeleteFunc(path, func(s tcpstate.State) bool { return s == tcpstate.FinWait2 })
	want := []tcpstate.State{tcpstate.SynSent, tcpstate.Established, tcpstate.FinWait1, tcpstate.TimeWait}
	if !slices.Equal(path, want) {
		t.Errorf("the log has %v of the host's socket, want %v", path, want)
	}
	if known == nil || known.RTT <= 0 || known.Retransmits < *s.Retransmits {
		t.Errorf("the log knows %+v, ss had %d retransmits", known, *s.Retransmits)
	}
}
