package netns

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// errands does what it is given in a network namespace, as enter does. It is the
// way in of those that have no thread there.
type errands func(...errand) (fds []int, errs []error, err error)

// one does an errand that gives a descriptor.
func (do errands) one(e errand, name string) (*os.File, error) {
	fds, errs, err := do(e)
	if err == nil {
		err = errs[0]
	}
	if err != nil {
		return nil, fmt.Errorf("netns: %s: %w", name, err)
	}
	return os.NewFile(uintptr(fds[0]), name), nil
}

// Socket implements NS.
func (do errands) Socket(domain, typ, proto int) (*os.File, error) {
	return do.one(socketErrand(domain, typ|unix.SOCK_NONBLOCK, proto), "socket")
}

// Sysctl implements NS.
func (do errands) Sysctl(name string) (string, error) {
	path, err := SysctlPath(name)
	if err != nil {
		return "", fmt.Errorf("netns: sysctl %q: %w", name, err)
	}
	e, err := openErrand("/proc/sys/"+path, unix.O_RDONLY)
	if err != nil {
		return "", fmt.Errorf("netns: sysctl %q: %w", name, err)
	}
	f, err := do.one(e, "sysctl "+name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSysctl))
	if err != nil {
		return "", fmt.Errorf("netns: sysctl %s: %w", name, err)
	}
	return strings.TrimRight(string(data), "\n"), nil
}

// SetSysctl implements NS.
func (do errands) SetSysctl(name, value string) error {
	e, err := sysctlErrand(name, value)
	if err != nil {
		return err
	}
	_, errs, err := do(e)
	if err == nil {
		err = errs[0]
	}
	if err != nil {
		return fmt.Errorf("netns: sysctl %s: set %q: %w", name, value, err)
	}
	return nil
}

// ProcNet implements NS.
func (do errands) ProcNet(name string) ([]byte, error) {
	if err := CheckProcNet(name); err != nil {
		return nil, err
	}
	e, err := openErrand("/proc/self/net/"+name, unix.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("netns: %w", err)
	}
	f, err := do.one(e, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}
