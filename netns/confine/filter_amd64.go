package confine

import "golang.org/x/sys/unix"

// x32 marks calls of the x32 ABI, which share x86-64's architecture.
const x32 = 0x40000000

var abis = []abi{
	{
		arch:         unix.AUDIT_ARCH_X86_64,
		ioctl:        []uint32{unix.SYS_IOCTL, x32 | unix.SYS_IOCTL, x32 | 514},
		socket:       []uint32{unix.SYS_SOCKET, x32 | unix.SYS_SOCKET},
		ioUringSetup: []uint32{unix.SYS_IO_URING_SETUP, x32 | unix.SYS_IO_URING_SETUP},
	},
	{ // arch/x86/entry/syscalls/syscall_32.tbl
		arch:         unix.AUDIT_ARCH_I386,
		ioctl:        []uint32{54},
		socket:       []uint32{359},
		ioUringSetup: []uint32{425},
		socketcall:   102,
	},
}
