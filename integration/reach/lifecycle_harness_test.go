package reach

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox/integration/testnet"
)

// lifePath is the PATH of every program here: what every user can execute.
const lifePath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// everybody runs a test as root and as an ordinary user.
func everybody(t *testing.T, f func(t *testing.T, n *testnet.Net, c caller)) {
	t.Helper()
	for _, c := range callers {
		t.Run(c.name, func(t *testing.T) {
			n := testnet.New(t)
			noBoxesAfter(t)
			f(t, n, c)
		})
	}
}

// boxes returns the processes of the machine that execute the binary, init of a
// sandbox among them, by their ids.
func boxes(t testing.TB) []int {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	bin := testnet.Binary(t)
	var pids []int
	for _, link := range links {
		if path, err := os.Readlink(link); err != nil || path != bin {
			continue // it has ended meanwhile, or is another program
		}
		if pid, err := strconv.Atoi(strings.Split(link, "/")[2]); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// noBoxesAfter fails t if, at its end, tcpbox or an init is still there. What
// guests leave is found by the Net.
func noBoxesAfter(t testing.TB) {
	t.Helper()
	testnet.Binary(t)
	t.Cleanup(func() {
		testnet.Eventually(t, func() error {
			if pids := boxes(t); len(pids) > 0 {
				return fmt.Errorf("tcpbox or an init still lives: %v", pids)
			}
			return nil
		})
	})
}

// outcome is how a command ended. code is 128 plus the signal that killed it, as
// in a shell.
type outcome struct {
	code           int
	stdout, stderr string
}

func (r outcome) String() string {
	return fmt.Sprintf("exit status %d, standard output %q, standard error %q", r.code, r.stdout, r.stderr)
}

// toEnd runs a command to its end.
func toEnd(t testing.TB, cmd *exec.Cmd) outcome {
	t.Helper()
	p := begin(t, cmd)
	code := p.wait()
	return outcome{code, p.stdout.String(), p.stderr.String()}
}

// running is a command that runs.
type running struct {
	t              testing.TB
	cmd            *exec.Cmd
	stdout, stderr *testnet.Buffer
	ended          chan struct{}
	err            error // of Wait, once ended is closed
}

// begin starts a command. Output that has no place yet is kept. When t ends
// it is killed if it still runs.
//
// The kernel kills a program of testnet when the thread that started it ends,
// so the thread is kept for as long.
func begin(t testing.TB, cmd *exec.Cmd) *running {
	t.Helper()
	p := &running{t: t, cmd: cmd, stdout: new(testnet.Buffer), stderr: new(testnet.Buffer), ended: make(chan struct{})}
	cmd.Env = append(cmd.Env, lifePath)
	if cmd.Stdout == nil {
		cmd.Stdout = p.stdout
	}
	if cmd.Stderr == nil {
		cmd.Stderr = p.stderr
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-p.ended
		if t.Failed() {
			t.Logf("%q wrote %.600q and %.600q", cmd.Args[2:], p.stdout, p.stderr)
		}
	})
	return p
}

// wait returns the exit status.
func (p *running) wait() int {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(2 * time.Minute):
		p.t.Fatalf("it does not end; it wrote %.600q and %.600q", p.stdout, p.stderr)
	}
	var exit *exec.ExitError
	if p.err != nil && !errors.As(p.err, &exit) {
		p.t.Fatal(p.err)
	}
	status := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// prints waits until standard output has a text.
func (p *running) prints(text string) {
	p.t.Helper()
	testnet.Eventually(p.t, func() error {
		if !strings.Contains(p.stdout.String(), text) {
			select {
			case <-p.ended:
				p.t.Fatalf("ended without printing %q: %v", text, p.err)
			default:
			}
			return fmt.Errorf("there is %q, and not %q", p.stdout, text)
		}
		return nil
	})
}

// sendSignal sends a signal to a process, or to a group if pid is negative.
func sendSignal(t testing.TB, pid int, sig unix.Signal) {
	t.Helper()
	if err := unix.Kill(pid, sig); err != nil {
		t.Fatalf("kill %d: %v", pid, err)
	}
}

// insiders returns init and the guest's first process of the sandbox that the
// process pid runs.
func insiders(t testing.TB, pid int) (initPID, guestPID int) {
	t.Helper()
	testnet.Eventually(t, func() error {
		var err error
		if initPID, guestPID, err = sandboxOf(t, pid); err == nil && guestPID == 0 {
			err = fmt.Errorf("process %d has no sandbox with a guest", pid)
		}
		return err
	})
	return initPID, guestPID
}

// sandboxOf is insiders of this moment: what there is not is 0.
func sandboxOf(t testing.TB, pid int) (initPID, guestPID int, err error) {
	children, err := testnet.Children()
	if err != nil {
		return 0, 0, err
	}
	for _, init := range children[pid] {
		if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", init)); err != nil || !strings.HasPrefix(string(line), "tcpbox: init") {
			continue
		}
		initPID = init
		for _, guest := range children[init] {
			if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", guest)); err == nil && exe != testnet.Binary(t) {
				return init, guest, nil
			}
		}
	}
	return initPID, 0, nil
}

// procState is the state of a process by proc(5): "T" is stopped, "" is gone.
func procState(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	return f[0]
}

// prepared returns a command that runs "$TCPBOX args" in a shell script of
// root's, in which $AS makes a program run as the caller. What the script mounts
// is its own, as for every program of testnet.
func (c caller) prepared(t testing.TB, n *testnet.Net, script string) *exec.Cmd {
	t.Helper()
	testnet.Programs(t, "setpriv", "mount", "mknod")
	cmd := n.Uplink.Command(t.Context(), "sh", "-ec", script)
	cmd.Env = append(cmd.Env, "TCPBOX="+testnet.Binary(t), "AS=", "XDG_RUNTIME_DIR=")
	if c.cred != nil {
		node := filepath.Join(testnet.Dir(t), "tun")
		cmd.Args[len(cmd.Args)-1] = fmt.Sprintf("mknod -m 666 %s c 10 200\nmount --bind %s /dev/net/tun\n%s", node, node, script)
		cmd.Env = append(cmd.Env, fmt.Sprintf("AS=setpriv --reuid %d --regid %d --clear-groups --inh-caps=-all --", c.cred.Uid, c.cred.Gid))
	}
	cmd.Dir = "/"
	return cmd
}

// The test binary is also a guest, when it is called by this name.
const lifeGuestName = "life-guest"

func init() {
	if filepath.Base(os.Args[0]) == lifeGuestName && len(os.Args) > 1 {
		os.Exit(lifeGuest(os.Args[1:]))
	}
}

// lifeGuest is a guest. What it does is the first argument.
func lifeGuest(args []string) int {
	switch args[0] {
	case "signals": // print those that come, until standard input ends
		ch := make(chan os.Signal, 64)
		signal.Notify(ch, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1,
			unix.SIGUSR2, unix.SIGTSTP, unix.SIGWINCH, unix.SIGCONT)
		go func() {
			io.Copy(io.Discard, os.Stdin)
			os.Exit(9)
		}()
		fmt.Println("ready")
		for sig := range ch {
			fmt.Printf("got %s\n", unix.SignalName(sig.(unix.Signal)))
		}
	case "descriptors": // print those that are open; the Go runtime's own close at exec
		for fd := range 256 {
			if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
				fmt.Println(fd)
			}
		}
	case "arguments":
		for _, a := range args[1:] {
			fmt.Printf("%q\n", a)
		}
	case "environment": // its size, and one variable
		total := 0
		for _, v := range os.Environ() {
			total += len(v)
		}
		fmt.Println(len(os.Environ()), total, len(os.Getenv(args[1])))
	case "resolve": // a name, by TCP or UDP alone
		return resolveGuest(args[1], args[2])
	case "connect": // many times at once, and say how many connections there are
		return connectGuest(args[1], args[2])
	case "echo": // send a MiB to a host that sends it back
		return echoGuest(args[1])
	default:
		return 99
	}
	return 0
}

// lifeGuestPath is a copy of the test binary that every user can execute.
func lifeGuestPath(t testing.TB) string {
	t.Helper()
	path, err := guestCopy(testnet.Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var guestCopyOnce sync.Once

func guestCopy(bin string) (path string, err error) {
	path = filepath.Join(filepath.Dir(bin), lifeGuestName)
	guestCopyOnce.Do(func() {
		var text []byte
		if text, err = os.ReadFile("/proc/self/exe"); err == nil {
			err = os.WriteFile(path, text, 0o755)
		}
	})
	return path, err
}
