package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// initCaps are what the first process of a sandbox has in its user namespace.
var initCaps = []uintptr{
	unix.CAP_KILL, unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SETFCAP,
	unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_SYS_ADMIN, unix.CAP_SYS_PTRACE,
}

// kinds are the namespaces of a sandbox, in the order in which a failure is
// looked for.
var kinds = []struct {
	name string
	flag uintptr
}{
	{"user", unix.CLONE_NEWUSER},
	{"mnt", unix.CLONE_NEWNS},
	{"net", unix.CLONE_NEWNET},
	{"pid", unix.CLONE_NEWPID},
	{"ipc", unix.CLONE_NEWIPC},
	{"uts", unix.CLONE_NEWUTS},
}

// tryNamespaces makes the namespaces that a sandbox has, and tries in them what
// a sandbox does.
func tryNamespaces(ctx context.Context, o Options, privileged bool) (spaces, map[step]error) {
	if len(o.Probe) == 0 {
		return spaces{}, nil
	}
	var flags uintptr
	for _, k := range kinds {
		if k.flag != unix.CLONE_NEWUSER || !privileged {
			flags |= k.flag
		}
	}
	cmd := probeCommand(o, flags, whatAll)
	out, err := runProbe(ctx, cmd)
	steps := parseSteps(out)
	if err == nil || len(steps) > 0 {
		return spaces{}, steps
	}
	s := spaces{err: cause(err)}
	for _, k := range kinds {
		if flags&k.flag == 0 {
			continue
		}
		cmd := probeCommand(o, k.flag|flags&unix.CLONE_NEWUSER, whatNothing)
		if _, err := runProbe(ctx, cmd); err != nil {
			return spaces{err: cause(err), kind: k.name}, nil
		}
	}
	return s, nil
}

// probeCommand executes this program again, to call Probe in new namespaces.
func probeCommand(o Options, flags uintptr, what string) *exec.Cmd {
	attr := &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
	// The ids of an inner namespace stay unmapped: they are written by way of
	// /proc, which may be another pid namespace's there.
	if flags&unix.CLONE_NEWUSER != 0 && what != whatInner {
		uid, gid := os.Geteuid(), os.Getegid()
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
		if what == whatAll {
			attr.AmbientCaps = initCaps
		}
	}
	return &exec.Cmd{
		Path: "/proc/self/exe", Args: append(o.Probe[:len(o.Probe):len(o.Probe)], what),
		Env: []string{}, SysProcAttr: attr,
	}
}

// runProbe runs a probe to its end. The kernel ends a probe when the thread
// that made it ends (prctl(2), PR_SET_PDEATHSIG), so the thread is kept.
func runProbe(ctx context.Context, cmd *exec.Cmd) ([]byte, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var out bytes.Buffer
	cmd.Stdout = &out
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	err := cmd.Wait()
	return out.Bytes(), err
}

// cause is the errno in err, if there is one: what surrounds it names only the
// way this program executes itself.
func cause(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// step is one thing that a probe tries.
type step string

const (
	stepPrivate step = "private"     // cut the ties to the host's mounts
	stepProc    step = "proc"        // a fresh /proc
	stepSys     step = "sys"         // a fresh /sys
	stepOverlay step = "overlay"     // an overlay on /etc
	stepTUN     step = "tun"         // a TUN device
	stepDiag    step = "diag"        // a dump of TCP sockets
	stepDestroy step = "destroy"     // the end of a TCP socket
	stepReuse   step = "reuse-delay" // tcp_tw_reuse_delay
	stepInner   step = "inner"       // a user namespace in this one
	stepSeccomp step = "seccomp"     // a filter, in the inner one
)

// outcome is a line of a probe's output.
type outcome struct {
	Step  step          `json:"step"`
	Errno syscall.Errno `json:"errno"`
}

func parseSteps(out []byte) map[step]error {
	steps := make(map[step]error)
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var o outcome
		if d.Decode(&o) != nil {
			return steps
		}
		steps[o.Step] = nil
		if o.Errno != 0 {
			steps[o.Step] = o.Errno
		}
	}
}
