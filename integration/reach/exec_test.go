package reach

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"tcpbox/integration/testnet"
)

var execNames atomic.Int64

// sleepingBox runs a sandbox with a guest that sleeps, and returns its name.
func sleepingBox(t *testing.T, n *testnet.Net, c caller, flags ...string) (name string, box *running) {
	t.Helper()
	name = fmt.Sprintf("exec-%d-%d", os.Getpid(), execNames.Add(1))
	flags = append([]string{"--net", "none", "--quiet", "--name", name}, flags...)
	box = begin(t, c.run(t.Context(), t, n, flags, "sh", "-c", "echo ready; exec sleep 1000"))
	box.prints("ready")
	return name, box
}

// exec returns the command "tcpbox exec name -- command".
func (c caller) exec(t *testing.T, n *testnet.Net, name string, command ...string) *exec.Cmd {
	t.Helper()
	return c.tcpbox(t, n, append([]string{"exec", name, "--"}, command...)...)
}

func TestExec(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		name, box := sleepingBox(t, n, c)
		_, guest := insiders(t, box.cmd.Process.Pid)

		t.Run("is confined", func(t *testing.T) {
			script := `
				id -u
				cut -f2 /proc/self/status | head -0; grep -h CapEff /proc/self/status | cut -f2
				ip link set tcpbox0 down 2>/dev/null || echo device refused
				ip route del default 2>/dev/null || echo route refused
				(echo 1 >/proc/sys/net/ipv4/ip_forward) 2>/dev/null || echo sysctl refused
				test -e /dev/net/tun || echo no TUN
				mount -t tmpfs x /mnt 2>/dev/null || echo mount refused`
			got := toEnd(t, c.exec(t, n, name, "sh", "-c", script))
			want := fmt.Sprintf("%d\n0000000000000000\ndevice refused\nroute refused\nsysctl refused\nno TUN\nmount refused\n", c.uid())
			if got.code != 0 || got.stdout != want {
				t.Errorf("%v, want %q", got, want)
			}
		})
		t.Run("signals", func(t *testing.T) {
			cmd := c.exec(t, n, name, lifeGuestPath(t), "signals")
			stdin, err := cmd.StdinPipe()
			must(t, err)
			p := begin(t, cmd)
			p.prints("ready")
			for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2} {
				sendSignal(t, cmd.Process.Pid, sig)
				p.prints("got " + unix.SignalName(sig) + "\n")
			}
			stdin.Close()
			if code := p.wait(); code != 9 || strings.Count(p.stdout.String(), "got") != 6 {
				t.Errorf("exit status %d, want 9; it wrote %q", code, p.stdout)
			}
		})
		t.Run("its tcpbox is killed", func(t *testing.T) {
			if c.cred == nil {
				t.Skip("takes five seconds: the ordinary user's is enough")
			}
			cmd := c.exec(t, n, name, lifeGuestPath(t), "signals")
			_, err := cmd.StdinPipe() // does not end it
			must(t, err)
			p := begin(t, cmd)
			p.prints("ready")
			cmd.Process.Kill()
			p.prints("got SIGHUP") // and KILL, by which alone its output ends
			if code := p.wait(); code != 128+9 {
				t.Errorf("exit status %d, want 137", code)
			}
		})
		t.Run("from inside", func(t *testing.T) {
			got := toEnd(t, c.exec(t, n, name, testnet.Binary(t), "exec", name, "--", "echo", "reached"))
			if got.code != 125 || got.stdout != "" || !strings.Contains(got.stderr, "tcpbox: error: ") {
				t.Errorf("%v, want status 125", got)
			}
		})
		t.Run("by another user", func(t *testing.T) {
			other := root
			if c.cred == nil {
				other = ordinary
			}
			got := toEnd(t, other.exec(t, n, name, "echo", "reached"))
			if got.code != 2 || got.stdout != "" || !strings.Contains(got.stderr, "there is no sandbox") {
				t.Errorf("%v, want status 2", got)
			}
		})
		// Twenty at once, some of which run when the guest ends.
		t.Run("twenty", func(t *testing.T) {
			var all sync.WaitGroup
			for i := range 20 {
				p := begin(t, c.exec(t, n, name, "sh", "-c", fmt.Sprintf("echo up; [ %d -lt 10 ] || sleep 1000; exit %d", i, i)))
				all.Go(func() {
					code := p.wait()
					switch out := p.stdout.String(); {
					case i < 10 && (code != i || out != "up\n"):
						t.Errorf("command %d: exit status %d, output %q", i, code, out)
					case code == 125 && strings.Contains(p.stderr.String(), "the sandbox has ended"):
						// It wrote before tcpbox was told that it had begun.
					case i >= 10 && code != 137:
						t.Errorf("command %d: exit status %d, want 137", i, code)
					}
				})
				if i >= 10 {
					p.prints("up")
				}
			}
			sendSignal(t, guest, unix.SIGTERM)
			all.Wait()
			if code := box.wait(); code != 143 {
				t.Errorf("the sandbox: exit status %d, want 143", code)
			}
			got := toEnd(t, c.exec(t, n, name, "true"))
			if got.code != 2 || !strings.Contains(got.stderr, "there is no sandbox") {
				t.Errorf("afterwards: %v, want status 2", got)
			}
		})
	})
}

// TestExecDies kills the tcpbox of the sandbox under a command.
func TestExecDies(t *testing.T) {
	n := testnet.New(t)
	noBoxesAfter(t)
	name, box := sleepingBox(t, n, root)
	p := begin(t, root.exec(t, n, name, "sh", "-c", "echo up; sleep 1000"))
	p.prints("up")
	box.cmd.Process.Kill()
	// It may have written before its tcpbox was told that it had begun.
	code, said := p.wait(), p.stderr.String()
	if code != 125 || !strings.Contains(said, "has died") && !strings.Contains(said, "has ended") {
		t.Errorf("exit status %d and %q, want 125", code, said)
	}
}

// TestExecTerminal is a shell in a sandbox, in a terminal of its own.
func TestExecTerminal(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		testnet.Programs(t, "bash", "stty")
		name, _ := sleepingBox(t, n, c)
		cmd := n.Uplink.CommandAs(t.Context(), c.cred, "bash", "--norc", "--noprofile", "--noediting", "-i")
		cmd.Env = append(cmd.Env, "B="+testnet.Binary(t), "N="+name)
		o := c.open(t, cmd)
		o.shows("$ ")
		o.types("before=$(stty -g)\n")
		o.types("$B exec -e 'PS1=inner> ' $N -- bash --norc --noprofile --noediting -i; echo status $?\n")
		o.shows("inner> ")
		o.types("tty; stty size; echo $TERM\n")
		o.shows("/dev/pts/0\r\n33 177\r\ndumb\r\n")
		for range 3 { // ^C ends what runs, and not the shell
			o.types("sh -c 'echo u\"\"p; exec sleep 1000'\n")
			o.shows("up\r\n")
			o.types("\x03")
			o.shows("inner> ")
			o.types("echo status $?\n")
			o.shows("status 130\r\n")
		}
		o.types("cat\n") // ^Z stops it there, and nothing here
		o.types("one\n")
		o.shows("one\r\none\r\n")
		o.types("\x1a")
		o.shows("Stopped")
		o.shows("inner> ")
		o.types("fg\n")
		o.shows("cat\r\n")
		o.types("two\n")
		o.shows("two\r\ntwo\r\n")
		o.types("\x04")
		o.shows("inner> ")
		must(t, pty.Setsize(o.pty, &pty.Winsize{Rows: 24, Cols: 80}))
		testnet.Eventually(t, func() error {
			o.types("stty size\n")
			if rest := o.output.String()[o.past:]; !strings.Contains(rest, "24 80\r\n") {
				return fmt.Errorf("the size is not passed on: %q", rest)
			}
			return nil
		})
		o.types("exit 6\n")
		o.shows("status 6\r\n")
		o.types("[ \"$(stty -g)\" = \"$before\" ] && echo restored\n")
		o.shows("restored\r\n")

		// Output that goes elsewhere stays as it is, and ^Z stops the command.
		o.types("$B exec $N -- sh -c 'echo u\"\"p >&2; read x; echo got $x' | od -c | head -1\n")
		o.shows("up\r\n")
		o.types("\x1a")
		o.shows("Stopped")
		o.shows("$ ")
		o.types("fg\n")
		o.shows("head -1\r\n")
		o.types("word\n")
		o.shows("g   o   t       w   o   r   d  \\n\r\n")
	})
}

// TestLingerEnds: a signal ends what lingers, two end what ignores the first,
// and the status stays the command's own.
func TestLingerEnds(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		for _, tt := range []struct {
			script  string
			signals int
			code    int
		}{
			{"setsid sleep 1000 & exit 3", 1, 3},
			{"trap '' TERM; setsid sleep 1000 & exit 4", 2, 4},
		} {
			cmd := c.run(t.Context(), t, n, []string{"--net", "none", "--linger"}, "sh", "-c", tt.script)
			p := begin(t, cmd)
			testnet.Eventually(t, func() error {
				if !strings.Contains(p.stderr.String(), "served until it ends") {
					return fmt.Errorf("it does not linger: %q", p.stderr)
				}
				return nil
			})
			for range tt.signals {
				sendSignal(t, cmd.Process.Pid, unix.SIGINT)
				time.Sleep(time.Millisecond) // two at once would be one
			}
			if code := p.wait(); code != tt.code {
				t.Errorf("%s: exit status %d, want %d", tt.script, code, tt.code)
			}
		}
	})
}

// TestLingerTerminal stops what lingers, continues it and ends it from a
// terminal.
func TestLingerTerminal(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		testnet.Programs(t, "bash")
		cmd := n.Uplink.CommandAs(t.Context(), c.cred, "bash", "--norc", "--noprofile", "--noediting", "-i")
		cmd.Env = append(cmd.Env, "B="+testnet.Binary(t)+" run --net none --linger")
		o := c.open(t, cmd)
		o.shows("$ ")
		o.types("$B -- sh -c 'setsid sleep 1000 & exit 3'\n")
		o.shows("served until it ends, or ^C\r\n")
		o.types("\x1a")
		o.shows("Stopped")
		o.shows("$ ")
		o.types("fg\n")
		o.shows("exit 3'\r\n")
		testnet.Eventually(t, func() error {
			o.types("\x03") // the shell may not have given the terminal yet
			if len(boxes(t)) > 0 {
				return errors.New("it lives")
			}
			return nil
		})
	})
}

// TestExecAttached: an attached sandbox has no init that could start a command.
func TestExecAttached(t *testing.T) {
	n := testnet.New(t)
	noBoxesAfter(t)
	target := begin(t, n.Uplink.Command(t.Context(), "unshare", "-n", "sh", "-c", "echo ready; exec sleep 1000"))
	target.prints("ready")
	name := fmt.Sprintf("exec-attached-%d", os.Getpid())
	served := root.tcpbox(t, n, "attach", "--net", "none", "--name", name, fmt.Sprint(target.cmd.Process.Pid))
	p := begin(t, served)
	testnet.Eventually(t, func() error {
		if !strings.Contains(p.stderr.String(), "serves") {
			return fmt.Errorf("not served: %q", p.stderr)
		}
		return nil
	})
	got := toEnd(t, root.exec(t, n, name, "echo", "reached"))
	if got.code != 125 || got.stdout != "" || !strings.Contains(got.stderr, "has no guest") || !strings.Contains(got.stderr, "tcpbox: hint: enter the namespace itself, with nsenter") {
		t.Errorf("%v, want status 125 and a hint", got)
	}
	sendSignal(t, served.Process.Pid, unix.SIGTERM)
	p.wait()
}
