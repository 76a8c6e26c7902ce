package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// mountEtc lays the given files over /etc, and makes it read-only. It is a
// read-only overlay of two layers, and not a mount on each file: such a mount
// vanishes when the host renames a new file over the one beneath, as it does
// with resolv.conf.
//
// Where overlayfs refuses (an /etc with mounts of its own in a user namespace,
// the deepest permitted stack of overlays, a kernel without it), the same view
// is made of mounts in a tmpfs. Entries that the host adds to or renames in
// /etc later do not show there; the remark says that it came to this.
func mountEtc(files map[string][]byte) (remark string, err error) {
	if len(files) == 0 {
		return "", nil
	}
	old, err := unix.Open("/etc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(old)
	mounts, err := cloneEtcMounts(files)
	if err != nil {
		return "", err
	}
	defer func() {
		for _, m := range mounts {
			unix.Close(m.fd)
		}
	}()
	if err := unix.Mount("tmpfs", "/etc", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return "", fmt.Errorf("mount the upper layer: %w", err)
	}
	for name, data := range files {
		path := "/etc/" + name
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return "", err
		}
		if err := os.Chmod(path, 0o644); err != nil { // whatever the umask
			return "", err
		}
	}
	if err := overlayEtc(old, mounts); err != nil {
		remark = "overlayfs refused to cover /etc, its entries were bound one by one: " + err.Error()
		if err := bindEtc(old, files); err != nil {
			return "", err
		}
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	return remark, unix.MountSetattr(unix.AT_FDCWD, "/etc", unix.AT_RECURSIVE, &attr)
}

// etcMount is something that the host has mounted below /etc, such as a
// container's hostname. An overlay would not show it.
type etcMount struct {
	path string
	fd   int
}

func cloneEtcMounts(files map[string][]byte) ([]etcMount, error) {
	all, err := readMounts()
	if err != nil {
		return nil, err
	}
	var mounts []etcMount
	done := map[string]bool{}
	for _, m := range all {
		name, ok := strings.CutPrefix(m.path, "/etc/")
		if !ok || done[m.path] || coveredBy(done, m.path) {
			continue
		}
		if _, ours := files[strings.SplitN(name, "/", 2)[0]]; ours {
			continue
		}
		fd, err := cloneTree(unix.AT_FDCWD, m.path)
		if err != nil {
			continue // covered, or out of the guest's reach as well
		}
		done[m.path] = true
		mounts = append(mounts, etcMount{m.path, fd})
	}
	return mounts, nil
}

// coveredBy says whether a clone of a directory above path is there already.
func coveredBy(done map[string]bool, path string) bool {
	for dir := filepath.Dir(path); dir != "/"; dir = filepath.Dir(dir) {
		if done[dir] {
			return true
		}
	}
	return false
}

// overlayEtc mounts the overlay of what lies on /etc now and of the directory
// behind the descriptor.
func overlayEtc(old int, mounts []etcMount) error {
	layers := fmt.Sprintf("lowerdir=/etc:/proc/self/fd/%d", old)
	if err := unix.Mount("overlay", "/etc", "overlay", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, layers); err != nil {
		return err
	}
	for i := range mounts {
		if err := attach(mounts[i].fd, mounts[i].path); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%s: %w", mounts[i].path, err)
		}
		mounts[i].fd = -1
	}
	return nil
}

// bindEtc fills the tmpfs on /etc with everything else that the host's has.
func bindEtc(old int, files map[string][]byte) error {
	dir := fmt.Sprintf("/proc/self/fd/%d/", old)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, ours := files[e.Name()]; ours {
			continue
		}
		path := "/etc/" + e.Name()
		switch t := e.Type(); {
		case t&os.ModeSymlink != 0:
			target, err := os.Readlink(dir + e.Name())
			if err != nil {
				continue // gone
			}
			if err := os.Symlink(target, path); err != nil {
				return err
			}
			continue
		case t.IsDir():
			if err := os.Mkdir(path, 0o755); err != nil {
				return err
			}
		case t.IsRegular():
			if err := os.WriteFile(path, nil, 0o644); err != nil {
				return err
			}
		default:
			continue
		}
		fd, err := cloneTree(old, e.Name())
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err == nil {
			err = attach(fd, path)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}
