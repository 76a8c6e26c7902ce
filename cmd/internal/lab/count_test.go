package lab

import (
	"strings"
	"testing"
)

const sockstat = `sockets: used 20
TCP: inuse 1 orphan 2 tw 40 alloc 5 mem 1
UDP: inuse 0 mem 0
UDPLITE: inuse 0
RAW: inuse 0
FRAG: inuse 0 memory 0
`

func TestParseSockstat(t *testing.T) {
	got, err := parseSockstat([]byte(sockstat))
	if want := (sockets{inUse: 1, timeWait: 40}); got != want || err != nil {
		t.Errorf("parseSockstat = %+v, %v, want %+v", got, err, want)
	}
	for _, bad := range []string{
		"", "TCP:\n", "TCP: inuse 1 orphan 2\n", "TCP: inuse one orphan 2 tw 3\n", strings.ReplaceAll(sockstat, "TCP:", "TCP6:"),
	} {
		if got, err := parseSockstat([]byte(bad)); err == nil {
			t.Errorf("parseSockstat(%q) = %+v, want an error", bad, got)
		}
	}
}

func TestParseNetstat(t *testing.T) {
	got, err := parseNetstat([]byte("TcpExt: TW TCPTimeWaitOverflow\nTcpExt: 17 170\nIpExt: InOctets\nIpExt: 18446744073709551615\n"))
	if err != nil || got["TcpExtTW"] != 17 || got["TcpExtTCPTimeWaitOverflow"] != 170 || len(got) != 2 {
		t.Errorf("parseNetstat = %v, %v", got, err)
	}
	for _, bad := range []string{"TcpExt: TW\n", "TcpExt: TW\nIpExt: 1\n", "TcpExt: TW\nTcpExt: 1 2\n"} {
		if got, err := parseNetstat([]byte(bad)); err == nil {
			t.Errorf("parseNetstat(%q) = %v, want an error", bad, got)
		}
	}
}

func FuzzParseCounters(f *testing.F) {
	f.Add([]byte(sockstat))
	f.Add([]byte("TcpExt: TW\nTcpExt: 17\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		_, _ = parseSockstat(text)
		all, err := parseNetstat(text)
		if err != nil && all != nil {
			t.Errorf("parseNetstat returns %v beside the error %v", all, err)
		}
	})
}
