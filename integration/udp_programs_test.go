package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox/integration/testnet"
)

// openPing lets everybody in n's uplink have ping sockets.
func openPing(t *testing.T, n *testnet.Net) {
	t.Helper()
	must(t, n.Uplink.SetSysctl("net/ipv4/ping_group_range", "0 2147483647"))
}

// both runs a guest and returns all that it and tcpbox wrote, and its status.
func both(t *testing.T, n *testnet.Net, c caller, flags []string, guest ...string) (string, int) {
	t.Helper()
	out, err := c.run(t.Context(), t, n, flags, guest...).CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return string(out), 0
	case errors.As(err, &exit):
		return string(out), exit.ExitCode()
	}
	t.Fatalf("%q: %v\n%s", guest, err, out)
	return "", 0
}

// TestPing: ping works without any capability, where the policy and the host
// allow it, and says what is the matter where not.
func TestPing(t *testing.T) {
	testnet.Programs(t, "ping")
	n := testnet.New(t)
	type row struct {
		name   string
		caller caller
		flags  []string
		args   []string
		status int
		says   string // a part of what is written
	}
	check := func(rows []row) {
		for _, r := range rows {
			out, status := both(t, n, r.caller, r.flags, append([]string{"ping", "-n", "-c", "1", "-W", "30"}, r.args...)...)
			if status != r.status || !strings.Contains(out, r.says) {
				t.Errorf("%s, as %s: status %d, want %d and %q in:\n%s", r.name, r.caller.name, status, r.status, r.says, out)
			}
		}
	}
	four, six := testnet.Public4.String(), testnet.Public6.String()
	check([]row{
		{"the host allows no ping sockets", root, nil, []string{four}, 1, "as root: sysctl -w net.ipv4.ping_group_range"},
		{"the host allows no ping sockets", ordinary, nil, []string{six}, 1, "the host allows no ping sockets"},
		{"the gateway answers always", ordinary, []string{"--net", "none"}, []string{"198.18.0.1"}, 0, " 0% packet loss"},
		{"a peer answers", ordinary, []string{"--net", "none", "--peer", "web=http"}, []string{"web"}, 0, " 0% packet loss"},
	})
	openPing(t, n)
	for _, c := range callers {
		check([]row{
			{"IPv4", c, nil, []string{four}, 0, "64 bytes from " + four},
			{"IPv6", c, nil, []string{six}, 0, "64 bytes from " + six},
			{"a large one", c, []string{"--mtu", "1500"}, []string{"-s", "40000", four}, 0, "40008 bytes from"},
			{"a large one, IPv6", c, []string{"--mtu", "1500"}, []string{"-s", "40000", six}, 0, "40008 bytes from"},
			{"must not be fragmented", c, nil, []string{"-M", "do", "-s", "3000", four}, 1, "mtu = 1500"},
			{"refused", c, nil, []string{testnet.Remote4.String()}, 1, "refused ping to 10.77.0.1 (net public); to allow it: --allow 10.77.0.1/icmp"},
			{"refused, IPv6", c, nil, []string{testnet.Remote6.String()}, 1, "--allow fd00:77::1/icmp"},
			{"allowed by a rule", c, []string{"--net", "none", "--allow", "10.77.0.1/icmp"}, []string{testnet.Remote4.String()}, 0, " 0% packet loss"},
			{"a host that is not there", c, nil, []string{testnet.Unreachable4.String()}, 1, "Destination Host Unreachable"},
		})
	}
	v4, v6 := behind(t, n)
	check([]row{
		{"a hop", ordinary, nil, []string{"-t", "1", v4.String()}, 1, "From 10.77.0.1 icmp_seq=1 Time to live exceeded"},
		{"a hop, IPv6", ordinary, nil, []string{"-t", "1", v6.String()}, 1, "From fd00:77::1 icmp_seq=1 Time exceeded"},
	})
}

// TestRefusedDatagramsStayInside: what the policy refuses puts nothing on the
// uplink, not even an echo request, and opens no socket there.
func TestRefusedDatagramsStayInside(t *testing.T) {
	n := testnet.New(t)
	openPing(t, n)
	n.Uplink.AddAddr(t, netip.MustParseAddr("198.41.0.4")) // a public address that the host owns
	b := start(t, n, ordinary)
	c := n.Capture(t)
	for _, addr := range []string{
		"10.77.0.1", "10.77.0.2", "198.41.0.4", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254",
		"169.254.1.1", "192.0.2.1", "198.19.0.1", "203.0.113.9", "240.0.0.1", "0.0.0.1", "192.88.99.1",
		"fd00:77::1", "fd00:77::2", "fd00:ec2::254", "2001:db8::1", "64:ff9b::a00:1", "2002:a00:1::1", "fc00::1", "100::1", "5f00::1",
	} {
		a := netip.MustParseAddr(addr)
		fd := errorSocket(t, b.Namespace, netip.AddrPortFrom(a, 53))
		if e := nextError(t, fd, "x"); e.errno != unix.ECONNREFUSED {
			t.Errorf("UDP to %s: %v, want %v", addr, e.errno, unix.ECONNREFUSED)
		}
		if out, err := inside(t, n, b, "ping", "-n", "-c", "1", "-W", "30", addr); err == nil {
			t.Errorf("ping %s: %s", addr, out)
		}
	}
	if p := c.Packets(t); len(p) != 0 {
		t.Errorf("%d packets on the uplink, such as %v", len(p), p[0])
	}
	if k := udpSockets(t, n.Uplink); k != 0 {
		t.Errorf("%d sockets on the uplink", k)
	}
}

// inside runs a program in the network namespace of a sandbox.
func inside(t *testing.T, n *testnet.Net, b *box, name string, args ...string) (string, error) {
	t.Helper()
	testnet.Programs(t, name)
	out, err := b.Command(t.Context(), name, args...).CombinedOutput()
	return string(out), err
}

// TestHostName: host.tcpbox.internal is the host's loopback, for TCP and UDP,
// where a rule allows @host and nowhere else.
func TestHostName(t *testing.T) {
	n := testnet.New(t)
	const port = 5432
	for _, lo := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()} {
		at := netip.AddrPortFrom(lo, port)
		l := n.Uplink.Listen(t, "tcp", at)
		served := make(chan struct{})
		go func() {
			defer close(served)
			echo(l)
		}()
		u := n.Uplink.ListenUDP(t, at)
		reflected := make(chan struct{})
		go func() {
			defer close(reflected)
			reflect(u, func(netip.AddrPort) {})
		}()
		t.Cleanup(func() {
			l.Close()
			u.Close()
			<-served
			<-reflected
		})
	}
	hosts := []netip.AddrPort{netip.MustParseAddrPort("198.18.0.3:5432"), netip.MustParseAddrPort("[fd74:6370:626f:78::3]:5432")}
	for _, row := range []struct {
		name     string
		flags    []string
		tcp, udp bool
	}{
		{"by default", nil, false, false},
		{"net all", []string{"--net", "all"}, false, false},
		{"net all and every address", []string{"--net", "all", "--allow", "0.0.0.0/0", "--allow", "::/0", "--allow", "@private"}, false, false},
		{"allowed", []string{"--net", "none", "--allow", "@host:5432"}, true, true},
		{"allowed for one protocol", []string{"--allow", "@host:5432/udp"}, false, true},
		{"another port allowed", []string{"--allow", "@host:5433"}, false, false},
		{"denied before", []string{"--deny", "@host:5432", "--allow", "@host"}, false, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := start(t, n, ordinary, row.flags...)
			for _, at := range hosts {
				c, err := b.DialTCP(t.Context(), netip.AddrPort{}, at)
				switch {
				case err == nil && row.tcp:
					say(t, c, "hello")
					must(t, c.CloseWrite())
					hearEnd(t, c, "hello")
				case err == nil || row.tcp || !errors.Is(err, unix.ECONNREFUSED):
					t.Errorf("TCP to %v: %v, want it to work: %v", at, err, row.tcp)
				}
				if c != nil {
					c.Close()
				}
				if row.udp {
					exchange(t, dialUDP(t, b.Namespace, at), []byte("hello"))
				} else if e := nextError(t, errorSocket(t, b.Namespace, at), "x"); e.errno != unix.ECONNREFUSED {
					t.Errorf("UDP to %v: %v", at, e.errno)
				}
			}
			const hint = "refused host.tcpbox.internal:5432 ("
			testnet.Eventually(t, func() error {
				if got := b.stderr.String(); strings.Contains(got, hint) == row.tcp || strings.Contains(got, "to allow it: --allow @host:5432\n") == row.tcp {
					return fmt.Errorf("it wrote:\n%s", got)
				}
				return nil
			})
		})
	}
	t.Run("a port where nobody listens", func(t *testing.T) {
		b := start(t, n, ordinary, "--allow", "@host")
		for _, at := range hosts {
			at = netip.AddrPortFrom(at.Addr(), 1)
			if _, err := b.DialTCP(t.Context(), netip.AddrPort{}, at); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("TCP to %v: %v", at, err)
			}
			if e := nextError(t, errorSocket(t, b.Namespace, at), "x"); e.errno != unix.ECONNREFUSED || e.from != at.Addr() {
				t.Errorf("UDP to %v: %+v", at, e)
			}
		}
	})
	t.Run("the name", func(t *testing.T) {
		testnet.Programs(t, "getent")
		out, _ := both(t, n, ordinary, []string{"--net", "none", "--quiet"}, "getent", "ahosts", "host.tcpbox.internal")
		for _, at := range hosts {
			if !strings.Contains(out, at.Addr().String()) {
				t.Errorf("%v is missing in:\n%s", at.Addr(), out)
			}
		}
		// The host's other names and the loopback itself stay what they were.
		b := start(t, n, ordinary, "--net", "all")
		if _, err := b.DialTCP(t.Context(), netip.AddrPort{}, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("the guest's own loopback: %v", err)
		}
	})
}

// TestLastWords: a datagram that is the last thing a guest does is delivered.
func TestLastWords(t *testing.T) {
	testnet.Programs(t, "bash")
	n := testnet.New(t)
	server := n.Remote.ListenUDP(t, netip.AddrPortFrom(testnet.Public4, 514))
	must(t, server.SetReadDeadline(time.Now().Add(testnet.Patience)))
	buf := make([]byte, 100)
	for i := range 10 {
		out, status := both(t, n, ordinary, nil, "bash", "-c", fmt.Sprintf("echo message %d >/dev/udp/8.8.4.4/514", i))
		if status != 0 {
			t.Fatalf("status %d:\n%s", status, out)
		}
		k, err := server.Read(buf)
		if want := fmt.Sprintf("message %d\n", i); err != nil || string(buf[:k]) != want {
			t.Fatalf("the server read %q, %v, want %q", buf[:k], err, want)
		}
	}
}

// datagramPrograms are real programs that speak UDP.
var datagramPrograms = []struct {
	name string
	test func(*testing.T, *world, bool)
}{
	{"dig straight to a server", func(t *testing.T, w *world, six bool) {
		w.Remote.ServeDNS(t, map[string][]netip.Addr{"a.test.": {testnet.Public4}})
		server := testnet.Remote4.String()
		if six {
			server = testnet.Remote6.String()
		}
		allow := net.JoinHostPort(server, "53") + "/udp"
		out, _ := both(t, w.Net, ordinary, []string{"--quiet", "--net", "none", "--allow", allow}, "dig", "+short", "@"+server, "a.test")
		if got := strings.TrimSpace(out); got != testnet.Public4.String() {
			t.Errorf("dig printed %q", got)
		}
	}},
	{"DTLS", func(t *testing.T, w *world, six bool) {
		testnet.Programs(t, "openssl")
		key, cert := filepath.Join(w.dir, "key"), filepath.Join(w.dir, "cert")
		if out, err := exec.Command("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=server",
			"-keyout", key, "-out", cert).CombinedOutput(); err != nil {
			t.Fatalf("openssl req: %v\n%s", err, out)
		}
		addr := at(six, 4433)
		ctx, cancel := context.WithCancel(context.Background())
		server := w.Remote.Command(ctx, "openssl", "s_server", "-dtls1_2", "-accept", addr.String(), "-key", key, "-cert", cert, "-quiet")
		heard := new(testnet.Buffer)
		server.Stdout, server.Stderr = heard, heard
		in, err := server.StdinPipe()
		must(t, err)
		must(t, server.Start())
		t.Cleanup(func() {
			cancel()
			in.Close()
			_ = server.Wait() // it is killed
		})
		testnet.Eventually(t, func() error {
			if udpSockets(t, w.Remote) == 0 {
				return errors.New("s_server does not listen")
			}
			return nil
		})
		client := ordinary.run(t.Context(), t, w.Net, []string{"--quiet"}, "openssl", "s_client", "-dtls1_2", "-connect", addr.String(), "-quiet", "-CAfile", cert)
		said := new(testnet.Buffer)
		client.Stdout, client.Stderr = said, said
		out, err := client.StdinPipe()
		must(t, err)
		must(t, client.Start())
		wait := func(b *testnet.Buffer, want string) {
			testnet.Eventually(t, func() error {
				if !strings.Contains(b.String(), want) {
					return fmt.Errorf("%q is missing in:\n%s", want, b)
				}
				return nil
			})
		}
		io.WriteString(out, "from the guest\n")
		wait(heard, "from the guest")
		io.WriteString(in, "from the server\n")
		wait(said, "from the server")
		out.Close()
		must(t, client.Process.Signal(syscall.SIGTERM))
		_ = client.Wait() // its status is the signal's
	}},
	{"iperf3 -u", func(t *testing.T, w *world, six bool) {
		addr := at(six, 5201)
		w.serve(t, nil, addr, "iperf3", "-s", "-B", addr.Addr().String())
		// Without -l a block is as large as the TCP segments of the control
		// connection, which here is nearly the largest datagram there is.
		for _, way := range [][]string{{"-l", "1200"}, {"-l", "1200", "-R"}, {}, {"-R"}} {
			args := append([]string{"-u", "-c", addr.Addr().String(), "-b", "50M", "-n", "2M", "-J"}, way...)
			var result struct {
				End struct {
					Sum struct {
						Packets float64 `json:"packets"`
						Lost    float64 `json:"lost_packets"`
					} `json:"sum"`
				} `json:"end"`
			}
			must(t, json.Unmarshal([]byte(w.guest(t, "iperf3", args...)), &result))
			// How many are lost is the machine's doing.
			if s := result.End.Sum; s.Packets == 0 || s.Lost >= s.Packets {
				t.Errorf("iperf3 %q lost %v of %v datagrams", way, s.Lost, s.Packets)
			}
		}
	}},
	{"python, a burst", func(t *testing.T, w *world, six bool) {
		addr := at(six, 7)
		serveUDP(t, w.Net, addr, func(netip.AddrPort) {})
		family := "AF_INET"
		if six {
			family = "AF_INET6"
		}
		script := fmt.Sprintf(`
import socket
s = socket.socket(socket.%s, socket.SOCK_DGRAM)
s.settimeout(30)
s.connect((%q, 7))
got = 0
for i in range(500):
    for k in range(4): s.send(b"%%d" %% i)
    for k in range(4): got += s.recv(100) == b"%%d" %% i
print(got)`, family, addr.Addr())
		if got := w.guest(t, "python3", "-c", script); got != "2000" {
			t.Errorf("python printed %q, want 2000", got)
		}
	}},
}

// TestDatagramPrograms runs real programs as guests against real servers.
func TestDatagramPrograms(t *testing.T) {
	if testing.Short() {
		t.Skip("the programs take no part in a short run")
	}
	for _, p := range datagramPrograms {
		for _, six := range []bool{false, true} {
			family := families[0].name
			if six {
				family = families[1].name
			}
			t.Run(p.name+" over "+family, func(t *testing.T) {
				n := testnet.New(t)
				p.test(t, &world{Net: n, dir: testnet.Dir(t)}, six)
			})
		}
	}
}
