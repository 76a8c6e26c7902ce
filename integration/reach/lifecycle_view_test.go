package reach

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"tcpbox/integration/testnet"
)

// TestLifeView is what a guest finds, and cannot do, with the flags that change
// it.
func TestLifeView(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		me := fmt.Sprint(c.uid())
		refused := func(script string) string {
			return "if (" + script + ") >/dev/null 2>&1; then echo done; else echo refused; fi"
		}
		for _, row := range []struct {
			what   string
			flags  []string
			script string
			want   string
		}{
			{"the caller's ids", nil, "id -u; id -g", me + "\n" + me},
			{"--root", []string{"--root"}, "id -u; id -g", "0\n0"},
			{"no capability", []string{"--root"}, "grep -h CapEff /proc/self/status | cut -f2", "0000000000000000"},
			{"no new privileges", nil, "grep NoNewPrivs /proc/self/status | cut -f2", "1"},
			{"a hostname", []string{"--hostname", "box.example"}, "uname -n; getent hosts box.example | wc -l", "box.example\n1"},
			{"--env adds", []string{"-e", "A=b c", "--env", "A=d"}, "echo $A", "d"},
			{"--workdir", []string{"-w", "/usr/bin"}, "pwd", "/usr/bin"},
			{"--mtu", []string{"--mtu", "1400"}, "cat /sys/class/net/tcpbox0/mtu", "1400"},
			{
				"--subnet4, --subnet6",
				[]string{"--subnet4", "10.9.8.0/24", "--subnet6", "fd00:9::/64"},
				"ip -o addr show tcpbox0 | awk '{print $4}'", "10.9.8.2/24\nfd00:9::2/64",
			},
			{"--no-ipv6", []string{"--no-ipv6"}, "ip -6 addr; ip -o addr show tcpbox0 | awk '{print $4}'", "198.18.0.2/24"},
			{"two interfaces", nil, "ls /sys/class/net", "lo\ntcpbox0"},
			{"the sandbox's resolver", nil, "grep -v ^# /etc/resolv.conf", "nameserver 198.18.0.1"},
			{"a private /dev", nil, "ls /dev | tr '\\n' ' '; ls /dev/pts", "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero ptmx"},
			{"its own processes", nil, "tr '\\0' ' ' </proc/1/cmdline", "tcpbox: init"},
			{"/proc/sys is read-only", nil, refused("echo x >/proc/sys/kernel/core_pattern || echo 1 >/proc/sys/net/ipv4/ip_forward"), "refused"},
			{"/proc/sysrq-trigger is read-only", nil, refused("echo h >/proc/sysrq-trigger"), "refused"},
			{"/sys is read-only", nil, refused("echo 1 >/sys/kernel/profiling || echo 0 >/sys/class/net/tcpbox0/tx_queue_len"), "refused"},
			{"no device of the host changes", []string{"--root"}, refused("chmod 600 /dev/null || rm -f /dev/null"), "refused"},
			{"no TUN", []string{"--root"}, refused("test -e /dev/net/tun || mknod /tmp/tun c 10 200"), "refused"},
			{"no mount", []string{"--root"}, refused("umount /proc/sys || umount /etc || mount -t tmpfs x /mnt || mount -o remount,bind,rw /proc/sys"), "refused"},
			{"no change of the network", []string{"--root"}, refused("ip link set tcpbox0 down || ip route del default || ip link add x type dummy"), "refused"},
			{"init is out of reach", []string{"--root"}, refused("cat /proc/1/maps || cat /proc/1/environ || ls -l /proc/1/fd"), "refused"},
			{"the runtime directory is hidden", nil, "ls -A /run/tcpbox ${XDG_RUNTIME_DIR:-/tmp}/tcpbox-" + me + " 2>/dev/null | grep -v :$ | grep .; echo $?", "1"},
		} {
			t.Run(row.what, func(t *testing.T) {
				flags := append([]string{"--net", "none", "--quiet"}, row.flags...)
				got := toEnd(t, c.run(t.Context(), t, n, flags, "sh", "-c", row.script))
				if text := strings.Trim(got.stdout, "\x00 \n"); got.code != 0 || text != row.want {
					t.Errorf("%s\nhas %v\nwant %q", row.script, got, row.want)
				}
			})
		}
	})
}

// TestLifeUser runs the guest as someone else.
func TestLifeUser(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		ids := func(user string) outcome {
			return toEnd(t, c.run(t.Context(), t, n, []string{"--quiet", "--user", user}, "sh", "-c", "id -u; id -g; id -G"))
		}
		if c.cred != nil {
			for _, user := range []string{"4243", "4242:4243", "0"} {
				if got := ids(user); got.code != 2 || !strings.Contains(got.stderr, "tcpbox: hint: only root can") || got.stdout != "" {
					t.Errorf("--user %s: %v, want exit status 2 and a hint", user, got)
				}
			}
			if got := ids("4242"); got.code != 0 || got.stdout != "4242\n4242\n4242\n" {
				t.Errorf("--user of oneself: %v", got)
			}
			return
		}
		for user, want := range map[string]string{"4243": "4243\n4243\n4243\n", "4243:99": "4243\n99\n99\n", "0:0": "0\n0\n0\n"} {
			if got := ids(user); got.code != 0 || got.stdout != want {
				t.Errorf("--user %s: %v, want %q", user, got, want)
			}
		}
		dir := testnet.Dir(t)
		got := toEnd(t, c.run(t.Context(), t, n, []string{"--user", "4243", "-w", dir}, "sh", "-c", "touch file /etc/file 2>/dev/null; ls"))
		if got.stdout != "" || strings.Contains(got.stderr, "runs as uid 0") {
			t.Errorf("another user in a directory of root's: %v, want no file and no warning", got)
		}
	})
}

// TestLifeDescriptors gives tcpbox descriptors that the guest shall not have,
// and one that it shall.
func TestLifeDescriptors(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		file, err := os.CreateTemp(testnet.Dir(t), "")
		must(t, err)
		defer file.Close()
		for _, row := range []struct {
			what  string
			flags []string
			want  string
		}{
			{"none", nil, "0\n1\n2\n"},
			{"one", []string{"--keep-fd", "4"}, "0\n1\n2\n4\n"},
			{"two", []string{"--keep-fd", "5", "--keep-fd", "3"}, "0\n1\n2\n3\n5\n"},
			{"one beside the log's", []string{"--log", "fd:3", "--keep-fd", "6"}, "0\n1\n2\n6\n"},
		} {
			cmd := c.run(t.Context(), t, n, append([]string{"--quiet", "--net", "none"}, row.flags...), lifeGuestPath(t), "descriptors")
			cmd.ExtraFiles = []*os.File{file, file, file, file}
			if got := toEnd(t, cmd); got.code != 0 || got.stdout != row.want {
				t.Errorf("%s: %v, want %q", row.what, got, row.want)
			}
		}
		cmd := c.run(t.Context(), t, n, []string{"--quiet", "--keep-fd", "3"}, "sh", "-c", "echo kept >&3")
		cmd.ExtraFiles = []*os.File{file}
		if got := toEnd(t, cmd); got.code != 0 {
			t.Errorf("write to a kept descriptor: %v", got)
		}
		if text, err := os.ReadFile(file.Name()); !strings.HasSuffix(string(text), "kept\n") || err != nil {
			t.Errorf("the file has %q, %v", text, err)
		}
	})
}

// TestLifeClosedStreams runs a guest for a caller that has closed what it
// could have inherited.
func TestLifeClosedStreams(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		for _, closed := range []string{"<&-", ">&-", "2>&-", "<&- >&- 2>&-"} {
			cmd := n.Uplink.CommandAs(t.Context(), c.cred, "sh", "-c", `"$0" run --net none --log - -- sh -c 'exit 8' `+closed, testnet.Binary(t))
			if got := toEnd(t, cmd); got.code != 8 {
				t.Errorf("%s: %v, want exit status 8", closed, got)
			}
		}
	})
}

// TestLifeArguments passes arguments of every kind.
func TestLifeArguments(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		args := []string{"", "a b", "\n", "\xff\xfe", "--net", "-", strings.Repeat("x", 100_000), ""}
		got := toEnd(t, c.run(t.Context(), t, n, []string{"--quiet"}, append([]string{lifeGuestPath(t), "arguments"}, args...)...))
		var want strings.Builder
		for _, a := range args {
			fmt.Fprintf(&want, "%q\n", a)
		}
		if got.code != 0 || got.stdout != want.String() {
			t.Errorf("the guest has the arguments %.300q", got.stdout)
		}
	})
}

func TestLifeEnvironment(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		big := strings.Repeat("x", 120_000) // the kernel's limit is 128 KiB for each
		env := []string{"BIG=" + big, "EMPTY=", "NOT_TEXT=\xff\n"}
		for i := range 7 {
			env = append(env, fmt.Sprintf("BIG%d=%s", i, big))
		}
		guest := []string{lifeGuestPath(t), "environment", "BIG"}
		with := c.run(t.Context(), t, n, []string{"--quiet"}, guest...)
		with.Env = append(with.Env, env...)
		without := n.Uplink.CommandAs(t.Context(), c.cred, guest[0], guest[1:]...)
		without.Env = append(without.Env, env...)
		without.Dir = "/"
		got, want := toEnd(t, with), toEnd(t, without)
		if got.code != 0 || got.stdout != want.stdout || !strings.HasSuffix(got.stdout, " 120000\n") {
			t.Errorf("the guest has an environment of %v, want %v", got, want)
		}
	})
}
