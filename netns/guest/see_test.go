package guest

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"tcpbox/netns"
)

// TestGuestSees is what a guest finds about itself and its sandbox.
func TestGuestSees(t *testing.T) {
	everybody(t, func(t *testing.T, who who) {
		me := fmt.Sprint(who.uid())
		rows := []seen{
			// Ids and privileges.
			{"the caller's ids", spec{}, "echo $(id -u) $(id -g)", me + " " + me},
			{"itself as root", spec{Root: true}, "echo $(id -u) $(id -g)", "0 0"},
			{
				"no capability",
				spec{},
				"grep -E 'Cap(Inh|Prm|Eff|Amb)' /proc/self/status | tr -d '\\t\\n'",
				"CapInh:0000000000000000CapPrm:0000000000000000CapEff:0000000000000000CapAmb:0000000000000000",
			},
			{"no capability with --root", spec{Root: true}, "grep -E 'CapEff' /proc/self/status | cut -f2", "0000000000000000"},
			{"no_new_privs", spec{}, "grep NoNewPrivs /proc/self/status | cut -f2", "1"},
			{"a filter", spec{}, "grep Seccomp: /proc/self/status | cut -f2", "2"},
			// A test binary with the race detector is linked to the C library,
			// whose own signal 32 is then ignored.
			{"no ignored or blocked signals", spec{}, "grep -E 'Sig(Blk|Ign)' /proc/self/status | cut -f2 | tr -d '\\n' | sed 's/80000000$/00000000/'", strings.Repeat("0", 32)},

			// Namespaces.
			{"no other processes", spec{}, "test $(ls -d /proc/[0-9]* | wc -l) -lt 9 && echo few", "few"},
			{"pid 1 is init", spec{}, "tr '\\0' ' ' </proc/1/cmdline", initName},
			{"nothing of init", spec{}, "cat /proc/1/environ 2>&1; readlink /proc/1/fd/3 /proc/1/exe /proc/1/root", "cat: /proc/1/environ: Permission denied"},
			{"a hostname", spec{Hostname: "box"}, "uname -n", "box"},
			{"the caller's hostname", spec{}, "uname -n", hostname(t)},

			// Network.
			{"two interfaces", spec{}, "echo $(ls /sys/class/net)", "lo tcpbox0"},
			{"its MTU", spec{}, "cat /sys/class/net/tcpbox0/mtu", "65520"},
			{"its IPv4 address", spec{}, "ip -4 -o addr show tcpbox0 | awk '{print $4}'", "198.18.0.2/24"},
			{"its IPv6 address, and none that the kernel made", spec{}, "ip -6 -o addr show tcpbox0 | awk '{print $4}'", "fd74:6370:626f:78::2/64"},
			{"no tentative address", spec{}, "ip -6 -o addr show tentative", ""},
			{
				"default routes",
				spec{},
				"echo $(ip route show default; ip -6 route show default | cut -d' ' -f1-5)",
				"default via 198.18.0.1 dev tcpbox0 proto static default via fd74:6370:626f:78::1 dev tcpbox0",
			},
			{"no IPv6", spec{NoIPv6: true}, "ip -6 addr; cat /proc/sys/net/ipv6/conf/all/disable_ipv6", "1"},
			{
				"no forwarding, no router advertisements",
				spec{},
				"cd /proc/sys/net; cat ipv4/ip_forward ipv6/conf/all/forwarding ipv6/conf/tcpbox0/accept_ra | tr -d '\\n'", "000",
			},
			{
				"a sysctl",
				spec{Sysctls: []netns.Sysctl{{Name: "net.ipv4.tcp_fin_timeout", Value: "7"}}},
				"cat /proc/sys/net/ipv4/tcp_fin_timeout", "7",
			},
			{
				"a default, and a sysctl over it; one that no kernel has",
				spec{
					Defaults: []netns.Sysctl{{Name: "net.ipv4.tcp_fin_timeout", Value: "7"}, {Name: "net.ipv4.tcp_sack", Value: "0"}, {Name: "net.ipv4.no_such", Value: "0"}},
					Sysctls:  []netns.Sysctl{{Name: "net.ipv4.tcp_fin_timeout", Value: "8"}, {Name: "net.ipv4.ip_local_reserved_ports", Value: ""}},
				},
				"cd /proc/sys/net/ipv4; echo $(cat tcp_fin_timeout tcp_sack ip_local_reserved_ports)", "8 0",
			},
			{
				"a sysctl set later",
				spec{Live: []netns.Sysctl{{Name: "net.ipv4.ip_local_port_range", Value: "4000 4009"}}},
				"echo $(cat /proc/sys/net/ipv4/ip_local_port_range)", "4000 4009",
			},
			{"ping sockets", spec{}, "ping -c1 -w9 127.0.0.1 >/dev/null && echo pong", "pong"},
			{"ping sockets with --root", spec{Root: true}, "ping -c1 -w9 ::1 >/dev/null && echo pong", "pong"},

			// Files.
			{"a minimal /dev", spec{}, "echo $(ls /dev)", "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero"},
			{"devices that work", spec{}, "echo x >/dev/null && head -c3 /dev/zero | wc -c && head -c2 /dev/urandom | wc -c", "3\n2"},
			{"its own shared memory", spec{}, "echo x >/dev/shm/x && cat /dev/shm/x", "x"},
			{"its own terminals", spec{}, "script -qec 'tty' /dev/null </dev/null | tr -d '\\r'", "/dev/pts/0"},
			{"resolv.conf", spec{Etc: map[string][]byte{"resolv.conf": []byte("nameserver 198.18.0.1\n")}}, "cat /etc/resolv.conf", "nameserver 198.18.0.1"},
			{"the rest of /etc", spec{Etc: map[string][]byte{"resolv.conf": nil}}, "cat /etc/os-release | head -1", firstLine(t, "/etc/os-release")},
			{"the working directory", spec{Dir: "/usr"}, "pwd", "/usr"},
			{"the caller's working directory", spec{}, "pwd", "/"},
		}
		// One sandbox for all rows that have the same one.
		var specs []string
		same := map[string][]seen{}
		for _, row := range rows {
			key := fmt.Sprintf("%+v", row.spec)
			if same[key] == nil {
				specs = append(specs, key)
			}
			same[key] = append(same[key], row)
		}
		for _, key := range specs {
			see(t, who, same[key])
		}
	})
}

// seen is what a shell script prints in a sandbox.
type seen struct {
	what   string
	spec   spec
	script string
	want   string
}

// see runs the rows' scripts in one sandbox, that of the first row.
func see(t *testing.T, who who, rows []seen) {
	t.Helper()
	var script strings.Builder
	for _, row := range rows {
		fmt.Fprintf(&script, "(\n%s\n) 2>&1\nprintf '\\1'\n", row.script)
	}
	got := who.sh(t, rows[0].spec, script.String())
	outputs := strings.Split(got.stdout, "\x01")
	if len(outputs) != len(rows)+1 || got.stderr != "" {
		t.Fatalf("%q: %q, %q", script.String(), got.stdout, got.stderr)
	}
	for i, row := range rows {
		t.Run(row.what, func(t *testing.T) {
			if got := strings.TrimRight(outputs[i], " \n"); got != row.want {
				t.Errorf("%s\n got %q\nwant %q", row.script, got, row.want)
			}
		})
	}
}

func TestGuestEnvironment(t *testing.T) {
	asRoot.need(t)
	cmd := asRoot.command(t, spec{Args: []string{"sh", "-c", "printf %s \"$A\""}})
	cmd.Env = append(cmd.Env, "A=b\xff c\n")
	if got := finish(t, cmd); got.stdout != "b\xff c\n" {
		t.Errorf("got %q", got.stdout)
	}
}

func hostname(t *testing.T) string {
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func firstLine(t *testing.T, path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		t.Skip(err)
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return line
}
