package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// initName is argument 0 of init, by which Init knows it.
const initName = "tcpbox: init"

// caller is who launches.
type caller struct {
	uid, gid   int
	privileged bool
}

// rootCaps are what a caller needs to do without an outer user namespace.
const rootCaps = 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_SETUID |
	1<<unix.CAP_SETGID | 1<<unix.CAP_SETFCAP

func newCaller() caller {
	c := caller{uid: os.Geteuid(), gid: os.Getegid()}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&header, &data[0]) == nil {
		have := uint64(data[0].Effective) | uint64(data[1].Effective)<<32
		c.privileged = c.uid == 0 && have&rootCaps == rootCaps
	}
	return c
}

// initCaps are the capabilities that init has in its own user namespace, if it
// has one.
var initCaps = []uintptr{
	unix.CAP_KILL, unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SETFCAP,
	unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_SYS_ADMIN, unix.CAP_SYS_PTRACE,
}

// initProcess is the init of a sandbox, as its parent sees it.
type initProcess struct {
	pid  int
	done chan struct{} // closed when init, and all in its namespaces, is gone

	killOnce sync.Once
	cmd      *exec.Cmd
}

func (p *initProcess) kill() {
	p.killOnce.Do(func() { p.cmd.Process.Kill() })
}

// state says how init ended. It may be called when done is closed.
func (p *initProcess) state() string {
	if p.cmd.ProcessState == nil {
		return "unknown"
	}
	return p.cmd.ProcessState.String()
}

// launch starts init and hands it its setup.
func launch(who caller, c Config) (*initProcess, *channel, error) {
	fail := func(op string, err error) (*initProcess, *channel, error) {
		return nil, nil, &Error{Op: op, Err: err, Hint: resourceHint(err)}
	}
	setupFile, err := who.writeSetup(c)
	if err != nil {
		return fail("write setup", err)
	}
	defer setupFile.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fail("make control socket", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "control")
	defer theirs.Close()
	ch, err := newChannel(pair[0])
	if err != nil {
		return fail("make control socket", err)
	}
	cmd := who.command(c)
	cmd.ExtraFiles = []*os.File{theirs, setupFile}
	for _, fd := range c.KeepFDs {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			ch.close()
			return fail(fmt.Sprintf("keep descriptor %d", fd), err)
		}
		file := os.NewFile(uintptr(dup), "kept")
		defer file.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, file)
	}
	p := &initProcess{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go p.parent(started)
	if err := <-started; err != nil {
		ch.close()
		return nil, nil, cloneError(err)
	}
	return p, ch, nil
}

// parent starts init and waits for it. The kernel ends init when the thread
// that made it ends (prctl(2), PR_SET_PDEATHSIG), so the thread is kept.
func (p *initProcess) parent(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := p.cmd.Start(); err != nil {
		started <- err
		return
	}
	p.pid = p.cmd.Process.Pid
	started <- nil
	p.cmd.Wait() // what it returns is in ProcessState
	close(p.done)
}

func (who caller) command(c Config) *exec.Cmd {
	attr := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID |
			unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Pdeathsig: syscall.SIGKILL,
	}
	if !who.privileged {
		// Mapped to itself, not to 0: so the sysctls of the namespace belong
		// to somebody the guest is not.
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: who.uid, HostID: who.uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: who.gid, HostID: who.gid, Size: 1}}
		attr.AmbientCaps = initCaps
	}
	cmd := &exec.Cmd{
		Path:        "/proc/self/exe",
		Args:        []string{initName},
		Env:         []string{"GOMAXPROCS=1"},
		SysProcAttr: attr,
	}
	// A nil *os.File in an interface would not be nil.
	if c.Stdin != nil {
		cmd.Stdin = c.Stdin
	}
	if c.Stdout != nil {
		cmd.Stdout = c.Stdout
	}
	if c.Stderr != nil {
		cmd.Stderr = c.Stderr
	}
	return cmd
}

// writeSetup puts the setup into a file that has no name.
func (who caller) writeSetup(c Config) (*os.File, error) {
	env := c.Env
	if env == nil {
		env = os.Environ()
	}
	data, err := json.Marshal(setup{
		Privileged: who.privileged,
		UID:        who.uid,
		GID:        who.gid,
		Root:       c.Root,
		User:       c.User,
		Hostname:   c.Hostname,
		Link:       c.Link,
		Defaults:   c.Defaults,
		Sysctls:    c.Sysctls,
		Etc:        c.Etc,
		Hide:       c.Hide,
		Keep:       c.KeepFDs,
		Linger:     c.Linger,
		program:    program{Args: bytesOf(c.Args), Env: bytesOf(env), Dir: []byte(c.Dir)},
	})
	if err != nil {
		return nil, err
	}
	return memoryFile("tcpbox-setup", data)
}

// memoryFile is a file that has no name.
func memoryFile(name string, data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), name)
	if _, err := file.WriteAt(data, 0); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

func bytesOf(list []string) [][]byte {
	out := make([][]byte, len(list))
	for i, s := range list {
		out[i] = []byte(s)
	}
	return out
}

// cloneError explains why init could not be made.
func cloneError(err error) error {
	e := &Error{Op: "create namespaces", Err: err, Hint: cloneHint(err)}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		e.Err = errno // without "fork/exec /proc/self/exe", which says nothing
	}
	return e
}

// cloneHint speaks of what forbids namespaces.
func cloneHint(err error) string {
	switch {
	case errors.Is(err, unix.ENOSPC):
		return "the limit on namespaces is reached or zero: see \"sysctl user\", for example \"sudo sysctl -w user.max_user_namespaces=10000\""
	case errors.Is(err, unix.EPERM):
		return namespaceHint()
	case errors.Is(err, unix.EINVAL):
		return "the kernel lacks one of the user, net, mount, pid, ipc and uts namespaces"
	}
	return resourceHint(err)
}

// namespaceHint says what may forbid a user namespace here.
func namespaceHint() string {
	if sysctlIs("kernel/apparmor_restrict_unprivileged_userns", "1") {
		return "AppArmor restricts user namespaces: \"sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0\", or run as root"
	}
	if sysctlIs("kernel/unprivileged_userns_clone", "0") {
		return "the host forbids user namespaces to ordinary users: \"sudo sysctl -w kernel.unprivileged_userns_clone=1\", or run as root"
	}
	if os.Geteuid() == 0 {
		return "not even root may make namespaces here: in a sandbox no other can be made, and a container needs more rights (--privileged)"
	}
	return "user namespaces are not allowed here; run as root, and in a container with more rights (--privileged, or --security-opt seccomp=unconfined)"
}

func sysctlIs(path, value string) bool {
	data, err := os.ReadFile("/proc/sys/" + path)
	return err == nil && strings.TrimSpace(string(data)) == value
}

// resourceHint speaks of limits that any system call may meet.
func resourceHint(err error) string {
	switch {
	case errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE):
		return "too many open files: raise the limit with \"ulimit -n\""
	case errors.Is(err, unix.EAGAIN):
		return "too many processes: raise the limit with \"ulimit -u\""
	case errors.Is(err, unix.ENOSYS):
		return "Linux 5.12 or newer is needed"
	}
	return ""
}

// pidOf asks /proc which process a process descriptor means. 0: it does not
// tell, or the process is gone.
func pidOf(pidfd int) int {
	data, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(pidfd))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "Pid:"); ok {
			pid, err := strconv.Atoi(strings.TrimSpace(rest))
			if err != nil || pid < 0 {
				return 0
			}
			return pid
		}
	}
	return 0
}
