package guest

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"tcpbox/netns/confine"
)

// The stage is a child of init between fork and exec. It is a copy of init
// with a single thread and no working Go runtime: what runs in it makes raw
// system calls only, allocates nothing, does not grow its stack, and writes no
// pointer. Everything it needs is laid out before, in a stage.
//
//	init                                stage
//	  fork, into a user namespace ──▶     waits
//	  writes the id maps
//	  one byte ─────────────────────▶     descriptors, ids, directory
//	                                      confinement
//	                                      exec ── or: where it failed ──▶ init
//
// Nothing more is needed for its death than that it is in init's pid
// namespace.
type stage struct {
	candidates []*byte // paths to execute, the first that exists
	argv, envv []*byte // each ends with nil
	dir        *byte
	moves      []move
	plan       *confine.Plan

	files unix.Rlimit

	setIDs   bool
	uid, gid uintptr

	session bool // of its own, with every signal heeded
	control bool // and descriptor 0 for its terminal

	sync   int32 // read end: the maps are written
	report int32 // write end: a failure, or closed by exec

	// Scratch memory of fork and of the stage.
	mask   uint64 // signals to be blocked: init's own, as it was born
	all    uint64
	action sigaction
	pidfd  int32
	fail   failure
}

// move makes descriptor from the guest's descriptor to.
type move struct{ from, to int32 }

// sigaction is the kernel's, the same for amd64 and arm64.
type sigaction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

// failure is what a stage reports.
type failure struct {
	step  int32
	errno int32
}

// Steps of a stage; those of its confinement come after stageConfine.
const (
	stageIDs int32 = iota + 1
	stageSession
	stageFiles
	stageDir
	stageExec
	stageConfine
)

func stageStep(step int32) string {
	switch step {
	case stageIDs:
		return "become the user"
	case stageSession:
		return "begin a session"
	case stageFiles:
		return "pass descriptors on"
	case stageDir:
		return "enter the working directory"
	case stageExec:
		return "execute"
	}
	return confine.Step(step - stageConfine).String()
}

// fork makes the stage, as a child of the calling thread's process. The child
// never returns from it.
//
// All signals are blocked meanwhile, so that no handler of the Go runtime runs
// in the child.
func (s *stage) fork() (pid int, pidfd int, errno syscall.Errno) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s.all = ^uint64(0)
	r, errno := s.rawFork()
	runtime.KeepAlive(s)
	if errno != 0 {
		return 0, -1, errno
	}
	return int(r), int(s.pidfd), 0
}

//go:nosplit
//go:noinline
//go:norace
func (s *stage) rawFork() (pid uintptr, errno syscall.Errno) {
	_, _, errno = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK,
		uintptr(unsafe.Pointer(&s.all)), uintptr(unsafe.Pointer(&s.mask)), 8, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	// The third argument gets the process descriptor (clone(2), CLONE_PIDFD).
	pid, _, errno = syscall.RawSyscall6(unix.SYS_CLONE, unix.CLONE_NEWUSER|unix.CLONE_PIDFD|uintptr(unix.SIGCHLD),
		0, uintptr(unsafe.Pointer(&s.pidfd)), 0, 0, 0)
	if errno == 0 && pid == 0 {
		s.child()
	}
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK,
		uintptr(unsafe.Pointer(&s.mask)), 0, 8, 0, 0)
	return pid, errno
}

// child is the stage. It does not return.
//
//go:nosplit
//go:norace
func (s *stage) child() {
	s.fail.step, s.fail.errno = s.become()
	syscall.RawSyscall(unix.SYS_WRITE, uintptr(s.report), uintptr(unsafe.Pointer(&s.fail)), unsafe.Sizeof(s.fail))
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 127, 0, 0)
	}
}

// become turns the stage into the guest. It returns where it failed.
//
//go:nosplit
//go:norace
func (s *stage) become() (step, errno int32) {
	var e syscall.Errno
	// Wait for the maps. The other end cannot be missed: if init dies, so does
	// the stage.
	for {
		n, _, e := syscall.RawSyscall(unix.SYS_READ, uintptr(s.sync), uintptr(unsafe.Pointer(&s.fail)), 1)
		if e == 0 && n == 1 {
			break
		}
		if e != unix.EINTR {
			return stageIDs, int32(unix.EIO) // init gave up
		}
	}
	s.resetHandlers()
	if s.session {
		if _, _, e = syscall.RawSyscall(unix.SYS_SETSID, 0, 0, 0); e != 0 {
			return stageSession, int32(e)
		}
	}
	if s.setIDs {
		if _, _, e = syscall.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); e != 0 {
			return stageIDs, int32(e)
		}
		if _, _, e = syscall.RawSyscall(unix.SYS_SETRESGID, s.gid, s.gid, s.gid); e != 0 {
			return stageIDs, int32(e)
		}
		if _, _, e = syscall.RawSyscall(unix.SYS_SETRESUID, s.uid, s.uid, s.uid); e != 0 {
			return stageIDs, int32(e)
		}
	}
	if _, _, e = syscall.RawSyscall(unix.SYS_CLOSE_RANGE, 3, 1<<31-1, unix.CLOSE_RANGE_CLOEXEC); e != 0 {
		return stageFiles, int32(e)
	}
	for i := range s.moves {
		if _, _, e = syscall.RawSyscall(unix.SYS_DUP3, uintptr(s.moves[i].from), uintptr(s.moves[i].to), 0); e != 0 {
			return stageFiles, int32(e)
		}
	}
	if s.control {
		if _, _, e = syscall.RawSyscall(unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 0); e != 0 {
			return stageSession, int32(e)
		}
	}
	if _, _, e = syscall.RawSyscall6(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, uintptr(unsafe.Pointer(&s.files)), 0, 0, 0); e != 0 {
		return stageFiles, int32(e)
	}
	if _, _, e = syscall.RawSyscall(unix.SYS_CHDIR, uintptr(unsafe.Pointer(s.dir)), 0, 0); e != 0 {
		return stageDir, int32(e)
	}
	if at, e := s.plan.Apply(); e != 0 {
		return stageConfine + int32(at), int32(e)
	}
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&s.mask)), 0, 8, 0, 0)
	return stageExec, s.exec()
}

// exec tries the candidates as execvp(3) does: one that does not exist, or
// must not be executed, lets the next have its turn.
//
//go:nosplit
//go:norace
func (s *stage) exec() int32 {
	denied := false
	for i := range s.candidates {
		_, _, e := syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(s.candidates[i])),
			uintptr(unsafe.Pointer(&s.argv[0])), uintptr(unsafe.Pointer(&s.envv[0])))
		switch e {
		case unix.ENOENT, unix.ENOTDIR:
		case unix.EACCES:
			denied = true
		default:
			return int32(e)
		}
	}
	if denied {
		return int32(unix.EACCES)
	}
	return int32(unix.ENOENT)
}

// resetHandlers gives every signal that has a handler its default action, so
// that none can call into a Go runtime that is not there. What is ignored
// stays ignored, and the guest inherits it; a session of its own has nothing
// to inherit.
//
//go:nosplit
//go:norace
func (s *stage) resetHandlers() {
	for sig := uintptr(1); sig <= 64; sig++ {
		syscall.RawSyscall6(unix.SYS_RT_SIGACTION, sig, 0, uintptr(unsafe.Pointer(&s.action)), 8, 0, 0)
		if s.action.handler > 1 || s.action.handler == 1 && s.session { // neither SIG_DFL nor SIG_IGN
			s.action.handler, s.action.flags, s.action.mask = 0, 0, 0
			syscall.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&s.action)), 0, 8, 0, 0)
		}
	}
}
