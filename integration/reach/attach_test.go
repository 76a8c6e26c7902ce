package reach

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tcpbox/integration/testnet"
)

// TestAttach serves every kind of namespace, and looks at it from both sides:
// names, a peer, the policy, the control API, a second attach, a stop.
func TestAttach(t *testing.T) {
	testnet.Programs(t, "unshare", "bwrap", "ip", "dig", "curl")
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		as := func(name string, args ...string) *inhabitant {
			return inhabit(t, n, n.Uplink.CommandAs(t.Context(), c.cred, name, args...))
		}
		t.Run("unshare", func(t *testing.T) {
			in := unshared(t, n, c)
			serveAndLook(t, n, c, in, strconv.Itoa(in.pid))
		})
		t.Run("bwrap", func(t *testing.T) {
			in := as("bwrap", "--bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-net", "sh")
			serveAndLook(t, n, c, in, strconv.Itoa(in.pid))
		})
		if c.cred != nil {
			return
		}
		t.Run("ip netns", func(t *testing.T) {
			name := ipNetns(t)
			in := as("ip", "netns", "exec", name, "sh")
			serveAndLook(t, n, c, in, "/run/netns/"+name)
		})
	})
}

// ipNetns makes a namespace as ip-netns(8) does, until t ends.
func ipNetns(t *testing.T) string {
	t.Helper()
	name := fmt.Sprintf("tcpbox-test-%d", os.Getpid())
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		t.Fatalf("ip netns add: %v, %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() }) // it may be gone
	return name
}

func serveAndLook(t *testing.T, n *testnet.Net, c caller, in *inhabitant, target string) {
	s := c.attach(t, n, "--net", "none", "--peer", "web=http", "--tcp", "guest.fin-timeout=7s", target)
	for _, row := range []struct{ what, script, want string }{
		{"interfaces", "ip -o link | awk -F ': ' '{printf \"%s \", $2}'", "lo tcpbox0 "},
		{"the resolver", "dig +short @198.18.0.1 web; dig +short @fd74:6370:626f:78::1 web AAAA", "198.18.0.16\nfd74:6370:626f:78::10"},
		{"a peer", "curl -sS http://198.18.0.16/bytes/1000 | wc -c", "1000"},
		{"a peer over IPv6", "curl -sS 'http://[fd74:6370:626f:78::10]/bytes/1000' | wc -c", "1000"},
		{"what is refused", "curl -s http://192.0.2.7/; echo $?", "7"},
		{"a knob", "cat /proc/sys/net/ipv4/tcp_fin_timeout", "7"},
		{"the control socket", "curl -s --unix-socket " + filepath.Join(c.runtimeDir(), s.name, "sock") + " http://x/v1/inspect", ""},
	} {
		if got := in.ask(row.script); got != row.want {
			t.Errorf("%s: %q, want %q; tcpbox wrote %s", row.what, got, row.want, s.stderr)
		}
	}
	for _, want := range []string{"nameserver 198.18.0.1\n", "refused 192.0.2.7:80 (net none)", "control connection refused"} {
		if !strings.Contains(s.stderr.String(), want) {
			t.Errorf("there is no %q in %s", want, s.stderr)
		}
	}
	var info struct {
		Kind, Target string
		PID          int
	}
	got := toEnd(t, c.tcpbox(t, n, "inspect", "--json", s.name))
	if err := json.Unmarshal([]byte(got.stdout), &info); err != nil || info.Kind != "attached" || info.PID != s.cmd.Process.Pid || info.Target == "" {
		t.Errorf("inspect: %v, %v", got, err)
	}
	if got := toEnd(t, c.tcpbox(t, n, "attach", "--net", "none", target)); got.code != 125 || !strings.Contains(got.stderr, "has an interface tcpbox0 already") {
		t.Errorf("a second attach: %v", got)
	}
	if got := toEnd(t, c.tcpbox(t, n, "stop", s.name)); got.code != 0 {
		t.Errorf("stop: %v", got)
	}
	s.ends(0)
	if got := in.devices(); got != "lo " {
		t.Errorf("after stop the interfaces are %q", got)
	}
	c.attach(t, n, "--net", "none", target) // the next one may
	in.leave()
}

// TestAttachEnds is every way in which it ends.
func TestAttachEnds(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		for _, row := range []struct {
			what string
			do   func(t *testing.T, in *inhabitant, s *serving)
			want int
			left bool // the shell lives on
		}{
			{"the target ends", func(_ *testing.T, in *inhabitant, _ *serving) { in.leave() }, 0, false},
			{"the target is killed", func(t *testing.T, in *inhabitant, _ *serving) { sendSignal(t, in.pid, unix.SIGKILL) }, 0, false},
			{"^C", func(t *testing.T, _ *inhabitant, s *serving) { sendSignal(t, s.cmd.Process.Pid, unix.SIGINT) }, 0, true},
			{"TERM", func(t *testing.T, _ *inhabitant, s *serving) { sendSignal(t, s.cmd.Process.Pid, unix.SIGTERM) }, 0, true},
			{"KILL", func(t *testing.T, _ *inhabitant, s *serving) { sendSignal(t, s.cmd.Process.Pid, unix.SIGKILL) }, 128 + 9, true},
			{"the interface is deleted", func(t *testing.T, in *inhabitant, _ *serving) { in.ask("ip link del tcpbox0") }, 125, true},
		} {
			t.Run(row.what, func(t *testing.T) {
				in := unshared(t, n, c)
				s := c.attach(t, n, "--net", "none", strconv.Itoa(in.pid))
				row.do(t, in, s)
				s.ends(row.want)
				if !row.left {
					return
				}
				testnet.Eventually(t, func() error { // a killed process's descriptors are closed a little later
					if got := in.devices(); got != "lo " {
						return fmt.Errorf("the interfaces are %q", got)
					}
					return nil
				})
				in.leave()
			})
		}
		t.Run("others live on in the namespace", func(t *testing.T) {
			in := unshared(t, n, c)
			s := c.attach(t, n, "--net", "none", "--peer", "web=http", strconv.Itoa(in.pid))
			gate := filepath.Join(testnet.Dir(t), "gate")
			must(t, unix.Mkfifo(gate, 0o666))
			must(t, os.Chmod(gate, 0o666))
			in.ask(fmt.Sprintf("(trap '' HUP; cat %s >/dev/null) </dev/null >/dev/null 2>&1 &", gate))
			in.leave()
			if got := toEnd(t, c.tcpbox(t, n, "inspect", s.name)); got.code != 0 {
				t.Errorf("inspect after the named process's end: %v", got)
			}
			f, err := os.OpenFile(gate, os.O_WRONLY, 0)
			must(t, err)
			f.Close()
			s.ends(0)
		})
		t.Run("--exit-fd", func(t *testing.T) {
			in := unshared(t, n, c)
			r, w, err := os.Pipe()
			must(t, err)
			cmd := c.tcpbox(t, n, "attach", "--ready-fd", "3", "--exit-fd", "4", "--net", "none", strconv.Itoa(in.pid))
			cmd.ExtraFiles = []*os.File{r}
			s := awaitServing(t, cmd)
			r.Close()
			_, err = io.WriteString(w, "what comes before the end is nothing")
			must(t, err)
			w.Close()
			s.ends(0)
			in.leave()
		})
		t.Run("--timeout", func(t *testing.T) {
			in := unshared(t, n, c)
			c.attach(t, n, "--timeout", "100ms", "--net", "none", strconv.Itoa(in.pid)).ends(124)
			in.leave()
		})
	})
}

// TestAttachToAPath ends when the path is gone.
func TestAttachToAPath(t *testing.T) {
	testnet.Programs(t, "ip")
	n := testnet.New(t)
	noBoxesAfter(t)
	name := ipNetns(t)
	s := root.attach(t, n, "--net", "none", "/run/netns/"+name)
	if out, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
		t.Fatalf("ip netns del: %v, %s", err, out)
	}
	s.ends(0)
}

// TestAttachReachesTheWorld goes on to real hosts, under the default policy.
func TestAttachReachesTheWorld(t *testing.T) {
	testnet.Programs(t, "curl")
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		for _, a := range []netip.Addr{testnet.Public4, testnet.Public6} {
			l := n.Remote.Listen(t, "tcp", netip.AddrPortFrom(a, 80))
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					_, _ = conn.Read(make([]byte, 4096)) // the request: what is unread would end in a reset
					_, _ = io.WriteString(conn, "HTTP/1.0 200 OK\r\n\r\nthe world")
					conn.Close()
				}
			}()
		}
		in := unshared(t, n, c)
		s := c.attach(t, n, "--dns", "none", strconv.Itoa(in.pid))
		for _, url := range []string{"http://8.8.4.4/", "http://[2001:4860:4860::8844]/"} {
			if got := in.ask("curl -sS " + url + " 2>&1"); !strings.HasPrefix(got, "the world") {
				t.Errorf("%s: %q", url, got)
			}
		}
		if got := in.ask("curl -s http://10.77.0.1/; echo $?"); got != "7" {
			t.Errorf("a private address: curl ended with %q, want 7", got)
		}
		in.leave()
		s.ends(0)
	})
}

// TestAttachIsRefused: nothing is made where it must not be.
func TestAttachIsRefused(t *testing.T) {
	testnet.Programs(t, "unshare", "ip")
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		in := unshared(t, n, c)
		mine := strconv.Itoa(in.pid)
		theirs := inhabit(t, n, n.Uplink.Command(t.Context(), "unshare", "-n", "sh"))                            // root's
		neighbour := begin(t, n.Uplink.CommandAs(t.Context(), c.cred, "sh", "-c", "echo ready; exec sleep 600")) // in the uplink
		neighbour.prints("ready")
		named := ipNetns(t)
		for _, row := range []struct {
			what   string
			before string // in the namespace
			args   []string
			want   int
			says   string
			after  string
		}{
			{"its own network", "", []string{strconv.Itoa(neighbour.cmd.Process.Pid)}, 2, "the network of tcpbox itself", ""},
			{"its own network by a path", "", []string{"/proc/self/ns/net"}, 2, "the network of tcpbox itself", ""},
			{"a default route", "ip link set lo up; ip route add default dev lo", []string{mine}, 125, "has a default route already (IPv4)", "ip route del default"},
			{"a default route of IPv6", "ip -6 route add default dev lo", []string{mine}, 125, "has a default route already (IPv6)", "ip -6 route del default"},
			{"an interface of the name", "ip link add tcpbox0 type veth peer name other", []string{mine}, 125, "an interface tcpbox0 already", "ip link del tcpbox0"},
			{"no IPv6", "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6", []string{mine}, 125, "serve it with --no-ipv6", "echo 0 >/proc/sys/net/ipv6/conf/all/disable_ipv6"},
			{"a setting that cannot be", "", []string{"--tcp", "guest.syn-backlog=99999999999", mine}, 2, "guest.syn-backlog", ""},
			{"no such process", "", []string{"1073741823"}, 2, "there is no such process", ""},
			{"no such path", "", []string{"/no/where"}, 2, "no such file", ""},
			{"a file", "", []string{"/etc/passwd"}, 2, "not a network namespace", ""},
			{"another kind of namespace", "", []string{"/proc/self/ns/pid"}, 2, "not a network namespace", ""},
			{"a name of ip netns", "", []string{named}, 2, "did you mean /run/netns/" + named, ""},
		} {
			in.ask(row.before)
			got := toEnd(t, c.tcpbox(t, n, append([]string{"attach", "--net", "none", "--timeout", "20s"}, row.args...)...))
			if got.code != row.want || !strings.Contains(got.stderr, row.says) || got.stdout != "" {
				t.Errorf("%s: %v, want exit status %d and %q", row.what, got, row.want, row.says)
			}
			in.ask(row.after)
			if got := in.devices(); got != "lo " {
				t.Errorf("%s: the interfaces are %q afterwards", row.what, got)
			}
		}
		if c.cred != nil {
			for _, target := range []string{strconv.Itoa(theirs.pid), "/run/netns/" + named} {
				got := toEnd(t, c.tcpbox(t, n, "attach", "--net", "none", target))
				if got.code != 125 || !strings.Contains(got.stderr, "hint: ") || !strings.Contains(got.stderr, "root") {
					t.Errorf("a namespace of root's, %s: %v", target, got)
				}
			}
		}
		if got := theirs.devices(); got != "lo " {
			t.Errorf("the interfaces in root's are %q afterwards", got)
		}
		s := c.attach(t, n, "--net", "none", "--no-ipv6", mine) // after all of this it can be
		if got := in.ask("ip -o addr show tcpbox0 | awk '{print $4}'"); got != "198.18.0.2/24" {
			t.Errorf("with --no-ipv6 the addresses are %q", got)
		}
		in.leave()
		s.ends(0)
		theirs.leave()
	})
}

// TestAttachWithoutTUN says what is missing.
func TestAttachWithoutTUN(t *testing.T) {
	testnet.Programs(t, "unshare")
	n := testnet.New(t)
	in := unshared(t, n, root)
	const hide = "mount -t tmpfs none /dev/net; exec "
	got := toEnd(t, n.Uplink.Command(t.Context(), "sh", "-c", hide+testnet.Binary(t)+" attach --net none "+strconv.Itoa(in.pid)))
	if got.code != 125 || !strings.Contains(got.stderr, "modprobe tun") {
		t.Errorf("without /dev/net/tun: %v", got)
	}
	if got := in.devices(); got != "lo " {
		t.Errorf("the interfaces are %q afterwards", got)
	}
	in.leave()
}

// TestAttachIsNobodyElses: another user neither reaches the control API nor may
// attach to the namespace.
func TestAttachIsNobodyElses(t *testing.T) {
	testnet.Programs(t, "unshare", "curl")
	n := testnet.New(t)
	in := unshared(t, n, ordinary)
	other := caller{"other", &syscall.Credential{Uid: 4243, Gid: 4243}}
	if got := toEnd(t, other.tcpbox(t, n, "attach", "--net", "none", strconv.Itoa(in.pid))); got.code != 125 || !strings.Contains(got.stderr, "someone else's") {
		t.Errorf("attach: %v", got)
	}
	s := ordinary.attach(t, n, "--net", "none", strconv.Itoa(in.pid))
	if got := toEnd(t, other.tcpbox(t, n, "stop", s.name)); got.code == 0 {
		t.Errorf("stop: %v", got)
	}
	sock := filepath.Join(ordinary.runtimeDir(), s.name, "sock")
	for _, row := range []struct {
		who    caller
		answer bool
	}{{other, false}, {ordinary, true}} {
		got := toEnd(t, n.Uplink.CommandAs(t.Context(), row.who.cred, "curl", "-s", "--unix-socket", sock, "http://x/v1/inspect"))
		if strings.Contains(got.stdout, s.name) != row.answer {
			t.Errorf("%s asks the control API: %v", row.who.name, got)
		}
	}
	in.leave()
	s.ends(0)
}

// TestAttachPodman serves a container that podman, as root, has made without a
// network. It is skipped, with what podman said, where podman can run none.
func TestAttachPodman(t *testing.T) {
	if testing.Short() {
		t.Skip("makes a container")
	}
	testnet.Programs(t, "podman", "curl", "nsenter")
	n := testnet.New(t)
	noBoxesAfter(t)
	dir := testnet.Dir(t)
	script := `
		umount -R /sys/fs/cgroup 2>/dev/null || umount -l /sys/fs/cgroup
		mount -t cgroup2 none /sys/fs/cgroup
		mkdir -p rootfs/bin rootfs/etc rootfs/proc rootfs/sys rootfs/dev rootfs/tmp rootfs/run rootfs/lib64
		cp --parents $(ldd /bin/sleep | grep -o '/[^ ]*') rootfs && cp /bin/sleep rootfs/bin
		p="podman --root $PWD/root --runroot $PWD/run --storage-driver vfs --cgroup-manager cgroupfs --events-backend none"
		$p run -d --ulimit nofile=1024:1024 --ulimit nproc=1000:1000 --cgroups=disabled --network none --rootfs $PWD/rootfs /bin/sleep 600 || exit 9
		$TCPBOX attach --net none --peer web=http --ready-fd 4 $($p inspect -l --format '{{.State.Pid}}') 4>ready &
		until [ -s ready ]; do kill -0 $! || exit 8; sleep 0.05; done
		nsenter -n -t $($p inspect -l --format '{{.State.Pid}}') curl -sS http://198.18.0.16/bytes/1000 | wc -c
		$p rm -fa >/dev/null
		wait $!
		echo tcpbox ended with $?`
	cmd := n.Uplink.Command(t.Context(), "sh", "-c", "cd "+dir+script)
	cmd.Env = append(cmd.Env, "TCPBOX="+testnet.Binary(t))
	got := toEnd(t, cmd)
	if got.code == 9 {
		t.Skipf("podman cannot run a container here: %v", got)
	}
	if !strings.HasSuffix(got.stdout, "1000\ntcpbox ended with 0\n") {
		t.Errorf("podman: %v", got)
	}
}

// TestHangUpWithoutPolicy: HUP has nothing to read again, and ends the serving, which is
// told.
func TestHangUpWithoutPolicy(t *testing.T) {
	testnet.Programs(t, "unshare")
	n := testnet.New(t)
	in := unshared(t, n, root)
	s := root.attach(t, n, "--net", "none", strconv.Itoa(in.pid))
	sendSignal(t, s.cmd.Process.Pid, unix.SIGHUP)
	if code := s.wait(); code != 0 || !strings.Contains(s.stderr.String(), "HUP ends the serving: there is no --policy that could be read again") {
		t.Errorf("exit status %d, and tcpbox wrote %s", code, s.stderr)
	}
}

// TestReload: HUP has attach read its policy document again, under its flags. One
// with faults leaves the old policy in force, and every fault is told.
func TestReload(t *testing.T) {
	testnet.Programs(t, "unshare", "ip")
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		file := filepath.Join(testnet.Dir(t), "box.yaml")
		write := func(text string) {
			t.Helper()
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		write("version: 1\nnet: none\ntcp: {guest.fin-timeout: 7s, guest.keepalive.count: 4}\n")
		in := unshared(t, n, c)
		s := c.attach(t, n, "--policy", file, "--tcp", "guest.keepalive.count=5", strconv.Itoa(in.pid))
		const look = "cd /proc/sys/net/ipv4; echo $(cat tcp_fin_timeout tcp_keepalive_probes)"
		if got := in.ask(look); got != "7 5" {
			t.Errorf("at first %q, want 7 5; tcpbox wrote %s", got, s.stderr)
		}
		hup := func(want string) {
			t.Helper()
			sendSignal(t, s.cmd.Process.Pid, unix.SIGHUP)
			testnet.Eventually(t, func() error {
				if !strings.Contains(s.stderr.String(), want) {
					return fmt.Errorf("there is no %q in %s", want, s.stderr)
				}
				return nil
			})
		}

		write("version: 1\nnet: some\ntcp: {guest.fin-timeout: 8}\n")
		hup("fin-timeout: \"8\" has no unit")
		if !strings.Contains(s.stderr.String(), "the old policy stays in force: "+file+":2:6: \"some\" is not a value of net") {
			t.Errorf("not every fault is told in %s", s.stderr)
		}
		if got := in.ask(look); got != "7 5" {
			t.Errorf("after a document with faults %q, want 7 5", got)
		}

		// A FIFO that nobody writes to holds up no later reload.
		if err := errors.Join(os.Remove(file), unix.Mkfifo(file, 0o644)); err != nil {
			t.Fatal(err)
		}
		hup("only a regular file is read again")
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}

		write("version: 1\nnet: all\ntcp: {guest.fin-timeout: 8s, guest.keepalive.count: 3}\n")
		hup("guest.fin-timeout: 7s ")
		if got := in.ask(look); got != "8 5" {
			t.Errorf("after another document %q, want 8 5", got)
		}
	})
}
