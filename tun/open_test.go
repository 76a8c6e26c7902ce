package tun

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpenNames(t *testing.T) {
	for _, name := range []string{"a/b", "a b", "a:b", ".", "..", "sixteenbytes1234", "tab\t", "é", "%s", "%d%d", "\x00"} {
		_, _, err := Open(Options{Name: name})
		var oe *OpenError
		if !errors.As(err, &oe) || oe.Op != "name" || oe.Hint() == "" {
			t.Errorf("Open(%q) = %v, want an error about the name", name, err)
		}
	}
	for _, name := range []string{"tcpbox0", "tun%d", "fifteenbytes123"} {
		if err := checkName(name); err != nil {
			t.Errorf("checkName(%q) = %v, want nil", name, err)
		}
	}
}

func TestOpenWithoutDriver(t *testing.T) {
	_, _, err := openAt(filepath.Join(t.TempDir(), "tun"), Options{})
	var oe *OpenError
	if !errors.As(err, &oe) || !errors.Is(err, unix.ENOENT) || !strings.Contains(oe.Hint(), "modprobe tun") {
		t.Errorf("openAt of nothing = %v, want ENOENT and a hint", err)
	}
}

// TestHints: the errors that people meet name the next step.
func TestHints(t *testing.T) {
	for _, row := range []struct {
		op   string
		err  error
		text string
		hint string
	}{
		{"open", unix.ENOENT, "tun: open /dev/net/tun: no such file or directory", "modprobe tun"},
		{"open", unix.EACCES, "tun: open /dev/net/tun: permission denied", "sudo chmod 0666 /dev/net/tun"},
		{"open", unix.EPERM, "tun: open /dev/net/tun: operation not permitted", "--device /dev/net/tun"},
		{"open", unix.ENODEV, "tun: open /dev/net/tun: no such device", "modprobe tun"},
		{"open", unix.EMFILE, "tun: open /dev/net/tun: too many open files", "ulimit -n"},
		{"TUNSETIFF", unix.EPERM, "tun: open tun7: TUNSETIFF: operation not permitted", "CAP_NET_ADMIN"},
		{"TUNSETIFF", unix.EBUSY, "tun: open tun7: TUNSETIFF: device or resource busy", "ip link delete tun7"},
		{"TUNSETIFF", unix.ENOTTY, "tun: open tun7: TUNSETIFF: inappropriate ioctl for device", "mknod -m 0666 /dev/net/tun c 10 200"},
		{"TUNSETOFFLOAD", unix.EINVAL, "tun: open tun7: TUNSETOFFLOAD: invalid argument", "virtio header"},
		{"TUNSETPERSIST", unix.EIO, "tun: open tun7: TUNSETPERSIST: input/output error", ""},
	} {
		e := &OpenError{Op: row.op, Name: "tun7", Err: row.err}
		if e.Error() != row.text {
			t.Errorf("Error = %q, want %q", e.Error(), row.text)
		}
		if got := e.Hint(); (got == "") != (row.hint == "") || !strings.Contains(got, row.hint) {
			t.Errorf("%v: Hint = %q, want it to say %q", e, got, row.hint)
		}
	}
}
