package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What a probe is asked for.
const (
	whatAll     = "all"     // everything that a sandbox does, in its namespaces
	whatInner   = "inner"   // what is done in the guest's user namespace
	whatNothing = "nothing" // to have been started is enough
)

// Probe is what this program does when Examine has executed it again: it tries
// something in the namespaces that it was born in, and prints what came of it.
func Probe(o Options, what []string, w io.Writer) error {
	if len(what) != 1 {
		return errors.New("doctor: a probe is asked for one thing")
	}
	say := func(s step, err error) {
		var errno syscall.Errno
		if err != nil && !errors.As(err, &errno) {
			errno = unix.EIO
		}
		_ = json.NewEncoder(w).Encode(outcome{s, errno}) // who asked is gone
	}
	switch what[0] {
	case whatNothing:
	case whatAll:
		probeAll(o, w, say)
	case whatInner:
		say(stepSeccomp, tryFilter())
	default:
		return fmt.Errorf("doctor: there is no probe %q", what[0])
	}
	return nil
}

// probeAll tries the steps in the order of a sandbox's making, each whether or
// not the one before it worked.
func probeAll(o Options, w io.Writer, say func(step, error)) {
	say(stepTUN, tryTUN())
	dump, destroy := tryDiag()
	say(stepDiag, dump)
	say(stepDestroy, destroy)
	err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	say(stepPrivate, err)
	if err == nil {
		const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
		say(stepProc, unix.Mount("proc", "/proc", "proc", flags, ""))
		say(stepSys, unix.Mount("sysfs", "/sys", "sysfs", flags|unix.MS_RDONLY, ""))
		say(stepOverlay, tryOverlay())
	}
	_, err = os.Stat("/proc/sys/net/ipv4/tcp_tw_reuse_delay")
	say(stepReuse, err)

	cmd := probeCommand(o, unix.CLONE_NEWUSER, whatInner)
	out, err := runProbe(context.Background(), cmd)
	if len(out) > 0 {
		err = nil // it was made
	}
	say(stepInner, err)
	_, _ = w.Write(out)
}

// tryTUN makes a device as the sandbox's is (linux/if_tun.h).
func tryTUN() error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("tcpbox0")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_TUN_EXCL)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return err
	}
	// Without it the close would take 25 ms; the device ends with the namespace.
	return unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1)
}

// tryOverlay lays a directory over /etc, in this process's mount namespace.
func tryOverlay() error {
	old, err := unix.Open("/etc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(old)
	if err := unix.Mount("tmpfs", "/etc", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return err
	}
	layers := fmt.Sprintf("lowerdir=/etc:/proc/self/fd/%d", old)
	return unix.Mount("overlay", "/etc", "overlay", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, layers)
}

// tryFilter puts a filter on this process that allows everything.
func tryFilter() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	allow := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}
	prog := unix.SockFprog{Len: 1, Filter: &allow}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	return nil
}
