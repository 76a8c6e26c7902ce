package legs

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"tcpbox/integration/testnet"
	"tcpbox/stack/tcpstate"
)

// The guest's programs, each of which has connections and says whose they are, in
// its own numbers.
const (
	// Two loops of curl, side by side. Each asks a port of its own.
	curls = `
def loop(port):
    url = "http://web%d:%d/" % (port, port)
    return [int(subprocess.run(["curl", "-s", "-o", os.devnull, "-w", "%{local_port}", url], check=True, capture_output=True, text=True).stdout) for _ in range(25)]
with ThreadPoolExecutor(2) as both:
    result = list(both.map(loop, ports))
`
	// A pool of processes and one of threads, which stay.
	pools = `
def talk(name):
    with socket.create_connection((name, 80)) as s:
        s.sendall(b"x")
        s.recv(1)
        return os.getpid(), s.getsockname()[1]
processes = multiprocessing.get_context("fork").Pool(4)
threads = ThreadPoolExecutor(4)
result = processes.map(talk, ["echo"] * 40, 1) + list(threads.map(talk, ["echo"] * 40))
`
	// A server that forks for each connection. What it has forked stays.
	forks = `
result, forked = [], []
for _ in range(20):
    s, (host, port) = listener.accept()
    pid = os.fork()
    if pid == 0:
        s.recv(1)
        s.sendall(b"x")
        s.close()
        while True:
            time.sleep(60)
    s.close()
    forked.append(pid)
    result.append(("%s:%d" % (host, port), pid, os.getpid()))
`
	// The end of what has stayed.
	leave = `
for pid in forked:
    os.kill(pid, 9)
    os.waitpid(pid, 0)
processes.terminate()
processes.join()
threads.shutdown()
nginx.terminate()
nginx.wait()
`
)

// owners are the processes that have, or had, a connection of the guest's.
type owners struct {
	pids    []int // as this process numbers them
	command string
}

// TestWhoseSocket compares the processes that the log has with those that the
// guest's programs say themselves to be. None is wrong. How many are known is not
// asserted for an ordinary user: of a client that lives for some milliseconds there
// is time for one look, or for none where the machine is busy. With the trace all
// that connected are known.
func TestWhoseSocket(t *testing.T) {
	testnet.Require(t)
	testnet.Programs(t, "python3", "curl", "nginx")
	for _, c := range []struct {
		name   string
		cred   *syscall.Credential
		flags  []string // nginx does without root
		traced bool
	}{{"root", nil, []string{"-u", "4242:4242"}, true}, {"user", testnet.User, nil, false}} {
		t.Run(c.name, func(t *testing.T) {
			n := testnet.New(t)
			ports := somePorts()[:2]
			r := startRecording(t, ports)
			dir := testnet.Dir(t)
			must(t, os.Chmod(dir, 0o777))
			b := startBox(t, n, "owner-"+c.name, c.cred, append(c.flags, "--no-ipv6", "--peer", "echo=echo",
				"--peer", fmt.Sprintf("web%d=http:%[1]d", ports[0]), "--peer", fmt.Sprintf("web%d=http:%[1]d", ports[1]),
				"-p", "10.77.0.2:8000:8000", "-p", "10.77.0.2:8001:8001")...)
			want := make(map[string]map[ends]owners)
			guest := func(port int) netip.AddrPort {
				return netip.AddrPortFrom(netip.MustParseAddr("198.18.0.2"), uint16(port))
			}

			var asked [2][]int
			b.do(t, fmt.Sprintf("ports = [%d, %d]\n", ports[0], ports[1])+curls, &asked)
			events := r.end(t)
			numbered := tracesOwnNumbers()
			if numbered {
				want["curl"] = curlOwners(t, events, ports, asked, guest)
			}

			var pooled [][2]int
			b.do(t, `peer = socket.gethostbyname("echo")`+pools, &pooled)
			var echo string
			b.do(t, "result = peer", &echo)
			inside := numbersInside(t, b.cmd.Process.Pid)
			want["pool"] = make(map[ends]owners)
			for _, p := range pooled {
				want["pool"][ends{guest(p[1]), netip.AddrPortFrom(netip.MustParseAddr(echo), 80)}] = inside.of(t, p[0])
			}

			var served [][3]any
			b.do(t, `listener = socket.create_server(("0.0.0.0", 8000))`, nil)
			done := askAll(t, n, netip.AddrPortFrom(testnet.Uplink4, 8000), "x")
			b.do(t, forks, &served)
			must(t, <-done)
			inside = numbersInside(t, b.cmd.Process.Pid)
			want["forks"] = make(map[ends]owners)
			for _, s := range served {
				child, parent := inside.of(t, int(s[1].(float64))), inside.of(t, int(s[2].(float64)))
				child.pids = append(child.pids, parent.pids...) // both have it, until one has closed it
				want["forks"][ends{guest(8000), netip.MustParseAddrPort(s[0].(string))}] = child
			}

			want["nginx"] = nginxOwners(t, b, dir, guest(8001))
			b.do(t, leave, nil)

			testnet.Eventually(t, func() error { // the last ones have passed the log's queue
				log := readLogged(t, b.log)
				for k := range want["nginx"] {
					if i := slices.IndexFunc(log, func(l *logged) bool { return l.ends == k }); i < 0 || log[i].records[len(log[i].records)-1].To != tcpstate.TimeWait {
						return fmt.Errorf("the log has not got to the end of %v", k)
					}
				}
				return nil
			})
			log := readLogged(t, b.log)
			for _, program := range slices.Sorted(maps.Keys(want)) {
				known := checkOwners(t, program, want[program], log)
				if all := len(want[program]); c.traced && numbered && program != "nginx" && known < all {
					t.Errorf("%s: of %d of %d nothing is known", program, all-known, all)
				}
			}
		})
	}
}

// tracesOwnNumbers reports whether the kernel's trace numbers processes as this
// process does: it does not in a container with numbers of its own.
func tracesOwnNumbers() bool {
	name, err := os.Readlink("/proc/self/ns/pid")
	return err == nil && name == "pid:[4026531836]" // PROC_PID_INIT_INO
}

// checkOwners compares one program's connections, and returns of how many the log
// has a process.
func checkOwners(t testing.TB, program string, want map[ends]owners, log []*logged) (known int) {
	t.Helper()
	var wrong []string
	for k, o := range want {
		i := slices.IndexFunc(log, func(l *logged) bool { return l.ends == k })
		if i < 0 {
			t.Errorf("%s: the log has no connection %v", program, k)
			continue
		}
		for _, f := range log[i].pids {
			if !slices.Contains(o.pids, f.PID) || f.Command != o.command {
				wrong = append(wrong, fmt.Sprintf("%v is of %s[%d], and of %s%d", k, f.Command, f.PID, o.command, o.pids))
			}
		}
		if len(log[i].pids) > 0 {
			known++
		}
	}
	t.Logf("%s: %d connections, %d with a process, %d with a wrong one", program, len(want), known, len(wrong))
	if len(wrong) > 0 || len(want) < 20 {
		t.Errorf("%s: %s", program, strings.Join(wrong, "\n"))
	}
	return known
}

// curlOwners says which curl had which connection: the kernel's trace has the thread
// that connected, one after the other to each port.
func curlOwners(t testing.TB, events []event, ports []uint16, asked [2][]int, guest func(int) netip.AddrPort) map[ends]owners {
	t.Helper()
	all := make(map[ends]owners)
	for i, port := range ports {
		var threads []int
		var peers []netip.AddrPort
		for _, ev := range events {
			if ev.to == tcpstate.SynSent && ev.remote.Port() == port {
				threads, peers = append(threads, ev.thread), append(peers, ev.remote)
			}
		}
		if len(threads) != len(asked[i]) {
			t.Fatalf("the kernel saw %d connects to port %d, curl made %d", len(threads), port, len(asked[i]))
		}
		for j, local := range asked[i] {
			all[ends{guest(local), peers[j]}] = owners{[]int{threads[j]}, "curl"}
		}
	}
	return all
}

// numbers are the processes of a sandbox by the numbers that they know themselves
// by.
type numbers map[int]owners

func (n numbers) of(t testing.TB, pid int) owners {
	t.Helper()
	if _, there := n[pid]; !there {
		t.Fatalf("the sandbox has no process %d: %v", pid, n)
	}
	o := n[pid]
	o.pids = slices.Clone(o.pids)
	return o
}

// numbersInside reads them from /proc: all below a process that have another number
// inside.
func numbersInside(t testing.TB, pid int) numbers {
	t.Helper()
	children, err := testnet.Children()
	must(t, err)
	all := make(numbers)
	for queue := children[pid]; len(queue) > 0; queue = queue[1:] {
		p := queue[0]
		queue = append(queue, children[p]...)
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it has ended
		}
		must(t, err)
		var own []string
		var command string
		for line := range strings.Lines(string(status)) {
			name, value, _ := strings.Cut(line, ":")
			switch name {
			case "Name":
				command = strings.TrimSpace(value)
			case "NSpid":
				own = strings.Fields(value)
			}
		}
		if len(own) < 2 {
			continue // not in the sandbox
		}
		inner, err := strconv.Atoi(own[len(own)-1])
		must(t, err)
		all[inner] = owners{[]int{p}, command}
	}
	return all
}

// askAll has twenty clients, one after the other, send a byte and wait for the end.
func askAll(t testing.TB, n *testnet.Net, to netip.AddrPort, text string) <-chan error {
	done := make(chan error, 1)
	go func() { // ends when the guest has served them
		for range 20 {
			if err := askOnce(t, n, to, text); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	return done
}

func askOnce(t testing.TB, n *testnet.Net, to netip.AddrPort, text string) error {
	c, err := dialSoon(t, n, netip.AddrPort{}, to)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte(text)); err != nil {
		return err
	}
	var all bytes.Buffer
	_, err = all.ReadFrom(c)
	return err
}

// nginxOwners runs an nginx with two workers on port 8001, asks it, and returns
// which worker it says to have served which connection.
func nginxOwners(t testing.TB, b *box, dir string, guest netip.AddrPort) map[ends]owners {
	t.Helper()
	conf, access := filepath.Join(dir, "nginx.conf"), filepath.Join(dir, "access.log")
	must(t, os.WriteFile(conf, fmt.Appendf(nil, `
daemon off; worker_processes 2; pid %[1]s/nginx.pid; error_log stderr;
events {}
http {
	log_format who "$pid $remote_addr:$remote_port";
	access_log %[2]s who;
	client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
	keepalive_timeout 0;
	server { listen 8001; return 200 "hello"; }
}
`, dir, access), 0o644))
	b.do(t, fmt.Sprintf(`nginx = subprocess.Popen(["nginx", "-e", "stderr", "-c", %q])`, conf), nil)
	must(t, <-askAll(t, b.n, netip.AddrPortFrom(testnet.Uplink4, 8001), "GET / HTTP/1.0\r\n\r\n"))
	all := make(map[ends]owners)
	inside := numbersInside(t, b.cmd.Process.Pid)
	testnet.Eventually(t, func() error {
		text, err := os.ReadFile(access)
		if lines := bytes.Count(text, []byte("\n")); err != nil || lines != 20 {
			return fmt.Errorf("nginx has logged %d requests: %w", lines, err)
		}
		for line := range strings.Lines(string(text)) {
			pid, from, _ := strings.Cut(strings.TrimSpace(line), " ")
			inner, err1 := strconv.Atoi(pid)
			remote, err2 := netip.ParseAddrPort(from)
			must(t, errors.Join(err1, err2))
			all[ends{guest, remote}] = inside.of(t, inner)
		}
		return nil
	})
	return all
}
