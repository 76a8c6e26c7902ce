package reach

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"tcpbox/integration/testnet"
)

// console is a terminal in which a command runs, as it would for a person.
type console struct {
	*running
	pty    *os.File
	output *testnet.Buffer
	past   int // how much of the output expect has gone past
	closed chan struct{}
}

// open starts a command in a terminal of the caller's own.
func (c caller) open(t testing.TB, cmd *exec.Cmd) *console {
	t.Helper()
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	if err := pty.Setsize(master, &pty.Winsize{Rows: 33, Cols: 177}); err != nil {
		t.Fatal(err)
	}
	if err := slave.Chown(c.uid(), c.uid()); err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	cmd.Env = append(cmd.Env, "TERM=dumb", "PS1=$ ", "HISTFILE=")
	cmd.Dir = "/"
	o := &console{pty: master, output: new(testnet.Buffer), closed: make(chan struct{})}
	go o.read()
	t.Cleanup(func() {
		master.Close()
		<-o.closed
		if t.Failed() {
			t.Logf("the terminal showed:\n%s", o.output)
		}
	})
	o.running = begin(t, cmd)
	return o
}

// read lasts until the terminal is closed.
func (o *console) read() {
	defer close(o.closed)
	buf := make([]byte, 4096)
	for {
		n, err := o.pty.Read(buf)
		_, _ = o.output.Write(buf[:n])
		if err != nil && !strings.Contains(err.Error(), "input/output error") { // nobody has it open at the moment
			return
		}
		if err != nil {
			select {
			case <-o.ended:
				return
			default:
			}
		}
	}
}

// types sends keys.
func (o *console) types(keys string) {
	o.t.Helper()
	if _, err := o.pty.WriteString(keys); err != nil {
		o.t.Fatal(err)
	}
}

// shows waits until the terminal shows a text, after all that was waited for
// before.
func (o *console) shows(text string) {
	o.t.Helper()
	testnet.Eventually(o.t, func() error {
		rest := o.output.String()[o.past:]
		i := strings.Index(rest, text)
		if i < 0 {
			return fmt.Errorf("%q is not shown; there is %q", text, rest)
		}
		o.past += i + len(text)
		return nil
	})
}

// shells are those whose job control is tried.
var shells = []struct {
	name    string
	args    []string
	stopped string // what it says of a stopped job
}{
	{"bash", []string{"bash", "--norc", "--noprofile", "--noediting", "-i"}, "Stopped"},
	{"dash", []string{"dash", "-i"}, "Stopped"},
}

// inShells runs a test as each caller in each shell, with $B as "tcpbox run" and
// $G as the guest that lifeGuest is.
func inShells(t *testing.T, f func(t *testing.T, c caller, o *console, stopped string)) {
	t.Helper()
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		for _, sh := range shells {
			t.Run(sh.name, func(t *testing.T) {
				testnet.Programs(t, sh.name)
				cmd := n.Uplink.CommandAs(t.Context(), c.cred, sh.args[0], sh.args[1:]...)
				cmd.Env = append(cmd.Env, "B="+testnet.Binary(t)+" run --quiet --net none", "G="+lifeGuestPath(t))
				o := c.open(t, cmd)
				o.shows("$ ")
				f(t, c, o, sh.stopped)
			})
		}
	})
}

func TestLifeTerminalInterrupt(t *testing.T) {
	inShells(t, func(t *testing.T, _ caller, o *console, _ string) {
		for _, key := range []struct{ key, status string }{{"\x03", "130"}, {"\x1c", "131"}} {
			o.types("$B -- sh -c 'echo u\"\"p; exec sleep 1000'; echo status $?\n")
			o.shows("up\r\n")
			o.types(key.key)
			o.shows("status " + key.status + "\r\n")
		}
		// A program that takes ^C for its own: tcpbox stays until it ends.
		o.types("$B -- $G signals; echo status $?\n")
		o.shows("ready\r\n")
		for range 3 {
			for _, key := range []struct{ key, sig string }{{"\x03", "SIGINT"}, {"\x1c", "SIGQUIT"}, {"\x1a", "SIGTSTP"}} {
				o.types(key.key)
				o.shows("got " + key.sig + "\r\n")
			}
		}
		o.types("\n\x04")
		o.shows("status 9\r\n")
		if got := strings.Count(o.output.String(), "got "); got != 9 {
			t.Errorf("%d signals arrived, want 9", got)
		}
	})
}

func TestLifeTerminalStop(t *testing.T) {
	inShells(t, func(t *testing.T, _ caller, o *console, stopped string) {
		o.types("$B -- sh -c 'while read x; do echo got $x; done; exit 4'\n")
		o.types("one\n")
		o.shows("got one\r\n")
		for range 3 {
			o.types("\x1a")
			o.shows(stopped)
			o.shows("$ ")
			o.types("fg\n")
			o.types("two\n")
			o.shows("got two\r\n")
		}
		o.types("\x04")
		o.shows("$ ")
		o.types("echo status $?\n")
		o.shows("status 4\r\n")

		// In the background it stops when it reads.
		o.types("$B -- sh -c 'echo begi\"\"n; read x; echo got $x' &\n")
		o.shows("begin\r\n")
		testnet.Eventually(t, func() error {
			o.types("jobs\n")
			if rest := o.output.String()[o.past:]; !strings.Contains(rest, stopped) {
				return fmt.Errorf("the job is not stopped: %q", rest)
			}
			return nil
		})
		o.types("fg\n")
		o.types("three\n")
		o.shows("got three\r\n")

		// In a pipeline all of it stops and goes on.
		o.types("$B -- cat | $B -- sh -c 'while read x; do echo got $x; done; exit 5'\n")
		o.types("four\n")
		o.shows("got four\r\n")
		o.types("\x1a")
		o.shows(stopped)
		o.types("fg\n")
		o.types("five\n")
		o.shows("got five\r\n")
		o.types("\x04")
		o.shows("$ ")
		o.types("echo status $?\n")
		o.shows("status 5\r\n")
	})
}

func TestLifeTerminalGuestStopsItself(t *testing.T) {
	inShells(t, func(t *testing.T, _ caller, o *console, stopped string) {
		for _, sig := range []string{"TSTP", "STOP"} {
			o.types("$B -- sh -c 'kill -" + sig + " $$; read x; echo got $x'\n")
			o.shows(stopped)
			o.shows("$ ")
			o.types("fg\n")
			o.types("word-" + sig + "\n")
			o.shows("got word-" + sig + "\r\n")
			o.shows("$ ")
		}
	})
}

func TestLifeTerminalSize(t *testing.T) {
	inShells(t, func(t *testing.T, _ caller, o *console, _ string) {
		o.types("$B -- stty size\n")
		o.shows("33 177\r\n")
		o.types("$B -- $G signals\n")
		o.shows("ready\r\n")
		for i := range 3 {
			if err := pty.Setsize(o.pty, &pty.Winsize{Rows: uint16(20 + i), Cols: 99}); err != nil {
				t.Fatal(err)
			}
			o.shows("got SIGWINCH\r\n")
		}
		o.types("\n\x04")
		o.shows("$ ")
		if got := strings.Count(o.output.String(), "SIGWINCH"); got != 3 {
			t.Errorf("%d signals arrived, want 3", got)
		}
		o.types("$B -- stty size\n")
		o.shows("22 99\r\n")
	})
}

// TestLifeTerminalShell runs a shell with job control as the guest: it makes
// groups of its own in the caller's terminal.
func TestLifeTerminalShell(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		// The caller's shell has no job control: it takes nothing back itself.
		cmd := n.Uplink.CommandAs(t.Context(), c.cred, "sh", "-c",
			`"$0" run --quiet --net none -e 'PS1=inner$ ' -- bash --norc --noprofile --noediting -i; echo status $?; read x; echo outer $x`, testnet.Binary(t))
		o := c.open(t, cmd)
		o.shows("inner$ ")
		o.types("tty\n")
		o.shows("/dev/console\r\n")
		o.types("sh -c 'echo u\"\"p; read x; echo got $x'\n")
		o.shows("up\r\n")
		o.types("\x1a")
		o.shows("Stopped")
		o.shows("inner$ ")
		o.types("fg\n")
		o.types("one\n")
		o.shows("got one\r\n")
		o.types("sh -c 'echo u\"\"p; exec cat'\n")
		o.shows("up\r\n")
		o.types("line\n")
		o.shows("line\r\nline\r\n")
		o.types("\x03")
		o.shows("inner$ ")
		o.types("exit 5\n")
		o.shows("status 5\r\n")
		o.types("word\n")
		o.shows("outer word\r\n")
		if code := o.wait(); code != 0 {
			t.Errorf("exit status %d", code)
		}
	})
	inShells(t, func(t *testing.T, _ caller, o *console, stopped string) {
		o.types("$B -e 'PS1=inner$ ' -- bash --norc --noprofile --noediting -i\n")
		o.shows("inner$ ")
		o.types("suspend\n")
		o.shows(stopped)
		o.shows("$ ")
		o.types("fg\n")
		o.types("echo a''b\n")
		o.shows("ab\r\n")
		o.types("exit\n")
		o.shows("exit\r\n")
		o.types("echo c''d\n")
		o.shows("cd\r\n")
	})
}

// TestLifeTerminalAfterKill kills the sandbox of a guest that has made a group
// of its own in the terminal's foreground: the caller has its terminal back.
func TestLifeTerminalAfterKill(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		for _, who := range []string{"guest", "init"} {
			t.Run(who, func(t *testing.T) {
				cmd := n.Uplink.CommandAs(t.Context(), c.cred, "sh", "-c",
					`"$0" run --quiet --net none -e 'PS1=inner$ ' -- bash --norc --noprofile --noediting -i; echo status $?; read x; echo outer $x`, testnet.Binary(t))
				o := c.open(t, cmd)
				o.shows("inner$ ")
				o.types("sh -c 'echo u\"\"p; exec sleep 1000'\n")
				o.shows("up\r\n")
				children, err := testnet.Children()
				must(t, err)
				box := children[o.cmd.Process.Pid]
				if len(box) != 1 {
					t.Fatalf("the shell has the children %v, want one", box)
				}
				init, guest := insiders(t, box[0])
				if who == "init" {
					sendSignal(t, init, unix.SIGKILL)
					o.shows("status 125\r\n")
				} else {
					sendSignal(t, guest, unix.SIGKILL)
					o.shows("status 137\r\n")
				}
				o.types("word\n")
				o.shows("outer word\r\n")
				o.wait()
			})
		}
	})
}

// TestLifeTerminalLog has the log as text where standard error is a terminal.
func TestLifeTerminalLog(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		cmd := n.Uplink.CommandAs(t.Context(), c.cred, "sh", "-c",
			`"$0" run --net none --log - --peer web=http -- "$0" get http://web/bytes/3; echo; echo status $?`, testnet.Binary(t))
		o := c.open(t, cmd)
		o.shows("status 0\r\n")
		o.wait()
		text := o.output.String()
		for _, want := range []string{"SYN-RECEIVED", "ESTABLISHED", "CLOSE-WAIT", "LAST-ACK"} {
			if !strings.Contains(text, want) || strings.Contains(text, `{"v":1`) {
				t.Errorf("%s is not shown as text", want)
			}
		}
	})
}
