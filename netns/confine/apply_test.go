package confine

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain: the test binary is also a process that confines itself, and
// executes its arguments.
func TestMain(m *testing.M) {
	if os.Getenv("CONFINE_TEST") != "" {
		runtime.LockOSThread()
		if step, errno := Guest().Apply(); errno != 0 {
			fmt.Println(step, errno)
			os.Exit(1)
		}
		err := unix.Exec(os.Args[1], os.Args[1:], []string{"PATH=/usr/bin:/bin"})
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func confined(args ...string) ([]byte, error) {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = []string{"CONFINE_TEST=1"}
	return cmd.CombinedOutput()
}

func TestApply(t *testing.T) {
	out, err := confined("/bin/sh", "-c", "grep -E '^(Cap(Inh|Prm|Eff|Amb)|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\n\\t'")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	none := strings.Repeat("0", 16)
	want := "CapInh:" + none + "CapPrm:" + none + "CapEff:" + none + "CapAmb:" + none + "NoNewPrivs:1Seccomp:2"
	if string(out) != want {
		t.Errorf("got %q, want %q", out, want)
	}
}

// TestForeignCalls runs a 32-bit program that makes its calls by int 0x80.
// Its exit status is the error of the call, or 0.
func TestForeignCalls(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("there is no machine code for this architecture here")
	}
	if out, err := exec.Command(program386(t, 20, 0, 0)).CombinedOutput(); err != nil {
		t.Skipf("the kernel runs no 32-bit programs: %v %s", err, out)
	}
	for _, row := range []struct {
		what         string
		nr, ebx, ecx uint32
		want         unix.Errno
	}{
		{"getpid", 20, 0, 0, 0},
		{"socket AF_INET", 359, unix.AF_INET, unix.SOCK_STREAM, 0},
		{"socket AF_VSOCK", 359, unix.AF_VSOCK, unix.SOCK_STREAM, unix.EAFNOSUPPORT},
		{"ioctl TIOCSTI", 54, 0, tiocsti, unix.EPERM},
		{"ioctl TIOCLINUX", 54, 0, tioclinux, unix.EPERM},
		{"socketcall SYS_SOCKET", 102, 1, 0, unix.ENOSYS},
		{"io_uring_setup", 425, 1, 0, unix.EPERM},
	} {
		cmd := exec.Command("/proc/self/exe", program386(t, row.nr, row.ebx, row.ecx))
		cmd.Env = []string{"CONFINE_TEST=1"}
		out, _ := cmd.CombinedOutput()
		if got := unix.Errno(cmd.ProcessState.ExitCode()); got != row.want {
			t.Errorf("%s: %v, want %v (%s)", row.what, got, row.want, out)
		}
	}
}

// program386 writes a 32-bit executable that makes one system call and exits
// with its error, or 0.
func program386(t *testing.T, nr, ebx, ecx uint32) string {
	t.Helper()
	const base = 0x08048000
	le := binary.LittleEndian
	code := []byte{0xb8} // mov eax, nr
	code = le.AppendUint32(code, nr)
	code = append(code, 0xbb) // mov ebx, …
	code = le.AppendUint32(code, ebx)
	code = append(code, 0xb9) // mov ecx, …
	code = le.AppendUint32(code, ecx)
	code = append(code,
		0x31, 0xd2, // xor edx, edx
		0xcd, 0x80, // int 0x80
		0x31, 0xdb, // xor ebx, ebx
		0x85, 0xc0, // test eax, eax
		0x79, 0x04, // jns over the next two
		0x89, 0xc3, // mov ebx, eax
		0xf7, 0xdb, // neg ebx
		0xb8, 1, 0, 0, 0, // mov eax, 1 (exit)
		0xcd, 0x80) // int 0x80

	const headers = 52 + 32
	elf := []byte{0x7f, 'E', 'L', 'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	for _, v := range []uint16{2, 3} { // executable, 386
		elf = le.AppendUint16(elf, v)
	}
	for _, v := range []uint32{1, base + headers, 52, 0, 0} {
		elf = le.AppendUint32(elf, v)
	}
	for _, v := range []uint16{52, 32, 1, 0, 0, 0} {
		elf = le.AppendUint16(elf, v)
	}
	size := uint32(headers + len(code))
	for _, v := range []uint32{1, 0, base, base, size, size, 5, 0x1000} { // one segment, read and execute
		elf = le.AppendUint32(elf, v)
	}
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, append(elf, code...), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}
