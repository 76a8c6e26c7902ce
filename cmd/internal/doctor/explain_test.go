package doctor

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tcpbox"
)

// well is a machine that has everything.
func well() facts {
	return facts{
		uid: 1000, release: "6.18.0", abi: 7, files: 20000, traced: true,
		sysctls: map[string]string{},
		probe: map[step]error{
			stepPrivate: nil, stepProc: nil, stepSys: nil, stepOverlay: nil, stepTUN: nil, stepDiag: nil,
			stepDestroy: nil, stepReuse: nil, stepInner: nil, stepSeccomp: nil,
		},
	}
}

// failed is a machine on which nothing starts.
func failed(f *facts) { f.run = &tcpbox.LaunchError{Op: "test", Err: unix.EPERM, Hint: "a hint"} }

// TestExplain changes one fact of a machine that has everything.
func TestExplain(t *testing.T) {
	tests := []struct {
		what  string
		fact  func(f *facts)
		check string
		state State
		found string
		mend  string
	}{
		// Namespaces.
		{"AppArmor refuses them", func(f *facts) {
			failed(f)
			f.sysctls[appArmorRestricts] = "1"
			f.spaces, f.probe = spaces{err: unix.EPERM, kind: "user"}, nil
		}, "namespaces", Cannot, "user namespaces cannot be made: operation not permitted", "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"},
		{"AppArmor makes them useless", func(f *facts) {
			failed(f)
			f.sysctls[appArmorRestricts] = "1"
			f.probe[stepPrivate] = unix.EACCES
		}, "namespaces", Cannot, "give no right to mount: permission denied", "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"},
		{"Debian's sysctl refuses them", func(f *facts) {
			failed(f)
			f.sysctls[unprivilegedClone] = "0"
			f.spaces, f.probe = spaces{err: unix.EPERM, kind: "user"}, nil
		}, "namespaces", Cannot, "", "sudo sysctl -w kernel.unprivileged_userns_clone=1"},
		{"the sysctls of users do not bind root", func(f *facts) {
			failed(f)
			f.privileged = true
			f.sysctls[unprivilegedClone], f.sysctls[appArmorRestricts] = "0", "1"
			f.spaces, f.probe = spaces{err: unix.EPERM, kind: "mnt"}, nil
		}, "namespaces", Cannot, "mount namespaces cannot be made", "run as root, and not in a chroot"},
		{"a filter refuses them", func(f *facts) {
			failed(f)
			f.filtered = true
			f.spaces, f.probe = spaces{err: unix.EPERM, kind: "user"}, nil
		}, "namespaces", Cannot, "", "seccomp=unconfined"},
		{"the limit is reached", func(f *facts) {
			failed(f)
			f.sysctls["user/max_pid_namespaces"] = "3"
			f.spaces, f.probe = spaces{err: unix.ENOSPC, kind: "pid"}, nil
		}, "namespaces", Cannot, "the limit on pid namespaces is reached: it is 3", "sudo sysctl -w user.max_pid_namespaces=10000"},
		{"the limit is reached by all together", func(f *facts) {
			failed(f)
			f.spaces, f.probe = spaces{err: unix.ENOSPC}, nil
		}, "namespaces", Cannot, "the limit on namespaces is reached", "sudo sysctl -w user.max_user_namespaces=10000"},
		{"too many processes", func(f *facts) {
			failed(f)
			f.spaces, f.probe = spaces{err: unix.EAGAIN, kind: "user"}, nil
		}, "namespaces", Cannot, "resource temporarily unavailable", "ulimit -u"},
		{"the kernel lacks a kind", func(f *facts) {
			failed(f)
			f.spaces, f.probe = spaces{err: unix.EINVAL, kind: "ipc"}, nil
		}, "namespaces", Cannot, "ipc namespaces cannot be made: invalid argument", "use a kernel"},
		{"what cannot be tried is not guessed", func(f *facts) {
			failed(f)
			f.spaces, f.probe = spaces{err: unix.EPERM, kind: "user"}, nil
		}, "proc", Untried, "", ""},
		{"a sandbox that starts is right", func(f *facts) { f.probe[stepProc] = unix.EPERM }, "proc", Warning, "covered", "systempaths=unconfined"},

		// The device.
		{"a container without the device", func(f *facts) { failed(f); f.container, f.tun = true, unix.ENOENT }, "tun", Cannot, "does not exist", "docker run --device /dev/net/tun"},
		{"a container that refuses it", func(f *facts) { failed(f); f.tun = unix.EPERM }, "tun", Cannot, "refused", "docker run --device /dev/net/tun"},
		{"something else in its place", func(f *facts) { failed(f); f.probe[stepTUN] = unix.ENOTTY }, "tun", Cannot, "something else", "mknod -m 0666 /dev/net/tun c 10 200"},
		{"it opens, and makes nothing", func(f *facts) { failed(f); f.probe[stepTUN] = unix.EINVAL }, "tun", Cannot, "invalid argument", ""},

		// What a sandbox does without.
		{"a kernel without overlayfs", func(f *facts) { f.probe[stepOverlay] = unix.ENODEV }, "overlay", Warning, "no overlayfs", "sudo modprobe overlay"},
		{"an /etc that it refuses", func(f *facts) { f.probe[stepOverlay] = unix.EINVAL }, "overlay", Warning, "refused: invalid argument", ""},
		{"a kernel that ends no socket", func(f *facts) { f.probe[stepDestroy] = unix.EOPNOTSUPP }, "sock-diag", Warning, "does not end them", "CONFIG_INET_DIAG_DESTROY"},
		{"a kernel that shows no socket", func(f *facts) { f.probe[stepDiag] = unix.ENOENT }, "sock-diag", Warning, "shows no TCP sockets", "modprobe"},
		{"a kernel without Landlock", func(f *facts) { f.landlock = unix.ENOSYS }, "landlock", Warning, unix.ENOSYS.Error(), ""},
		{"a kernel without BTF", func(f *facts) { f.btf = unix.ENOENT }, "btf", Warning, "no such file", "CONFIG_DEBUG_INFO_BTF"},
		{"no right to the trace", func(f *facts) { f.traced, f.why = false, "sockwatch: the kernel's trace: operation not permitted" }, "kernel-trace", Warning, "not to be had: operation not permitted", "run tcpbox as root, or with CAP_BPF and CAP_PERFMON"},
		{"root without the right to the trace", func(f *facts) { f.uid, f.traced, f.why = 0, false, "operation not permitted" }, "kernel-trace", Warning, "not to be had: operation not permitted", "docker run --cap-add BPF --cap-add PERFMON"},
		{"no sandbox to trace", func(f *facts) { failed(f); f.traced = false }, "kernel-trace", Untried, "", ""},
		{"a kernel without the delay", func(f *facts) { f.probe[stepReuse] = unix.ENOENT }, "tw-reuse-delay", Warning, "does not have it", "6.14"},
		{"IPv6 is blocked by a route", func(f *facts) { f.route6 = unix.EACCES }, "ipv6", Warning, "permission denied", ""},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			f := well()
			tt.fact(&f)
			for _, c := range explain(f).Checks {
				if c.ID != tt.check {
					if tt.state != Untried && (c.State == Warning || c.State == Cannot) {
						t.Errorf("%s is blamed, too: %+v", c.ID, c)
					}
					continue
				}
				if c.State != tt.state || !strings.Contains(c.Found, tt.found) || !strings.Contains(c.Mend, tt.mend) || tt.mend == "" && c.Mend != "" {
					t.Errorf("got %+v, want %s, found %q, mend %q", c, tt.state, tt.found, tt.mend)
				}
				if (c.Cost == "") != (c.State == Untried) {
					t.Errorf("a cost of %q", c.Cost)
				}
			}
		})
	}
}

func TestNothingToMend(t *testing.T) {
	for _, c := range explain(well()).Checks {
		if c.State != OK || c.Cost != "" || c.Mend != "" || c.Found == "" {
			t.Errorf("%+v", c)
		}
	}
}

// TestUnexplained keeps the start's own words where no check has any.
func TestUnexplained(t *testing.T) {
	f := well()
	f.run = &tcpbox.LaunchError{Op: "enter the working directory", Err: errors.New("strange"), Hint: "a hint"}
	var b strings.Builder
	if err := explain(f).WriteText(&b, Style{}); err != nil {
		t.Fatal(err)
	}
	if want := "\ntcpbox run cannot work here: enter the working directory: strange\nhint: a hint\n"; !strings.HasSuffix(b.String(), want) {
		t.Errorf("%s\nwant at its end %q", b.String(), want)
	}
}

// TestWidths folds everything but commands, and colours nothing but states.
func TestWidths(t *testing.T) {
	f := well()
	failed(&f)
	f.spaces, f.probe = spaces{err: unix.EPERM, kind: "user"}, nil
	f.ping, f.landlock, f.btf = unix.EACCES, unix.EOPNOTSUPP, unix.ENOENT
	r := explain(f)
	for _, width := range []int{60, 80, 132} {
		var plain, coloured strings.Builder
		if err := errors.Join(r.WriteText(&plain, Style{Width: width}), r.WriteText(&coloured, Style{Width: width, Color: true})); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(plain.String()) {
			if len(line) > width+1 && !strings.Contains(line, "mend:") {
				t.Errorf("longer than %d: %q", width, line)
			}
		}
		bare := strings.NewReplacer("\x1b[31m", "", "\x1b[32m", "", "\x1b[33m", "", "\x1b[0m", "").Replace(coloured.String())
		if bare != plain.String() || bare == coloured.String() {
			t.Errorf("with colour:\n%q", coloured.String())
		}
	}
}

// TestJSON holds the names that others read.
func TestJSON(t *testing.T) {
	var b strings.Builder
	if err := explain(well()).WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(b.String()), &got); err != nil {
		t.Fatal(err)
	}
	run := got["run"].(map[string]any)
	check := got["checks"].([]any)[0].(map[string]any)
	if got["v"] != 1.0 || got["kernel"] != "6.18.0" || got["uid"] != 1000.0 || run["works"] != true ||
		check["id"] != "kernel" || check["state"] != "ok" || check["found"] != "Linux 6.18.0" || check["cost"] != "" || check["mend"] != "" {
		t.Errorf("%s", b.String())
	}
}
