package guest

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"tcpbox/netns"
)

// maxHostname is __NEW_UTS_LEN (linux/utsname.h), in bytes.
const maxHostname = 64

// maxKeptFD bounds KeepFDs, so that there is room above them.
const maxKeptFD = 1 << 16

// check reports everything that is wrong with the configuration, as far as
// the kernel need not be asked.
func (c Config) check(privileged bool, uid, gid int) error {
	var errs []error
	bad := func(hint, format string, args ...any) {
		errs = append(errs, &Error{Op: OpConfiguration, Err: fmt.Errorf(format, args...), Hint: hint})
	}
	if len(c.Args) == 0 || c.Args[0] == "" {
		bad("", "no program to run")
	}
	for _, s := range c.Args {
		if strings.ContainsRune(s, 0) {
			bad("", "argument %q holds a zero byte", s)
		}
	}
	for _, s := range c.Env {
		if strings.ContainsRune(s, 0) {
			bad("", "environment variable %q holds a zero byte", s)
		}
	}
	if c.Dir != "" && !filepath.IsAbs(c.Dir) {
		bad("", "working directory %q is not an absolute path", c.Dir)
	}
	if strings.ContainsRune(c.Dir, 0) {
		bad("", "working directory %q holds a zero byte", c.Dir)
	}
	for _, dir := range c.Hide {
		if !filepath.IsAbs(dir) {
			bad("", "directory %q to hide is not an absolute path", dir)
		}
	}
	if len(c.Hostname) > maxHostname {
		bad("", "hostname %q is longer than %d bytes", c.Hostname, maxHostname)
	}
	if u := c.User; u != nil {
		switch {
		case c.Root:
			bad("leave out one of them", "the guest cannot be both root and user %d", u.UID)
		case u.UID < 0 || u.GID < 0 || u.UID >= 1<<32-1 || u.GID >= 1<<32-1:
			bad("", "user %d:%d does not exist", u.UID, u.GID)
		case !privileged && (u.UID != uid || u.GID != gid):
			bad(fmt.Sprintf("only root can run a guest as somebody else; leave the user out to run it as %d:%d", uid, gid),
				"user %d:%d is not the caller", u.UID, u.GID)
		}
	}
	if err := c.Link.Check(); err != nil {
		bad("", "%w", err)
	}
	for _, s := range slices.Concat(c.Defaults, c.Sysctls) {
		if _, err := netns.SysctlPath(s.Name); err != nil {
			bad("only parameters that begin with net. belong to a sandbox", "sysctl %q: %w", s.Name, err)
		}
	}
	for name := range c.Etc {
		if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
			bad("", "%q is not the name of a file in /etc", name)
		}
	}
	seen := map[int]bool{}
	for _, fd := range c.KeepFDs {
		switch flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); {
		case fd < 3:
			bad("0, 1 and 2 are always kept", "descriptor %d cannot be kept", fd)
		case fd > maxKeptFD:
			bad("", "descriptor %d is above %d", fd, maxKeptFD)
		case seen[fd]:
			bad("", "descriptor %d is to be kept twice", fd)
		case err != nil || flags&unix.FD_CLOEXEC != 0:
			bad(fmt.Sprintf("open it for the caller, as in: %d<file", fd), "descriptor %d was not inherited: %w", fd, unix.EBADF)
		}
		seen[fd] = true
	}
	return errors.Join(errs...)
}
