package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox/netns"
)

// The test binary plays three more parts, named by this variable: "run" is a
// small tcpbox that runs one guest, "demote" becomes an ordinary user and then
// "run", and "probe" is a guest.
const partVar = "GUEST_TEST_PART"

func TestMain(m *testing.M) {
	Init()
	switch part := os.Getenv(partVar); part {
	case "":
		heedSignals()
	case "run":
		os.Exit(runPart())
	case "demote":
		demotePart()
	case "probe":
		os.Exit(probePart(os.Args[1:]))
	default:
		panic(part)
	}
	code := m.Run()
	if binaryDir != "" {
		os.RemoveAll(binaryDir)
	}
	os.Exit(code)
}

// heedSignals undoes that HUP and INT are ignored, as nohup(1) and a shell's
// background jobs leave them: what a test starts would inherit it.
func heedSignals() {
	for _, sig := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT} {
		if signal.Ignored(sig) {
			signal.Notify(make(chan os.Signal, 1), sig) // the default returns with exec
		}
	}
}

// spec is the Config of a guest that "run" runs, as far as it is not the same
// for all.
type spec struct {
	Args     []string
	Env      []string // beside the caller's
	Dir      string
	Root     bool
	User     *User
	Hostname string
	NoIPv6   bool
	Defaults []netns.Sysctl
	Sysctls  []netns.Sysctl
	Etc      map[string][]byte
	Keep     []int
	Live     []netns.Sysctl // set by way of NS, before the start
	PidFile  string         // gets "INIT GUEST" once the guest runs
	NoStart  bool           // wait for the end of standard input instead
	Linger   bool
	Exec     *spec // a command beside the guest; its status is the result
	Terminal bool  // of an Exec
	Dups     []int // copies of standard output that the caller has
}

const specVar = "GUEST_TEST_SPEC"

func testLink() netns.Link {
	return netns.Link{
		MTU:       65520,
		Addresses: []netip.Prefix{netip.MustParsePrefix("198.18.0.2/24"), netip.MustParsePrefix("fd74:6370:626f:78::2/64")},
		Gateways:  []netip.Addr{netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("fd74:6370:626f:78::1")},
	}
}

// config is what the spec says.
func (s spec) config() Config {
	link := testLink()
	if s.NoIPv6 {
		link = withoutIPv6(link)
	}
	env := []string{}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "GUEST_TEST_") {
			env = append(env, v)
		}
	}
	return Config{
		Args: s.Args, Env: append(env, s.Env...), Dir: s.Dir, Root: s.Root, User: s.User,
		Hostname: s.Hostname, Link: link, Defaults: s.Defaults, Sysctls: s.Sysctls, Etc: s.Etc, KeepFDs: s.Keep,
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Linger: s.Linger,
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
}

// runPart is what tcpbox does, without a stack.
func runPart() int {
	if script := os.Getenv(beforeVar); script != "" {
		privately(script)
		// Only this thread is in the new namespace.
		os.Unsetenv(beforeVar)
		must(syscall.Exec("/proc/self/exe", os.Args, os.Environ()))
	}
	var sp spec
	data := []byte(os.Getenv(specVar))
	if path, ok := strings.CutPrefix(string(data), "@"); ok {
		var err error
		data, err = os.ReadFile(path)
		must(err)
	}
	must(json.Unmarshal(data, &sp))
	for _, fd := range sp.Dups {
		must(unix.Dup2(1, fd))
	}
	fail := func(err error) int {
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		if e := (*Error)(nil); errors.As(err, &e) && e.Hint != "" {
			fmt.Fprintf(os.Stderr, "hint: %s\n", e.Hint)
		}
		if e := (*ExecError)(nil); errors.As(err, &e) {
			return e.Status()
		}
		return 125
	}
	sb, err := New(context.Background(), sp.config())
	if err != nil {
		return fail(err)
	}
	defer sb.Close()
	for _, p := range sp.Live {
		if err := sb.NS().SetSysctl(p.Name, p.Value); err != nil {
			return fail(err)
		}
	}
	if sp.NoStart {
		init, _ := sb.Pids()
		os.WriteFile(sp.PidFile, fmt.Appendf(nil, "%d 0\n", init), 0o644)
		os.Stdin.Read(make([]byte, 1))
		return 0
	}
	stop := sb.ForwardSignals()
	defer stop()
	if err := sb.Start(); err != nil {
		return fail(err)
	}
	if sp.PidFile != "" {
		init, guest := sb.Pids()
		tmp := sp.PidFile + ".new"
		os.WriteFile(tmp, fmt.Appendf(nil, "%d %d\n", init, guest), 0o644)
		os.Rename(tmp, sp.PidFile)
	}
	if sp.Exec != nil {
		return execPart(sb, *sp.Exec, fail)
	}
	st, err := sb.Wait()
	if err != nil {
		return fail(err)
	}
	return st.ExitCode()
}

// The ordinary user of the tests.
const testUID = 4242

// beforeVar names a script that changes the machine first, for this process
// and its children only.
const beforeVar = "GUEST_TEST_BEFORE"

// privately runs a script as root in a mount namespace that the calling
// thread has to itself from now on.
func privately(script string) {
	runtime.LockOSThread()
	must(unix.Unshare(unix.CLONE_NEWNS))
	must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	cmd := exec.Command("/bin/sh", "-ec", script)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	if out, err := cmd.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%v: %s", err, out))
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// demotePart opens /dev/net/tun to everybody in a mount namespace of its own,
// gives root up, and goes on as "run".
func demotePart() {
	privately("mkdir -p /dev/net; mount -t tmpfs -o mode=755 x /dev/net; mknod /dev/net/tun c 10 200; chmod 666 /dev/net/tun\n" + os.Getenv(beforeVar))
	must(syscall.Setgroups(nil))
	must(syscall.Setresgid(testUID, testUID, testUID))
	must(syscall.Setresuid(testUID, testUID, testUID))
	env := []string{partVar + "=run"}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, partVar+"=") && !strings.HasPrefix(v, beforeVar+"=") {
			env = append(env, v)
		}
	}
	must(syscall.Exec("/proc/self/exe", os.Args, env))
}

// who launches.
type who string

const (
	asRoot who = "root"
	asUser who = "user"
)

// everybody runs a test for each kind of caller that this machine can offer.
// With the race detector, which starts slowly, one is enough: the difference
// is not in what runs at once.
func everybody(t *testing.T, f func(t *testing.T, who who)) {
	for _, w := range []who{asRoot, asUser} {
		if raceEnabled && w == asRoot {
			continue
		}
		t.Run(string(w), func(t *testing.T) {
			w.need(t)
			f(t, w)
		})
	}
}

// need skips a test that this machine cannot run. Where CI promised that it
// can, that is a failure.
func (w who) need(t testing.TB) {
	skip := t.Skipf
	if os.Getenv("CI") == "true" {
		skip = t.Fatalf
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		skip("no TUN driver: %v", err)
	}
	if os.Geteuid() == 0 {
		return
	}
	if w == asRoot {
		skip("needs root")
	}
	if err := unix.Access("/dev/net/tun", unix.R_OK|unix.W_OK); err != nil {
		skip("/dev/net/tun is not open to users: %v", err)
	}
}

// uid is the caller's.
func (w who) uid() int {
	if w == asRoot {
		return 0
	}
	if os.Geteuid() == 0 {
		return testUID
	}
	return os.Geteuid()
}

// part is how the test binary becomes the caller.
func (w who) part() string {
	if w == asUser && os.Geteuid() == 0 {
		return "demote"
	}
	return "run"
}

// command runs a spec. It is given the environment's rest by its caller.
func (w who) command(t testing.TB, sp spec) *exec.Cmd {
	t.Helper()
	data, err := json.Marshal(sp)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary(t))
	cmd.Env = append(os.Environ(), partVar+"="+w.part(), specVar+"="+string(data), "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	cmd.Dir = "/"
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// result is what came of a run.
type result struct {
	code           int
	stdout, stderr string
}

// run runs a spec to its end.
func (w who) run(t testing.TB, sp spec) result {
	t.Helper()
	return finish(t, w.command(t, sp))
}

// sh runs a shell script as the guest.
func (w who) sh(t testing.TB, sp spec, script string) result {
	t.Helper()
	sp.Args = []string{"sh", "-c", script}
	return w.run(t, sp)
}

func finish(t testing.TB, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	code := cmd.ProcessState.ExitCode()
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		code = 1000 + int(ws.Signal()) // tcpbox itself was killed
	}
	return result{code, stdout.String(), stderr.String()}
}

var binaryDir string

// binary is a copy of the test binary that every user can execute.
func binary(t testing.TB) string {
	t.Helper()
	if binaryDir == "" {
		dir, err := os.MkdirTemp("", "guest-test")
		if err != nil {
			t.Fatal(err)
		}
		binaryDir = dir
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile("/proc/self/exe")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/guest.test", data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(binaryDir, "guest.test")
}

// openDir is a directory that every user can write to.
func openDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "guest-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// patience bounds every wait for a condition. It is no measure of anything.
const patience = 30 * time.Second

// eventually waits for a condition.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("never came true: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
