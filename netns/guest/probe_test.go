package guest

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sort"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// probe is a spec whose guest is the test binary itself.
func probe(sp spec, bin string, args ...string) spec {
	sp.Args = append([]string{bin}, args...)
	sp.Env = append(sp.Env, partVar+"=probe")
	return sp
}

// probePart is a guest that does what a shell cannot.
func probePart(args []string) int {
	switch args[0] {
	case "fds": // the numbers of the open descriptors, the runtime's own left out
		for _, fd := range openFDs() {
			fmt.Println(fd)
		}
	case "calls": // the errors of forbidden system calls
		c := byte('x')
		_, _, e := unix.Syscall(unix.SYS_IOCTL, 0, unix.TIOCSTI, uintptr(unsafe.Pointer(&c)))
		fmt.Println("TIOCSTI", e)
		// The kernel looks at the lower half of the command only.
		_, _, e = unix.Syscall(unix.SYS_IOCTL, 0, unix.TIOCSTI|1<<40, uintptr(unsafe.Pointer(&c)))
		fmt.Println("TIOCSTI high", e)
		_, _, e = unix.Syscall(unix.SYS_IOCTL, 0, 0x541c, uintptr(unsafe.Pointer(&c)))
		fmt.Println("TIOCLINUX", e)
		_, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
		fmt.Println("AF_VSOCK", err)
		_, _, e = unix.Syscall(unix.SYS_IO_URING_SETUP, 1, 0, 0)
		fmt.Println("io_uring", e)
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		fmt.Println("AF_INET", fd > 2, err)
		_, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		fmt.Println("AF_PACKET", err)
		_, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
		fmt.Println("SOCK_RAW", err)
	case "signals": // names each signal as it comes; ends with USR2, or with its input
		ch := make(chan os.Signal, 64)
		for _, s := range forwarded {
			signal.Notify(ch, s)
		}
		fmt.Println("ready")
		for s := range ch {
			fmt.Println("got", int(s.(syscall.Signal)))
			if s == unix.SIGUSR2 {
				return 0
			}
		}
	case "open": // can it be opened for writing?
		for _, path := range args[1:] {
			fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
			fmt.Println(path, err)
			unix.Close(fd)
		}
	case "limit":
		// The runtime has raised it by now; it puts it back for a child.
		fmt.Println(syscallLimit())
	default:
		fmt.Println("unknown probe", args)
		return 1
	}
	return 0
}

// openFDs leaves out what the Go runtime and the listing itself open.
func openFDs() []int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	var fds []int
	for _, e := range entries {
		fd, _ := strconv.Atoi(e.Name())
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if errors.Is(err, unix.EBADF) || err == nil && flags&unix.FD_CLOEXEC != 0 {
			continue
		}
		fds = append(fds, fd)
	}
	sort.Ints(fds)
	return fds
}

func syscallLimit() uint64 {
	limit, err := callerFileLimit()
	if err != nil {
		panic(err)
	}
	return limit.Cur
}
