package legs

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox/integration/testnet"
	"tcpbox/stack/tcpstate"
)

// The recorder is this test binary, executed once more under recorderName. It
// has an instance of tracefs of its own, with the tracepoint that says when the
// kernel changes the state of a socket, of the whole machine, and keeps what has to
// do with a few ports. When its standard input ends it writes that out:
//
//	test ──exec──▶ recorder ──▶ "ready" … (EOF of stdin) … the trace
const recorderName = "legs-recorder"

// recordStates is the recorder. It uses the directory for its mount.
func recordStates(dir string, ports []string) error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare mounts: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("tracefs", dir, "tracefs", 0, ""); err != nil {
		return fmt.Errorf("mount tracefs: %w", err)
	}
	instance := filepath.Join(dir, "instances", fmt.Sprintf("tcpbox-legs-%d", os.Getpid()))
	if err := os.Mkdir(instance, 0o700); err != nil {
		return err
	}
	defer os.Remove(instance) // tracefs removes what is in it
	set := func(name, value string) error {
		return os.WriteFile(filepath.Join(instance, name), []byte(value), 0)
	}
	filter := "protocol == 6 && (sport == " + strings.Join(ports, " || sport == ") + " || dport == " + strings.Join(ports, " || dport == ") + ")"
	const tracepoint = "events/sock/inet_sock_set_state/"
	err := errors.Join(
		set("trace_clock", "mono"),
		set("buffer_size_kb", "8192"),
		set(tracepoint+"filter", filter),
		set(tracepoint+"enable", "1"),
	)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	if err := errors.Join(err, set(tracepoint+"enable", "0")); err != nil {
		return err
	}
	stats, err := filepath.Glob(filepath.Join(instance, "per_cpu/cpu*/stats"))
	if err != nil {
		return err
	}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !bytes.Contains(text, []byte("\noverrun: 0\n")) || !bytes.Contains(text, []byte("\ndropped events: 0\n")) {
			return fmt.Errorf("the kernel's buffer was too small: %q", text)
		}
	}
	trace, err := os.Open(filepath.Join(instance, "trace"))
	if err != nil {
		return err
	}
	defer trace.Close()
	_, err = io.Copy(os.Stdout, trace)
	return err
}

// recording is a recorder that runs.
type recording struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	out    *bufio.Reader
	stderr testnet.Buffer
	boot   time.Time // when the kernel's clock was zero
}

// startRecording returns once the kernel traces. It skips the test where it does
// not, or fails it when CI=true.
func startRecording(t testing.TB, ports []uint16) *recording {
	t.Helper()
	r := &recording{cmd: exec.CommandContext(t.Context(), "/proc/self/exe", testnet.Dir(t))}
	r.cmd.Args[0] = recorderName
	for _, port := range ports {
		r.cmd.Args = append(r.cmd.Args, fmt.Sprint(port))
	}
	r.cmd.Stderr = &r.stderr
	var err error
	r.stdin, err = r.cmd.StdinPipe()
	must(t, err)
	stdout, err := r.cmd.StdoutPipe()
	must(t, err)
	r.out = bufio.NewReader(stdout)
	must(t, r.cmd.Start())
	t.Cleanup(func() {
		r.stdin.Close()
		_ = r.cmd.Wait()
	})
	if line, err := r.out.ReadString('\n'); line != "ready\n" {
		testnet.Unavailable(t, fmt.Sprintf("needs the kernel's trace of sockets: %v %q %s", err, line, r.stderr.String()))
	}
	for range 8 { // in the best, the least time passed between the two clocks
		var ts unix.Timespec
		now := time.Now()
		must(t, unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts))
		if boot := now.Add(-time.Duration(ts.Nano())); boot.After(r.boot) {
			r.boot = boot
		}
	}
	return r
}

// event is one change of a socket's state, as the kernel tells it.
type event struct {
	ends
	at       time.Time
	thread   int // that ran
	from, to tcpstate.State
}

// traceLine is a line of tracefs: the name and number of the thread that ran, the
// time in seconds, and the fields.
var traceLine = regexp.MustCompile(`^.*-(\d+) +\[\d+\] \S+ +(\d+)\.(\d{6}): inet_sock_set_state: (family=.*)$`)

// end ends the recording and returns what happened, in order.
func (r *recording) end(t testing.TB) (all []event) {
	t.Helper()
	r.stdin.Close()
	text, err := io.ReadAll(r.out)
	must(t, err)
	if err := r.cmd.Wait(); err != nil {
		t.Fatalf("the recorder: %v: %s", err, r.stderr.String())
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "#") || line == "" {
			continue
		}
		m := traceLine.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("the kernel's trace has %q", line)
		}
		fields := make(map[string]string)
		for _, word := range strings.Fields(m[4]) {
			name, value, _ := strings.Cut(word, "=")
			fields[name] = value
		}
		end := func(address, port string) netip.AddrPort {
			if fields["family"] == "AF_INET6" {
				address += "v6"
			}
			a, err1 := netip.ParseAddr(fields[address])
			p, err2 := strconv.ParseUint(fields[port], 10, 16)
			must(t, errors.Join(err1, err2))
			return netip.AddrPortFrom(a.Unmap(), uint16(p))
		}
		ev := event{ends: ends{end("saddr", "sport"), end("daddr", "dport")}}
		seconds, err1 := strconv.ParseInt(m[2], 10, 64)
		micros, err2 := strconv.ParseInt(m[3], 10, 64)
		ev.at = r.boot.Add(time.Duration(seconds)*time.Second + time.Duration(micros)*time.Microsecond)
		var err3, err4, err5 error
		ev.thread, err3 = strconv.Atoi(m[1])
		ev.from, err4 = tcpstate.Parse(strings.TrimPrefix(fields["oldstate"], "TCP_"))
		ev.to, err5 = tcpstate.Parse(strings.TrimPrefix(fields["newstate"], "TCP_"))
		must(t, errors.Join(err1, err2, err3, err4, err5))
		if ev.from != ev.to { // close says so once more
			all = append(all, ev)
		}
	}
	slices.SortStableFunc(all, func(a, b event) int { return cmp.Compare(a.at.UnixNano(), b.at.UnixNano()) })
	return all
}
