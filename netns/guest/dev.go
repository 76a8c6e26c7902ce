package guest

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// deviceNodes are all that a guest gets of the host's /dev.
var deviceNodes = []string{"null", "zero", "full", "random", "urandom", "tty"}

// nodes are detached read-only mounts of single device nodes, by the names
// they shall have in /dev. Writing to a device works all the same; what does
// not is changing the node, which is the host's.
type nodes map[string]int

// cloneNodes takes the nodes from the host's /dev.
func cloneNodes() (nodes, error) {
	n := nodes{}
	for _, name := range deviceNodes {
		if err := n.add(name, "/dev/"+name); err != nil {
			return nil, mountError("clone /dev/"+name, err)
		}
	}
	// The terminal is reached through /dev/console: ttyname(3) looks there
	// when the name behind the descriptor leads nowhere.
	if path := terminalPath(); path != "" {
		if err := n.add("console", path); err != nil {
			return nil, mountError("clone the terminal", err)
		}
	}
	return n, nil
}

func (n nodes) add(name, path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return nil // a host without it
	}
	fd, err := cloneTree(unix.AT_FDCWD, path)
	if err != nil {
		return err
	}
	n[name] = fd
	return restrict(fd, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
}

// terminalPath is the path of the terminal that the guest's standard descriptors
// are, or empty.
func terminalPath() string {
	for fd := range 3 {
		if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
			continue
		}
		var want unix.Stat_t
		if unix.Fstat(fd, &want) != nil {
			continue
		}
		// In a container the name may belong to a terminal of the host's.
		name, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		for _, path := range []string{name, "/dev/console"} {
			var st unix.Stat_t
			if strings.HasPrefix(path, "/dev/") && unix.Stat(path, &st) == nil &&
				st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == want.Rdev && st.Dev == want.Dev && st.Ino == want.Ino {
				return path
			}
		}
	}
	return ""
}

// mount makes a /dev of the nodes, with terminals and shared memory of its
// own.
func (n nodes) mount() error {
	if err := unix.Mount("tmpfs", "/dev", "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=755,size=64k"); err != nil {
		return err
	}
	for name, fd := range n {
		path := "/dev/" + name
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			return err
		}
		if err := attach(fd, path); err != nil {
			return fmt.Errorf("attach %s: %w", name, err)
		}
	}
	for _, link := range [][2]string{
		{"/proc/self/fd", "/dev/fd"},
		{"/proc/self/fd/0", "/dev/stdin"},
		{"/proc/self/fd/1", "/dev/stdout"},
		{"/proc/self/fd/2", "/dev/stderr"},
		{"pts/ptmx", "/dev/ptmx"},
	} {
		if err := os.Symlink(link[0], link[1]); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/dev/pts", "/dev/shm"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("devpts", "/dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"); err != nil {
		return fmt.Errorf("devpts: %w", err)
	}
	if err := unix.Mount("tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"); err != nil {
		return fmt.Errorf("shm: %w", err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	return unix.MountSetattr(unix.AT_FDCWD, "/dev", 0, &attr)
}
