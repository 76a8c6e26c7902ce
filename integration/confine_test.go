package integration

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"tcpbox/integration/testnet"
)

// finish runs cmd and returns what it printed and its exit status.
func finish(t *testing.T, cmd *exec.Cmd) (stdout, stderr string, status int) {
	t.Helper()
	var out, err strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &err
	var exit *exec.ExitError
	if e := cmd.Run(); errors.As(e, &exit) {
		status = exit.ExitCode()
	} else if e != nil {
		t.Fatal(e)
	}
	return strings.TrimSuffix(out.String(), "\n"), err.String(), status
}

// eachCaller runs a test as root and as an ordinary user.
func eachCaller(t *testing.T, f func(*testing.T, *testnet.Net, caller)) {
	t.Helper()
	for _, c := range callers {
		t.Run("as "+c.name, func(t *testing.T) { f(t, testnet.New(t), c) })
	}
}

func TestKeepFD(t *testing.T) {
	eachCaller(t, func(t *testing.T, n *testnet.Net, c caller) {
		const script = `cat <&3; cat <&4; ls /proc/self/fd`
		for _, tt := range []struct {
			name  string
			flags []string
			want  string // and the descriptor of ls
		}{
			{"none is kept unless asked for", nil, "0\n1\n2\n3"},
			{"one is kept", []string{"--keep-fd", "3"}, "three\n0\n1\n2\n3\n4"},
			{"two are kept", []string{"--keep-fd", "4", "--keep-fd", "3"}, "three\nfour\n0\n1\n2\n3\n4\n5"},
		} {
			cmd := c.run(t.Context(), t, n, tt.flags, "bash", "-c", script)
			for _, text := range []string{"three\n", "four\n"} {
				r, w, err := os.Pipe()
				must(t, err)
				_, err = w.WriteString(text)
				must(t, err)
				w.Close()
				defer r.Close()
				cmd.ExtraFiles = append(cmd.ExtraFiles, r)
			}
			if got, stderr, _ := finish(t, cmd); got != tt.want {
				t.Errorf("%s: the guest printed %q, want %q; standard error:\n%s", tt.name, got, tt.want, stderr)
			}
		}
		cmd := c.run(t.Context(), t, n, []string{"--keep-fd", "77"}, "echo", "started")
		if out, stderr, status := finish(t, cmd); out != "" || status != 2 && status != 125 || !strings.Contains(stderr, "hint:") {
			t.Errorf("a descriptor that is not open: printed %q, status %d, standard error %q", out, status, stderr)
		}
	})
}

func TestUser(t *testing.T) {
	n := testnet.New(t)
	for _, tt := range []struct {
		name   string
		caller caller
		user   string
		want   string
	}{
		{"root runs the guest as a user", root, "4242", "4242 4242 4242"},
		{"root runs the guest as a user and a group", root, "4242:4343", "4242 4343 4343"},
		{"a user may name itself", ordinary, "4242", "4242 4242 4242"},
		{"a user may name itself and its group", ordinary, "4242:4242", "4242 4242 4242"},
		{"a user may not become root", ordinary, "0", ""},
		{"a user may not become another", ordinary, "4243", ""},
		{"a user may not take another's group", ordinary, "4242:0", ""},
	} {
		cmd := tt.caller.run(t.Context(), t, n, []string{"--user", tt.user}, "sh", "-c", "echo $(id -u) $(id -g) $(id -G)")
		out, stderr, status := finish(t, cmd)
		if out != tt.want {
			t.Errorf("%s: the guest printed %q, want %q; standard error:\n%s", tt.name, out, tt.want, stderr)
		}
		if refused := status == 2 || status == 125; refused != (tt.want == "") || refused && !strings.Contains(stderr, "hint:") {
			t.Errorf("%s: status %d, standard error %q", tt.name, status, stderr)
		}
	}
}

// TestGuestChangesNothing: with every identity that a guest can have, nothing
// of the kernel's settings can be opened for writing, no mount changed, and
// neither the interface nor the routes.
func TestGuestChangesNothing(t *testing.T) {
	eachCaller(t, func(t *testing.T, n *testnet.Net, c caller) {
		const script = `
for f in $(find /proc/sys -type f) /proc/sysrq-trigger $(find /proc/irq /proc/bus /proc/fs -type f) \
	$(find /sys/class/net/*/ /sys/kernel /sys/module/*/parameters -maxdepth 2 -type f); do
	[ -e $f ] && { : >>$f; } 2>/dev/null && echo open $f
done
for m in /proc/sys /proc /sys /dev / /etc; do
	mount -o remount,rw,bind $m 2>/dev/null && echo remounted $m
	umount -l $m 2>/dev/null && echo unmounted $m
done
mount -t proc proc /mnt 2>/dev/null && echo new proc
mount -t sysfs sysfs /mnt 2>/dev/null && echo new sysfs
ip link set tcpbox0 mtu 1400 2>/dev/null && echo link
ip link set tcpbox0 down 2>/dev/null && echo down
ip route add 192.0.2.0/24 dev tcpbox0 2>/dev/null && echo route
ip addr add 192.0.2.1/24 dev tcpbox0 2>/dev/null && echo address
ip tuntap add dev tun7 mode tun 2>/dev/null && echo tun
[ -e /dev/net ] && echo /dev/net
for d in /dev/null /dev/zero /dev/tty /dev/urandom; do chmod 700 $d 2>/dev/null && echo chmod $d; done
touch /dev/new 2>/dev/null && echo touch
grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status | grep -v '0000000000000000$'
grep -E '^NoNewPrivs' /proc/self/status
ls /sys/class/net
echo text >/dev/null && head -c 3 /dev/zero | wc -c
ls -A /dev/pts`
		for _, flags := range [][]string{nil, {"--root"}, {"--user", "4242"}} {
			out, stderr, status := finish(t, c.run(t.Context(), t, n, flags, "bash", "-c", script))
			const want = "NoNewPrivs:\t1\nlo\ntcpbox0\n3\nptmx"
			if out != want || status != 0 {
				t.Errorf("with %q the guest printed\n%s\nwant\n%s\nstatus %d, standard error:\n%s", flags, out, want, status, stderr)
			}
		}
	})
}

// TestHostsDeviceNodesKeepTheirModes: what the guest of the test above tried
// on its device nodes has not reached the machine's.
func TestHostsDeviceNodesKeepTheirModes(t *testing.T) {
	for _, name := range []string{"/dev/null", "/dev/zero", "/dev/urandom"} {
		info, err := os.Stat(name)
		if err != nil || info.Mode().Perm() != 0o666 {
			t.Errorf("%s has mode %v, %v", name, info.Mode(), err)
		}
	}
}

func TestDNS(t *testing.T) {
	testnet.Programs(t, "dig", "getent")
	eachCaller(t, func(t *testing.T, n *testnet.Net, c caller) {
		zone := map[string][]netip.Addr{"a.test.": {testnet.Public4, testnet.Public6}}
		servers := map[string]*testnet.DNS{
			"host":     n.Remote.ServeDNS(t, zone),
			"loopback": n.Uplink.ServeDNS(t, zone, netip.MustParseAddr("127.0.0.53")),
			"other":    n.Remote.ServeDNS(t, zone, testnet.Public4),
		}
		const query = "dig +short +tries=1 +time=20 a.test A"
		const tcp = "dig +short +tcp +tries=1 +time=20 a.test AAAA"
		for _, tt := range []struct {
			name   string
			resolv netip.Addr
			flags  string
			guest  string
			want   string
			asked  string // the server that is asked, and no other
		}{
			{"the host's resolver", testnet.Remote4, "", query, "8.8.4.4", "host"},
			{"over TCP", testnet.Remote4, "", tcp, "2001:4860:4860::8844", "host"},
			{"over IPv6", testnet.Remote6, "", query, "8.8.4.4", "host"},
			{"on the host's loopback", netip.MustParseAddr("127.0.0.53"), "", query, "8.8.4.4", "loopback"},
			{"on the host's loopback, over TCP", netip.MustParseAddr("127.0.0.53"), "", tcp, "2001:4860:4860::8844", "loopback"},
			{"another", testnet.Remote4, "--dns 8.8.4.4", query, "8.8.4.4", "other"},
			{"libc asks it", testnet.Remote4, "", "getent ahostsv4 a.test | head -n 1 | cut -d ' ' -f 1", "8.8.4.4", "host"},

			{"none", testnet.Remote4, "--dns none", query, "", ""},
			{"none, over TCP", testnet.Remote4, "--dns none", tcp, "", ""},
			{"--net none forwards nothing", testnet.Remote4, "--net none", query, "", ""},
			{"--net none with a resolver", testnet.Remote4, "--net none --dns 8.8.4.4", query, "8.8.4.4", "other"},
			{"--add-host", testnet.Remote4, "--dns none --add-host b.test:192.0.2.7", "getent hosts b.test | cut -d ' ' -f 1", "192.0.2.7", ""},
			{"--add-host, by a query", testnet.Remote4, "--net none --add-host b.test:192.0.2.7", "dig +short b.test A", "192.0.2.7", ""},
			{"a peer", testnet.Remote4, "--dns none --peer web=http", "dig +short web A", "198.18.0.16", ""},
			{
				"a peer's name is never forwarded", testnet.Remote4, "--peer web=http",
				"for t in A AAAA MX TXT SRV ANY HTTPS; do dig +short +tries=1 web $t >/dev/null; dig +tcp +short +tries=1 WEB $t >/dev/null; done", "", "",
			},
		} {
			before := make(map[string]int)
			for name, s := range servers {
				before[name] = len(s.Queries())
			}
			n.SetResolvers(t, tt.resolv)
			got, stderr, _ := finish(t, c.run(t.Context(), t, n, strings.Fields(tt.flags), "sh", "-c", tt.guest))
			lines := slices.DeleteFunc(strings.Split(got, "\n"), func(l string) bool { return strings.HasPrefix(l, ";") })
			if got := strings.Join(lines, "\n"); got != tt.want {
				t.Errorf("%s: the guest printed %q, want %q; standard error:\n%s", tt.name, got, tt.want, stderr)
			}
			for name, s := range servers {
				if asked := len(s.Queries()) > before[name]; asked != (name == tt.asked) {
					t.Errorf("%s: the server %q was asked: %v (%q)", tt.name, name, asked, s.Queries()[before[name]:])
				}
			}
		}
	})
}
