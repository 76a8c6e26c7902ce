package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"tcpbox/integration/testnet"
)

// TestLossyLine: over a line that loses 5 % each way, doubles, reorders and damages,
// the guest's kernel and the stack bring every byte, and both ends close in order.
func TestLossyLine(t *testing.T) {
	testnet.Require(t)
	for _, c := range callers {
		t.Run(c.name, func(t *testing.T) {
			n := testnet.New(t)
			b := start(t, n, c, "--net", "none", "--no-ipv6", "--mtu", "1500", "--peer", "echo=echo:7", "--name", "lossy-"+c.name,
				"--fault", "loss 5%", "--fault", "dup 1%", "--fault", "reorder 1% by 2", "--fault", "corrupt 1%", "--fault-seed", "7")
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			conn, err := b.DialTCP(ctx, netip.AddrPort{}, netip.MustParseAddrPort("198.18.0.16:7"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			want := make([]byte, 300_000)
			r := rand.NewChaCha8([32]byte{1})
			r.Read(want)
			sent := make(chan error, 1)
			go func() {
				_, err := conn.Write(want)
				sent <- errors.Join(err, conn.CloseWrite())
			}()
			got, err := io.ReadAll(conn)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes came back, %v, sum %x; want %d, sum %x", len(got), err, sha256.Sum256(got), len(want), sha256.Sum256(want))
			}
			if err := <-sent; err != nil {
				t.Error(err)
			}
			for _, f := range c.faults(t, n, "lossy-"+c.name) {
				if f.Acted == 0 || f.Acted >= f.Matched {
					t.Errorf("%s: %d of %d", f.Rule, f.Acted, f.Matched)
				}
			}
		})
	}
}

// faultRow is a fault as "tcpbox fault ls --json" tells of it.
type faultRow struct {
	Rule           string
	Matched, Acted uint64
}

func (c caller) faults(t *testing.T, n *testnet.Net, name string) []faultRow {
	t.Helper()
	out := testnet.Output(t, n.Uplink.CommandAs(t.Context(), c.cred, testnet.Binary(t), "fault", "ls", "--json", name))
	var all struct{ Faults []faultRow }
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	return all.Faults
}

// TestFailingConnects: the kernel of the guest takes what fail sends for what it says.
func TestFailingConnects(t *testing.T) {
	testnet.Require(t)
	n := testnet.New(t)
	b := start(t, n, ordinary, "--net", "none", "--peer", "echo=echo:7",
		"--fault", "fail dst=:7 first 1", "--fault", "fail unreachable dst=:7 first 2")
	const four, six = "198.18.0.16:7", "[fd74:6370:626f:78::10]:7"
	for _, tt := range []struct {
		addr string
		want error
	}{
		{four, syscall.ECONNREFUSED},
		{four, syscall.EHOSTUNREACH},
		{six, syscall.EHOSTUNREACH},
		{six, nil},
		{four, nil},
	} {
		conn, err := b.DialTCP(t.Context(), netip.AddrPort{}, netip.MustParseAddrPort(tt.addr))
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.addr, err, tt.want)
		}
		if err == nil {
			conn.Close()
		}
	}
}
