package reach

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"tcpbox/integration/testnet"
	"tcpbox/stack/tcpstate"
)

// TestPublishUnderWrk loads a published nginx with wrk from the remote, over IPv4
// and IPv6: every request is answered, and no connection fails.
func TestPublishUnderWrk(t *testing.T) {
	if testing.Short() {
		t.Skip("the programs take no part in a short run")
	}
	testnet.Programs(t, "wrk", "nginx")
	n := testnet.New(t)
	p := guestNginx(t, n, testnet.Dir(t), "-p", uplink4.String()+":80", "-p", uplink6.String()+":80")
	for _, at := range []netip.AddrPort{uplink4, uplink6} {
		testnet.Eventually(t, func() error {
			if n.Uplink.State(t, at, netip.AddrPort{}) != tcpstate.Listen {
				return fmt.Errorf("%v does not listen", at)
			}
			return nil
		})
		// wrk prints "Socket errors" and "Non-2xx" only where there were any.
		out := testnet.Output(t, n.Remote.Command(t.Context(), "wrk", "-t", "1", "-c", "32", "-d", "1s", "http://"+at.String()+"/page"))
		if !strings.Contains(out, "Requests/sec") || strings.Contains(out, "Socket errors") || strings.Contains(out, "Non-2xx") {
			t.Errorf("wrk of %v:\n%s", at, out)
		}
	}
	must(t, p.cmd.Process.Signal(syscall.SIGTERM))
	if code := p.wait(); code != 0 {
		t.Errorf("tcpbox ended with %d: %s", code, p.stderr)
	}
}
