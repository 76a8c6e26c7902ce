package reach

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox/integration/testnet"
)

func TestLifeExitStatus(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		for _, row := range []struct {
			what   string
			flags  []string
			guest  []string
			code   int
			stderr string // a part of it
		}{
			{"success", nil, []string{"true"}, 0, ""},
			{"its own", nil, []string{"sh", "-c", "exit 7"}, 7, ""},
			{"the largest", nil, []string{"sh", "-c", "exit 255"}, 255, ""},
			{"one that tcpbox has too", nil, []string{"sh", "-c", "exit 125"}, 125, ""},
			{"killed by TERM", nil, []string{"sh", "-c", "kill -TERM $$"}, 143, ""},
			{"killed by KILL", nil, []string{"sh", "-c", "kill -KILL $$"}, 137, ""},
			{"killed by a fault", nil, []string{"sh", "-c", "kill -SEGV $$"}, 139, ""},
			{"no such command", nil, []string{"no-such-command"}, 127, `tcpbox: error: "no-such-command": command not found`},
			{"no such file", nil, []string{"/no/such/file"}, 127, "command not found"},
			{"a directory", nil, []string{"/"}, 126, "permission denied"},
			{"no program", nil, []string{"/etc/passwd"}, 126, "permission denied"},
			{"its time is up", []string{"--timeout", "50ms"}, []string{"sleep", "1000"}, 124, ""},
			{"its time is up while it is stopped", []string{"--timeout", "300ms"}, []string{"sh", "-c", "kill -STOP $$; sleep 1000"}, 124, ""},
			{
				"its time is up, it heeds only KILL and stops itself again and again",
				[]string{"--timeout", "300ms"},
				[]string{"sh", "-c", "trap '' TERM; while :; do kill -STOP $$; done"},
				124, "",
			},
			{"in time", []string{"--timeout", "1h"}, []string{"sh", "-c", "exit 3"}, 3, ""},
			{"wrong usage", []string{"--net", "some"}, []string{"true"}, 2, "tcpbox: hint:"},
			{"no command", nil, nil, 2, "no command to run"},
		} {
			t.Run(row.what, func(t *testing.T) {
				got := toEnd(t, c.run(t.Context(), t, n, row.flags, row.guest...))
				if got.code != row.code || !strings.Contains(got.stderr, row.stderr) || got.stdout != "" {
					t.Errorf("%v, want exit status %d and %q", got, row.code, row.stderr)
				}
				if row.code == 0 && strings.Contains(got.stderr, "error") {
					t.Errorf("standard error has %q", got.stderr)
				}
			})
		}
	})
}

// forwardedSignals are sent to tcpbox, or to its whole group, one after another.
var forwardedSignals = []unix.Signal{
	unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH, unix.SIGTSTP,
}

// TestLifeSignals sends each signal to tcpbox alone and to its process group:
// the guest gets it once.
func TestLifeSignals(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		for _, to := range []string{"process", "group"} {
			t.Run(to, func(t *testing.T) {
				cmd := c.run(t.Context(), t, n, []string{"--net", "none"}, lifeGuestPath(t), "signals")
				cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
				stdin, err := cmd.StdinPipe()
				must(t, err)
				p := begin(t, cmd)
				p.prints("ready\n")
				pid := cmd.Process.Pid
				if to == "group" {
					pid = -pid
				}
				want := "ready\n"
				for range 3 {
					for _, sig := range forwardedSignals {
						sendSignal(t, pid, sig)
						want += "got " + unix.SignalName(sig) + "\n"
						p.prints(want)
					}
				}
				stdin.Close()
				if code := p.wait(); code != 9 {
					t.Errorf("exit status %d, want 9", code)
				}
				if got := p.stdout.String(); got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			})
		}
	})
}

// TestLifeStops stops the guest in each way, and continues it in each way.
func TestLifeStops(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		stopped := func(t *testing.T, script string, sig unix.Signal) *running {
			cmd := c.run(t.Context(), t, n, []string{"--net", "none"}, "sh", "-c", script)
			cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
			p := begin(t, cmd)
			p.prints("up\n")
			if sig != 0 {
				sendSignal(t, -cmd.Process.Pid, sig)
			}
			testnet.Eventually(t, func() error {
				if s := procState(cmd.Process.Pid); s != "T" {
					return fmt.Errorf("tcpbox is in state %q and not stopped", s)
				}
				return nil
			})
			return p
		}
		// It has no child: who continues tcpbox alone continues the guest alone.
		const work = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; exit 6"
		for _, row := range []struct {
			what, script string
			sig          unix.Signal
		}{
			{"the group is stopped by TSTP", "echo up; " + work, unix.SIGTSTP},
			{"the group is stopped by STOP", "echo up; " + work, unix.SIGSTOP},
			{"the guest stops itself by TSTP", "echo up; kill -TSTP $$; " + work, 0},
			{"the guest stops itself by STOP", "echo up; kill -STOP $$; " + work, 0},
		} {
			t.Run(row.what, func(t *testing.T) {
				p := stopped(t, row.script, row.sig)
				sendSignal(t, -p.cmd.Process.Pid, unix.SIGCONT)
				if code := p.wait(); code != 6 {
					t.Errorf("the group is continued: exit status %d, want 6", code)
				}
				if row.sig == unix.SIGSTOP {
					return // that stopped what could continue the guest
				}
				p = stopped(t, row.script, row.sig)
				sendSignal(t, p.cmd.Process.Pid, unix.SIGCONT)
				if code := p.wait(); code != 6 {
					t.Errorf("tcpbox is continued: exit status %d, want 6", code)
				}
			})
		}
	})
}

// daemons is a guest with children that have left its session and its parents.
const daemons = `
for i in 1 2 3; do
	setsid sh -c 'sleep 1000 & exec sleep 1000' &
	(setsid setsid sh -c 'trap "" HUP TERM INT; while :; do sleep 1; done' &)
done
trap "" HUP TERM INT
echo up
while :; do sleep 1; done
`

// TestLifeKill kills each process of a run, and wants all of it gone. The Net
// finds what is left of the guests.
func TestLifeKill(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		for _, row := range []struct {
			what   string
			victim func(tcpbox, init, guest int) int
			sig    unix.Signal
			code   int
			stderr string
		}{
			{"tcpbox", func(tcpbox, _, _ int) int { return tcpbox }, unix.SIGKILL, 137, ""},
			{"tcpbox, as a fault of its own does", func(tcpbox, _, _ int) int { return tcpbox }, unix.SIGSEGV, 2, "SIGSEGV"},
			{"init", func(_, init, _ int) int { return init }, unix.SIGKILL, 125, "tcpbox: error: "},
			{"the guest", func(_, _, guest int) int { return guest }, unix.SIGKILL, 137, ""},
		} {
			t.Run(row.what, func(t *testing.T) {
				p := begin(t, c.run(t.Context(), t, n, []string{"--peer", "web=http", "--log", "/dev/null"}, "sh", "-c", daemons))
				p.prints("up\n")
				init, guest := insiders(t, p.cmd.Process.Pid)
				sendSignal(t, row.victim(p.cmd.Process.Pid, init, guest), row.sig)
				if code := p.wait(); code != row.code {
					t.Errorf("exit status %d, want %d; %s", code, row.code, p.stderr)
				}
				if !strings.Contains(p.stderr.String(), row.stderr) {
					t.Errorf("standard error is %q, want %q in it", p.stderr, row.stderr)
				}
				gone(t, n)
			})
		}
		t.Run("init and the guest at once", func(t *testing.T) {
			p := begin(t, c.run(t.Context(), t, n, nil, "sh", "-c", daemons))
			p.prints("up\n")
			init, guest := insiders(t, p.cmd.Process.Pid)
			sendSignal(t, p.cmd.Process.Pid, unix.SIGSTOP)
			sendSignal(t, guest, unix.SIGKILL)
			sendSignal(t, init, unix.SIGKILL)
			sendSignal(t, p.cmd.Process.Pid, unix.SIGCONT)
			if code := p.wait(); code != 137 && code != 125 {
				t.Errorf("exit status %d, want 137 or 125; %s", code, p.stderr)
			}
			gone(t, n)
		})
		t.Run("the guest ends before its daemons", func(t *testing.T) {
			script := strings.Replace(daemons, "echo up\nwhile :; do sleep 1; done", "exit 4", 1)
			if got := toEnd(t, c.run(t.Context(), t, n, nil, "sh", "-c", script)); got.code != 4 {
				t.Errorf("%v, want exit status 4", got)
			}
			gone(t, n)
		})
	})
}

// gone waits until no process of the Net, and no init, is left.
func gone(t testing.TB, n *testnet.Net) {
	t.Helper()
	testnet.Eventually(t, func() error {
		pids, err := n.Processes()
		if err != nil {
			return err
		}
		if pids = append(pids, boxes(t)...); len(pids) > 0 {
			return fmt.Errorf("still there: %v", pids)
		}
		return nil
	})
}

// TestLifeKillWhileStarting kills tcpbox at many moments of a run. How long
// each waits is no expectation: it only spreads the moments.
func TestLifeKillWhileStarting(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		for i := range 30 {
			p := begin(t, c.run(t.Context(), t, n, []string{"--peer", "web=http"}, "sh", "-c", "sleep 1000"))
			time.Sleep(time.Duration(i) * 4 * time.Millisecond)
			sendSignal(t, p.cmd.Process.Pid, unix.SIGKILL)
			p.wait()
		}
		gone(t, n)
	})
}

// TestLifeSignalWhileStarting sends TERM and INT at many moments of a run: the
// run ends, by the guest's death or tcpbox's own.
func TestLifeSignalWhileStarting(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		for i := range 30 {
			sig := []unix.Signal{unix.SIGTERM, unix.SIGINT}[i%2]
			p := begin(t, c.run(t.Context(), t, n, nil, "sleep", "1000"))
			time.Sleep(time.Duration(i) * 4 * time.Millisecond)
			sendSignal(t, p.cmd.Process.Pid, sig)
			if code := p.wait(); code != 128+int(sig) {
				t.Errorf("exit status %d, want %d; %s", code, 128+int(sig), p.stderr)
			}
		}
		gone(t, n)
	})
}

// TestLifeReaps makes orphans, which end while the guest lives. A dead process
// that is not reaped keeps its entry in /proc.
func TestLifeReaps(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		script := `
			i=0
			while [ $i -lt 100 ]; do (sleep 0.01 &); i=$((i+1)); done
			i=0
			while grep -qsE '^[0-9]+ \(sleep\)' /proc/[0-9]*/stat; do
				sleep 0.01
				i=$((i+1))
				[ $i -lt 3000 ] || { grep -E '\(sleep\)' /proc/[0-9]*/stat; exit 1; }
			done
			echo none`
		got := toEnd(t, c.run(t.Context(), t, n, nil, "sh", "-c", script))
		if got.code != 0 || got.stdout != "none\n" {
			t.Errorf("%v, want none", got)
		}
	})
}

// TestLifeName holds a name as long as its sandbox lives, and no longer.
func TestLifeName(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		name := fmt.Sprintf("life-%d", os.Getpid())
		box := func(t *testing.T) *running {
			p := begin(t, c.run(t.Context(), t, n, []string{"--quiet", "--net", "none", "--name", name}, "sh", "-c", "echo up; exec sleep 1000"))
			p.prints("up\n")
			return p
		}
		tcpbox := func(t *testing.T, args ...string) outcome {
			return toEnd(t, n.Uplink.CommandAs(t.Context(), c.cred, testnet.Binary(t), args...))
		}
		first := box(t)
		second := tcpbox(t, "run", "--name", name, "--", "true")
		if second.code != 2 || !strings.Contains(second.stderr, "there is a sandbox of that name already") || !strings.Contains(second.stderr, "tcpbox: hint: ") {
			t.Errorf("a second of the name: %v", second)
		}
		if got := tcpbox(t, "ls"); got.code != 0 || !strings.Contains(got.stdout, name+" ") {
			t.Errorf("ls: %v, want %s", got, name)
		}
		sendSignal(t, first.cmd.Process.Pid, unix.SIGKILL)
		first.wait()
		if got := tcpbox(t, "ls"); got.code != 0 || strings.Contains(got.stdout, name) {
			t.Errorf("ls after the death of the first: %v, want no %s", got, name)
		}
		third := box(t)
		if got := tcpbox(t, "stop", name); got.code != 0 {
			t.Fatalf("stop: %v", got)
		}
		if code := third.wait(); code != 143 {
			t.Errorf("exit status %d of the third, want 143; %s", code, third.stderr)
		}
		if got := tcpbox(t, "stop", name); got.code != 2 || !strings.Contains(got.stderr, "tcpbox: hint: ") {
			t.Errorf("stop of none: %v", got)
		}
	})
}

// TestLifeLeavesNothing runs many sandboxes from one shell and compares what it
// sees of the machine before and after. Its mount namespace and its network
// namespace are the test's own, so nobody else changes them, but for mounts whose
// place is removed.
func TestLifeLeavesNothing(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		runs := 50
		if testing.Short() {
			runs = 10
		}
		script := `mount --make-rprivate /
			cd ` + openDir(t) + `
			exec $AS bash -c '
			see() { grep -v " /run/netns/" /proc/self/mountinfo; ls -A /proc/self/fd; cut -d: -f1 /proc/net/dev; cat /proc/net/tcp /proc/net/tcp6 | wc -l; }
			see >before
			one() { "$TCPBOX" run --quiet --log log.$1 --net none --peer web=http -- "$TCPBOX" get http://web/bytes/10 >out.$1 || echo status $?; }
			for i in $(seq ` + strconv.Itoa(runs) + `); do one $i; done
			see >after
			diff before after
			for i in $(seq 10); do one at-once.$i & done
			wait
			see >after
			diff before after
			cat out.* | wc -c
			ls -A | grep -vE "^(log|out)\.|^(before|after)$" || true'`
		cmd := c.prepared(t, n, script)
		want := fmt.Sprintln(10 * (runs + 10))
		if got := toEnd(t, cmd); got.code != 0 || got.stdout != want || got.stderr != "" {
			t.Errorf("%v, want %q and nothing else", got, want)
		}
		gone(t, n)
	})
}

// TestLifeAtOnce runs sandboxes with the same addresses and peers at once.
func TestLifeAtOnce(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		var all []*running
		var inputs []io.Closer
		for range 10 {
			cmd := c.run(t.Context(), t, n, []string{"--quiet", "--net", "none", "--peer", "web=http", "--peer", "other=http"},
				"sh", "-c", `echo up; read x; "$0" get http://web/bytes/3 && "$0" get http://other/bytes/3`, testnet.Binary(t))
			stdin, err := cmd.StdinPipe()
			must(t, err)
			inputs = append(inputs, stdin)
			all = append(all, begin(t, cmd))
		}
		for _, p := range all {
			p.prints("up\n")
		}
		for i, p := range all {
			inputs[i].Close()
			if code, want := p.wait(), len("up\n")+6; code != 0 || len(p.stdout.String()) != want {
				t.Errorf("exit status %d and %q, want %d bytes; %s", code, p.stdout, want, p.stderr)
			}
		}
	})
}

// openDir is a directory that every user can write to.
func openDir(t testing.TB) string {
	t.Helper()
	dir := testnet.Dir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}
