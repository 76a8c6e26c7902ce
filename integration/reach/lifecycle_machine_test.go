package reach

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox/integration/testnet"
)

// TestLifeUnable runs tcpbox on machines that lack something: it says what, and
// what to do, and starts nothing.
func TestLifeUnable(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		for _, row := range []struct {
			what, script string
			only         string // a caller's name, or all
			code         int
			stderr       []string
		}{
			{
				"no TUN driver", `mount -t tmpfs x /dev/net; $AS $TCPBOX run -- true`, "", 125,
				[]string{"error: make the TUN device", "no such file", "hint: the tun driver is not loaded"},
			},
			{
				"TUN is not open to users", `mount -t tmpfs x /dev/net; mknod -m 600 /dev/net/tun c 10 200; $AS $TCPBOX run -- true`, "user", 125,
				[]string{"error: make the TUN device", "permission denied", "hint: ", "chmod 0666 /dev/net/tun"},
			},
			{
				"a masked /proc", `mount -t tmpfs x /proc/acpi; $AS $TCPBOX run -- true`, "user", 125,
				[]string{"error: mount a fresh /proc", "hint: parts of the host's /proc are covered"},
			},
			{"a masked /proc, for root", `mount -t tmpfs x /proc/acpi; $AS $TCPBOX run -- true`, "root", 0, nil},
			{
				"no user namespaces", `unshare --user --map-user=4242 --map-group=4242 --keep-caps sh -c '
				echo 0 >/proc/sys/user/max_user_namespaces
				exec setpriv --ambient-caps=-all --inh-caps=-all $TCPBOX run -- true'`, "user", 125,
				[]string{"error: create namespaces: no space left on device", "hint: ", "user.max_user_namespaces"},
			},
			{
				"no user namespaces, for root", `unshare --user --map-root-user --mount --net sh -c '
				echo 0 >/proc/sys/user/max_user_namespaces
				exec $TCPBOX run -- true'`, "root", 125,
				[]string{"error: create the guest's user namespace: no space left on device", "hint: ", "user.max_user_namespaces"},
			},
			{
				"no network namespaces", `unshare --user --map-user=4242 --map-group=4242 --keep-caps sh -c '
				echo 0 >/proc/sys/user/max_net_namespaces
				exec setpriv --ambient-caps=-all --inh-caps=-all $TCPBOX run -- true'`, "user", 125,
				[]string{"error: create namespaces: no space left on device", "hint: "},
			},
			{
				"in a sandbox", `$AS $TCPBOX run -- $TCPBOX run -- true`, "", 125,
				[]string{"tcpbox: error: ", "tcpbox: hint: ", "in a sandbox"},
			},
			{
				"in a sandbox, to others", `$AS $TCPBOX run -- $TCPBOX ls`, "", 125,
				[]string{"tcpbox: error: sandboxes cannot be reached from inside a sandbox", "tcpbox: hint: "},
			},
			{
				"the working directory is deleted", `d=$(mktemp -d); chmod 777 $d; cd $d; rmdir $d; $AS $TCPBOX run -- true`, "", 125,
				[]string{"error: find the working directory", "hint: "},
			},
			{
				"the working directory is closed", `d=$(mktemp -d); cd $d; $AS $TCPBOX run --workdir $d -- true; e=$?; rmdir $d; exit $e`, "user", 125,
				[]string{"tcpbox: error: ", "permission denied", "tcpbox: hint: ", "--workdir"},
			},
			{
				"no directory for the control sockets", `export XDG_RUNTIME_DIR=/no/where; $AS $TCPBOX run -- sh -c 'exit 3' || { e=$?; exit $e; }`, "user", 3,
				[]string{"warning: ", "ls, inspect and stop will not find this sandbox"},
			},
		} {
			if row.only != "" && row.only != c.name {
				continue
			}
			t.Run(row.what, func(t *testing.T) {
				// Not under sh -e: the status is what this is about.
				script := strings.Replace(row.script, "$AS $TCPBOX", "set +e; $AS $TCPBOX", 1)
				got := toEnd(t, c.prepared(t, n, script))
				if got.code != row.code || got.stdout != "" {
					t.Errorf("%v, want exit status %d", got, row.code)
				}
				for _, want := range row.stderr {
					if !strings.Contains(got.stderr, want) {
						t.Errorf("standard error is %q, want %q in it", got.stderr, want)
					}
				}
			})
		}
	})
}

// TestLifeFewDescriptors lowers the limit on open files step by step: a sandbox
// works, or an error says what to do.
func TestLifeFewDescriptors(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		works := 0
		for limit := 3; limit < 80; limit += 1 + limit/8 {
			script := fmt.Sprintf(`set +e; $AS sh -c 'ulimit -n %d; exec $TCPBOX run --quiet --net none --peer web=http -- sh -c "ulimit -n"'`, limit)
			got := toEnd(t, c.prepared(t, n, script))
			switch {
			case got.code == 0 && got.stdout == fmt.Sprintln(limit) && got.stderr == "":
				works++
			case got.code == 125 && strings.Contains(got.stderr, "tcpbox: error: ") && strings.Contains(got.stderr, "ulimit -n") &&
				strings.Contains(got.stderr, "tcpbox: hint: ") && len(got.stderr) < 500 && works == 0:
			default:
				t.Errorf("%d descriptors: %v, want success or an error with a hint", limit, got)
			}
		}
		if works == 0 {
			t.Error("no limit sufficed")
		}
	})
}

// connectGuest connects count times at once and holds what it gets until
// standard input ends.
func connectGuest(addr, count string) int {
	most, err := strconv.Atoi(count)
	if err != nil {
		return 99
	}
	var tries sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	for range most {
		tries.Go(func() {
			d := net.Dialer{Timeout: 5 * time.Second}
			if conn, err := d.Dial("tcp", addr); err == nil {
				mu.Lock()
				defer mu.Unlock()
				open = append(open, conn)
			}
		})
	}
	tries.Wait()
	fmt.Println(len(open))
	_, _ = io.Copy(io.Discard, os.Stdin)
	for _, conn := range open {
		_ = conn.Close()
	}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	_ = conn.Close()
	return 6
}

// TestLifeOutOfDescriptors lets a guest take more connections than tcpbox may
// have files open: some do not come about, nothing else happens, and when the
// others are closed there is room again.
func TestLifeOutOfDescriptors(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		l := n.Remote.Listen(t, "tcp", at(false, 4100))
		var held sync.WaitGroup
		t.Cleanup(held.Wait)
		held.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				held.Go(func() {
					_, _ = io.Copy(io.Discard, conn)
					_ = conn.Close()
				})
			}
		})
		t.Cleanup(func() { l.Close() })
		script := fmt.Sprintf("ulimit -n 90; set +e; $AS $TCPBOX run --quiet -- %s connect %v 300", lifeGuestPath(t), l.Addr())
		cmd := c.prepared(t, n, script)
		stdin, err := cmd.StdinPipe()
		must(t, err)
		p := begin(t, cmd)
		p.prints("\n")
		count, err := strconv.Atoi(strings.TrimSpace(p.stdout.String()))
		if err != nil || count == 0 || count >= 300 {
			t.Errorf("the guest has %d connections, %v, want some of 300", count, err)
		}
		stdin.Close()
		if code := p.wait(); code != 6 {
			t.Errorf("exit status %d, want 6; %q %s", code, p.stdout, p.stderr)
		}
	})
}

// TestLifeFullDisk has no room for the log: the guest's status passes, and a
// warning says what is lost.
func TestLifeFullDisk(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		// The stack's own records are as many each time.
		const guest = `--log-filter 'leg stack' --net none --peer web=http -- sh -c '"$0" get http://web/bytes/3; %s exit 7' $TCPBOX`
		for _, flags := range []string{"", "--quiet "} {
			t.Run("from the start "+flags, func(t *testing.T) {
				got := toEnd(t, c.prepared(t, n, `set +e; $AS $TCPBOX run --log /dev/full `+flags+fmt.Sprintf(guest, "")))
				if got.code != 7 || len(got.stdout) != 3 {
					t.Errorf("%v, want exit status 7 and 3 bytes", got)
				}
				for _, want := range []string{"warning: the log cannot be written: no space left on device", "warning: the log lacks its last 13 records"} {
					if strings.Count(got.stderr, want) != 1 {
						t.Errorf("standard error is %q, want %q once", got.stderr, want)
					}
				}
			})
		}
		t.Run("for a while", func(t *testing.T) {
			script := `mount -t tmpfs -o size=8k,mode=777 x /mnt; head -c 8192 /dev/zero >/mnt/fill || true
				: >/mnt/log; chmod 666 /mnt/log; set +e
				$AS $TCPBOX run --log /mnt/log ` + fmt.Sprintf(guest, `rm /mnt/fill; "$0" get http://web/bytes/3;`) + ` >/dev/null
				e=$?; cat /mnt/log; exit $e`
			got := toEnd(t, c.prepared(t, n, script))
			if got.code != 7 || !strings.Contains(got.stderr, "the log cannot be written: no space left on device") {
				t.Errorf("%v, want exit status 7 and a warning", got)
			}
			// What is there is whole lines, and it says how much there is not.
			records := 0
			for line := range strings.Lines(got.stdout) {
				var r struct{ V, Dropped int }
				if err := json.Unmarshal([]byte(line), &r); err != nil || r.V != 1 {
					t.Errorf("the log has %q: %v", line, err)
				}
				records += max(1, r.Dropped)
			}
			if records != 18 {
				t.Errorf("%d records, there or told as dropped, want 18", records)
			}
		})
	})
}

// TestLifeDeviceGone takes the TUN device away while the guest runs: without
// its network the guest ends, and tcpbox says why.
func TestLifeDeviceGone(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		testnet.Programs(t, "ip", "nsenter")
		p := begin(t, c.run(t.Context(), t, n, []string{"--quiet"}, "sh", "-c", "echo up; while :; do sleep 1; done"))
		p.prints("up\n")
		_, guest := insiders(t, p.cmd.Process.Pid)
		ns := n.Of(t, guest)
		if got := toEnd(t, ns.Command(t.Context(), "ip", "link", "del", "tcpbox0")); got.code != 0 {
			t.Fatal(got)
		}
		if code := p.wait(); code != 125 || !strings.Contains(p.stderr.String(), "tcpbox: error: ") {
			t.Errorf("exit status %d, want 125; %q", code, p.stderr)
		}
	})
}

// TestLifeSuspended stops tcpbox alone for a while: what the guest does then is
// done when it goes on.
func TestLifeSuspended(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		cmd := c.run(t.Context(), t, n, []string{"--quiet", "--net", "none", "--peer", "web=http"},
			"sh", "-c", `echo up; read x; "$0" get http://web/bytes/3; exit 6`, testnet.Binary(t))
		stdin, err := cmd.StdinPipe()
		must(t, err)
		p := begin(t, cmd)
		p.prints("up\n")
		sendSignal(t, cmd.Process.Pid, unix.SIGSTOP)
		testnet.Eventually(t, func() error {
			if s := procState(cmd.Process.Pid); s != "T" {
				return fmt.Errorf("tcpbox is in state %q and not stopped", s)
			}
			return nil
		})
		stdin.Close()
		sendSignal(t, cmd.Process.Pid, unix.SIGTERM) // comes when it goes on
		sendSignal(t, cmd.Process.Pid, unix.SIGCONT)
		if code := p.wait(); code != 143 && code != 6 {
			t.Errorf("exit status %d, want 143 or 6; %s", code, p.stderr)
		}
	})
}
