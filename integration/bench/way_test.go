package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tcpbox/integration/testnet"
)

// A way is how a guest reaches the remote.
type way struct {
	name    string
	command func(w *world, guest []string) *exec.Cmd // to be run in the uplink
	stack   string                                   // the name of the process that is the stack; "" if the kernel is
	version []string                                 // prints it
	full    bool                                     // only with -measure
}

func ways() []way {
	return []way{
		{"veth", func(w *world, guest []string) *exec.Cmd {
			return w.Uplink.Command(w.t.Context(), guest[0], guest[1:]...)
		}, "", nil, false},
		{"tcpbox", func(w *world, guest []string) *exec.Cmd {
			return w.Uplink.Command(w.t.Context(), w.tcpbox, append([]string{"run", "--quiet", "--"}, guest...)...)
		}, "tcpbox", nil, false},
		{"tcpbox-log", func(w *world, guest []string) *exec.Cmd {
			log := filepath.Join(testnet.Dir(w.t), "states.jsonl")
			return w.Uplink.Command(w.t.Context(), w.tcpbox, append([]string{"run", "--quiet", "--log", log, "--"}, guest...)...)
		}, "tcpbox", nil, true},
		{"pasta", func(w *world, guest []string) *exec.Cmd {
			return w.Uplink.Command(w.t.Context(), "pasta", append([]string{"--config-net", "-q", "--runas", "0", "--"}, guest...)...)
		}, "passt", []string{"pasta", "--version"}, false},
		{"slirp4netns", func(w *world, guest []string) *exec.Cmd {
			// The guest waits in its namespace until slirp4netns says that it is
			// ready; it ends with it.
			const script = `
exec 3<&0
mkfifo "$0/ready" "$0/pid"
unshare -Urn sh -c 'echo $$ >"$0/pid"; read -r _ <"$0/ready"; exec "$@"' "$0" "$@" <&3 &
read -r pid <"$0/pid"
slirp4netns --configure --mtu=65520 --disable-host-loopback --ready-fd=4 "$pid" tap0 4>"$0/ready" >/dev/null 2>&1 3<&- &
slirp=$!
wait %1; status=$?
kill $slirp; wait $slirp; rm "$0/ready" "$0/pid"
exit $status`
			dir := testnet.Dir(w.t)
			return w.Uplink.Command(w.t.Context(), "bash", append([]string{"-c", script, dir}, guest...)...)
		}, "slirp4netns", []string{"slirp4netns", "--version"}, false},
	}
}

// available reports whether the way's program is installed, and its version.
func (y way) available() (version string, ok bool) {
	if y.version == nil {
		return "", true
	}
	if _, err := exec.LookPath(y.version[0]); err != nil {
		return "", false
	}
	out, err := exec.Command(y.version[0], y.version[1:]...).Output()
	line, _, _ := strings.Cut(string(out), "\n")
	return line, err == nil
}

// world is where everything is measured.
type world struct {
	*testnet.Net
	t      testing.TB
	tcpbox string
	self   string
	server netip.AddrPort

	serverPID int
	measured  int // how many measurements there were
}

func newWorld(t testing.TB) *world {
	w := &world{Net: testnet.New(t), t: t, server: netip.AddrPortFrom(testnet.Public4, 7000)}
	dir := testnet.Dir(t)
	w.tcpbox = filepath.Join(dir, "tcpbox")
	build := exec.Command("go", "build", "-o", w.tcpbox, "tcpbox/cmd/tcpbox")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build tcpbox: %v\n%s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w.self = self
	w.startServer()
	return w
}

// startServer runs the server in the remote until the test ends.
func (w *world) startServer() {
	cmd := w.Remote.Command(context.Background(), w.self, serverArg, w.server.String())
	cmd.Stderr = os.Stderr
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		w.t.Fatal(err1, err2)
	}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.serverPID = cmd.Process.Pid
	w.t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			w.t.Errorf("the server: %v", err)
		}
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != ready {
		w.t.Fatalf("the server printed %q, %v", line, err)
	}
}

// A sample is what one guest found, and what its stack took.
type sample struct {
	measure
	CPU float64 // seconds that the stack's process took for it, user and system
	RSS float64 // bytes, when the guest was through

	Idle float64 // bytes, before it began
}

// measure runs one task in one way.
func (w *world) measure(y way, t task) (sample, error) {
	t.Server = netip.AddrPortFrom(w.server.Addr(), w.server.Port()+uint16(w.measured%serverPorts)).String()
	w.measured++
	text, err := json.Marshal(t)
	if err != nil {
		return sample{}, err
	}
	cmd := y.command(w, []string{w.self, guestArg, string(text)})
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return sample{}, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return sample{}, err
	}
	if err := cmd.Start(); err != nil {
		return sample{}, err
	}
	var impatient atomic.Bool
	hung := time.AfterFunc(y.patience(), func() {
		impatient.Store(true)
		w.killAll()
	})
	defer hung.Stop()
	s, err := w.take(y, bufio.NewReader(stdout), stdin)
	stdin.Close()
	if waitErr := cmd.Wait(); err == nil && waitErr != nil {
		err = waitErr
	}
	if err == nil && s.Err != "" {
		err = errors.New(s.Err)
	}
	if impatient.Load() {
		return s, fmt.Errorf("not done after %v", y.patience())
	}
	if err != nil && y.version == nil && stderr.Len() > 0 {
		err = fmt.Errorf("%w; it wrote: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return s, err
}

// take has the guest at work, and looks at its stack before and after.
func (w *world) take(y way, stdout *bufio.Reader, stdin io.Writer) (s sample, err error) {
	if line, err := stdout.ReadString('\n'); line != ready {
		return s, fmt.Errorf("the guest did not start: %q, %w", line, err)
	}
	var before float64
	if y.stack != "" {
		if before, s.Idle, err = w.stackOf(y.stack); err != nil {
			return s, err
		}
	}
	if _, err := io.WriteString(stdin, ready); err != nil {
		return s, err
	}
	line, err := stdout.ReadBytes('\n')
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(line, &s.measure); err != nil {
		return s, err
	}
	if y.stack != "" {
		s.CPU, s.RSS, err = w.stackOf(y.stack)
		s.CPU -= before
	}
	return s, err
}

// patience bounds one measurement, of which the longest holds many connections.
// It is no expectation: only what hangs, or is far too slow, meets it.
func (y way) patience() time.Duration {
	if y.version == nil {
		return time.Minute // ours: a failure fails the test
	}
	return 15 * time.Second
}

// killAll kills every process of the Net but the server.
func (w *world) killAll() {
	pids, err := w.Processes()
	if err != nil {
		return
	}
	for _, pid := range pids {
		if pid != w.serverPID {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	}
}

// stackOf adds up the processes of this Net with that name.
func (w *world) stackOf(name string) (cpu, rss float64, err error) {
	pids, err := w.Processes()
	if err != nil {
		return 0, 0, err
	}
	const ticks = 100 // USER_HZ, on every architecture of today
	found := false
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // it has ended
		}
		// "pid (name) state …"; fields 14 and 15 are the times, 24 the pages.
		open, end := strings.IndexByte(string(text), '('), strings.LastIndexByte(string(text), ')')
		comm := string(text[open+1 : end])
		if comm != name && comm != name+".avx2" {
			continue
		}
		f := strings.Fields(string(text[end+1:]))
		user, err1 := strconv.ParseFloat(f[11], 64)
		system, err2 := strconv.ParseFloat(f[12], 64)
		pages, err3 := strconv.ParseFloat(f[21], 64)
		if err1 != nil || err2 != nil || err3 != nil {
			return 0, 0, fmt.Errorf("/proc/%d/stat: %q", pid, text)
		}
		cpu += (user + system) / ticks
		rss += pages * float64(os.Getpagesize())
		found = true
	}
	if !found {
		return 0, 0, fmt.Errorf("no process %q", name)
	}
	return cpu, rss, nil
}
