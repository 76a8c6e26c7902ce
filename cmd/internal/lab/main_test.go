package lab

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox"
	"tcpbox/integration/testnet"
)

var update = flag.Bool("update", false, "rewrite the files in testdata")

// parts are what the test binary does when it is called with such a first
// argument.
var parts = map[string]func() error{
	"lab-guest": func() error { return ServeGuest(os.Stdin, os.Stdout) },
	"lab-host":  func() error { return ServeHost(os.Stdin, os.Stdout, os.Stderr) },
	"lab-user":  becomeUser,
	"lab-run":   func() error { return runPart(runner()) },
	"lab-broken": func() error {
		r := runner()
		r.Patience = time.Second // what is broken does not become as expected
		return runPart(r)
	},
	"lab-ss": ssPart,
}

func TestMain(m *testing.M) {
	tcpbox.Init()
	if len(os.Args) > 1 {
		if part := parts[os.Args[1]]; part != nil {
			if err := part(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(125)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// becomeUser opens /dev/net/tun to everybody in this process's own mount
// namespace, gives root up, and goes on as another part.
func becomeUser() error {
	if err := unix.Mount("lab", "/dev/net", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	if err := unix.Mknod("/dev/net/tun", unix.S_IFCHR, int(unix.Mkdev(10, 200))); err != nil {
		return fmt.Errorf("mknod: %w", err)
	}
	if err := os.Chmod("/dev/net/tun", 0o666); err != nil {
		return err
	}
	uid, gid := int(testnet.User.Uid), int(testnet.User.Gid)
	if err := syscall.Setgroups(nil); err != nil {
		return err
	}
	if err := syscall.Setresgid(gid, gid, gid); err != nil {
		return err
	}
	if err := syscall.Setresuid(uid, uid, uid); err != nil {
		return err
	}
	return syscall.Exec("/proc/self/exe", append([]string{os.Args[0]}, os.Args[2:]...), os.Environ())
}

// runner runs labs with the test binary as their guest.
func runner() *Runner {
	return &Runner{Guest: []string{os.Args[0], "lab-guest"}, Host: []string{os.Args[0], "lab-host"}, Stderr: os.Stderr}
}

// runPart runs the lab that it reads and writes the report.
func runPart(r *Runner) error {
	var l Lab
	if err := json.NewDecoder(os.Stdin).Decode(&l); err != nil {
		return err
	}
	report, err := r.Run(context.Background(), &l)
	if err != nil {
		return err
	}
	return report.WriteJSON(os.Stdout)
}

// callers are who runs the labs of the tests.
var callers = []struct {
	name string
	uid  int
	args []string
	attr *syscall.SysProcAttr
}{
	{"root", 0, nil, nil},
	{"user", int(testnet.User.Uid), []string{"lab-user"}, &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}},
}

// as runs a test for root and for an ordinary user. What it gets makes the
// command that is one of the parts.
func as(t *testing.T, f func(t *testing.T, uid int, command func(part string) *exec.Cmd)) {
	for i := range callers {
		runAs(t, i, f)
	}
}

// asUser runs a test for an ordinary user alone.
func asUser(t *testing.T, f func(t *testing.T, uid int, command func(part string) *exec.Cmd)) {
	runAs(t, 1, f)
}

func runAs(t *testing.T, caller int, f func(t *testing.T, uid int, command func(part string) *exec.Cmd)) {
	testnet.Require(t)
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		testnet.Unavailable(t, "no TUN driver: "+err.Error())
	}
	bin := testnet.Dir(t) + "/lab"
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bin, text, 0o755); err != nil {
		t.Fatal(err)
	}
	c := callers[caller]
	t.Run(c.name, func(t *testing.T) {
		f(t, c.uid, func(part string) *exec.Cmd {
			cmd := exec.CommandContext(t.Context(), bin, append(c.args, part)...)
			cmd.Dir = "/"
			cmd.Stderr = os.Stderr
			cmd.SysProcAttr = c.attr
			return cmd
		})
	})
}
