package netns

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"tcpbox/tun"
)

// A process with threads cannot enter a user namespace, and a Go program has
// threads. So errands into a namespace are done by a child that is a copy of
// this process with a single thread: it enters, does what it was told, sends
// back what it has opened, and ends.
//
//	caller                              child
//	  fork ─────────────────────────────▶ is out of the reach of debuggers
//	  waits                               enters the network namespace; if that is
//	                                      not allowed, first the user namespace
//	                                      that owns it
//	                                      opens, writes, makes sockets
//	  ◀──────── one message: results, descriptors ──┘
//	  reaps it
//
// The child never enters a mount namespace: paths are this process's own. It
// has no working Go runtime: it makes raw system calls only, allocates nothing,
// does not grow its stack, and writes no pointer. All that it needs is laid out
// before.
type crossing struct {
	netFD, userFD int32 // userFD is -1 if there is none to enter
	sock          int32 // the child's end
	errands       []errand

	// Scratch memory of the fork and of the child.
	mask, all uint64
	size      int32
	results   [maxErrands + 1]result // the first is of entering
	rights    struct {
		header unix.Cmsghdr
		fds    [maxErrands]int32
	}
	iov unix.Iovec
	msg unix.Msghdr
}

// maxErrands bounds what one child does.
const maxErrands = 32

// What an errand is.
const (
	errandOpen   int32 = iota + 1 // open path with flags; gives a descriptor
	errandWrite                   // write data to path
	errandTUN                     // make the device that ifr names; gives a descriptor
	errandSocket                  // socket(2); gives a descriptor
)

// An errand is one thing to be done inside.
type errand struct {
	kind int32
	path *byte
	args [3]uintptr // flags of an open; domain, type, protocol of a socket
	data []byte     // to be written; one byte at least
	ifr  [unix.IFNAMSIZ + 24]byte
}

// result is how an errand went: at which step it failed, and why.
type result struct{ step, errno int32 }

// Steps of entering, and of an errand.
const (
	stepHide int32 = iota + 1
	stepUser
	stepNet
	stepOpen
	stepWrite
	stepSocket
	stepAttach
	stepHeader
	stepOffloads
)

func stepName(step int32) string {
	switch step {
	case stepHide:
		return "PR_SET_DUMPABLE"
	case stepUser:
		return "enter the user namespace that owns it"
	case stepNet:
		return "enter the network namespace"
	case stepOpen:
		return "open"
	case stepWrite:
		return "write"
	case stepSocket:
		return "socket"
	case stepAttach:
		return "TUNSETIFF"
	case stepHeader:
		return "TUNSETVNETHDRSZ"
	case stepOffloads:
		return "TUNSETOFFLOAD"
	}
	return fmt.Sprintf("step %d", step)
}

func openErrand(path string, flags int) (errand, error) {
	p, err := unix.BytePtrFromString(path)
	return errand{kind: errandOpen, path: p, args: [3]uintptr{uintptr(flags | unix.O_CLOEXEC)}}, err
}

func writeErrand(path, data string) (errand, error) {
	p, err := unix.BytePtrFromString(path)
	if err == nil && data == "" {
		err = unix.EINVAL
	}
	return errand{kind: errandWrite, path: p, data: []byte(data)}, err
}

func socketErrand(domain, typ, proto int) errand {
	return errand{kind: errandSocket, args: [3]uintptr{uintptr(domain), uintptr(typ | unix.SOCK_CLOEXEC), uintptr(proto)}}
}

// tunErrand makes a device as tun.Open does, one that lasts as long as its
// descriptor.
func tunErrand(name string) (errand, error) {
	p, err := unix.BytePtrFromString(tun.Path)
	e := errand{kind: errandTUN, path: p}
	if len(name) >= unix.IFNAMSIZ {
		return e, unix.EINVAL
	}
	copy(e.ifr[:], name)
	native.PutUint16(e.ifr[unix.IFNAMSIZ:], tun.Flags)
	return e, err
}

// gives reports whether the errand gives a descriptor.
func (e *errand) gives() bool { return e.kind != errandWrite }

// enterError says at which step a child did not get into the namespace.
type enterError struct {
	step  int32
	errno syscall.Errno
}

func (e *enterError) Error() string { return stepName(e.step) + ": " + e.errno.Error() }

func (e *enterError) Unwrap() error { return e.errno }

// errandError says at which step an errand failed.
type errandError struct {
	step  int32
	errno syscall.Errno
}

func (e *errandError) Error() string { return stepName(e.step) + ": " + e.errno.Error() }

func (e *errandError) Unwrap() error { return e.errno }

// enter does errands in a network namespace. userFD is the user namespace that
// owns it, or -1. For each errand it returns a descriptor, -1 for one that gives
// none, or an error; err means that nothing was done. The descriptors are the
// caller's.
func enter(netFD, userFD int, errands []errand) (fds []int, errs []error, err error) {
	if len(errands) > maxErrands {
		return nil, nil, fmt.Errorf("netns: %d errands at once", len(errands))
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("netns: socketpair: %w", err)
	}
	defer unix.Close(pair[0])
	c := &crossing{netFD: int32(netFD), userFD: int32(userFD), sock: int32(pair[1]), errands: errands}
	pid, errno := c.fork()
	unix.Close(pair[1]) // so that the child's death is the end of file
	if errno != 0 {
		return nil, nil, fmt.Errorf("netns: fork: %w", errno)
	}
	got, received, err := c.receive(pair[0])
	reap(pid)
	if err != nil {
		return nil, nil, err
	}
	if r := got[0]; r.step != 0 {
		return nil, nil, &enterError{r.step, syscall.Errno(r.errno)}
	}
	for i := range errands {
		fd, err := -1, error(nil)
		switch r := got[i+1]; {
		case r.step != 0:
			err = &errandError{r.step, syscall.Errno(r.errno)}
		case errands[i].gives() && len(received) > 0:
			fd, received = received[0], received[1:]
		case errands[i].gives():
			err = errors.New("netns: the descriptor was lost on its way")
		}
		fds, errs = append(fds, fd), append(errs, err)
	}
	return fds, errs, nil
}

// receive takes the child's message.
func (c *crossing) receive(sock int) (results []result, fds []int, err error) {
	size := int(unsafe.Sizeof(result{}))
	data := make([]byte, (len(c.errands)+1)*size)
	oob := make([]byte, unix.CmsgSpace(4*maxErrands))
	var n, oobn int
	for {
		n, oobn, _, _, err = unix.Recvmsg(sock, data, oob, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("netns: hear from the child: %w", err)
	}
	if cmsgs, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil {
		for i := range cmsgs {
			if got, err := unix.ParseUnixRights(&cmsgs[i]); err == nil {
				fds = append(fds, got...)
			}
		}
	}
	if n != len(data) {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return nil, nil, errors.New("netns: the child that was to enter the namespace was killed")
	}
	for ; len(data) > 0; data = data[size:] {
		results = append(results, result{int32(native.Uint32(data)), int32(native.Uint32(data[4:]))})
	}
	return results, fds, nil
}

// reap waits for a child. It sends no signal when it ends, so nobody else waits
// for it by accident, and nobody is told of it.
func reap(pid int) {
	for {
		_, err := unix.Wait4(pid, nil, unix.WALL, nil)
		if err != unix.EINTR {
			return
		}
	}
}

// fork makes the child. All signals are blocked meanwhile, and stay so in the
// child, so that no handler of the Go runtime runs there.
func (c *crossing) fork() (pid int, errno syscall.Errno) {
	c.all = ^uint64(0)
	c.rights.header.Level, c.rights.header.Type = unix.SOL_SOCKET, unix.SCM_RIGHTS
	c.iov.Base = (*byte)(unsafe.Pointer(&c.results[0]))
	c.iov.SetLen((len(c.errands) + 1) * int(unsafe.Sizeof(result{})))
	c.msg.Iov = &c.iov
	c.msg.SetIovlen(1)
	c.msg.Control = (*byte)(unsafe.Pointer(&c.rights))
	c.size = tun.VnetHdrLen
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r, errno := c.rawFork()
	runtime.KeepAlive(c)
	return int(r), errno
}

//go:nosplit
//go:noinline
//go:norace
func (c *crossing) rawFork() (pid uintptr, errno syscall.Errno) {
	_, _, errno = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK,
		uintptr(unsafe.Pointer(&c.all)), uintptr(unsafe.Pointer(&c.mask)), 8, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	// Without SIGCHLD as the signal of its end: see reap.
	pid, _, errno = syscall.RawSyscall6(unix.SYS_CLONE, 0, 0, 0, 0, 0, 0)
	if errno == 0 && pid == 0 {
		c.child()
	}
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK,
		uintptr(unsafe.Pointer(&c.mask)), 0, 8, 0, 0)
	return pid, errno
}

// child is what happens in the child. It does not return.
//
//go:nosplit
//go:norace
func (c *crossing) child() {
	c.results[0].step, c.results[0].errno = c.cross()
	n := uintptr(0)
	for i := range c.errands {
		if c.results[0].step != 0 {
			break
		}
		fd, step, errno := c.do(i)
		c.results[i+1].step, c.results[i+1].errno = step, errno
		if step == 0 && fd >= 0 {
			c.rights.fds[n] = fd
			n++
		}
	}
	if n > 0 {
		c.rights.header.Len = uint64(unix.SizeofCmsghdr + 4*n)
		c.msg.Controllen = c.rights.header.Len
	} else {
		c.msg.Controllen = 0
	}
	syscall.RawSyscall(unix.SYS_SENDMSG, uintptr(c.sock), uintptr(unsafe.Pointer(&c.msg)), unix.MSG_NOSIGNAL)
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

// cross enters. It first makes itself undumpable: who is root in the user
// namespace could otherwise trace the child, which holds a copy of this
// process's memory.
//
//go:nosplit
//go:norace
func (c *crossing) cross() (step, errno int32) {
	if _, _, e := syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0); e != 0 {
		return stepHide, int32(e)
	}
	_, _, e := syscall.RawSyscall(unix.SYS_SETNS, uintptr(c.netFD), unix.CLONE_NEWNET, 0)
	if e == unix.EPERM && c.userFD >= 0 {
		if _, _, e = syscall.RawSyscall(unix.SYS_SETNS, uintptr(c.userFD), unix.CLONE_NEWUSER, 0); e != 0 {
			return stepUser, int32(e)
		}
		_, _, e = syscall.RawSyscall(unix.SYS_SETNS, uintptr(c.netFD), unix.CLONE_NEWNET, 0)
	}
	if e != 0 {
		return stepNet, int32(e)
	}
	return 0, 0
}

// do does one errand. fd is -1 if it gives none.
//
//go:nosplit
//go:norace
func (c *crossing) do(i int) (fd, step, errno int32) {
	t := &c.errands[i]
	var r uintptr
	var e syscall.Errno
	if t.kind == errandSocket {
		if r, _, e = syscall.RawSyscall(unix.SYS_SOCKET, t.args[0], t.args[1], t.args[2]); e != 0 {
			return -1, stepSocket, int32(e)
		}
		return int32(r), 0, 0
	}
	flags := t.args[0]
	switch t.kind {
	case errandWrite:
		flags = unix.O_WRONLY | unix.O_CLOEXEC
	case errandTUN:
		flags = unix.O_RDWR | unix.O_NONBLOCK | unix.O_CLOEXEC
	}
	for {
		r, _, e = syscall.RawSyscall6(unix.SYS_OPENAT, ^uintptr(99), uintptr(unsafe.Pointer(t.path)), flags, 0, 0, 0) // AT_FDCWD
		if e != unix.EINTR {
			break
		}
	}
	if e != 0 {
		return -1, stepOpen, int32(e)
	}
	switch t.kind {
	case errandWrite:
		if _, _, e = syscall.RawSyscall(unix.SYS_WRITE, r, uintptr(unsafe.Pointer(&t.data[0])), uintptr(len(t.data))); e != 0 {
			return -1, stepWrite, int32(e)
		}
		return -1, 0, 0
	case errandTUN:
		if step, e := c.attach(t, r); e != 0 {
			return -1, step, int32(e)
		}
	}
	return int32(r), 0, 0
}

// attach makes the open control device one interface.
//
//go:nosplit
//go:norace
func (c *crossing) attach(t *errand, fd uintptr) (step int32, e syscall.Errno) {
	if _, _, e = syscall.RawSyscall(unix.SYS_IOCTL, fd, unix.TUNSETIFF, uintptr(unsafe.Pointer(&t.ifr))); e != 0 {
		return stepAttach, e
	}
	if _, _, e = syscall.RawSyscall(unix.SYS_IOCTL, fd, unix.TUNSETVNETHDRSZ, uintptr(unsafe.Pointer(&c.size))); e != 0 {
		return stepHeader, e
	}
	if _, _, e = syscall.RawSyscall(unix.SYS_IOCTL, fd, unix.TUNSETOFFLOAD, tun.Offloads); e != 0 {
		return stepOffloads, e
	}
	return 0, 0
}
