package confine

import "golang.org/x/sys/unix"

var abis = []abi{
	{
		arch:         unix.AUDIT_ARCH_AARCH64,
		ioctl:        []uint32{unix.SYS_IOCTL},
		socket:       []uint32{unix.SYS_SOCKET},
		ioUringSetup: []uint32{unix.SYS_IO_URING_SETUP},
	},
	{ // arch/arm/tools/syscall.tbl; the EABI has no socketcall
		arch:         unix.AUDIT_ARCH_ARM,
		ioctl:        []uint32{54},
		socket:       []uint32{281},
		ioUringSetup: []uint32{425},
	},
}
