package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"tcpbox/integration/testnet"
	"tcpbox/stack/tcpstate"
)

// world is a Net with servers in it.
type world struct {
	*testnet.Net
	dir string
	as  caller // who runs the guests
}

// serve runs a server program in Remote until t ends, and waits until it
// listens on addr.
func (w *world) serve(t *testing.T, cred *syscall.Credential, addr netip.AddrPort, name string, args ...string) {
	t.Helper()
	testnet.Programs(t, name)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := w.Remote.CommandAs(ctx, cred, name, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Dir = w.dir
	var out testnet.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	must(t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // it is killed, or it failed and the test says so
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		if t.Failed() {
			t.Logf("%s wrote:\n%s", name, &out)
		}
	})
	testnet.Eventually(t, func() error {
		select {
		case <-ended:
			t.Fatalf("%s %q ended:\n%s", name, args, &out)
		default:
		}
		if w.Remote.State(t, addr, netip.AddrPort{}) != tcpstate.Listen {
			return fmt.Errorf("%s does not listen on %v", name, addr)
		}
		return nil
	})
}

// file writes a file that a server reads and returns its path.
func (w *world) file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(w.dir, name)
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

// at is a port of the server's address, of the family that the row is about.
func at(six bool, port uint16) netip.AddrPort {
	if six {
		return netip.AddrPortFrom(testnet.Public6, port)
	}
	return netip.AddrPortFrom(testnet.Public4, port)
}

// guest runs a program in a sandbox and returns its standard output.
func (w *world) guest(t *testing.T, name string, args ...string) string {
	t.Helper()
	testnet.Programs(t, name)
	cmd := w.as.run(t.Context(), t, w.Net, nil, append([]string{name}, args...)...)
	cmd.Env = append(cmd.Env, "HOME="+w.dir, "GIT_TERMINAL_PROMPT=0")
	return testnet.Output(t, cmd)
}

func (w *world) nginx(t *testing.T, six bool) netip.AddrPort {
	addr := at(six, 80)
	w.file(t, "www/page", strings.Repeat("a page\n", 1000))
	conf := w.file(t, "nginx.conf", fmt.Sprintf(`
daemon off; master_process off; pid %[1]s/nginx.pid; error_log stderr;
events { worker_connections 512; }
http {
	access_log off; client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2;
	fastcgi_temp_path %[1]s/t3; uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5;
	server { listen %[2]s; root %[1]s/www; }
}`, w.dir, addr))
	w.serve(t, nil, addr, "nginx", "-e", "stderr", "-c", conf)
	return addr
}

var programs = []struct {
	name string
	test func(*testing.T, *world, bool)
}{
	{"curl", func(t *testing.T, w *world, six bool) {
		addr := w.nginx(t, six)
		if got := w.guest(t, "curl", "-sS", fmt.Sprintf("http://%v/page", addr)); len(got) != 7*1000-1 {
			t.Errorf("curl printed %d bytes, want 6999", len(got))
		}
	}},
	{"git clone", func(t *testing.T, w *world, six bool) {
		addr := w.nginx(t, six)
		w.file(t, "work/README", "cloned\n")
		for _, args := range [][]string{
			{"init", "-q", "work"},
			{"-C", "work", "add", "."},
			{"-C", "work", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "-m", "first"},
			{"clone", "-q", "--bare", "work", "www/repo.git"},
			{"-C", "www/repo.git", "update-server-info"},
		} {
			cmd := exec.Command("git", args...)
			cmd.Dir = w.dir
			cmd.Env = append(os.Environ(), "HOME="+w.dir)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("git %q: %v\n%s", args, err, out)
			}
		}
		clone := filepath.Join(w.dir, "clone")
		w.guest(t, "git", "clone", "-q", fmt.Sprintf("http://%v/repo.git", addr), clone)
		if text, err := os.ReadFile(filepath.Join(clone, "README")); string(text) != "cloned\n" {
			t.Errorf("the clone holds %q, %v", text, err)
		}
	}},
	{"redis", func(t *testing.T, w *world, six bool) {
		addr := at(six, 6379)
		w.serve(t, nil, addr, "redis-server", "--bind", addr.Addr().String(), "--port", "6379",
			"--save", "", "--protected-mode", "no", "--dir", w.dir)
		host := addr.Addr().String()
		if got := w.guest(t, "redis-cli", "-h", host, "set", "key", "value"); got != "OK" {
			t.Errorf("redis-cli set printed %q", got)
		}
		if got := w.guest(t, "redis-cli", "-h", host, "get", "key"); got != "value" {
			t.Errorf("redis-cli get printed %q", got)
		}
		got := w.guest(t, "redis-benchmark", "-h", host, "-n", "5000", "-c", "50", "-t", "set,get", "--csv")
		if !strings.Contains(got, `"SET"`) || !strings.Contains(got, `"GET"`) {
			t.Errorf("redis-benchmark printed %q", got)
		}
	}},
	{"psql", func(t *testing.T, w *world, six bool) {
		bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
		account, err := user.Lookup("postgres")
		if len(bins) == 0 || err != nil {
			testnet.Unavailable(t, "needs a postgresql server")
		}
		uid, err1 := strconv.ParseUint(account.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(account.Gid, 10, 32)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		cred := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		data := filepath.Join(w.dir, "pg")
		must(t, os.Mkdir(data, 0o700))
		must(t, os.Chown(data, int(uid), int(gid)))
		initdb := w.Remote.CommandAs(t.Context(), cred, bins[0]+"/initdb", "-D", data, "-A", "trust", "--no-sync")
		initdb.Dir = data
		testnet.Output(t, initdb)
		hba := filepath.Join(data, "pg_hba.conf")
		must(t, os.WriteFile(hba, []byte("host all all all trust\n"), 0o600))
		addr := at(six, 5432)
		w.serve(t, cred, addr, bins[0]+"/postgres", "-D", data, "-h", addr.Addr().String(), "-k", "", "-F")
		got := w.guest(t, "psql", "-h", addr.Addr().String(), "-U", "postgres", "-Atc", "select sum(n) from generate_series(1, 100000) n")
		if got != "5000050000" {
			t.Errorf("psql printed %q, want 5000050000", got)
		}
	}},
	{"ssh", func(t *testing.T, w *world, six bool) {
		testnet.Programs(t, "ssh-keygen", "ssh", "/usr/sbin/sshd")
		if w.as.uid() != 0 { // ssh asks for the user's name
			w.as = caller{"nobody", &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		addr := at(six, 22)
		for _, key := range []string{"host", "id"} {
			if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(w.dir, key)).CombinedOutput(); err != nil {
				t.Fatalf("ssh-keygen: %v\n%s", err, out)
			}
			must(t, os.Chown(filepath.Join(w.dir, key), w.as.uid(), w.as.uid()))
		}
		must(t, os.MkdirAll("/run/sshd", 0o755)) // sshd wants it
		conf := w.file(t, "sshd_config", fmt.Sprintf(`
ListenAddress %s
HostKey %[2]s/host
AuthorizedKeysFile %[2]s/id.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
`, addr, w.dir))
		w.serve(t, nil, addr, "/usr/sbin/sshd", "-D", "-e", "-f", conf)
		got := w.guest(t, "ssh", "-F", "none", "-i", filepath.Join(w.dir, "id"), "-o", "BatchMode=yes", "-o", "LogLevel=ERROR",
			"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "root@"+addr.Addr().String(), "echo hello; seq 10000 | tail -n 1")
		if got != "hello\n10000" {
			t.Errorf("ssh printed %q", got)
		}
	}},
	{"iperf3", func(t *testing.T, w *world, six bool) {
		addr := at(six, 5201)
		w.serve(t, nil, addr, "iperf3", "-s", "-B", addr.Addr().String())
		for _, way := range [][]string{{}, {"-R"}} {
			// By volume, not by time: 64 MiB each way.
			args := append([]string{"-c", addr.Addr().String(), "-n", "64M", "-J"}, way...)
			var result struct {
				End struct {
					SumReceived struct {
						Bytes float64 `json:"bytes"`
					} `json:"sum_received"`
				} `json:"end"`
			}
			must(t, json.Unmarshal([]byte(w.guest(t, "iperf3", args...)), &result))
			// The receiver stops counting when the sender is through, whatever
			// is still under way.
			if got := result.End.SumReceived.Bytes; got < 32<<20 {
				t.Errorf("iperf3 %q received %.0f bytes", way, got)
			}
		}
	}},
	{"dig", func(t *testing.T, w *world, six bool) {
		w.Remote.ServeDNS(t, map[string][]netip.Addr{"a.test.": {testnet.Public4, testnet.Public6}})
		kind, want := "A", testnet.Public4.String()
		if six {
			kind, want = "AAAA", testnet.Public6.String()
		}
		for _, transport := range []string{"+notcp", "+tcp"} {
			if got := w.guest(t, "dig", "+short", transport, "a.test", kind); got != want {
				t.Errorf("dig %s printed %q, want %q", transport, got, want)
			}
		}
	}},
	{"python asyncio", func(t *testing.T, w *world, six bool) {
		l := w.Remote.Listen(t, "tcp", at(six, 7))
		done := make(chan struct{})
		go func() {
			defer close(done)
			echo(l)
		}()
		script := fmt.Sprintf(`
import asyncio
async def one(i):
    r, w = await asyncio.open_connection(%q, 7)
    text = b"%%d " %% i * 1000
    w.write(text); await w.drain(); w.write_eof()
    ok = await r.read() == text
    w.close(); await w.wait_closed()
    return ok
async def main():
    print(sum(await asyncio.gather(*(one(i) for i in range(100)))))
asyncio.run(main())`, at(six, 7).Addr())
		if got := w.guest(t, "python3", "-c", script); got != "100" {
			t.Errorf("python printed %q, want 100", got)
		}
		l.Close()
		<-done
	}},
}

// echo serves connections of l until it is closed.
func echo(l *net.TCPListener) {
	for {
		c, err := l.AcceptTCP()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			if _, err := io.Copy(c, c); err == nil {
				_ = c.CloseWrite() // the client may have gone
			}
		}()
	}
}

// TestPrograms runs real programs as guests against real servers.
func TestPrograms(t *testing.T) {
	if testing.Short() {
		t.Skip("the programs take no part in a short run")
	}
	for _, p := range programs {
		for _, six := range []bool{false, true} {
			as, name := root, p.name+" over IPv4 as root"
			if six {
				as, name = ordinary, p.name+" over IPv6 as an ordinary user"
			}
			t.Run(name, func(t *testing.T) {
				n := testnet.New(t)
				w := &world{Net: n, dir: testnet.Dir(t), as: as}
				must(t, os.Chown(w.dir, as.uid(), as.uid()))
				p.test(t, w, six)
			})
		}
	}
}
