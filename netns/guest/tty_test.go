package guest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// console is a terminal with a program in it.
type console struct {
	t   testing.TB
	pty *os.File
	cmd *exec.Cmd

	mu     sync.Mutex
	output bytes.Buffer
	seen   int // how much of it expect has gone past
	closed chan struct{}
}

func newConsole(t testing.TB, name string, args ...string) *console {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=dumb", "PS1=$ ", "HOME=/"}
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 33, Cols: 77})
	if err != nil {
		t.Fatal(err)
	}
	c := &console{t: t, pty: f, cmd: cmd, closed: make(chan struct{})}
	go c.read()
	t.Cleanup(func() {
		killSession(cmd.Process.Pid)
		cmd.Wait()
		<-c.closed // at the latest when nobody has the terminal open
		f.Close()
	})
	return c
}

// killSession kills whatever a console has left running.
func killSession(sid int) {
	for range 3 { // a process may fork meanwhile
		for _, p := range processes() {
			if got, err := unix.Getsid(p); err == nil && got == sid {
				unix.Kill(p, unix.SIGKILL)
			}
		}
	}
}

// processes are the ids of all that /proc shows.
func processes() []int {
	entries, _ := os.ReadDir("/proc")
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (c *console) read() {
	defer close(c.closed)
	buf := make([]byte, 4096)
	for {
		n, err := c.pty.Read(buf)
		c.mu.Lock()
		c.output.Write(buf[:n])
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (c *console) send(s string) {
	c.t.Helper()
	if _, err := c.pty.WriteString(s); err != nil {
		c.t.Fatal(err)
	}
}

// expect waits until the output has text, after all that was expected before.
func (c *console) expect(text string) {
	c.t.Helper()
	if ok, rest, before := c.within(patience, text); !ok {
		c.t.Fatalf("%q never came; there is %q, after %q\n%s", text, rest, before, c.session())
	}
}

// typeUntil types a line, and once more whenever a while has passed without the
// output having text. A line can be lost on its way: what clears a terminal's
// input, such as a key that makes a signal, does not ask who typed it.
func (c *console) typeUntil(line, text string) {
	c.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		c.send(line)
		ok, rest, before := c.within(patience/10, text)
		switch {
		case ok:
			return
		case time.Now().After(deadline):
			c.t.Fatalf("%q never came; there is %q, after %q\n%s", text, rest, before, c.session())
		}
		c.t.Logf("%q was typed without effect; there is %q\n%s", line, rest, c.session())
	}
}

// within waits for text for so long. If it does not come, rest is the output
// that nothing has gone past yet, and before all earlier.
func (c *console) within(limit time.Duration, text string) (ok bool, rest, before string) {
	deadline := time.Now().Add(limit)
	for {
		c.mu.Lock()
		rest := c.output.String()[c.seen:]
		if i := strings.Index(rest, text); i >= 0 {
			c.seen += i + len(text)
			c.mu.Unlock()
			return true, "", ""
		}
		whole := c.output.String()
		c.mu.Unlock()
		if time.Now().After(deadline) {
			return false, rest, whole[:len(whole)-len(rest)]
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// session says what is left in the console's session: state, group and the
// group in the foreground of each process (proc(5), /proc/pid/stat).
func (c *console) session() string {
	var b strings.Builder
	for _, p := range processes() {
		if sid, err := unix.Getsid(p); err != nil || sid != c.cmd.Process.Pid {
			continue
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
		wchan, _ := os.ReadFile(fmt.Sprintf("/proc/%d/wchan", p))
		fmt.Fprintf(&b, "%s, in %s (%v)\n", bytes.TrimSpace(stat), wchan, err)
	}
	return b.String()
}

// specFile is the path of a file with the spec.
func specFile(t testing.TB, sp spec) string {
	t.Helper()
	data, err := json.Marshal(sp)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(openDir(t), "spec")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// script is the path of a command that runs the spec.
func (w who) script(t testing.TB, sp spec) string {
	t.Helper()
	file := specFile(t, sp)
	text := fmt.Sprintf("#!/bin/sh\nexport %s=%s %s=@%s\nexec %s\n", partVar, w.part(), specVar, file, binary(t))
	path := filepath.Join(filepath.Dir(file), "box")
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// shell starts an interactive shell with job control.
func shell(t testing.TB) *console {
	t.Helper()
	c := newConsole(t, "bash", "--norc", "--noprofile", "--noediting", "-i")
	c.expect("$ ")
	return c
}

func TestTerminalIsTheCallers(t *testing.T) {
	everybody(t, func(t *testing.T, who who) {
		c := newConsole(t, who.script(t, spec{Args: []string{
			"sh", "-c",
			"tty; stty size; test -t 0 && echo terminal; echo typed >/dev/tty; ls /dev/pts; read x; echo got $x; " +
				"python3 -c 'import os; print(os.ttyname(0))' 2>/dev/null || echo /dev/console",
		}}))
		c.expect("/dev/console\r\n")
		c.expect("33 77\r\n")
		c.expect("terminal\r\n")
		c.expect("typed\r\n")
		c.expect("ptmx\r\n")
		c.send("word\n")
		c.expect("got word\r\n")
		c.expect("/dev/console\r\n")
	})
}

// TestTerminalKeys types what makes signals.
func TestTerminalKeys(t *testing.T) {
	everybody(t, func(t *testing.T, who who) {
		c := newConsole(t, who.script(t, probe(spec{}, binary(t), "signals")))
		c.expect("ready\r\n")
		for range 3 {
			for _, key := range []struct{ key, sig string }{{"\x03", "2"}, {"\x1c", "3"}, {"\x1a", "20"}} {
				c.send(key.key)
				c.expect("got " + key.sig + "\r\n")
			}
		}
		for i := range 3 {
			if err := pty.Setsize(c.pty, &pty.Winsize{Rows: uint16(20 + i), Cols: 80}); err != nil {
				t.Fatal(err)
			}
			c.expect("got 28\r\n")
		}
		c.send("\x03")
		c.expect("got 2\r\n")
		c.mu.Lock()
		got := strings.Count(c.output.String(), "got ")
		c.mu.Unlock()
		if got != 13 {
			t.Errorf("%d signals arrived, want 13: %q", got, c.output.String())
		}
	})
}

func TestJobControl(t *testing.T) {
	everybody(t, func(t *testing.T, who who) {
		cat := who.script(t, spec{Args: []string{"cat"}})

		t.Run("interrupt", func(t *testing.T) {
			c := shell(t)
			c.send(who.script(t, spec{Args: []string{"sh", "-c", "echo up; exec sleep 1000"}}) + "; echo status $?\n")
			c.expect("up\r\n")
			c.send("\x03")
			c.expect("status 130\r\n")
		})
		t.Run("stop and foreground", func(t *testing.T) {
			c := shell(t)
			c.send(cat + "; echo status $?\n")
			c.expect("status $?\r\n")
			c.send("one\n")
			c.expect("one\r\none\r\n")
			for range 3 {
				c.send("\x1a")
				c.expect("Stopped")
				c.expect("$ ")
				c.send("fg\n")
				c.expect("box")
				c.expect("\r\n")
				c.send("two\n")
				c.expect("two\r\ntwo\r\n")
			}
			c.send("\x04")
			c.expect("$ ")
		})
		t.Run("reads in the background", func(t *testing.T) {
			c := shell(t)
			c.send(cat + " &\n")
			c.expect("$ ")
			eventually(t, "the job stops", func() bool {
				c.send("jobs\n")
				time.Sleep(20 * time.Millisecond)
				c.mu.Lock()
				defer c.mu.Unlock()
				return strings.Contains(c.output.String(), "Stopped")
			})
			c.send("fg\n")
			c.expect("fg\r\n")
			c.expect("box\r\n")
			c.send("word\n")
			c.expect("word\r\nword\r\n")
			c.send("\x04")
		})
		for _, sig := range []string{"TSTP", "STOP"} {
			t.Run("the guest stops itself by "+sig, func(t *testing.T) {
				c := shell(t)
				c.send(who.script(t, spec{Args: []string{"sh", "-c", "kill -" + sig + " $$; read x; echo got $x"}}) + "; echo status $?\n")
				c.expect("Stopped")
				c.expect("$ ")
				c.send("fg\n")
				c.expect("box")
				c.send("word\n")
				c.expect("got word\r\n")
			})
		}
		t.Run("a shell in the sandbox", func(t *testing.T) {
			inner := who.script(t, spec{Args: []string{"bash", "--norc", "--noprofile", "--noediting", "-i"}, Env: []string{"PS1=inner$ "}})
			// The outer shell has no job control: it does not take the
			// terminal back by itself.
			c := newConsole(t, "sh", "-c", inner+"; echo status $?; read x; echo outer got $x")
			c.expect("inner$ ")
			c.send("sh -c 'echo u\"\"p; read x'\n")
			c.expect("up\r\n") // now it has the terminal
			c.send("\x1a")
			c.expect("Stopped")
			c.expect("inner$ ")
			c.send("exec sh -c 'exit 5'\n") // a plain exit would warn of the stopped job
			c.expect("status 5\r\n")
			c.typeUntil("word\n", "outer got word\r\n")
		})
		t.Run("a shell in the sandbox suspends itself", func(t *testing.T) {
			c := shell(t)
			c.send(who.script(t, spec{Args: []string{"bash", "--norc", "--noprofile", "--noediting", "-i"}, Env: []string{"PS1=inner$ "}}) + "\n")
			c.expect("inner$ ")
			c.send("suspend\n")
			c.expect("Stopped")
			c.expect("$ ")
			c.send("fg\n")
			c.expect("box")
			c.send("echo a''b\n")
			c.expect("ab\r\n")
			c.send("exit\n")
			c.expect("exit\r\n")
			c.send("echo c''d\n")
			c.expect("cd\r\n")
		})
	})
}
