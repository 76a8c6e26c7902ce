package netns

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Sysctl is one kernel parameter and the value it shall have.
type Sysctl struct {
	// Name is dotted, as sysctl(8) prints it: "net.ipv4.tcp_fin_timeout". An
	// interface whose name has a dot is written with a slash there:
	// "net.ipv4.conf.eth0/1.forwarding".
	Name  string
	Value string
}

// errSysctlName is what every name gets that no sysctl of a network namespace
// can have.
var errSysctlName = errors.New("not the name of a network sysctl")

// SysctlPath turns a dotted name into its path below /proc/sys. It refuses
// whatever does not begin with "net.", for those are the parameters that a
// network namespace has to itself.
func SysctlPath(name string) (string, error) {
	path := strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, name)
	parts := strings.Split(path, "/")
	if len(parts) < 2 || parts[0] != "net" || strings.ContainsRune(path, 0) {
		return "", errSysctlName
	}
	for _, part := range parts {
		if part == "" || part == "." || part == ".." {
			return "", errSysctlName
		}
	}
	return path, nil
}

// maxSysctl bounds what is read of one sysctl, in bytes.
const maxSysctl = 64 << 10

// ReadSysctl reads a sysctl below the open directory dir, which is /proc/sys
// or a clone of it. Which namespace it speaks of is decided by the calling
// process, not by dir. The value has no line end.
func ReadSysctl(dir int, name string) (string, error) {
	path, err := SysctlPath(name)
	if err != nil {
		return "", fmt.Errorf("netns: sysctl %q: %w", name, err)
	}
	fd, err := unix.Openat(dir, path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("netns: sysctl %s: %w", name, err)
	}
	defer unix.Close(fd)
	var value []byte
	buf := make([]byte, 4096)
	for len(value) < maxSysctl {
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("netns: sysctl %s: %w", name, err)
		}
		if n == 0 {
			break
		}
		value = append(value, buf[:n]...)
	}
	return string(bytes.TrimRight(value, "\n")), nil
}

// WriteSysctl writes a sysctl below the open directory dir. An empty value
// empties a list.
func WriteSysctl(dir int, name, value string) error {
	path, err := SysctlPath(name)
	if err != nil {
		return fmt.Errorf("netns: sysctl %q: %w", name, err)
	}
	fd, err := unix.Openat(dir, path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("netns: sysctl %s: %w", name, err)
	}
	defer unix.Close(fd)
	// Without a byte the kernel would take nothing as written.
	if _, err := unix.Write(fd, []byte(value+"\n")); err != nil {
		return fmt.Errorf("netns: sysctl %s: write %q: %w", name, value, err)
	}
	return nil
}
