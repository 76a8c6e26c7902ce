package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestKilled kills each process in turn. Afterwards nothing of the sandbox
// lives, whoever was first.
func TestKilled(t *testing.T) {
	everybody(t, func(t *testing.T, who who) {
		for _, victim := range []string{"tcpbox", "tcpbox before the start", "tcpbox, stopped", "init", "the guest"} {
			t.Run(victim, func(t *testing.T) {
				mark := fmt.Sprintf("guest-test-%d-%d", os.Getpid(), unix.Gettid())
				// A daemon that ignores what can be ignored, and the guest.
				sp := spec{
					Args:    []string{"sh", "-c", "trap '' HUP TERM INT; setsid sh -c 'trap \"\" HUP TERM INT; echo up; while :; do sleep 1000; done' " + mark + " & while :; do sleep 1000; done", mark},
					NoStart: victim == "tcpbox before the start",
				}
				r := who.start(t, sp)
				init, guest := r.guestPids()
				if !sp.NoStart {
					r.expect("up")
				}
				inner := insideOf(init)
				if len(inner) == 0 {
					t.Fatal("nothing of the sandbox is found")
				}
				code := -1 // tcpbox is killed
				switch victim {
				case "init":
					unix.Kill(init, unix.SIGKILL)
					code = 125
				case "the guest":
					unix.Kill(guest, unix.SIGKILL)
					code = 137
				case "tcpbox, stopped":
					unix.Kill(r.cmd.Process.Pid, unix.SIGSTOP)
					fallthrough
				default:
					r.cmd.Process.Kill()
				}
				if got := r.wait(); got != code {
					t.Errorf("exit status %d, want %d", got, code)
				}
				eventually(t, "all processes of the sandbox are gone", func() bool {
					for _, pid := range inner {
						if s := state(pid); s != "" && s != "Z" && s != "X" {
							return false
						}
					}
					return true
				})
			})
		}
	})
}

// insideOf are the processes in the pid namespace of a process.
func insideOf(pid int) []int {
	want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil {
		return nil
	}
	var pids []int
	for _, p := range processes() {
		if got, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", p)); err == nil && got == want {
			pids = append(pids, p)
		}
	}
	return pids
}

func TestInitDied(t *testing.T) {
	asRoot.need(t)
	sb, err := New(t.Context(), quiet("sleep", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	defer sb.Close()
	if err := sb.Start(); err != nil {
		t.Fatal(err)
	}
	init, _ := sb.Pids()
	unix.Kill(init, unix.SIGKILL)
	if st, err := sb.Wait(); !errors.Is(err, ErrInitDied) {
		t.Errorf("Wait() = %v, %v; want ErrInitDied", st, err)
	}
	if err := sb.Signal(unix.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("Signal() = %v, want os.ErrProcessDone", err)
	}
	if _, err := sb.NS().Sysctl("net.ipv4.ip_forward"); err == nil {
		t.Error("a sysctl of a dead sandbox was read")
	}
	sb.Close()
	sb.Close()
}

// quiet is the Config of a guest with nothing at its standard descriptors.
func quiet(args ...string) Config {
	return Config{Args: args, Link: testLink(), Etc: map[string][]byte{"resolv.conf": nil}}
}

// TestOrphansAreReaped makes orphans and looks for zombies.
func TestOrphansAreReaped(t *testing.T) {
	asRoot.need(t)
	got := asRoot.sh(t, spec{}, `
		for i in 1 2 3 4 5 6 7 8 9 10; do (sh -c 'exit 3' & ) ; done
		n=0
		while [ $n -lt 3000 ]; do
			n=$((n+1))
			z=$(grep -l '^State:.*Z' /proc/[0-9]*/status 2>/dev/null | wc -l)
			c=$(ls -d /proc/[0-9]* | wc -l)
			[ $z = 0 ] && [ $c -le 6 ] && echo clean && exit
		done
		ps aux`)
	if got.stdout != "clean\n" {
		t.Errorf("got %+v", got)
	}
}

// TestEndsWithGuest: what the guest leaves behind in the background ends with
// it, and does not keep the standard descriptors open.
func TestEndsWithGuest(t *testing.T) {
	asRoot.need(t)
	got := asRoot.sh(t, spec{}, "setsid sleep 1000 & setsid sleep 1000 & echo done")
	if got.code != 0 || got.stdout != "done\n" {
		t.Errorf("got %+v", got)
	}
}

// TestManyStarts counts what is left in this process after many sandboxes:
// nothing.
func TestManyStarts(t *testing.T) {
	asRoot.need(t)
	starts := 50
	if raceEnabled {
		starts = 10
	}
	one := func() {
		sb, err := New(t.Context(), quiet("true"))
		if err != nil {
			t.Fatal(err)
		}
		if err := sb.Start(); err != nil {
			t.Fatal(err)
		}
		if st, err := sb.Wait(); err != nil || st.ExitCode() != 0 {
			t.Fatalf("Wait() = %v, %v", st, err)
		}
		sb.Close()
	}
	one() // whatever is made once
	fds, mounts, children := openFiles(t), mountCount(t), childCount(t)
	for range starts {
		one()
	}
	for range 5 { // and some that fail, or are given up
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if sb, err := New(ctx, quiet("true")); err == nil {
			sb.Close()
			t.Error("New succeeded with a context that is over")
		}
		bad := quiet("true")
		bad.Link.Gateways = append(bad.Link.Gateways[:0:0], bad.Link.Addresses[0].Addr().Next().Next())
		bad.Link.Addresses = nil
		if sb, err := New(t.Context(), bad); err == nil {
			sb.Close()
			t.Error("New succeeded with a gateway out of reach")
		}
		sb, err := New(t.Context(), quiet("/no/such/program"))
		if err != nil {
			t.Fatal(err)
		}
		if err := sb.Start(); !errors.As(err, new(*ExecError)) {
			t.Errorf("Start() = %v, want an ExecError", err)
		}
		sb.Close()
	}
	eventually(t, "the descriptors are as before", func() bool { runtime.GC(); return openFiles(t) <= fds })
	if got := mountCount(t); got != mounts {
		t.Errorf("%d mounts, want %d", got, mounts)
	}
	if got := childCount(t); got != children {
		t.Errorf("%d children, want %d", got, children)
	}
}

func openFiles(t testing.TB) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func mountCount(t testing.TB) int {
	mounts, err := readMounts()
	if err != nil {
		t.Fatal(err)
	}
	return len(mounts)
}

func childCount(t testing.TB) int {
	n := 0
	me := fmt.Sprint(os.Getpid())
	for _, pid := range processes() {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		_, rest, _ := strings.Cut(string(data), ") ")
		if f := strings.Fields(rest); len(f) > 1 && f[1] == me {
			n++
		}
	}
	return n
}

// TestImpossible provokes what the machine may lack. Each is one error with a
// next step, and nothing has started.
func TestImpossible(t *testing.T) {
	asUser.need(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root to take things away from a user")
	}
	for _, row := range []struct {
		what, before string
		stderr, hint string
	}{
		{"no TUN driver", "mount -t tmpfs x /dev/net", "make the TUN device: tun: open /dev/net/tun: no such file", "modprobe tun"},
		{"a TUN device for root only", "mount -t tmpfs x /dev/net; mknod -m 600 /dev/net/tun c 10 200", "tun: open /dev/net/tun: permission denied", "sudo chmod 0666 /dev/net/tun"},
		{"a masked /proc", "mount -t tmpfs x /proc/bus", "mount a fresh /proc: operation not permitted", "--security-opt systempaths=unconfined"},
		{"a masked /sys", "mount -t tmpfs x /sys/kernel", "mount a fresh /sys: operation not permitted", "parts of the host's /sys"},
	} {
		t.Run(row.what, func(t *testing.T) {
			cmd := asUser.command(t, spec{Args: []string{"echo", "started"}})
			cmd.Env = append(cmd.Env, beforeVar+"="+row.before)
			got := finish(t, cmd)
			if got.code != 125 || got.stdout != "" || !strings.Contains(got.stderr, row.stderr) || !strings.Contains(got.stderr, row.hint) {
				t.Errorf("got %+v, want status 125, %q and the hint %q", got, row.stderr, row.hint)
			}
		})
	}
	t.Run("no user namespaces", func(t *testing.T) {
		// The limit belongs to a user namespace: one of our own has its own.
		cmd := asUser.command(t, spec{Args: []string{"echo", "started"}})
		wrapped := exec.Command("unshare", "-Urm", "sh", "-c", `echo 0 >/proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-sys_admin --inh-caps=-all "$0"`, cmd.Path)
		wrapped.Env = append(cmd.Env, partVar+"=run")
		wrapped.Dir = "/"
		got := finish(t, wrapped)
		if got.code != 125 || !strings.Contains(got.stderr, "create namespaces: no space left on device") || !strings.Contains(got.stderr, "max_user_namespaces") {
			t.Errorf("got %+v", got)
		}
	})
}

func TestFewDescriptors(t *testing.T) {
	asRoot.need(t)
	for _, limit := range []int{12, 14, 16, 17, 30} {
		t.Run(fmt.Sprintf("%d descriptors", limit), func(t *testing.T) {
			cmd := asRoot.command(t, spec{Args: []string{"echo", "started"}})
			wrapped := exec.Command("sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$0"`, limit), cmd.Path)
			wrapped.Env, wrapped.Dir = cmd.Env, "/"
			got := finish(t, wrapped)
			if got.code == 0 && got.stdout == "started\n" && limit > 16 {
				return
			}
			if got.code != 125 || got.stdout != "" || !strings.Contains(got.stderr, "too many open files") || !strings.Contains(got.stderr, "ulimit -n") {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// TestNotInit: the name alone makes no init.
func TestNotInit(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{initName}
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("got %v, want exit status 1", err)
	}
}
