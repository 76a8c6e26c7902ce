package doctor

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox"
	"tcpbox/policy"
)

// facts is what was found. An errno of 0 means that it worked.
type facts struct {
	uid        int
	privileged bool // root with the rights to do without an outer user namespace
	release    string

	// On the host.
	setattr   error // mount_setattr, the newest call that a sandbox needs
	tun       error // open(/dev/net/tun)
	ping      error // a ping socket
	ipv6      error // an IPv6 socket
	route6    error // the way to a global IPv6 address
	landlock  error
	abi       int // Landlock's
	btf       error
	files     uint64 // how many descriptors this process may have
	filtered  bool   // a seccomp filter is on this process
	container bool
	sysctls   map[string]string // by path below /proc/sys; absent ones are missing

	spaces spaces
	probe  map[step]error // what was tried in the namespaces; empty if there are none

	run    error
	traced bool   // the kernel's trace of its sockets was there, in a sandbox
	why    string // it was not; empty if no sandbox was made
}

// spaces is what came of making the namespaces of a sandbox.
type spaces struct {
	err  error
	kind string // which kind was the first to fail, such as "net"; empty if only all together do
}

// The sysctls that explain something.
const (
	unprivilegedClone = "kernel/unprivileged_userns_clone"             // Debian's
	appArmorRestricts = "kernel/apparmor_restrict_unprivileged_userns" // Ubuntu's, since 23.10
	pingRange         = "net/ipv4/ping_group_range"                    // icmp(7)
	ipv6Off           = "net/ipv6/conf/all/disable_ipv6"               // ip-sysctl.rst
)

// limitPath is the sysctl that limits a kind of namespaces (namespaces(7)).
func limitPath(kind string) string {
	if kind == "" {
		kind = "user"
	}
	return "user/max_" + kind + "_namespaces"
}

// rootCaps are what a caller needs to make a sandbox without an outer user
// namespace.
const rootCaps = 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_SETUID |
	1<<unix.CAP_SETGID | 1<<unix.CAP_SETFCAP

// gather finds everything but whether a sandbox starts.
func gather(ctx context.Context, o Options) facts {
	f := facts{uid: os.Geteuid(), sysctls: make(map[string]string)}
	f.privileged = f.uid == 0 && capable(rootCaps)
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		f.release = unix.ByteSliceToString(name.Release[:])
	}
	f.setattr = trySetattr()
	f.tun = tryOpen("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK)
	f.ping = trySocket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP)
	f.ipv6 = trySocket(unix.AF_INET6, unix.SOCK_DGRAM, 0)
	f.route6 = tryRoute(netip.MustParseAddr("2001:db8::1")) // RFC 3849; nothing is sent
	f.abi, f.landlock = tryLandlock()
	f.btf = tryOpen("/sys/kernel/btf/vmlinux", unix.O_RDONLY)
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		f.files = limit.Cur // the Go runtime has raised it as far as it can
	}
	f.filtered = isFiltered()
	f.container = inContainer()
	paths := []string{unprivilegedClone, appArmorRestricts, pingRange, ipv6Off}
	for _, k := range kinds {
		paths = append(paths, limitPath(k.name))
	}
	for _, path := range paths {
		if text, err := os.ReadFile("/proc/sys/" + path); err == nil {
			f.sysctls[path] = strings.Join(strings.Fields(string(text)), " ")
		}
	}
	f.spaces, f.probe = tryNamespaces(ctx, o, f.privileged)
	return f
}

// A namespace counts against its limit until the kernel has freed it, which is a
// moment after its last process. So a limit that the probes have just kept, and a
// sandbox then meets, is met by what the probes have left.
const (
	freeingTries = 40
	freeingPause = 50 * time.Millisecond
)

// tryRunAfter is tryRun behind probes that have made the same namespaces.
func tryRunAfter(ctx context.Context, f *facts) (err error) {
	for range freeingTries {
		if err = tryRun(ctx, f); f.spaces.err != nil || !errors.Is(err, unix.ENOSPC) {
			return err
		}
		time.Sleep(freeingPause)
	}
	return err
}

// tryRun starts a sandbox as tcpbox run does. A machine without a program
// called true has shown by looking for it in a sandbox that it can make one.
func tryRun(ctx context.Context, f *facts) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	box, err := tcpbox.Start(ctx, tcpbox.Config{
		Name: "doctor", Args: []string{"true"}, Dir: "/",
		Policy: policy.Policy{Net: policy.NetPublic},
	})
	if err == nil {
		leg := box.Inspect().GuestLeg
		f.traced, f.why = leg.Traced, leg.Why
		_, err = box.Wait()
	}
	if exec := (*tcpbox.ExecError)(nil); errors.As(err, &exec) {
		return nil
	}
	return err
}

func capable(caps uint64) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&header, &data[0]) != nil {
		return false
	}
	have := uint64(data[0].Effective) | uint64(data[1].Effective)<<32
	return have&caps == caps
}

func tryOpen(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func trySocket(domain, typ, proto int) error {
	fd, err := unix.Socket(domain, typ|unix.SOCK_CLOEXEC, proto)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// tryRoute connects a UDP socket, which looks the route up and sends nothing.
func tryRoute(to netip.Addr) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrInet6{Port: 9, Addr: to.As16()})
}

// trySetattr asks for a change of no mount at all: EBADF says that the call is
// there.
func trySetattr() error {
	err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	if errors.Is(err, unix.ENOSYS) {
		return err
	}
	return nil
}

// tryLandlock asks for Landlock's version (landlock_create_ruleset(2)).
func tryLandlock() (abi int, err error) {
	v, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0, errno
	}
	return int(v), nil
}

func isFiltered() bool {
	text, err := os.ReadFile("/proc/self/status")
	return err == nil && bytes.Contains(text, []byte("\nSeccomp:\t2"))
}

// inContainer knows the marks that Docker and podman leave.
func inContainer() bool {
	for _, path := range []string{"/.dockerenv", "/run/.containerenv"} {
		if _, err := os.Lstat(path); err == nil {
			return true
		}
	}
	return false
}

// is compares the errno in err.
func is(err error, errnos ...syscall.Errno) bool {
	for _, e := range errnos {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
