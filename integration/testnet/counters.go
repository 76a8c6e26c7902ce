package testnet

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// Counter returns one of the namespace's MIB counters, as in
// Counter(t, "TcpExt", "TCPSynRetrans"). Group is the word before the colon in
// /proc/net/snmp or /proc/net/netstat.
func (ns *Namespace) Counter(t testing.TB, group, name string) int64 {
	t.Helper()
	var value int64
	err := ns.Do(func() error {
		for _, file := range []string{"snmp", "netstat"} {
			text, err := os.ReadFile("/proc/thread-self/net/" + file)
			if err != nil {
				return err
			}
			lines := strings.Split(string(text), "\n")
			for i := 0; i+1 < len(lines); i += 2 { // names, then values
				names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
				if len(names) == 0 || names[0] != group+":" {
					continue
				}
				for j := range names {
					if names[j] == name {
						value, err = strconv.ParseInt(values[j], 10, 64)
						return err
					}
				}
			}
		}
		return fmt.Errorf("no counter %s %s", group, name)
	})
	if err != nil {
		t.Fatalf("testnet: counters of %s: %v", ns.name, err)
	}
	return value
}
