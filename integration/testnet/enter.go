package testnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A process gets into a namespace by way of a copy of the test binary, which
// enters it, arranges what the process sees of the machine's files, gives up
// root where asked, and then becomes the program:
//
//	test ──exec──▶ test binary, argv[0] = enterName ──exec──▶ program
//
// so that the caller holds an ordinary exec.Cmd whose pid is the program's.
const enterName = "testnet-enter"

// entry says how to enter. Paths are opened while still root.
type entry struct {
	NetNS  string
	Resolv string // bound over /etc/resolv.conf; empty leaves it
	TUN    string // bound over /dev/net/tun; empty leaves it
	Cred   *syscall.Credential
}

// Init turns the process into the program that Namespace.Command asked for,
// if it was started for that. Call it first in TestMain.
func Init() {
	if len(os.Args) < 3 || os.Args[0] != enterName {
		return
	}
	err := enter(os.Args[1], os.Args[2:])
	fmt.Fprintf(os.Stderr, "testnet: %v\n", err)
	os.Exit(125)
}

// Command returns a command that runs in the namespace as root. The program
// sees the machine's files, but for /etc/resolv.conf, which is the Net's, and
// dies with the test. Set Env only by appending to it: it names the Net.
func (ns *Namespace) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return ns.CommandAs(ctx, nil, name, args...)
}

// CommandAs is Command as another user, to whom /dev/net/tun is open as it is
// on ordinary distributions. A nil cred is root.
func (ns *Namespace) CommandAs(ctx context.Context, cred *syscall.Credential, name string, args ...string) *exec.Cmd {
	e := entry{
		NetNS:  fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.fd()),
		Resolv: ns.net.resolvConf(),
		Cred:   cred,
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	if cred != nil {
		var err error
		if e.TUN, err = ns.net.openTUN(); err != nil {
			cmd.Err = err
		}
	}
	text, err := json.Marshal(e)
	if err != nil {
		cmd.Err = err
	}
	cmd.Args = append([]string{enterName, string(text), name}, args...)
	cmd.Env = append(os.Environ(), netVar+"="+ns.net.id)
	return cmd
}

// openTUN makes a TUN node that every user may open and returns its path.
func (n *Net) openTUN() (string, error) {
	path := filepath.Join(n.dir, "tun")
	err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200)))
	if errors.Is(err, os.ErrExist) {
		return path, nil
	}
	if err == nil {
		err = os.Chmod(path, 0o666)
	}
	return path, err
}

func enter(text string, argv []string) error {
	var e entry
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return err
	}
	runtime.LockOSThread() // until exec, which keeps this thread's namespaces
	ns, err := unix.Open(e.NetNS, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the namespace: %w", err)
	}
	if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the namespace: %w", err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare mounts: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, m := range []struct{ from, to string }{{e.Resolv, "/etc/resolv.conf"}, {e.TUN, "/dev/net/tun"}} {
		if m.from == "" {
			continue
		}
		if err := unix.Mount(m.from, m.to, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s over %s: %w", m.from, m.to, err)
		}
	}
	program, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	if e.Cred != nil {
		if err := become(e.Cred); err != nil {
			return fmt.Errorf("become uid %d: %w", e.Cred.Uid, err)
		}
	}
	// Asked for last, because a change of user clears it.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("ask for the parent-death signal: %w", err)
	}
	return fmt.Errorf("exec %s: %w", program, syscall.Exec(program, argv, os.Environ()))
}

// become gives up root.
func become(cred *syscall.Credential) error {
	groups := make([]int, len(cred.Groups))
	for i, g := range cred.Groups {
		groups[i] = int(g)
	}
	return errors.Join(
		syscall.Setgroups(groups),
		syscall.Setgid(int(cred.Gid)),
		syscall.Setuid(int(cred.Uid)),
	)
}

// Output runs cmd and returns what it wrote to standard output, without the
// last line end. It fails the test, with the standard error, if cmd fails.
func Output(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		var stderr []byte
		if errors.As(err, &exit) {
			stderr = exit.Stderr
		}
		t.Fatalf("%q: %v\n%s%s", cmd.Args[2:], err, out, stderr)
	}
	for len(out) > 0 && out[len(out)-1] == '\n' {
		out = out[:len(out)-1]
	}
	return string(out)
}
