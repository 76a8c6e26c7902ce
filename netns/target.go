package netns

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Target names a network namespace that somebody else made: that of a process,
// or the one behind a path. Exactly one field is set.
type Target struct {
	PID  int
	Path string // such as /run/netns/blue, or /proc/7/ns/net
}

func (t Target) String() string {
	if t.Path != "" {
		return strconv.Quote(t.Path)
	}
	return fmt.Sprintf("pid %d", t.PID)
}

// Check reports what is wrong with t, as far as the kernel need not be asked.
func (t Target) Check() error {
	switch {
	case t.PID != 0 && t.Path != "":
		return errors.New("the namespace is named by a process or by a path, not by both")
	case t.PID == 0 && t.Path == "":
		return errors.New("no namespace to attach to")
	case t.PID < 0:
		return fmt.Errorf("there is no process %d", t.PID)
	}
	return nil
}

// id is what tells one namespace from all others that are there.
type id struct{ dev, ino uint64 }

func (i id) String() string { return fmt.Sprintf("net:[%d]", i.ino) }

func idOf(fd int) (id, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return id{}, err
	}
	return id{st.Dev, st.Ino}, nil
}

func idAt(path string) (id, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return id{}, err
	}
	return id{st.Dev, st.Ino}, nil
}

// open opens the namespace. pidfd is that of the process, or -1. Both are the
// caller's. It changes nothing and creates nothing.
func (t Target) open() (ns, pidfd int, err error) {
	if t.Path != "" {
		ns, err = openNetNS(t.Path)
		return ns, -1, err
	}
	pidfd, err = unix.PidfdOpen(t.PID, 0)
	if err != nil {
		return -1, -1, &AttachError{t.String(), &because{"there is no such process", ErrNoNamespace}, "see \"ps\" for those that run"}
	}
	path := fmt.Sprintf("/proc/%d/ns/net", t.PID)
	ns, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	// What was opened is that of the process only if the process is still there.
	switch {
	case err == nil && ended(pidfd), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESRCH):
		err = &AttachError{t.String(), &because{"the process has ended", ErrNoNamespace}, "see \"ps\" for those that run"}
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		err = &AttachError{t.String(), fmt.Errorf("open %s: %w", path, err), "the process is someone else's: run as its user, or as root"}
	case err != nil:
		err = &AttachError{t.String(), fmt.Errorf("open %s: %w", path, err), ""}
	}
	if err != nil {
		unix.Close(pidfd)
		if ns >= 0 {
			unix.Close(ns)
		}
		return -1, -1, err
	}
	return ns, pidfd, nil
}

// ended reports whether the process of a process descriptor has ended.
func ended(pidfd int) bool {
	p := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 1
}

// openNetNS opens what lies at a path if that is a network namespace. Anything
// else is not even opened: it might be a device, or a pipe.
func openNetNS(path string) (int, error) {
	target := Target{Path: path}.String()
	probe, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
			return -1, &AttachError{target, fmt.Errorf("open: %w", err), "run as its owner, or as root"}
		}
		hint := "\"ip netns list\" and \"lsns -t net\" show what there is"
		return -1, &AttachError{target, &because{err.Error(), errors.Join(ErrNoNamespace, err)}, hint}
	}
	defer unix.Close(probe)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(probe, &fs); err != nil {
		return -1, &AttachError{target, err, ""}
	}
	not := func() (int, error) {
		return -1, &AttachError{
			target, &because{"it is not a network namespace", ErrNoNamespace},
			"a path such as /run/netns/NAME or /proc/PID/ns/net is meant",
		}
	}
	if fs.Type != unix.NSFS_MAGIC {
		return not()
	}
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(probe), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &AttachError{target, fmt.Errorf("open: %w", err), "run as root"}
	}
	if kind, err := unix.IoctlRetInt(fd, nsGetType); err != nil || kind != unix.CLONE_NEWNET {
		unix.Close(fd)
		return not()
	}
	return fd, nil
}

// initialNetNS is the inode of the namespace that the kernel begins with, as
// Linux 6.18 and newer number it (PROC_NET_INIT_INO in linux/nsfs.h). Others
// never get it.
const initialNetNS = 0xeffffff9

// isOurs reports whether a namespace is this process's own, or that of process
// 1, whose network is the machine's. To serve that would be to take the
// machine's network away.
func isOurs(ns id) (bool, error) {
	if ns.ino == initialNetNS {
		return true, nil
	}
	for _, path := range []string{"/proc/self/ns/net", "/proc/thread-self/ns/net", "/proc/1/ns/net"} {
		own, err := idAt(path)
		switch {
		case err == nil && own == ns:
			return true, nil
		case err == nil:
		case path == "/proc/1/ns/net" && (errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist)):
			// It is someone else's, so that its network cannot be entered either.
		default:
			return false, err
		}
	}
	return false, nil
}
