package confine

import (
	"fmt"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// What seccomp_data (linux/seccomp.h) has where. Arguments are 64 bits wide;
// the kernel takes an ioctl's command and a socket's domain as 32 bits, so only
// the lower half counts, which comes first on every machine we run on.
const (
	offNr   = 0
	offArch = 4
	offArg0 = 16
	offArg1 = 24
)

// The terminal ioctls (asm-generic/ioctls.h) that put characters into the
// caller's terminal as if they were typed.
const (
	tiocsti   = 0x5412
	tioclinux = 0x541c
)

// abi is one way of making system calls that the kernel may offer.
type abi struct {
	arch uint32 // AUDIT_ARCH_*

	// The numbers of the calls.
	ioctl, socket, ioUringSetup []uint32

	// socketcall is the number of the multiplexer of i386. Its arguments lie
	// in memory, where a filter cannot see the family. Zero means none.
	socketcall uint32
}

// action is what a call gets.
func errno(e unix.Errno) bpf.Instruction {
	return bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(e)}
}

// Filter returns the seccomp program of a guest. It lets everything pass but
//
//   - ioctl TIOCSTI and TIOCLINUX: EPERM. They type into the caller's shell.
//   - socket AF_VSOCK: EAFNOSUPPORT. No namespace holds it; it reaches the
//     hypervisor.
//   - io_uring_setup: EPERM, as with kernel.io_uring_disabled. A ring makes
//     sockets past any filter on socket.
//   - socketcall SYS_SOCKET of 32-bit x86 programs: ENOSYS, since the family
//     cannot be seen. C libraries of the last ten years use socket.
//
// The same holds for the 32-bit calls of the machine. A call by an unknown
// architecture kills the process.
func Filter() []unix.SockFilter {
	return assemble(abis)
}

func assemble(abis []abi) []unix.SockFilter {
	prog := []bpf.Instruction{bpf.LoadAbsolute{Off: offArch, Size: 4}}
	for _, a := range abis {
		block := a.block()
		prog = append(prog, bpf.JumpIf{Cond: bpf.JumpEqual, Val: a.arch, SkipFalse: uint8(len(block))})
		prog = append(prog, block...)
	}
	prog = append(prog, bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS})
	raw, err := bpf.Assemble(prog)
	if err != nil {
		panic(fmt.Sprintf("confine: filter: %v", err)) // the program is constant
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return filter
}

// block decides about the calls of one ABI. It is entered with the
// architecture in the accumulator, and always returns.
func (a abi) block() []bpf.Instruction {
	prog := []bpf.Instruction{bpf.LoadAbsolute{Off: offNr, Size: 4}}
	// call appends: if the number is nr, do what body does, which returns.
	call := func(nr uint32, body ...bpf.Instruction) {
		prog = append(prog, bpf.JumpIf{Cond: bpf.JumpEqual, Val: nr, SkipFalse: uint8(len(body))})
		prog = append(prog, body...)
	}
	allow := bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
	for _, nr := range a.ioctl {
		call(nr,
			bpf.LoadAbsolute{Off: offArg1, Size: 4},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: tiocsti, SkipTrue: 2},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: tioclinux, SkipTrue: 1},
			allow,
			errno(unix.EPERM))
	}
	for _, nr := range a.socket {
		call(nr,
			bpf.LoadAbsolute{Off: offArg0, Size: 4},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_VSOCK, SkipTrue: 1},
			allow,
			errno(unix.EAFNOSUPPORT))
	}
	for _, nr := range a.ioUringSetup {
		call(nr, errno(unix.EPERM))
	}
	if a.socketcall != 0 {
		const sysSocket = 1 // SYS_SOCKET, linux/net.h
		call(a.socketcall,
			bpf.LoadAbsolute{Off: offArg0, Size: 4},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: sysSocket, SkipTrue: 1},
			allow,
			errno(unix.ENOSYS))
	}
	return append(prog, allow)
}
