package guest

import (
	"net/netip"
	"os"
	"testing"

	"tcpbox/netns"
)

func testLink() netns.Link {
	return netns.Link{
		Addresses: []netip.Prefix{netip.MustParsePrefix("198.18.0.2/24"), netip.MustParsePrefix("fd74:6370:626f:78::2/64")},
		Gateways:  []netip.Addr{netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("fd74:6370:626f:78::1")},
	}
}

func TestTrue(t *testing.T) {
	sb, err := New(t.Context(), Config{Args: []string{"sh", "-c", "exit 3"}, Link: testLink(), Stdout: os.Stdout, Stderr: os.Stderr,
		Etc: map[string][]byte{"resolv.conf": []byte("nameserver 198.18.0.1\n")}})
	if err != nil {
		t.Fatal(err)
	}
	defer sb.Close()
	if err := sb.Start(); err != nil {
		t.Fatal(err)
	}
	t.Log(sb.Pids())
	st, err := sb.Wait()
	t.Log(st, err)
}
