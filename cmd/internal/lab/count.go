package lab

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// The figures that are counted when the steps of a row are done.
const (
	// guestTimeWait is the sockets in TIME-WAIT in the guest's kernel, by
	// sock_diag(7): what /proc/net/sockstat has as tw are also those in FIN-WAIT-2
	// that no program has any more.
	guestTimeWait = "guest.time-wait"

	// stackTimeWait is the endpoints of the stack in TIME-WAIT, by the state
	// log.
	stackTimeWait = "stack.time-wait"

	// synRetransmits is SYNs and SYN-ACKs that the guest's kernel had to
	// repeat: TcpExtTCPSynRetrans.
	synRetransmits = "syn-retransmits"

	// timeWaitOverflow is TIME-WAITs that the guest's kernel refused to begin:
	// TcpExtTCPTimeWaitOverflow.
	timeWaitOverflow = "time-wait-overflow"

	// noPort is SYNs that the stack has dropped because the host had no port left.
	noPort = "no-port"

	// upstreamTimeWait is the sockets in TIME-WAIT that the stack has made on the
	// host.
	upstreamTimeWait = "upstream.time-wait"
)

var counts = []string{guestTimeWait, stackTimeWait, synRetransmits, timeWaitOverflow}

// sockets are the TCP sockets of a network namespace. The number of orphans,
// which stands beside them, is the whole machine's.
type sockets struct {
	inUse, timeWait int
}

// parseSockstat reads /proc/net/sockstat:
//
//	TCP: inuse 1 orphan 0 tw 40 alloc 3 mem 1
func parseSockstat(text []byte) (s sockets, err error) {
	for line := range bytes.Lines(text) {
		f := strings.Fields(string(line))
		if len(f) == 0 || f[0] != "TCP:" {
			continue
		}
		found := 0
		for i := 1; i+1 < len(f); i += 2 {
			n, err := strconv.Atoi(f[i+1])
			if err != nil {
				return s, fmt.Errorf("lab: sockstat: %w", err)
			}
			switch f[i] {
			case "inuse":
				s.inUse = n
			case "tw":
				s.timeWait = n
			default:
				continue
			}
			found++
		}
		if found == 2 {
			return s, nil
		}
	}
	return s, fmt.Errorf("lab: sockstat has no line of TCP with inuse and tw: %q", text)
}

// parseNetstat reads /proc/net/netstat, whose counters come in pairs of lines,
// and returns them under the names that nstat(8) gives them, such as
// "TcpExtTW":
//
//	TcpExt: SyncookiesSent SyncookiesRecv …
//	TcpExt: 0 0 …
func parseNetstat(text []byte) (map[string]int, error) {
	all := make(map[string]int)
	var head []string
	for line := range bytes.Lines(text) {
		f := strings.Fields(string(line))
		switch {
		case len(f) == 0:
			continue
		case head == nil:
			head = f
			continue
		case f[0] != head[0] || len(f) != len(head):
			return nil, fmt.Errorf("lab: netstat: a line of %q follows the heads of %q", f[0], head[0])
		}
		prefix := strings.TrimSuffix(f[0], ":")
		for i := 1; i < len(f); i++ {
			// Some are counted in 64 bits without a sign; none of ours is
			// anywhere near.
			if n, err := strconv.Atoi(f[i]); err == nil {
				all[prefix+head[i]] = n
			}
		}
		head = nil
	}
	if head != nil {
		return nil, fmt.Errorf("lab: netstat: no line follows the heads of %q", head[0])
	}
	return all, nil
}
