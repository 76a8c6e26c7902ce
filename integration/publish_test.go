package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tcpbox/integration/testnet"
	"tcpbox/stack/tcpstate"
)

// published is a sandbox with published ports. Its guest is a shell that runs
// what it is told, or the test makes the sockets in its namespace itself.
type published struct {
	*box
	t    *testing.T
	n    *testnet.Net
	name string
}

// publish runs a sandbox that publishes ports, as root.
func publish(t *testing.T, n *testnet.Net, flags ...string) *published {
	t.Helper()
	name := fmt.Sprintf("pub-%d-%d", os.Getpid(), time.Now().UnixNano())
	flags = append([]string{"--net", "none", "--quiet", "--name", name}, flags...)
	return &published{start(t, n, root, flags...), t, n, name}
}

// tcpbox runs another tcpbox command in the uplink.
func (p *published) tcpbox(args ...string) outcome {
	p.t.Helper()
	return toEnd(p.t, p.n.Uplink.Command(p.t.Context(), testnet.Binary(p.t), args...))
}

// port is what inspect tells of a published port.
type port struct {
	Proto, State      string
	Host, Guest       netip.AddrPort
	Accepted, Refused uint64
}

func (p *published) ports() []port {
	p.t.Helper()
	got := p.tcpbox("inspect", "--json", p.name)
	var in struct{ Ports []port }
	if err := json.Unmarshal([]byte(got.stdout), &in); err != nil {
		p.t.Fatalf("inspect: %v: %v", err, got)
	}
	return in.Ports
}

// until waits until every published port is in a state.
func (p *published) until(state string) []port {
	p.t.Helper()
	var ports []port
	testnet.Eventually(p.t, func() error {
		ports = p.ports()
		for _, one := range ports {
			if one.State != state {
				return fmt.Errorf("%v is %s, want %s", one.Host, one.State, state)
			}
		}
		return nil
	})
	return ports
}

// fromRemote and fromUplink are where clients are, and whom the guest sees.
var (
	uplink4 = netip.AddrPortFrom(testnet.Uplink4, 8080)
	uplink6 = netip.AddrPortFrom(testnet.Uplink6, 8080)
	guest4  = netip.MustParseAddr("198.18.0.2")
	guest6  = netip.MustParseAddr("fd74:6370:626f:78::2")
)

// listenInside makes the guest listen on port 80.
func (p *published) listenInside(six bool) *net.TCPListener {
	p.t.Helper()
	addr := guest4
	if six {
		addr = guest6
	}
	l := p.Listen(p.t, "tcp", netip.AddrPortFrom(addr, 80))
	p.until("listening")
	return l
}

// TestPublishClients: whom the guest sees, and what the log says.
func TestPublishClients(t *testing.T) {
	n := testnet.New(t)
	for _, row := range []struct {
		what string
		six  bool
		host netip.AddrPort // published, and where clients go
		from *testnet.Namespace
		want netip.Addr // whom the guest sees
	}{
		{"IPv4", false, uplink4, n.Remote, testnet.Remote4},
		{"IPv6", true, uplink6, n.Remote, testnet.Remote6},
		{"IPv4 loopback", false, netip.MustParseAddrPort("127.0.0.1:8080"), n.Uplink, netip.MustParseAddr("198.18.0.1")},
		{"IPv6 loopback", true, netip.MustParseAddrPort("[::1]:8080"), n.Uplink, netip.MustParseAddr("fd74:6370:626f:78::1")},
	} {
		t.Run(row.what, func(t *testing.T) {
			p := publish(t, n, "-p", row.host.String()+":80")
			if c, err := row.from.DialTCP(t.Context(), netip.AddrPort{}, row.host); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("before the guest listens: %v, want ECONNREFUSED", err)
				if err == nil {
					c.Close()
				}
			}
			l := p.listenInside(row.six)
			c, err := row.from.DialTCP(t.Context(), netip.AddrPort{}, row.host)
			must(t, err)
			defer c.Close()
			g, err := l.AcceptTCP()
			must(t, err)
			defer g.Close()
			seen := addrOf(g.RemoteAddr())
			client := addrOf(c.LocalAddr())
			if seen != netip.AddrPortFrom(row.want, client.Port()) {
				t.Errorf("the guest sees %v, want %v and port %d", seen, row.want, client.Port())
			}
			testnet.Eventually(t, func() error {
				var who uint64
				for _, r := range p.records(t) {
					if r.Leg == tcpstate.Upstream && r.Remote == client && r.Local == row.host && r.Source == "socket" {
						who = r.Conn
					}
					if who != 0 && r.Conn == who && r.Leg == tcpstate.Stack && r.Local == seen && r.To == tcpstate.Established {
						return nil
					}
				}
				return fmt.Errorf("the log does not say that %v is %v", seen, client)
			})
		})
	}
}

// TestPublishMirrors: who closes first, and how, is seen on the other side.
func TestPublishMirrors(t *testing.T) {
	n := testnet.New(t)
	p := publish(t, n, "-p", uplink4.String()+":80", "-p", uplink6.String()+":80")
	listeners := []*net.TCPListener{
		p.Listen(t, "tcp", netip.AddrPortFrom(guest4, 80)), p.Listen(t, "tcp", netip.AddrPortFrom(guest6, 80)),
	}
	p.until("listening")
	reset := func(c *net.TCPConn) { c.SetLinger(0); c.Close() }
	for i, at := range []netip.AddrPort{uplink4, uplink6} {
		for _, row := range []struct {
			what string
			do   func(c *net.TCPConn)
			want string
			half bool
		}{
			{"closes", func(c *net.TCPConn) { c.Close() }, "said<nil>", false},
			{"half-closes", func(c *net.TCPConn) { c.CloseWrite() }, "said<nil>", true},
			{"resets", reset, "saidreset", false},
		} {
			for _, first := range []string{"the client", "the guest"} {
				c, err := n.Remote.DialTCP(t.Context(), netip.AddrPort{}, at)
				must(t, err)
				g, err := listeners[i].AcceptTCP()
				must(t, err)
				one, other := c, g
				if first == "the guest" {
					one, other = g, c
				}
				for _, end := range []*net.TCPConn{one, other} {
					must(t, end.SetDeadline(time.Now().Add(testnet.Patience)))
				}
				_, err = one.Write([]byte("said"))
				must(t, err)
				head := make([]byte, 4)
				_, err = io.ReadFull(other, head) // an RST may overtake what was said
				must(t, err)
				row.do(one)
				rest, err := io.ReadAll(other)
				got := string(head) + string(rest)
				if errors.Is(err, syscall.ECONNRESET) {
					got += "reset"
				} else {
					got += fmt.Sprint(err)
				}
				if got != row.want {
					t.Errorf("%v: %s %s: the other reads %q, want %q", at, first, row.what, got, row.want)
				}
				if row.half {
					_, err := other.Write([]byte("answer"))
					must(t, err)
					must(t, other.Close())
					if answer, err := io.ReadAll(one); string(answer) != "answer" || err != nil {
						t.Errorf("%v: %s %s and reads %q, %v", at, first, row.what, answer, err)
					}
				}
				one.Close()
				other.Close()
			}
		}
	}
}

// TestPublishLive: publish and unpublish, their faults, and that nothing is
// left of them.
func TestPublishLive(t *testing.T) {
	n := testnet.New(t)
	p := publish(t, n)
	l := p.Listen(t, "tcp", netip.AddrPortFrom(guest4, 80))

	// A port that tcpbox chooses.
	got := p.tcpbox("publish", p.name, "0:80")
	chosen, err := netip.ParseAddrPort(strings.TrimSpace(got.stdout))
	if err != nil || got.code != 0 || chosen.Port() == 0 || chosen.Addr() != netip.MustParseAddr("127.0.0.1") {
		t.Fatalf("publish 0:80: %v", got)
	}
	p.until("listening")
	c, err := n.Uplink.DialTCP(t.Context(), netip.AddrPort{}, chosen)
	must(t, err)
	defer c.Close()
	g, err := l.AcceptTCP()
	must(t, err)
	defer g.Close()

	// Taken back, what stands goes on, and the port can be had again.
	for _, row := range []struct {
		args   []string
		code   int
		stderr string
	}{
		{[]string{"unpublish", p.name, fmt.Sprintf("%d:80", chosen.Port())}, 0, ""},
		{[]string{"unpublish", p.name, fmt.Sprintf("%d:80", chosen.Port())}, 125, "it is not published"},
		{[]string{"publish", p.name, fmt.Sprintf("%v:80", chosen)}, 0, ""},
		{[]string{"publish", p.name, fmt.Sprintf("%v:80", chosen)}, 125, "is in use"},
		{[]string{"publish", p.name, fmt.Sprintf("%d-%d:80-81", chosen.Port(), int(chosen.Port())+1)}, 125, "is in use"},
		{[]string{"unpublish", p.name, "0:81"}, 125, "it is not published"},
		{[]string{"publish", p.name, "192.0.2.1:8080:80"}, 125, "is no address of this host"},
		{[]string{"publish", p.name, "8080:eighty"}, 2, `"eighty" is not a port`},
		{[]string{"publish", p.name}, 2, "takes a name and a port"},
		{[]string{"publish", "--accept-from", "x", p.name, "80"}, 2, "not an address or a prefix"},
		{[]string{"publish", "nobody", "8080:80"}, 2, `there is no sandbox "nobody"`},
	} {
		if got := p.tcpbox(row.args...); got.code != row.code || !strings.Contains(got.stderr, row.stderr) {
			t.Errorf("%q: %v, want %d and %q", row.args, got, row.code, row.stderr)
		}
	}
	_, err = c.Write([]byte("still"))
	must(t, err)
	if _, err := io.ReadFull(g, make([]byte, 5)); err != nil {
		t.Error("a connection of before:", err)
	}
	if ports := p.ports(); len(ports) != 1 || ports[0].Host != chosen {
		t.Errorf("published: %+v", ports)
	}

	// Ranges.
	if got := p.tcpbox("publish", p.name, uplink4.String()+"-8083:80-83"); got.code != 0 || strings.Count(got.stdout, "\n") != 4 {
		t.Errorf("a range: %v", got)
	}
	if got := p.tcpbox("unpublish", p.name, uplink4.String()+"-8083:80-83"); got.code != 0 || len(p.ports()) != 1 {
		t.Errorf("a range taken back: %v, %+v", got, p.ports())
	}
}

// TestPublishLeavesNothing publishes and unpublishes 200 times, over the socket.
func TestPublishLeavesNothing(t *testing.T) {
	n := testnet.New(t)
	p := publish(t, n)
	control := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join("/run/tcpbox", p.name, "sock"))
	}}}
	post := func(path string) {
		t.Helper()
		resp, err := control.Post("http://x/v1/"+path, "application/json", strings.NewReader(`{"publish":"127.0.0.1:8080-8082:80-82/tcp"}`))
		must(t, err)
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s, %v", path, body, err)
		}
	}
	descriptors := func() int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
		must(t, err)
		return len(entries)
	}
	post("publish")
	post("unpublish")
	before := descriptors()
	for range 200 {
		post("publish")
		post("unpublish")
	}
	testnet.Eventually(t, func() error {
		if after := descriptors(); after > before {
			return fmt.Errorf("%d descriptors, and %d before", after, before)
		}
		return nil
	})
}

// TestPublishAtTheStart: what is wrong is said before anything is started.
func TestPublishAtTheStart(t *testing.T) {
	n := testnet.New(t)
	n.Uplink.Listen(t, "tcp", uplink4)
	must(t, n.Uplink.SetSysctl("net/ipv4/ip_unprivileged_port_start", "1024"))
	for _, row := range []struct {
		c      caller
		flags  []string
		code   int
		stderr string
	}{
		{root, []string{"-p", uplink4.String() + ":80"}, 125, "port 8080 of 10.77.0.2 is in use"},
		{root, []string{"-p", "10.77.0.1:8080:80"}, 125, "10.77.0.1 is no address of this host"},
		{root, []string{"-p", "8080"}, 0, "tcpbox: TCP port 8080 is published on 127.0.0.1:"},
		{root, []string{"-p", "8080/udp"}, 0, "tcpbox: UDP port 8080 is published on 127.0.0.1:"},
		{root, []string{"-q", "-p", "8080"}, 0, ""},
		{root, []string{"-p", "x:80"}, 2, `--publish "x:80": "x" is not a port`},
		{root, []string{"-p", "[::1]:80:80", "--no-ipv6"}, 2, "the sandbox has no IPv6"},
		{root, []string{"--accept-from", "192.0.2.0/24"}, 2, "--accept-from has nothing to let anybody in to"},
		{root, []string{"-p", "80", "--accept-from", "192.0.2.1/24"}, 2, "it has host bits set"},
		{ordinary, []string{"-p", "81:80"}, 125, "sysctl -w net.ipv4.ip_unprivileged_port_start=81"},
	} {
		got := toEnd(t, row.c.run(t.Context(), t, n, append([]string{"--net", "none"}, row.flags...), "echo", "started"))
		started := strings.Contains(got.stdout, "started")
		if got.code != row.code || !strings.Contains(got.stderr, row.stderr) || started != (row.code == 0) {
			t.Errorf("%q: %v, want %d and %q", row.flags, got, row.code, row.stderr)
		}
		if strings.Contains(strings.Join(row.flags, " "), "-q") && strings.Contains(got.stderr, "published") {
			t.Errorf("%q says %q", row.flags, got.stderr)
		}
	}
}

// TestPublishAcceptFrom lets only some clients in.
func TestPublishAcceptFrom(t *testing.T) {
	n := testnet.New(t)
	p := publish(t, n, "-p", "0.0.0.0:8080:80", "-p", "0.0.0.0:8080:80/udp", "--accept-from", testnet.Remote4.String(), "--accept-from", "127.0.0.2/32")
	l := p.Listen(t, "tcp", netip.AddrPortFrom(guest4, 80))
	u := p.ListenUDP(t, netip.AddrPortFrom(guest4, 80))
	p.until("listening")
	for _, row := range []struct {
		from *testnet.Namespace
		src  netip.AddrPort
		to   netip.AddrPort
		in   bool
	}{
		{n.Remote, netip.AddrPortFrom(testnet.Remote4, 0), uplink4, true},
		{n.Remote, netip.AddrPortFrom(testnet.Public4, 0), uplink4, false},
		{n.Uplink, netip.MustParseAddrPort("127.0.0.1:0"), netip.MustParseAddrPort("127.0.0.1:8080"), false},
		{n.Uplink, netip.MustParseAddrPort("127.0.0.2:0"), netip.MustParseAddrPort("127.0.0.1:8080"), true},
	} {
		c, err := row.from.DialTCP(t.Context(), row.src, row.to)
		if err == nil {
			defer c.Close()
			must(t, c.SetDeadline(time.Now().Add(testnet.Patience)))
			if row.in {
				g, aerr := l.AcceptTCP()
				must(t, aerr)
				g.Close()
			}
			_, err = c.Read(make([]byte, 1))
		}
		if row.in != errors.Is(err, io.EOF) || !row.in && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("from %v: %v, let in: %v", row.src, err, row.in)
		}
	}
	// What the guest gets of UDP is what was let in.
	for _, src := range []netip.AddrPort{netip.AddrPortFrom(testnet.Public4, 5000), netip.AddrPortFrom(testnet.Remote4, 5000)} {
		c := n.Remote.ListenUDP(t, src)
		_, err := c.WriteToUDPAddrPort([]byte(src.String()), uplink4)
		must(t, err)
	}
	buf := make([]byte, 100)
	must(t, u.SetDeadline(time.Now().Add(testnet.Patience)))
	k, from, err := u.ReadFromUDPAddrPort(buf)
	if want := netip.AddrPortFrom(testnet.Remote4, 5000); err != nil || string(buf[:k]) != want.String() || from != want {
		t.Errorf("the guest got %q from %v, %v", buf[:k], from, err)
	}
	for _, one := range p.ports() {
		if want := map[string]uint64{"tcp": 2, "udp": 1}[one.Proto]; one.Refused != want {
			t.Errorf("%s: %d refused, want %d", one.Proto, one.Refused, want)
		}
	}
}

// TestPublishUDP: a flow for each client, and answers from where it asked.
func TestPublishUDP(t *testing.T) {
	n := testnet.New(t)
	n.Uplink.AddAddr(t, netip.MustParseAddr("10.77.0.99"))
	p := publish(t, n, "-p", "0.0.0.0:8080:80/udp", "-p", "[::]:8080:80/udp", "-p", "127.0.0.1:8081:80/udp", "--udp-timeout", "2s")
	early := dialUDP(t, n.Uplink, netip.MustParseAddrPort("127.0.0.1:8081"))
	_, err := early.Write([]byte("early"))
	must(t, err)
	if _, err := early.Read(make([]byte, 9)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("before the guest has the port: %v, want ECONNREFUSED", err)
	}
	seen := make(chan netip.AddrPort, 16)
	var serving sync.WaitGroup
	defer serving.Wait()
	for _, a := range []netip.Addr{guest4, guest6} {
		u := p.ListenUDP(t, netip.AddrPortFrom(a, 80))
		serving.Go(func() { reflect(u, func(from netip.AddrPort) { seen <- from }) })
		defer u.Close()
	}
	p.until("listening")
	for _, row := range []struct {
		from *testnet.Namespace
		to   string
		want string // whom the guest sees
	}{
		{n.Remote, uplink4.String(), testnet.Remote4.String()},
		{n.Remote, "10.77.0.99:8080", testnet.Remote4.String()}, // the answer must come from there
		{n.Remote, uplink6.String(), testnet.Remote6.String()},
		{n.Uplink, "127.0.0.1:8081", "198.18.0.1"},
		{n.Uplink, "127.0.0.9:8080", "198.18.0.1"},
		{n.Uplink, "[::1]:8080", "fd74:6370:626f:78::1"},
	} {
		c := dialUDP(t, row.from, netip.MustParseAddrPort(row.to))
		for _, text := range []string{"one", "two", strings.Repeat("x", 30000)} {
			_, err := c.Write([]byte(text))
			must(t, err)
			buf := make([]byte, 1<<16)
			k, err := c.Read(buf)
			if err != nil || !bytes.Equal(buf[:k], []byte(text)) {
				t.Errorf("%s: %d bytes come back, %v", row.to, k, err)
			}
			if from := <-seen; from.Addr().String() != row.want {
				t.Errorf("%s: the guest sees %v, want %s", row.to, from, row.want)
			}
		}
	}
	testnet.Eventually(t, func() error {
		got := p.tcpbox("inspect", "--json", p.name)
		var in struct {
			Stats struct {
				Flows        int
				FlowsExpired int `json:"flows_expired"`
			}
		}
		if err := json.Unmarshal([]byte(got.stdout), &in); err != nil {
			return err
		}
		if in.Stats.Flows != 0 || in.Stats.FlowsExpired != 6 {
			return fmt.Errorf("%+v, want 6 flows that have expired", in.Stats)
		}
		return nil
	})
}
