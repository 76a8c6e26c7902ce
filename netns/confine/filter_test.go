package confine

import (
	"encoding/binary"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// decide runs the filter as the kernel would, on a struct seccomp_data. The
// virtual machine loads words in network order, so that is how they are laid
// out for it.
func decide(t *testing.T, arch, nr uint32, args ...uint64) uint32 {
	t.Helper()
	var prog []bpf.Instruction
	for _, f := range Filter() {
		prog = append(prog, bpf.RawInstruction{Op: f.Code, Jt: f.Jt, Jf: f.Jf, K: f.K}.Disassemble())
	}
	vm, err := bpf.NewVM(prog)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data[offNr:], nr)
	binary.BigEndian.PutUint32(data[offArch:], arch)
	for i, a := range args {
		binary.BigEndian.PutUint32(data[offArg0+8*i:], uint32(a))
		binary.BigEndian.PutUint32(data[offArg0+8*i+4:], uint32(a>>32))
	}
	got, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(got)
}

func TestFilter(t *testing.T) {
	const (
		allow = uint32(unix.SECCOMP_RET_ALLOW)
		kill  = uint32(unix.SECCOMP_RET_KILL_PROCESS)
	)
	deny := func(e unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(e) }
	for _, a := range abis {
		for _, nr := range a.ioctl {
			for _, row := range []struct {
				what string
				cmd  uint64
				want uint32
			}{
				{"TIOCSTI", tiocsti, deny(unix.EPERM)},
				{"TIOCLINUX", tioclinux, deny(unix.EPERM)},
				{"TIOCSTI with a high half that the kernel drops", 1<<32 | tiocsti, deny(unix.EPERM)},
				{"TCGETS", unix.TCGETS, allow},
				{"TIOCSTI in the high half only", tiocsti << 32, allow},
			} {
				if got := decide(t, a.arch, nr, 0, row.cmd); got != row.want {
					t.Errorf("%#x ioctl %d %s = %#x, want %#x", a.arch, nr, row.what, got, row.want)
				}
			}
		}
		for _, nr := range a.socket {
			for _, row := range []struct {
				family uint64
				want   uint32
			}{
				{unix.AF_UNIX, allow},
				{unix.AF_INET, allow},
				{unix.AF_INET6, allow},
				{unix.AF_NETLINK, allow},
				{unix.AF_VSOCK, deny(unix.EAFNOSUPPORT)},
				{1<<32 | unix.AF_VSOCK, deny(unix.EAFNOSUPPORT)},
			} {
				if got := decide(t, a.arch, nr, row.family, 1, 0); got != row.want {
					t.Errorf("%#x socket %d family %#x = %#x, want %#x", a.arch, nr, row.family, got, row.want)
				}
			}
		}
		for _, nr := range a.ioUringSetup {
			if got := decide(t, a.arch, nr); got != deny(unix.EPERM) {
				t.Errorf("%#x io_uring_setup %d = %#x", a.arch, nr, got)
			}
		}
		if a.socketcall != 0 {
			for call, want := range map[uint64]uint32{1: deny(unix.ENOSYS), 2: allow, 3: allow, 20: allow} {
				if got := decide(t, a.arch, a.socketcall, call); got != want {
					t.Errorf("%#x socketcall %d = %#x, want %#x", a.arch, call, got, want)
				}
			}
		}
		for _, nr := range []uint32{0, 1, 2, 3, 7, 57, 63, 200, 439, 1000} {
			if got := decide(t, a.arch, nr, tiocsti, tiocsti, tiocsti); got != allow {
				t.Errorf("%#x call %d = %#x, want it to pass", a.arch, nr, got)
			}
		}
	}
	if got := decide(t, unix.AUDIT_ARCH_S390X, 1); got != kill {
		t.Errorf("a foreign architecture = %#x, want the process killed", got)
	}
}

func TestStepString(t *testing.T) {
	for s := StepNone; s <= StepSeccomp+1; s++ {
		if s.String() == "" {
			t.Errorf("step %d has no name", s)
		}
	}
}
