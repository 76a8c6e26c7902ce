package guest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// running is a tcpbox that runs a guest whose output is read line by line.
type running struct {
	t     testing.TB
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines *bufio.Reader
	pids  string
}

// start starts a spec in a process group of its own.
func (w who) start(t testing.TB, sp spec) *running {
	t.Helper()
	return w.startBefore(t, sp, "")
}

// startBefore starts a spec on a machine that a script has changed.
func (w who) startBefore(t testing.TB, sp spec, before string) *running {
	t.Helper()
	sp.PidFile = openDir(t) + "/pids"
	cmd := w.command(t, sp)
	cmd.Env = append(cmd.Env, beforeVar+"="+before)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return &running{t: t, cmd: cmd, stdin: stdin, lines: bufio.NewReader(stdout), pids: sp.PidFile}
}

// expect reads the next line.
func (r *running) expect(want string) {
	r.t.Helper()
	got, err := r.lines.ReadString('\n')
	if got != want+"\n" {
		r.t.Fatalf("read %q, %v; want %q", got, err, want)
	}
}

// guestPids are those of init and of the guest.
func (r *running) guestPids() (init, guest int) {
	r.t.Helper()
	return readPids(r.t, r.pids)
}

func readPids(t testing.TB, path string) (init, guest int) {
	t.Helper()
	var data []byte
	eventually(t, "the guest runs", func() bool {
		var err error
		data, err = os.ReadFile(path)
		return err == nil
	})
	if _, err := fmt.Sscan(string(data), &init, &guest); err != nil {
		t.Fatal(err)
	}
	return init, guest
}

// wait returns the exit status of tcpbox.
func (r *running) wait() int {
	r.cmd.Wait()
	return r.cmd.ProcessState.ExitCode()
}

// state is the letter that /proc/PID/stat has for a process, or "" if it is
// gone.
func state(pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	return rest[:1]
}

// TestSignalsOnce sends each forwarded signal to tcpbox alone, and to the
// whole process group. Each must reach the guest exactly once. A signal that
// arrived twice would show before the next one.
func TestSignalsOnce(t *testing.T) {
	everybody(t, func(t *testing.T, who who) {
		for _, to := range []string{"process", "group"} {
			t.Run(to, func(t *testing.T) {
				r := who.start(t, probe(spec{}, binary(t), "signals"))
				r.expect("ready")
				r.guestPids()
				pid := r.cmd.Process.Pid
				if to == "group" {
					pid = -pid
				}
				for range 3 {
					for _, sig := range forwarded {
						if sig == unix.SIGUSR2 {
							continue
						}
						if err := unix.Kill(pid, sig.(syscall.Signal)); err != nil {
							t.Fatal(err)
						}
						r.expect(fmt.Sprint("got ", int(sig.(syscall.Signal))))
					}
				}
				unix.Kill(pid, unix.SIGUSR2)
				r.expect(fmt.Sprint("got ", int(unix.SIGUSR2)))
				if code := r.wait(); code != 0 {
					t.Errorf("exit status %d", code)
				}
			})
		}
	})
}

// TestSignalEnds: a signal that the guest does not handle ends it as it would
// without tcpbox.
func TestSignalEnds(t *testing.T) {
	asRoot.need(t)
	for _, sig := range []syscall.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1} {
		t.Run(sig.String(), func(t *testing.T) {
			r := asRoot.start(t, spec{Args: []string{"sh", "-c", "ulimit -c 0; echo ready; exec sleep 1000"}})
			r.expect("ready")
			unix.Kill(r.cmd.Process.Pid, sig)
			if code := r.wait(); code != 128+int(sig) {
				t.Errorf("exit status %d, want %d", code, 128+int(sig))
			}
		})
	}
}

// TestIgnoredStaysIgnored: what the caller was told to ignore, as by nohup,
// the guest ignores too.
func TestIgnoredStaysIgnored(t *testing.T) {
	asRoot.need(t)
	cmd := asRoot.command(t, spec{Args: []string{"sh", "-c", "grep SigIgn /proc/self/status"}})
	wrapped := exec.Command("sh", "-c", `trap "" HUP INT; exec "$0"`, cmd.Path)
	wrapped.Env, wrapped.Dir = cmd.Env, cmd.Dir
	// Signal 32 is the C library's, in a test binary with the race detector.
	if got := finish(t, wrapped); !regexp.MustCompile(`0000000[08]0000003`).MatchString(got.stdout) {
		t.Errorf("got %+v", got)
	}
}

// TestStopsItself: a guest that stops only itself stops tcpbox too, and what
// continues either continues both.
func TestStopsItself(t *testing.T) {
	everybody(t, func(t *testing.T, who who) {
		for _, sig := range []string{"STOP", "TSTP"} {
			script := "read go; kill -" + sig + " $$; echo resumed"
			stopped := func(t *testing.T) *running {
				t.Helper()
				r := who.start(t, spec{Args: []string{"sh", "-c", script}})
				r.guestPids() // are written by what will have stopped
				io.WriteString(r.stdin, "go\n")
				eventually(t, "tcpbox stops", func() bool { return state(r.cmd.Process.Pid) == "T" })
				return r
			}
			finished := func(t *testing.T, r *running, code int) {
				t.Helper()
				if code == 0 {
					r.expect("resumed")
				}
				if got := r.wait(); got != code {
					t.Errorf("exit status %d, want %d", got, code)
				}
			}
			t.Run(sig+", tcpbox is continued", func(t *testing.T) {
				r := stopped(t)
				unix.Kill(r.cmd.Process.Pid, unix.SIGCONT)
				finished(t, r, 0)
			})
			t.Run(sig+", the group is continued", func(t *testing.T) {
				r := stopped(t)
				unix.Kill(-r.cmd.Process.Pid, unix.SIGCONT)
				finished(t, r, 0)
			})
			t.Run(sig+", the guest is continued", func(t *testing.T) {
				r := stopped(t)
				_, guest := r.guestPids()
				unix.Kill(guest, unix.SIGCONT)
				finished(t, r, 0)
			})
			t.Run(sig+", the guest is killed", func(t *testing.T) {
				r := stopped(t)
				_, guest := r.guestPids()
				unix.Kill(guest, unix.SIGKILL)
				finished(t, r, 137)
			})
		}
	})
}
