package legs

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"tcpbox/integration/testnet"
	"tcpbox/stack/tcpstate"
)

// known has the guest make sockets that stay in their states. Those in which
// something of the other end has to fail are within the guest: a window that is
// closed keeps a FIN back.
const known = `
kept = []
def connected(name):
    s = socket.create_connection((name, 80))
    kept.append(s)
    return s

def choked():
    c = socket.create_connection(inner.getsockname())
    a, _ = inner.accept()
    kept.extend((c, a))
    c.setblocking(False)
    try:
        while True:
            c.send(bytes(1 << 16))
    except BlockingIOError:
        return c, a

inner = socket.create_server(("127.0.0.1", 0))
shy = socket.create_server(("0.0.0.0", 8000))
shy.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 100)
for _ in range(2):
    s = socket.socket()
    s.setblocking(False)
    s.connect_ex((socket.gethostbyname("hole"), 80))
    kept.append(s)
for _ in range(3):
    connected("hold")
for _ in range(4):
    connected("hold").shutdown(socket.SHUT_WR)
for _ in range(5):
    connected("bye").recv(1)
for _ in range(6):
    s = connected("echo")
    s.shutdown(socket.SHUT_WR)
    s.recv(1)
    s.close()
choked()[0].shutdown(socket.SHUT_WR)
c, a = choked()
c.shutdown(socket.SHUT_WR)
a.shutdown(socket.SHUT_WR)
c, a = choked()
a.shutdown(socket.SHUT_WR)
c.shutdown(socket.SHUT_WR)
`

// knownCounts are how many there are in each state then.
var knownCounts = map[tcpstate.State]int{
	tcpstate.SynSent:     2,
	tcpstate.SynReceived: 1,     // deferred until data comes
	tcpstate.Established: 3 + 1, // the last one is the other end of FIN-WAIT-1
	tcpstate.FinWait1:    1,
	tcpstate.FinWait2:    4 + 2, // of CLOSING and LAST-ACK
	tcpstate.CloseWait:   5,
	tcpstate.Closing:     1,
	tcpstate.LastAck:     1,
	tcpstate.TimeWait:    6,
}

// checkCounts compares what people do with netstat and awk, done in the guest, with
// the guest's column of tcpbox stat, with known counts in each state.
func checkCounts(t *testing.T, n *testnet.Net, cred *syscall.Credential) {
	testnet.Programs(t, "netstat", "awk")
	b := startBox(t, n, "counts", cred, "--no-ipv6", "-p", "10.77.0.2:8002:8000",
		"--peer", "hole=blackhole", "--peer", "hold=holder", "--peer", "bye=closer", "--peer", "echo=echo")
	b.do(t, known, nil)
	client, err := dialSoon(t, n, netip.AddrPort{}, netip.AddrPortFrom(testnet.Uplink4, 8002))
	must(t, err)
	defer client.Close()
	// An ordinary user's tcpbox finds what is within the guest by looks, every two
	// seconds.
	testnet.Eventually(t, func() error {
		return errors.Join(
			differ("netstat", netstatCounts(t, b, cred), knownCounts),
			differ("tcpbox stat", statCounts(t, b, cred), knownCounts),
		)
	})
	t.Logf("both have %v", knownCounts)
}

func differ(who string, got, want map[tcpstate.State]int) error {
	if !maps.Equal(got, want) {
		return fmt.Errorf("%s has %v, want %v", who, got, want)
	}
	return nil
}

// netstatCounts runs netstat and awk in the guest.
func netstatCounts(t testing.TB, b *box, cred *syscall.Credential) map[tcpstate.State]int {
	t.Helper()
	const count = `netstat -n | awk '/^tcp/ {++S[$NF]} END {for(a in S) print a, S[a]}'`
	counts := make(map[tcpstate.State]int)
	for line := range strings.Lines(b.tcpbox(t, cred, "exec", b.name, "--", "sh", "-c", count)) {
		name, number, _ := strings.Cut(strings.TrimSpace(line), " ")
		state, err1 := tcpstate.Parse(name)
		k, err2 := strconv.Atoi(number)
		must(t, errors.Join(err1, err2))
		counts[state] = k
	}
	return counts
}

// statCounts are those of the guest's leg in tcpbox stat, but for listeners, which
// netstat does not show either.
func statCounts(t testing.TB, b *box, cred *syscall.Credential) map[tcpstate.State]int {
	t.Helper()
	var stat struct {
		States []struct {
			Leg   tcpstate.Leg
			State tcpstate.State
			End   *int
		}
	}
	must(t, json.Unmarshal([]byte(b.tcpbox(t, cred, "stat", "--json", b.name)), &stat))
	counts := make(map[tcpstate.State]int)
	for _, s := range stat.States {
		if s.Leg == tcpstate.Guest && s.State != tcpstate.Listen && s.End != nil && *s.End > 0 {
			counts[s.State] = *s.End
		}
	}
	return counts
}
