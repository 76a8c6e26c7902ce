package cni

import (
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
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"tcpbox"
	"tcpbox/cmd/internal/control"
)

const (
	readyTimeout = 10 * time.Second // for the stack process, to be ready
	termTimeout  = 3 * time.Second  // from TERM to KILL
	killTimeout  = 10 * time.Second // after KILL
	checkTimeout = 5 * time.Second  // for its answer to CHECK
)

// order is what the stack process is told.
type order struct {
	Sandbox   string       `json:"sandbox"`
	Aliases   []string     `json:"aliases"`
	NetNS     string       `json:"netns"`
	MTU       int          `json:"mtu"`
	Addresses []netip.Addr `json:"addresses"`
	Policy    string       `json:"policy"` // a document; empty: everything is allowed
}

// The stack process's descriptors, beside standard error, which is its log.
//
//	0  the order    3  the container's device    5  where it says that it is ready
//	1  /dev/null    4  the host's device
const (
	fdContainer = 3
	fdHost      = 4
	fdReady     = 5
)

// answer is what the stack process says when it is ready, or why it cannot be.
type answer struct {
	Error string `json:"error,omitempty"`
}

// processName is the stack process's argv[0], by which Init knows it.
const processName = "tcpbox-stack"

// start starts the stack process and returns when it is ready. It has nothing of
// the caller's but the devices: no pipe, session or, if it can be helped, cgroup. d
// stays the caller's.
func start(o order, d *devices, logFile string) (p *os.Process, err error) {
	fail := func(what string, err error) error {
		return types.NewError(codeStack, "the stack process: "+what+": "+err.Error(), "its log is "+logFile)
	}
	text, err := json.Marshal(o)
	if err != nil {
		return nil, fail("its order", err)
	}
	in, err := sealed(text)
	if err != nil {
		return nil, fail("its order", err)
	}
	defer in.Close()
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fail("its log", err)
	}
	defer log.Close()
	ready, told, err := os.Pipe()
	if err != nil {
		return nil, fail("its pipe", err)
	}
	defer ready.Close()
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{processName, o.Sandbox}, Dir: "/", Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
		Stdin: in, Stderr: log, ExtraFiles: []*os.File{d.container, d.host, told},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	err = cmd.Start()
	told.Close()
	if err != nil {
		return nil, fail("start", err)
	}
	go func() { _ = cmd.Wait() }() // where the caller lives on
	leaveCgroup(cmd.Process.Pid)
	if err := awaitReady(ready); err != nil {
		_ = cmd.Process.Kill()
		return nil, fail("it is not ready", err)
	}
	return cmd.Process, nil
}

// awaitReady reads the answer.
func awaitReady(ready *os.File) error {
	if err := ready.SetReadDeadline(time.Now().Add(readyTimeout)); err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(ready, 64<<10))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("it says nothing for %v", readyTimeout)
	case err != nil:
		return err
	case len(text) == 0:
		return errors.New("it has ended")
	}
	var a answer
	if err := json.Unmarshal(text, &a); err != nil {
		return err
	}
	if a.Error != "" {
		return errors.New(a.Error)
	}
	return nil
}

// sealed is a file in memory, from its beginning.
func sealed(text []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("order", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "order")
	if _, err = f.Write(text); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// cgroupName is the cgroup of all stack processes. Whoever ends the cgroup of the
// container's runtime does not end them with it.
const cgroupName = "tcpbox"

// cgroupRoots are the hierarchies by which processes are kept together: version 2,
// and systemd's own of version 1.
var cgroupRoots = []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"}

// leaveCgroup takes a process out of the caller's cgroup. Where that is not
// possible, it stays.
func leaveCgroup(pid int) {
	for _, root := range cgroupRoots {
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
			continue
		}
		dir := filepath.Join(root, cgroupName)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			continue
		}
		_ = os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
	}
}

// sweepCgroups removes the cgroup when its last process has ended.
func sweepCgroups() {
	for _, root := range cgroupRoots {
		_ = unix.Rmdir(filepath.Join(root, cgroupName)) // not while there is one
	}
}

// startOf is when a process has started, as the kernel counts; empty if there is no
// such process.
func startOf(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The name, in parentheses, may hold any bytes.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	const start = 22 - 3
	if len(fields) <= start {
		return ""
	}
	return fields[start]
}

// stop ends the stack process of an attachment, if there is one: that which st
// names, and whoever answers under its name. It returns when it has ended.
func stop(a attachment, st *State) error {
	if st != nil && st.PID != 0 {
		if err := end(st.PID, st.Start); err != nil {
			return err
		}
	}
	client, err := control.Connect(a.sandbox())
	if err != nil {
		return nil // there is none
	}
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	in, err := client.Inspect(ctx)
	if err != nil || in.Name != a.sandbox() || !isOfThisHost(in.PID) {
		return nil // it has just ended, or is another host's that has our files
	}
	return end(in.PID, startOf(in.PID))
}

// isOfThisHost reports whether a process is in the caller's network namespace.
func isOfThisHost(pid int) bool {
	ours, err := os.Readlink("/proc/thread-self/ns/net")
	theirs, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	return err == nil && err2 == nil && ours == theirs
}

// end ends a process: TERM, and KILL if that does not help.
func end(pid int, start string) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil || start == "" {
		return nil // it has ended
	}
	defer unix.Close(fd)
	if startOf(pid) != start {
		return nil // the number is another's by now
	}
	for _, step := range []struct {
		sig  unix.Signal
		wait time.Duration
	}{{unix.SIGTERM, termTimeout}, {unix.SIGKILL, killTimeout}} {
		if err := unix.PidfdSendSignal(fd, step.sig, nil, 0); errors.Is(err, unix.ESRCH) {
			return nil
		}
		if hasEnded(fd, step.wait) {
			return nil
		}
	}
	return types.NewError(codeStack, fmt.Sprintf("the stack process %d does not end", pid), "")
}

func hasEnded(pidfd int, wait time.Duration) bool {
	for end := time.Now().Add(wait); ; {
		left := time.Until(end)
		if left <= 0 {
			return false
		}
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, int(left.Milliseconds())+1); err == nil && n == 1 {
			return true
		}
	}
}

// ask asks the stack process how it is.
func ask(a attachment) (tcpbox.Info, error) {
	dead := func(err error) error {
		return types.NewError(codeUnhealthy, "the stack process does not answer: "+err.Error(), "the container has no network; delete it and make it anew")
	}
	client, err := control.Connect(a.sandbox())
	if err != nil {
		return tcpbox.Info{}, dead(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	in, err := client.Inspect(ctx)
	if err != nil {
		return in, dead(err)
	}
	return in, nil
}
