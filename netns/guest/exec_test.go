package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// execPart starts a command beside the guest, and gives its status.
func execPart(sb *Sandbox, sp spec, fail func(error) int) int {
	e := Exec{Args: sp.Args, Env: sp.Env, Dir: sp.Dir, Terminal: sp.Terminal, Rows: 31, Cols: 71}
	if !sp.Terminal {
		e.Stdin, e.Stdout, e.Stderr = os.Stdin, os.Stdout, os.Stderr
	}
	c, err := sb.Exec(context.Background(), e)
	if err != nil {
		return fail(err)
	}
	if t := c.Terminal(); t != nil {
		defer t.Close()
		go io.Copy(t, os.Stdin)
		io.Copy(os.Stdout, t) // to EIO
	}
	st, err := c.Wait()
	if err != nil {
		return fail(err)
	}
	return st.ExitCode()
}

// sleeper is a guest that has nothing to do.
func sleeper(exec spec) spec {
	return spec{Args: []string{"sleep", "1000"}, Exec: &exec}
}

// TestExec is what a command finds, started beside a guest.
func TestExec(t *testing.T) {
	everybody(t, func(t *testing.T, who who) {
		me := fmt.Sprint(who.uid())
		rows := []seen{
			{"the caller's ids", spec{}, "echo $(id -u) $(id -g)", me + " " + me},
			{"no capability", spec{}, "grep -E 'Cap(Inh|Prm|Eff|Amb)' /proc/self/status | cut -f2 | tr -d '0\\n'", ""},
			{"no_new_privs and a filter", spec{}, "echo $(grep -E 'NoNewPrivs|Seccomp:' /proc/self/status | cut -f2)", "1 2"},
			{"a user namespace of its own", spec{}, "test $(readlink /proc/self/ns/user) != \"$(readlink /proc/$(pgrep -x sleep)/ns/user)\" && echo own", "own"},
			{"the guest's network", spec{}, "echo $(ls /sys/class/net)", "lo tcpbox0"},
			{"the guest's processes", spec{}, "pgrep -cx sleep", "1"},
			{"no device, no sysctl", spec{}, "ip link set tcpbox0 down 2>&1 | grep -o 'not permitted'; echo 1 2>&1 >/proc/sys/net/ipv4/ip_forward | grep -o Read-only; test -e /dev/net/tun || echo none", "not permitted\nRead-only\nnone"},
			{"a session of its own", spec{}, "test $(cut -d' ' -f6 /proc/$$/stat) = $$ && echo own", "own"},
			{"no terminal", spec{}, "(: </dev/tty) 2>/dev/null || echo none", "none"},
			{"no signal ignored or blocked", spec{}, "grep -E 'Sig(Blk|Ign)' /proc/self/status | cut -f2 | tr -d '0\\n'", ""},
			{"a variable, of which the last wins", spec{Env: []string{"A=1", "PATH=/usr/bin:/bin", "A=2"}}, "echo $A $PATH", "2 /usr/bin:/bin"},
			{"the guest's variables", spec{}, "test -n \"$PATH\" && echo path", "path"},
			{"the guest's directory", spec{}, "pwd", "/"},
			{"a directory", spec{Dir: "/usr"}, "pwd", "/usr"},
			{"a signal to the guest and none but its own descriptors", spec{}, "kill -0 $(pgrep -x sleep) && echo $(ls /proc/self/fd)", "0 1 2 3"},
			{"no trace of the guest", spec{}, "cat /proc/$(pgrep -x sleep)/environ 2>&1 | grep -o 'Permission denied'", "Permission denied"},
		}
		// One sandbox for all rows that have the same command.
		var all []seen
		for _, row := range rows {
			sp := row.spec
			if sp.Dir != "" || len(sp.Env) > 0 {
				sp.Args = []string{"sh", "-c", row.script}
				if got := who.run(t, sleeper(sp)); strings.TrimSpace(got.stdout) != row.want {
					t.Errorf("%s: got %+v, want %q", row.what, got, row.want)
				}
				continue
			}
			all = append(all, row)
		}
		var script strings.Builder
		for _, row := range all {
			fmt.Fprintf(&script, "(\n%s\n) 2>&1\nprintf '\\1'\n", row.script)
		}
		got := who.run(t, sleeper(spec{Args: []string{"sh", "-c", script.String()}}))
		outputs := strings.Split(got.stdout, "\x01")
		if len(outputs) != len(all)+1 || got.stderr != "" {
			t.Fatalf("got %+v", got)
		}
		for i, row := range all {
			if got := strings.TrimSpace(outputs[i]); got != row.want {
				t.Errorf("%s: got %q, want %q", row.what, got, row.want)
			}
		}
	})
}

func TestExecAsSomebodyElse(t *testing.T) {
	everybody(t, func(t *testing.T, who who) {
		sp := sleeper(spec{Args: []string{"sh", "-c", "echo $(id -u) $(id -g) $(stat -c %u /dev/pts/0)"}, Terminal: true})
		sp.Root = true
		if got := who.run(t, sp); got.stdout != "0 0 0\r\n" {
			t.Errorf("with Root: %+v", got)
		}
		if who == asUser {
			return
		}
		sp.Root, sp.User = false, &User{UID: 1234, GID: 1235}
		if got := who.run(t, sp); got.stdout != "1234 1235 1234\r\n" {
			t.Errorf("with User: %+v", got)
		}
	})
}

func TestExecTerminal(t *testing.T) {
	everybody(t, func(t *testing.T, who who) {
		script := "tty; stty size; echo $(ps -o sid= -o tpgid= -p $$) = $$; trap 'echo hung up' HUP; echo typed >/dev/tty"
		got := who.run(t, sleeper(spec{Args: []string{"sh", "-c", script}, Terminal: true}))
		lines := strings.Split(got.stdout, "\r\n")
		if len(lines) != 5 || lines[0] != "/dev/pts/0" || lines[1] != "31 71" || lines[3] != "typed" {
			t.Fatalf("got %+v", got)
		}
		if ids := strings.Fields(lines[2]); len(ids) != 4 || ids[0] != ids[1] || ids[0] != ids[3] {
			t.Errorf("session, foreground group and process: %q", lines[2])
		}
	})
}

func TestExecStatus(t *testing.T) {
	everybody(t, func(t *testing.T, who who) {
		for _, tt := range []struct {
			what   string
			exec   spec
			code   int
			stderr string
		}{
			{"exit", spec{Args: []string{"sh", "-c", "exit 3"}}, 3, ""},
			{"a signal", spec{Args: []string{"sh", "-c", "kill -TERM $$"}}, 128 + 15, ""},
			{"no such command", spec{Args: []string{"no-such-command"}}, 127, "command not found"},
			{"not executable", spec{Args: []string{"/etc/passwd"}}, 126, "permission denied"},
			{"no such directory", spec{Args: []string{"true"}, Dir: "/no/such"}, 125, `enter the working directory "/no/such": no such file`},
			{"too long a name", spec{Args: []string{strings.Repeat("é", 60<<10)}}, 126, "file name too long"},
			{"too long an argument", spec{Args: []string{"true", strings.Repeat("x", 200<<10)}}, 126, "argument list too long"},
			{"many arguments", spec{Args: append([]string{"true"}, slices.Repeat([]string{strings.Repeat("x", 100<<10)}, 10)...)}, 0, ""},
		} {
			t.Run(tt.what, func(t *testing.T) {
				cmd := who.command(t, spec{})
				// An argument of the test's own is too long as well.
				for i, v := range cmd.Env {
					if strings.HasPrefix(v, specVar+"=") {
						cmd.Env[i] = specVar + "=@" + specFile(t, sleeper(tt.exec))
					}
				}
				got := finish(t, cmd)
				if got.code != tt.code || !strings.Contains(got.stderr, tt.stderr) || tt.stderr == "" && got.stderr != "" {
					t.Errorf("got %+v, want status %d and %q", got, tt.code, tt.stderr)
				}
			})
		}
	})
}

// sleeping is a sandbox of this process's with a guest that sleeps.
func sleeping(t testing.TB, c Config) *Sandbox {
	t.Helper()
	asRoot.need(t)
	sb, err := New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sb.Close() })
	if err := sb.Start(); err != nil {
		t.Fatal(err)
	}
	return sb
}

// piped starts a shell script whose output is read from the pipe.
func piped(t testing.TB, sb *Sandbox, script string) (*Command, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	defer w.Close()
	c, err := sb.Exec(t.Context(), Exec{Args: []string{"sh", "-c", script}, Stdout: w, Stderr: w})
	if err != nil {
		t.Fatal(err)
	}
	return c, r
}

func line(t testing.TB, f *os.File) string {
	t.Helper()
	var text []byte
	for one := make([]byte, 1); ; {
		if _, err := f.Read(one); err != nil {
			t.Fatalf("%v after %q", err, text)
		}
		if one[0] == '\n' {
			return string(text)
		}
		text = append(text, one[0])
	}
}

func TestExecBadInput(t *testing.T) {
	sb := sleeping(t, quiet("sleep", "1000"))
	for what, e := range map[string]Exec{
		"no program":                       {},
		"no name":                          {Args: []string{""}},
		"a zero byte":                      {Args: []string{"a\x00b"}},
		"a zero byte in a variable":        {Args: []string{"true"}, Env: []string{"A=\x00"}},
		"a relative directory":             {Args: []string{"true"}, Dir: "usr"},
		"too much":                         {Args: []string{"true", strings.Repeat("x", maxExecBytes)}},
		"a terminal and other descriptors": {Args: []string{"true"}, Terminal: true, Stdin: os.Stdin},
	} {
		var err *Error
		if _, got := sb.Exec(t.Context(), e); !errors.As(got, &err) || err.Op != OpConfiguration {
			t.Errorf("%s: %v", what, got)
		}
	}
}

func TestExecSignals(t *testing.T) {
	sb := sleeping(t, quiet("sleep", "1000"))
	c, out := piped(t, sb, "trap 'echo got' USR1; echo $$; while :; do sleep 1000 & wait $!; done")
	pid := line(t, out)
	if err := c.Signal(unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if got := line(t, out); got != "got" {
		t.Errorf("got %q", got)
	}
	// And one from another command.
	other, otherOut := piped(t, sb, "kill -USR1 "+pid+" && echo sent; kill -KILL "+pid)
	if got := line(t, otherOut); got != "sent" {
		t.Errorf("got %q", got)
	}
	if st, err := c.Wait(); err != nil || st.Signal != unix.SIGKILL {
		t.Errorf("Wait() = %v, %v", st, err)
	}
	if err := c.Signal(unix.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("Signal() = %v, want os.ErrProcessDone", err)
	}
	if err := c.Resize(1, 1); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("Resize() = %v, want ENOTTY", err)
	}
	if st, err := other.Wait(); err != nil || st.ExitCode() != 0 {
		t.Errorf("Wait() = %v, %v", st, err)
	}
}

// TestExecHangup resizes a terminal, and closes it: that hangs the command up.
func TestExecHangup(t *testing.T) {
	sb := sleeping(t, quiet("sleep", "1000"))
	script := "trap 'stty size; exec sleep 1000' WINCH; echo up; while :; do sleep 0.01; done"
	c, err := sb.Exec(t.Context(), Exec{Args: []string{"sh", "-c", script}, Terminal: true})
	if err != nil {
		t.Fatal(err)
	}
	if c.PID() == 0 {
		t.Error("no process id")
	}
	line(t, c.Terminal())
	if err := c.Resize(17, 42); err != nil {
		t.Error(err)
	}
	if got := line(t, c.Terminal()); got != "17 42\r" {
		t.Errorf("after Resize the size is %q", got)
	}
	c.Terminal().Close()
	if st, err := c.Wait(); err != nil || st.Signal != unix.SIGHUP {
		t.Errorf("Wait() = %v, %v; want HUP", st, err)
	}
}

// TestExecEndsWithSandbox ends the guest, init and the sandbox under a command.
func TestExecEndsWithSandbox(t *testing.T) {
	for what, end := range map[string]func(sb *Sandbox){
		"the guest exits": func(sb *Sandbox) { sb.Signal(unix.SIGTERM) },
		"init is killed": func(sb *Sandbox) {
			init, _ := sb.Pids()
			unix.Kill(init, unix.SIGKILL)
		},
		"it is closed": func(sb *Sandbox) { sb.Close() },
	} {
		t.Run(what, func(t *testing.T) {
			sb := sleeping(t, quiet("sleep", "1000"))
			c, _ := piped(t, sb, "sleep 1000")
			end(sb)
			st, err := c.Wait()
			if !errors.Is(err, ErrEnded) || st.ExitCode() != 137 {
				t.Errorf("Wait() = %v, %v; want ErrEnded", st, err)
			}
			sb.Wait()
			if _, err := sb.Exec(t.Context(), Exec{Args: []string{"true"}}); !errors.Is(err, ErrEnded) {
				t.Errorf("then Exec() = %v, want ErrEnded", err)
			}
		})
	}
	t.Run("before the start", func(t *testing.T) {
		asRoot.need(t)
		sb, err := New(t.Context(), quiet("true"))
		if err != nil {
			t.Fatal(err)
		}
		defer sb.Close()
		if _, err := sb.Exec(t.Context(), Exec{Args: []string{"true"}}); err == nil || !strings.Contains(err.Error(), "has not been started") {
			t.Errorf("Exec() = %v", err)
		}
	})
}

// TestExecRaces starts commands while the guest ends: each is either refused,
// or ends by itself or with the sandbox, and none is forgotten.
func TestExecRaces(t *testing.T) {
	asRoot.need(t)
	for range 5 {
		sb := sleeping(t, quiet("sleep", "1000"))
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				for {
					c, err := sb.Exec(context.Background(), Exec{Args: []string{"true"}})
					if errors.Is(err, ErrEnded) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					if i == 0 {
						sb.Signal(unix.SIGKILL)
					}
					if st, err := c.Wait(); err != nil && !errors.Is(err, ErrEnded) || err == nil && st.ExitCode() != 0 {
						t.Errorf("Wait() = %v, %v", st, err)
					}
				}
			})
		}
		all.Wait()
		if st, err := sb.Wait(); err != nil || st.Signal != unix.SIGKILL {
			t.Errorf("the guest: %v, %v", st, err)
		}
	}
}

// TestManyExecs runs many one after another and 20 at once, gives some up, and
// counts what is left.
func TestManyExecs(t *testing.T) {
	sb := sleeping(t, quiet("sleep", "1000"))
	init, _ := sb.Pids()
	one := func(i int) {
		c, err := sb.Exec(t.Context(), Exec{Args: []string{"sh", "-c", fmt.Sprint("exit ", i)}, Terminal: i%2 == 1})
		if err != nil {
			t.Error(err)
			return
		}
		if f := c.Terminal(); f != nil {
			f.Close()
			// Hung up before it has exited, perhaps.
			if st, err := c.Wait(); err != nil || st.Code != i && st.Signal != unix.SIGHUP {
				t.Errorf("Wait() = %v, %v; want %d", st, err, i)
			}
			return
		}
		if st, err := c.Wait(); err != nil || st.Code != i {
			t.Errorf("Wait() = %v, %v; want %d", st, err, i)
		}
	}
	initFiles := func() int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", init))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	one(0)
	one(1)
	fds, inits, routines := openFiles(t), initFiles(), runtime.NumGoroutine()
	for i := range 20 {
		one(i)
	}
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() { one(i) })
	}
	all.Wait()
	for i := range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*100*time.Microsecond)
		if c, err := sb.Exec(ctx, Exec{Args: []string{"sleep", "1000"}}); err == nil {
			c.Signal(unix.SIGKILL)
			c.Wait()
		} else if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		cancel()
		if _, err := sb.Exec(t.Context(), Exec{Args: []string{"no-such-command"}}); !errors.As(err, new(*ExecError)) {
			t.Error(err)
		}
	}
	eventually(t, "only init and the guest live", func() bool { return len(insideOf(init)) == 2 })
	eventually(t, "init's descriptors are as before", func() bool { return initFiles() <= inits })
	eventually(t, "the descriptors are as before", func() bool { return openFiles(t) <= fds })
	eventually(t, "the goroutines are as before", func() bool { return runtime.NumGoroutine() <= routines })
	sb.mu.Lock()
	defer sb.mu.Unlock()
	if len(sb.commands) != 0 || len(sb.waiting) != 0 {
		t.Errorf("%d commands and %d requests are kept", len(sb.commands), len(sb.waiting))
	}
}

// TestExecHindered: a guest that stops every process it sees can keep commands
// from beginning, but neither init from serving nor the caller from giving up.
func TestExecHindered(t *testing.T) {
	sb := sleeping(t, quiet("sh", "-c", `while :; do for p in /proc/[0-9]*; do p=${p#/proc/}; [ $p = 1 ] || [ $p = $$ ] || kill -STOP $p 2>/dev/null; done; done`))
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			c, err := sb.Exec(ctx, Exec{Args: []string{"sleep", "1000"}})
			if err != nil {
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
				return
			}
			c.Signal(unix.SIGKILL)
			if st, err := c.Wait(); err != nil || st.Signal != unix.SIGKILL {
				t.Errorf("Wait() = %v, %v", st, err)
			}
		})
	}
	all.Wait()
	if _, err := sb.NS().Sysctl("net.ipv4.ip_forward"); err != nil {
		t.Error(err)
	}
	init, _ := sb.Pids()
	eventually(t, "only init and the guest live", func() bool { return len(insideOf(init)) <= 2 })
}

func TestLinger(t *testing.T) {
	everybody(t, func(t *testing.T, who who) {
		got := who.run(t, spec{Linger: true, Args: []string{"sh", "-c", "setsid sh -c 'sleep 0.3; echo late' & echo early; exit 4"}})
		if got.code != 4 || got.stdout != "early\nlate\n" {
			t.Errorf("got %+v, want early, late and status 4", got)
		}
	})
}

func TestLingering(t *testing.T) {
	start := func(t *testing.T, script string) *Sandbox {
		c := quiet("sh", "-c", script)
		c.Linger = true
		return sleeping(t, c)
	}
	t.Run("nobody is left", func(t *testing.T) {
		sb := start(t, "exit 3")
		if st, err := sb.Wait(); err != nil || st.Code != 3 {
			t.Errorf("Wait() = %v, %v", st, err)
		}
		select {
		case <-sb.Lingering():
			t.Error("it lingered")
		default:
		}
	})
	t.Run("a command beside it", func(t *testing.T) {
		sb := start(t, "sleep 1000 & exit 3")
		<-sb.Lingering()
		c, _ := piped(t, sb, "sleep 1000")
		if err := sb.Signal(unix.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("Signal() = %v, want os.ErrProcessDone", err)
		}
		if err := sb.SignalAll(unix.SIGTERM); err != nil {
			t.Error(err)
		}
		if st, err := sb.Wait(); err != nil || st.Code != 3 {
			t.Errorf("Wait() = %v, %v", st, err)
		}
		if st, err := c.Wait(); err != nil && !errors.Is(err, ErrEnded) || err == nil && st.Signal != unix.SIGTERM {
			t.Errorf("the command: %v, %v", st, err)
		}
		if err := sb.SignalAll(unix.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("SignalAll() = %v, want os.ErrProcessDone", err)
		}
	})
	t.Run("all are signalled with the guest", func(t *testing.T) {
		sb := start(t, "sleep 1000 & exec sleep 1000")
		if err := sb.SignalAll(syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		if st, err := sb.Wait(); err != nil || st.Signal != unix.SIGKILL {
			t.Errorf("Wait() = %v, %v", st, err)
		}
	})
}
