package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// The helpers below use the mount calls that work on descriptors (Linux 5.2
// and 5.12), for they say what they change of a mount's flags and leave the
// others alone.

// cloneTree makes a detached copy of the mount at path and of those below it.
func cloneTree(dir int, path string) (fd int, err error) {
	return unix.OpenTree(dir, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
}

// attach puts a detached mount at path and closes its descriptor.
func attach(fd int, path string) error {
	defer unix.Close(fd)
	return unix.MoveMount(fd, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// restrict sets flags of a detached mount and of those below it.
func restrict(fd int, flags uint64) error {
	return unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: flags})
}

// flagsNoUse leave a mount to be looked at only.
const flagsNoUse = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC

// bindReadOnly covers path with a read-only view of itself.
func bindReadOnly(path string) error {
	fd, err := cloneTree(unix.AT_FDCWD, path)
	if err != nil {
		return err
	}
	if err := restrict(fd, flagsNoUse); err != nil {
		unix.Close(fd)
		return err
	}
	return attach(fd, path)
}

// mountError adds the hints that a refused mount may deserve.
func mountError(op string, err error) error {
	e := &Error{Op: op, Err: err, Hint: resourceHint(err)}
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		e.Hint = "the right to mount is missing"
		if sysctlIs("kernel/apparmor_restrict_unprivileged_userns", "1") {
			e.Hint = namespaceHint()
		}
	}
	return e
}

// maskedError is mountError for a fresh /proc or /sys, which the kernel
// refuses in a user namespace unless the one outside is fully visible
// (mount_namespaces(7)).
func maskedError(what string, err error) error {
	e := mountError("mount a fresh "+what, err).(*Error) //nolint:errorlint // it is just made
	if errors.Is(err, unix.EPERM) && !sysctlIs("kernel/apparmor_restrict_unprivileged_userns", "1") {
		e.Hint = "parts of the host's " + what + " are covered by other mounts, as in a container, or in a sandbox, where no other can be made; " +
			"run as root, or start the container with " + what + " unmasked (--security-opt systempaths=unconfined)"
	}
	return e
}

// privateMounts cuts the ties to the host's mounts, both ways.
func privateMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		e := mountError("make the mounts private", err).(*Error) //nolint:errorlint // it is just made
		if errors.Is(err, unix.EINVAL) {
			e.Hint = "the root directory is not a mount point, as in a chroot; bind it onto itself first"
		}
		return e
	}
	return nil
}

// freshProc mounts the /proc of the sandbox's processes and returns a clone of
// its sys directory that stays writable.
func freshProc() (procSys int, err error) {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("proc", "/proc", "proc", flags, ""); err != nil {
		return -1, maskedError("/proc", err)
	}
	procSys, err = cloneTree(unix.AT_FDCWD, "/proc/sys")
	if err != nil {
		return -1, mountError("clone /proc/sys", err)
	}
	return procSys, nil
}

// mountAll gives the sandbox its own view of files. A remark speaks of what
// had to be done in another way than usual.
func mountAll(etc map[string][]byte, hide []string) (remark string, err error) {
	nodes, err := cloneNodes()
	if err != nil {
		return "", err
	}
	steps := []struct {
		what string
		do   func() error
	}{
		{"make /proc read-only", procReadOnly},
		{"mount a fresh /sys", freshSys},
		{"restrict other mounts", restrictOthers},
		{"make /dev", nodes.mount},
		{"hide the host's resolvers", hideResolvers},
		{"hide directories", func() error { return hideDirs(hide) }},
		{"make /etc", func() (err error) { remark, err = mountEtc(etc); return err }},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			if e := (*Error)(nil); errors.As(err, &e) {
				return "", err
			}
			return "", mountError(step.what, err)
		}
	}
	return remark, nil
}

// procReadOnly covers everything in /proc that is not about processes: a guest
// with uid 0 owns those files, whatever its capabilities, and core_pattern
// among them would be a way out.
func procReadOnly() error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if name[0] >= '1' && name[0] <= '9' || e.Type()&os.ModeSymlink != 0 {
			continue // a process, or a link to one's own
		}
		info, err := e.Info()
		if err != nil {
			continue // gone
		}
		if info.IsDir() || info.Mode()&0o222 != 0 {
			if err := bindReadOnly("/proc/" + name); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

// freshSys mounts a /sys whose class/net is the sandbox's, and nothing else
// that was mounted below the host's but the control groups.
func freshSys() error {
	cgroup := -1
	var fs unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup", &fs) == nil && fs.Type != unix.SYSFS_MAGIC {
		fd, err := cloneTree(unix.AT_FDCWD, "/sys/fs/cgroup")
		if err != nil {
			return fmt.Errorf("clone cgroup: %w", err)
		}
		cgroup = fd
		if err := restrict(fd, flagsNoUse); err != nil {
			return fmt.Errorf("restrict cgroup: %w", err)
		}
	}
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("sysfs", "/sys", "sysfs", flags, ""); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil // a host without /sys
		}
		return maskedError("/sys", err)
	}
	if cgroup >= 0 {
		if err := attach(cgroup, "/sys/fs/cgroup"); err != nil {
			return fmt.Errorf("attach cgroup: %w", err)
		}
	}
	return nil
}

// kernelFilesystems are those in which a write reaches the kernel and not a
// file.
var kernelFilesystems = map[string]bool{
	"proc": true, "sysfs": true, "devtmpfs": true, "devpts": true, "debugfs": true,
	"tracefs": true, "securityfs": true, "configfs": true, "bpf": true,
	"binfmt_misc": true, "efivarfs": true, "pstore": true, "cgroup": true,
	"cgroup2": true, "selinuxfs": true, "smackfs": true, "resctrl": true,
}

// restrictOthers closes what a guest with uid 0 could reach through other
// mounts than /proc, /sys and /dev, such as those in a chroot on the host:
// no device node works anywhere, and kernel filesystems are read-only.
func restrictOthers() error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &attr); err != nil {
		return err
	}
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if !kernelFilesystems[m.fstype] || below(m.path, "/proc", "/sys", "/dev") {
			continue
		}
		if err := m.readOnly(); err != nil {
			return fmt.Errorf("%q: %w", m.path, err)
		}
	}
	return nil
}

// below says whether path is one of dirs or lies below it.
func below(path string, dirs ...string) bool {
	for _, dir := range dirs {
		if path == dir || strings.HasPrefix(path, dir+"/") {
			return true
		}
	}
	return false
}

// hideResolvers puts the sockets out of reach by which the C library would ask
// the host for names, past the sandbox.
func hideResolvers() error {
	done := map[string]bool{}
	for _, dir := range []string{"/run/nscd", "/var/run/nscd", "/var/cache/nscd", "/var/db/nscd", "/run/systemd/resolve"} {
		path, err := filepath.EvalSymlinks(dir)
		if err != nil || done[path] {
			continue
		}
		done[path] = true
		if err := cover(path); err != nil {
			return err
		}
	}
	return nil
}

// hideDirs covers the directories that the caller wants hidden. One that is not
// there cannot be hidden, and that is an error: it may appear later.
func hideDirs(dirs []string) error {
	for _, dir := range dirs {
		path, err := filepath.EvalSymlinks(dir)
		if err != nil {
			return err
		}
		if err := cover(path); err != nil {
			return err
		}
	}
	return nil
}

// cover mounts an empty, read-only directory over path.
func cover(path string) error {
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("tmpfs", path, "tmpfs", flags, "mode=755,size=4k"); err != nil {
		return fmt.Errorf("cover %s: %w", path, err)
	}
	return nil
}
