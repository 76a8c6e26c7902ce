package guest

import (
	"os"
	"strings"
	"testing"
)

// TestGuestCannot tries what a guest must not be able to do. Each script
// prints the error it meets.
func TestGuestCannot(t *testing.T) {
	everybody(t, func(t *testing.T, who who) {
		const readOnly = "Read-only file system"
		specs := []spec{{}, {Root: true}}
		if who == asRoot {
			specs = append(specs, spec{User: &User{UID: testUID, GID: testUID}})
		}
		for _, sp := range specs {
			name := "plain"
			etc := map[string][]byte{"resolv.conf": []byte("x\n")}
			sp.Etc = etc
			switch {
			case sp.Root:
				name = "--root"
			case sp.User != nil:
				name = "--user"
			}
			t.Run(name, func(t *testing.T) {
				see(t, who, []seen{
					// What uid 0 owns it could write, were the mounts not read-only.
					// Others are refused for their ids, which is as good.
					{"write core_pattern", sp, refused("echo x >/proc/sys/kernel/core_pattern"), "refused"},
					{"write a network sysctl", sp, refused("echo 1 >/proc/sys/net/ipv4/ip_forward"), "refused"},
					{"write sysrq-trigger", sp, refused("echo h >/proc/sysrq-trigger"), "refused"},
					{"write an interrupt's affinity", sp, refused("echo 1 >/proc/irq/default_smp_affinity"), "refused"},
					{"write to /sys", sp, refused("echo 1 >/sys/kernel/profiling; echo 0 >/sys/class/net/tcpbox0/tx_queue_len"), "refused"},
					{"write to a cgroup", sp, refused("mkdir /sys/fs/cgroup/x || mkdir /sys/fs/cgroup/unified/x"), "refused"},
					{"write to /etc", sp, refused("echo x >/etc/resolv.conf || echo x >/etc/new || mv /etc/hosts /etc/x"), "refused"},
					{"write to /proc that is its own", sp, "echo 7 >/proc/self/oom_score_adj && cat /proc/self/oom_score_adj", "7"},

					// Device nodes are the host's.
					{"change a device node", sp, "chmod 600 /dev/null 2>&1 | sed 's/.*: //'", readOnly},
					{"remove a device node", sp, refused("rm -f /dev/null"), "refused"},
					{"make a device node", sp, refused("mknod /dev/x c 1 3; mknod /tmp/$$ c 10 200"), "refused"},
					{"find the TUN driver", sp, refused("cat /dev/net/tun"), "refused"},
					{"find the host's terminals", sp, "ls /dev/pts", "ptmx"},

					// Mounts.
					{"unmount", sp, refused("umount /proc/sys || umount /dev || umount /etc || umount -l /proc"), "refused"},
					{"make a mount writable", sp, refused("mount -o remount,bind,rw /proc/sys || mount -o remount,rw /sys || mount -o remount,bind,rw,dev /etc"), "refused"},
					{"mount", sp, refused("mount -t tmpfs x /mnt || mount --bind /usr /mnt"), "refused"},
					// In namespaces of its own it can mount; not what it could not have
					// otherwise.
					{"(can mount in namespaces of its own)", sp, own("mount -t tmpfs x /mnt && echo mounted"), "mounted"},
					{"mount a fresh /proc there", sp, refused(own("mount -t proc p /mnt")), "refused"},
					{"mount a fresh /sys there", sp, refused(own("mount -t sysfs s /mnt")), "refused"},
					{"uncover there", sp, refused(own("umount /proc/sys || umount -l /proc || umount /dev/null || umount -l /dev || umount /etc || umount -l /sys")), "refused"},
					{"make writable there", sp, refused(own("mount -o remount,bind,rw /proc/sys || mount -o remount,bind,rw /dev/null || mount -o remount,bind,rw /etc || mount -o remount,bind,dev /")), "refused"},
					{"see past a mount there", sp, refused(own("mount --bind / /mnt && ls /mnt/etc/hosts || mount --bind /dev /mnt")), "refused"},
					{"over-mount more than its own copy", sp, own("mount -t tmpfs x /proc/sys") + "; ls -d /proc/sys/kernel", "/proc/sys/kernel"},

					// The network.
					{"take its interface down", sp, refused("ip link set tcpbox0 down || ip addr flush dev lo || ip route del default"), "refused"},
					{"make an interface", sp, refused("ip link add x type dummy || ip tuntap add x mode tun"), "refused"},
					{"set the host's name", sp, refused("hostname x"), "refused"},

					// Processes.
					{"end init", sp, "(kill -9 1; kill -STOP 1; kill -TERM 1) 2>/dev/null; sleep 0.1; cat /proc/1/comm >/dev/null && echo alive", "alive"},
					{"trace init", sp, refused("cat /proc/1/mem || cat /proc/1/maps || ls /proc/1/root/"), "refused"},
				})
			})
		}
	})
}

// refused makes a script print that nothing of it succeeded.
func refused(script string) string {
	return "if (" + script + ") >/dev/null 2>&1; then echo done; else echo refused; fi"
}

// own runs a script in user, mount and pid namespaces of the guest's own, with
// all capabilities there.
func own(script string) string {
	return `unshare -Umpf --keep-caps sh -c "` + script + `"`
}

// TestHostUntouched checks that neither a guest of root nor the making of its
// sandbox changes what is the host's.
func TestHostUntouched(t *testing.T) {
	asRoot.need(t)
	before := hostState(t)
	asRoot.sh(t, spec{Etc: map[string][]byte{"resolv.conf": []byte("x\n")}, Hostname: "other"},
		"chmod 600 /dev/null /dev/zero /dev/tty; echo x >/proc/sys/kernel/core_pattern; echo x >>/etc/resolv.conf; rm -f /etc/hosts")
	if after := hostState(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

func hostState(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, path := range []string{"/proc/self/mountinfo", "/proc/sys/kernel/core_pattern", "/etc/resolv.conf", "/etc/hosts", "/proc/sys/kernel/hostname"} {
		data, _ := os.ReadFile(path)
		b.Write(data)
	}
	for _, path := range []string{"/dev/null", "/dev/zero", "/dev/tty", "/dev/shm", "/dev/pts", "/etc"} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(path + " " + info.Mode().String() + "\n")
	}
	return b.String()
}

func TestForbiddenCalls(t *testing.T) {
	everybody(t, func(t *testing.T, who who) {
		got := who.run(t, probe(spec{Root: true}, binary(t), "calls"))
		want := strings.Join([]string{
			"TIOCSTI operation not permitted",
			"TIOCSTI high operation not permitted",
			"TIOCLINUX operation not permitted",
			"AF_VSOCK address family not supported by protocol",
			"io_uring operation not permitted",
			"AF_INET true <nil>",
			"AF_PACKET operation not permitted",
			"SOCK_RAW operation not permitted",
			"",
		}, "\n")
		if got.stdout != want {
			t.Errorf("got %q, want %q (%s)", got.stdout, want, got.stderr)
		}
	})
}
