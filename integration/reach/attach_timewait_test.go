package reach

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"tcpbox/integration/testnet"
)

// TestAttachTunes sets knobs of a namespace that others live in: what is asked for
// and nothing else, and its TIME-WAITs end in time.
func TestAttachTunes(t *testing.T) {
	testnet.Programs(t, "unshare", "bash")
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		in := unshared(t, n, c)
		const sysctls = "cd /proc/sys/net/ipv4; head -n 99 tcp_fin_timeout tcp_sack tcp_keepalive_time tcp_syn_retries tcp_max_tw_buckets ip_local_port_range; cd /"
		before := in.ask("echo 11 >/proc/sys/net/ipv4/tcp_fin_timeout; " + sysctls)

		log := filepath.Join(testnet.Dir(t), "log")
		must(t, os.WriteFile(log, nil, 0o666))
		must(t, os.Chmod(log, 0o666))
		s := c.attach(t, n, "--net", "none", "--peer", "sink=discard:9", "--log", log,
			"--tcp", "guest.time-wait.timeout=300ms", "--tcp", "guest.sack=off", strconv.Itoa(in.pid))
		after := strings.Replace(before, "tcp_sack <==\n1", "tcp_sack <==\n0", 1)
		if got := in.ask(sysctls); got != after {
			t.Errorf("the sysctls are\n%s\nwant\n%s\ntcpbox wrote %s", got, after, s.stderr)
		}
		if out := in.ask("bash -c 'exec 3<>/dev/tcp/198.18.0.16/9; exec 3>&-' 2>&1"); out != "" {
			t.Fatal(out)
		}
		testnet.Eventually(t, func() error {
			text, err := os.ReadFile(log)
			if err == nil && !strings.Contains(string(text), `"from":"TIME-WAIT","to":"CLOSED","cause":"policy time-wait.timeout"`) {
				err = errors.New("the log has no end of a TIME-WAIT:\n" + string(text))
			}
			return err
		})
		if left := in.ask("grep -c ' 06 ' /proc/net/tcp"); left != "0" {
			t.Errorf("%s TIME-WAITs are left", left)
		}
	})
}
