package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The test binary, called "restricted", puts restrictions on itself and becomes
// tcpbox:
//
//	restricted [RESTRICTION...] -- ARGUMENT...
//
// It needs root, and touches nothing but its own namespaces and process.

// userID is whom "as-user" makes of root.
const userID = 4242

// restrictions, by name. Each runs on a thread of its own mount and network
// namespace. What a name is given after "=" is its argument.
var restrictions = map[string]func(arg string) error{
	// The TUN device.
	"no-tun":     func(string) error { return cover("/dev/net") },
	"closed-tun": func(string) error { return makeTUN(0o600, 200) },
	"dead-tun":   func(string) error { return makeTUN(0o666, 251) }, // a number without a driver

	// File systems.
	"masked-proc": func(string) error { return cover("/proc/fs") },
	"masked-sys":  func(string) error { return cover("/sys/firmware") },
	"hidden-btf":  func(string) error { return cover("/sys/kernel/btf") },
	"mounts-in-etc": func(string) error {
		return unix.Mount("/dev/null", "/etc/hostname", "", unix.MS_BIND, "")
	},

	// The host's network.
	"no-ping":   func(string) error { return sysctl("net/ipv4/ping_group_range", "1 0") },
	"no-route6": func(string) error { return routeLost() },
	"ipv6-off": func(string) error {
		return errors.Join(sysctl("net/ipv6/conf/all/disable_ipv6", "1"), sysctl("net/ipv6/conf/default/disable_ipv6", "1"))
	},

	// Limits.
	"files": func(n string) error {
		limit, err := strconv.ParseUint(n, 10, 32)
		if err != nil {
			return err
		}
		// By way of syscall, so that exec does not put the old one back.
		return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: limit, Max: limit})
	},
	"max-user": func(n string) error { return sysctl("user/max_user_namespaces", n) },
	"max-net":  func(n string) error { return sysctl("user/max_net_namespaces", n) },

	"as-user": func(string) error {
		return errors.Join(syscall.Setgroups(nil), syscall.Setresgid(userID, userID, userID), syscall.Setresuid(userID, userID, userID))
	},
}

// Flags of clone(2) that make namespaces, as Docker's filter has them.
const anyNamespace = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// filters are restrictions by a filter on system calls: they imitate what a
// container, a security module or another kernel refuses.
var filters = map[string][]refusedCall{
	"refuse-userns": {
		{nr: unix.SYS_CLONE, mask: unix.CLONE_NEWUSER, errno: unix.EPERM},
		{nr: unix.SYS_UNSHARE, mask: unix.CLONE_NEWUSER, errno: unix.EPERM},
		{nr: unix.SYS_CLONE3, errno: unix.ENOSYS},
	},
	"refuse-namespaces": {
		{nr: unix.SYS_CLONE, mask: anyNamespace, errno: unix.EPERM},
		{nr: unix.SYS_UNSHARE, errno: unix.EPERM},
		{nr: unix.SYS_CLONE3, errno: unix.ENOSYS},
	},
	// AppArmor's restriction lets a user namespace be made, and then refuses what
	// its capabilities would be good for.
	"refuse-mount": {
		{nr: unix.SYS_MOUNT, errno: unix.EACCES},
		{nr: unix.SYS_OPEN_TREE, errno: unix.EACCES},
		{nr: unix.SYS_MOVE_MOUNT, errno: unix.EACCES},
		{nr: unix.SYS_FSOPEN, errno: unix.EACCES},
	},
	"old-kernel":  {{nr: unix.SYS_MOUNT_SETATTR, errno: unix.ENOSYS}},
	"no-seccomp":  {{nr: unix.SYS_SECCOMP, errno: unix.ENOSYS}},
	"no-landlock": {{nr: unix.SYS_LANDLOCK_CREATE_RULESET, errno: unix.EOPNOTSUPP}},
	"no-ipv6":     {{nr: unix.SYS_SOCKET, arg: 0, is: unix.AF_INET6, errno: unix.EAFNOSUPPORT}},
	"no-diag":     {{nr: unix.SYS_SOCKET, arg: 2, is: unix.NETLINK_SOCK_DIAG, errno: unix.EPROTONOSUPPORT}},
}

// restrictedMain is "restricted".
func restrictedMain() {
	runtime.LockOSThread()
	var names, args []string
	for i, a := range os.Args[1:] {
		if a == "--" {
			names, args = os.Args[1:i+1], os.Args[i+2:]
			break
		}
	}
	if err := restrict(names, args); err != nil {
		fmt.Fprintf(os.Stderr, "restricted: %v\n", err)
		os.Exit(99)
	}
}

// inUserNamespace says to restrictedMain that it is the one in the new user
// namespace, whose limits are its own.
const inUserNamespace = "in-user-namespace"

func restrict(names, args []string) error {
	if len(names) > 0 && names[0] == inUserNamespace {
		names = names[1:]
	} else {
		if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		if info, err := os.Stat("/dev/net/tun"); err != nil || info.Mode().Perm() != 0o666 {
			if err := makeTUN(0o666, 200); err != nil {
				return err
			}
		}
		for _, n := range names {
			if strings.HasPrefix(n, "max-") {
				return reborn(names, args)
			}
		}
	}
	if err := wellConnected(); err != nil {
		return err
	}
	var refused []refusedCall
	for _, n := range names {
		name, arg, _ := strings.Cut(n, "=")
		if calls, ok := filters[name]; ok {
			refused = append(refused, calls...)
			continue
		}
		f, ok := restrictions[name]
		if !ok {
			return fmt.Errorf("there is no restriction %q", n)
		}
		if err := f(arg); err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
	}
	if err := refuse(refused); err != nil {
		return err
	}
	// By this path, since a user may not be allowed to enter the directory.
	return syscall.Exec("/proc/self/exe", append([]string{"tcpbox"}, args...), os.Environ())
}

// reborn starts over in a user namespace.
func reborn(names, args []string) error {
	all := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1 << 16}}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append(append([]string{"restricted", inUserNamespace}, names...), append([]string{"--"}, args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWNET,
		UidMappings: all, GidMappings: all, GidMappingsEnableSetgroups: true,
	}
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	return err
}

// cover hides a directory behind an empty one.
func cover(dir string) error {
	return unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755")
}

func makeTUN(mode os.FileMode, minor uint32) error {
	if err := os.MkdirAll("/dev/net", 0o755); err != nil {
		return err
	}
	if err := cover("/dev/net"); err != nil {
		return err
	}
	if err := unix.Mknod("/dev/net/tun", unix.S_IFCHR, int(unix.Mkdev(10, minor))); err != nil {
		return err
	}
	return os.Chmod("/dev/net/tun", mode)
}

func sysctl(path, value string) error {
	return os.WriteFile(filepath.Join("/proc/sys", path), []byte(value), 0o644)
}

// wellConnected makes a host of this network namespace for which there is
// nothing to mend. Its way to everywhere leads back to itself.
func wellConnected() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	return errors.Join(sysctl("net/ipv4/ping_group_range", "0 65535"), netlink.RouteAdd(route6(lo)))
}

// routeLost takes the way to everywhere away.
func routeLost() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.RouteDel(route6(lo))
}

func route6(link netlink.Link) *netlink.Route {
	return &netlink.Route{
		LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_UNIVERSE,
		Dst: &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)},
	}
}

// refusedCall is a system call that fails: always, or if an argument has one
// of the bits in mask, or if it is equal to is.
type refusedCall struct {
	nr    uint32
	arg   uint32
	mask  uint32
	is    uint32
	errno syscall.Errno
}

// refuse puts a filter on the calling thread.
func refuse(calls []refusedCall) error {
	if len(calls) == 0 {
		return nil
	}
	const nr, args = 0, 16 // offsets in struct seccomp_data
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	var prog []unix.SockFilter
	for _, c := range calls {
		fail := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(c.errno)}
		var test []unix.SockFilter
		switch {
		case c.mask != 0:
			test = []unix.SockFilter{load(args + 8*c.arg), {Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: c.mask, Jf: 1}}
		case c.is != 0:
			test = []unix.SockFilter{load(args + 8*c.arg), {Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: c.is, Jf: 1}}
		}
		test = append(test, fail)
		prog = append(prog, load(nr), unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: c.nr, Jf: uint8(len(test))})
		prog = append(prog, test...)
	}
	prog = append(prog, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&fprog)))
	if errno != 0 {
		return errno
	}
	return nil
}
