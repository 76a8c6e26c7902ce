package doctor

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"tcpbox"
)

// fewFiles is the number of descriptors below which a busy guest may meet the
// limit. Each connection to the outside takes one.
const fewFiles = 4096

// explain says what the facts mean. What really happened has the last word:
// nothing is "cannot" where a sandbox could be started.
func explain(f facts) Report {
	r := Report{Version: 1, Kernel: f.release, UID: f.uid, Run: Verdict{Works: f.run == nil}}
	if f.run != nil {
		r.Run.Error = strings.TrimPrefix(f.run.Error(), "guest: ")
		if launch := (*tcpbox.LaunchError)(nil); errors.As(f.run, &launch) {
			r.Run.Hint = launch.Hint
		}
	}
	for _, check := range []func(*facts) Check{
		kernel, namespaces, freshProc, freshSys, tunDevice, seccomp, overlay,
		descriptors, sockDiag, ping, ipv6, landlock, btf, kernelTrace, reuseDelay,
	} {
		c := check(&f)
		if c.State == Cannot && r.Run.Works {
			c.State = Warning
		}
		r.Checks = append(r.Checks, c)
	}
	return r
}

const noSandbox = "no sandbox can be made"

func kernel(f *facts) Check {
	c := Check{ID: "kernel", Name: "kernel", State: OK, Found: "Linux " + f.release}
	if f.setattr != nil {
		c.State, c.Cost, c.Mend = Cannot, noSandbox, "install Linux 5.12 or newer"
		c.Found += " is older than 5.12, or a filter hides mount_setattr"
	}
	return c
}

// namespaces speaks of all that a sandbox has, and of the one that its guest
// gets inside.
func namespaces(f *facts) Check {
	c := Check{ID: "namespaces", Name: "namespaces", State: OK, Found: "can be made"}
	err, kind := f.spaces.err, f.spaces.kind
	inner, tried := f.probe[stepInner]
	rights := f.probe[stepPrivate]
	where := ""
	switch {
	case is(err, unix.EMFILE, unix.ENFILE):
		return untried(c) // open files are a check of their own
	case err != nil:
	case inner != nil:
		err, kind, where = inner, "user", " in a sandbox"
	case rights == nil && tried:
		return c
	case rights == nil:
		return untried(c)
	}
	switch {
	case err == nil:
		c.Found = fmt.Sprintf("can be made, but give no right to mount: %v", rights)
		err = rights
	case is(err, unix.ENOSPC):
		c.Found = fmt.Sprintf("the limit on %snamespaces is reached", kindName(kind))
		if limit := f.sysctls[limitPath(kind)]; limit != "" && where == "" {
			c.Found += ": it is " + limit
		}
	default:
		c.Found = fmt.Sprintf("%snamespaces cannot be made%s: %v", kindName(kind), where, err)
	}
	c.State, c.Cost, c.Mend = Cannot, noSandbox, f.mendNamespaces(err, kind)
	return c
}

// kindName is a kind of namespaces in a sentence.
func kindName(kind string) string {
	switch kind {
	case "":
		return ""
	case "mnt":
		return "mount "
	case "net":
		return "network "
	}
	return kind + " "
}

func (f *facts) mendNamespaces(err error, kind string) string {
	const unconfined = "docker run --security-opt seccomp=unconfined …"
	switch {
	case is(err, unix.ENOSPC):
		return "sudo sysctl -w " + strings.ReplaceAll(limitPath(kind), "/", ".") + "=10000"
	case is(err, unix.EAGAIN):
		return `ulimit -u "$(ulimit -Hu)"`
	case is(err, unix.EINVAL, unix.ENOSYS):
		return "use a kernel with all of the user, mount, net, pid, ipc and uts namespaces"
	case f.sysctls[appArmorRestricts] == "1" && !f.privileged:
		return "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
	case f.sysctls[unprivilegedClone] == "0" && !f.privileged:
		return "sudo sysctl -w kernel.unprivileged_userns_clone=1"
	case f.filtered || f.container:
		return "in a container: " + unconfined
	}
	return "run as root, and not in a chroot"
}

// untried is c where what it takes to try could not be had.
func untried(c Check) Check {
	c.State, c.Found = Untried, "needs what cannot be had here"
	return c
}

func freshProc(f *facts) Check {
	return f.fresh(Check{ID: "proc", Name: "a fresh /proc"}, "/proc", stepProc)
}

func freshSys(f *facts) Check {
	return f.fresh(Check{ID: "sys", Name: "a fresh /sys"}, "/sys", stepSys)
}

// fresh speaks of a file system that the kernel lets be mounted in a user
// namespace only where the one outside is fully visible (mount_namespaces(7)).
func (f *facts) fresh(c Check, path string, s step) Check {
	err, tried := f.probe[s]
	if !tried {
		return untried(c)
	}
	c.State, c.Found = OK, "can be mounted"
	if err == nil {
		return c
	}
	c.State, c.Cost = Cannot, noSandbox
	c.Found = fmt.Sprintf("cannot be mounted: %v", err)
	if is(err, unix.EPERM, unix.EACCES) {
		c.Found = "parts of the host's " + path + " are covered, as in a container"
		c.Mend = "docker run --security-opt systempaths=unconfined … (podman: unmask=ALL)"
	}
	return c
}

func tunDevice(f *facts) Check {
	c := Check{ID: "tun", Name: "/dev/net/tun", State: OK, Found: "makes devices"}
	err := f.tun
	inside, tried := f.probe[stepTUN]
	if err == nil && inside != nil {
		err = inside
	}
	switch {
	case err == nil && !tried:
		c.Found = "can be opened"
		return c
	case err == nil:
		return c
	case is(err, unix.ENOENT):
		c.Found = "does not exist"
		c.Mend = "sudo modprobe tun"
		if f.container {
			c.Mend = "docker run --device /dev/net/tun …"
		}
	case is(err, unix.EACCES):
		c.Found = "you may not open it"
		c.Mend = "sudo chmod 0666 /dev/net/tun"
	case is(err, unix.EPERM):
		c.Found = "devices are refused here, as in a container"
		c.Mend = "docker run --device /dev/net/tun …"
	case is(err, unix.ENOTTY):
		c.Found = "is something else than the tun device"
		c.Mend = "sudo rm /dev/net/tun && sudo mknod -m 0666 /dev/net/tun c 10 200"
	case is(err, unix.ENODEV, unix.ENXIO):
		c.Found = "there is no driver behind it"
		c.Mend = "sudo modprobe tun"
	case is(err, unix.EMFILE, unix.ENFILE):
		return untried(c)
	default:
		c.Found = err.Error()
	}
	c.State, c.Cost = Cannot, noSandbox
	return c
}

func seccomp(f *facts) Check {
	c := Check{ID: "seccomp", Name: "seccomp", State: OK, Found: "takes filters"}
	err, tried := f.probe[stepSeccomp]
	switch {
	case !tried:
		return untried(c)
	case err != nil:
		c.State, c.Cost = Cannot, "no guest can be started: it would have system calls that lead out of its sandbox"
		c.Found = fmt.Sprintf("takes no filter: %v", err)
		c.Mend = "use a kernel with CONFIG_SECCOMP_FILTER"
	}
	return c
}

func overlay(f *facts) Check {
	c := Check{ID: "overlay", Name: "overlay on /etc", State: OK, Found: "can be mounted"}
	err, tried := f.probe[stepOverlay]
	switch {
	case !tried:
		return untried(c)
	case is(err, unix.ENODEV):
		c.Found, c.Mend = "the kernel has no overlayfs", "sudo modprobe overlay"
	case err != nil:
		c.Found = fmt.Sprintf("refused: %v", err)
	default:
		return c
	}
	c.State = Warning
	c.Cost = "files that the host adds to /etc, or renames there, do not show in a running sandbox"
	return c
}

func descriptors(f *facts) Check {
	c := Check{ID: "descriptors", Name: "open files", State: OK, Found: fmt.Sprintf("up to %d", f.files)}
	if f.files >= fewFiles {
		return c
	}
	c.State = Warning
	c.Cost = fmt.Sprintf("a guest has fewer than %d connections to the outside at a time", f.files)
	if is(f.run, unix.EMFILE) {
		c.State, c.Cost = Cannot, noSandbox
	}
	c.Mend = "sudo prlimit --nofile=65536 --pid $$"
	return c
}

func sockDiag(f *facts) Check {
	c := Check{ID: "sock-diag", Name: "sock_diag", State: OK, Found: "shows and ends TCP sockets"}
	dump, tried := f.probe[stepDiag]
	destroy := f.probe[stepDestroy]
	switch {
	case !tried:
		return untried(c)
	case dump != nil:
		c.Found = fmt.Sprintf("shows no TCP sockets: %v", dump)
		c.Cost = "what the guest's kernel knows of its sockets cannot be seen"
		c.Mend = "sudo modprobe -a inet_diag tcp_diag"
	case destroy != nil:
		c.Found = fmt.Sprintf("shows TCP sockets, but does not end them: %v", destroy)
		c.Cost = "a socket of the guest cannot be ended from outside"
		c.Mend = "use a kernel with CONFIG_INET_DIAG_DESTROY"
	default:
		return c
	}
	c.State = Warning
	return c
}

func ping(f *facts) Check {
	c := Check{ID: "ping", Name: "ping", State: OK, Found: "the host gives you ping sockets"}
	if f.ping == nil {
		return c
	}
	c.State = Warning
	c.Found = fmt.Sprintf("the host gives you no ping socket: %v", f.ping)
	if have := f.sysctls[pingRange]; have != "" {
		c.Found = fmt.Sprintf("net.ipv4.ping_group_range is %q", have)
	}
	c.Cost = "a guest can ping the hosts in its stack, and nothing outside"
	c.Mend = `sudo sysctl -w net.ipv4.ping_group_range="0 2147483647"`
	return c
}

func ipv6(f *facts) Check {
	c := Check{ID: "ipv6", Name: "IPv6", State: OK, Found: "the host has a default route"}
	c.Cost = "a guest has IPv6 in its sandbox, but not to the outside"
	switch {
	case f.ipv6 != nil:
		c.Found = fmt.Sprintf("the kernel has none: %v", f.ipv6)
		c.Cost = "a guest has no IPv6"
	case f.sysctls[ipv6Off] == "1":
		c.Found = "switched off on the host"
		c.Mend = "sudo sysctl -w net.ipv6.conf.all.disable_ipv6=0"
	case is(f.route6, unix.ENETUNREACH, unix.EADDRNOTAVAIL, unix.EHOSTUNREACH):
		c.Found = "the host has no default route"
	case f.route6 != nil:
		c.Found = fmt.Sprintf("the host has no usable default route: %v", f.route6)
	default:
		c.Cost = ""
		return c
	}
	c.State = Warning
	return c
}

func landlock(f *facts) Check {
	c := Check{ID: "landlock", Name: "Landlock", State: OK, Found: fmt.Sprintf("version %d", f.abi)}
	if f.landlock == nil {
		return c
	}
	c.State = Warning
	c.Found = fmt.Sprintf("not there: %v", f.landlock)
	if is(f.landlock, syscall.EOPNOTSUPP) {
		c.Found = "switched off"
		c.Mend = "add landlock to lsm= on the kernel's command line"
	}
	c.Cost = "nothing today: no command of this version uses it"
	return c
}

func btf(f *facts) Check {
	c := Check{ID: "btf", Name: "BTF", State: OK, Found: "/sys/kernel/btf/vmlinux"}
	if f.btf == nil {
		return c
	}
	c.State = Warning
	c.Found = fmt.Sprintf("/sys/kernel/btf/vmlinux: %v", f.btf)
	c.Cost = "there is no kernel's trace, for root neither"
	c.Mend = "use a kernel with CONFIG_DEBUG_INFO_BTF, and show its /sys"
	return c
}

// kernelTrace speaks of the raw tracepoint inet_sock_set_state, which tells the
// guest's leg of the log.
func kernelTrace(f *facts) Check {
	c := Check{ID: "kernel-trace", Name: "the kernel's trace", State: OK, Found: "tells of the guest's sockets"}
	if f.traced {
		return c
	}
	if f.why == "" || f.btf != nil { // that is a check of its own
		return untried(c)
	}
	c.State = Warning
	c.Found = "not to be had: " + strings.TrimPrefix(f.why, "sockwatch: the kernel's trace: ")
	c.Cost = "the guest's states in the log are from segments and looks: some are told late, a short one may be missing"
	c.Mend = "run tcpbox as root, or with CAP_BPF and CAP_PERFMON"
	if f.uid == 0 {
		c.Mend = "in a container: docker run --cap-add BPF --cap-add PERFMON …"
	}
	return c
}

func reuseDelay(f *facts) Check {
	c := Check{ID: "tw-reuse-delay", Name: "tcp_tw_reuse_delay", State: OK, Found: "can be set"}
	err, tried := f.probe[stepReuse]
	switch {
	case !tried:
		return untried(c)
	case err != nil:
		c.State, c.Found = Warning, "the kernel does not have it; it came with Linux 6.14"
		c.Cost = "the kernel's TIME-WAIT is reused after a second, neither sooner nor later"
		c.Mend = "install Linux 6.14 or newer"
	}
	return c
}
