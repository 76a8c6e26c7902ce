package reach

import (
	"bytes"
	"context"
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
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tcpbox/integration/testnet"
	"tcpbox/stack/tcpstate"
)

// Where a published port is.
var (
	uplink4 = netip.AddrPortFrom(testnet.Uplink4, 8080)
	uplink6 = netip.AddrPortFrom(testnet.Uplink6, 8080)
)

// abruptServer answers each connection with a line. Whatever it has not answered
// it resets when it is killed, so a clean end without an answer is not its.
const abruptServer = `
import socket, struct, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
s.bind(("0.0.0.0", 80))
s.listen(64)
while True:
    c, _ = s.accept()
    try:
        c.sendall(b"served\n")
        c.shutdown(socket.SHUT_WR)
        c.recv(1)
    except OSError:
        pass
    c.close()
`

// endings counts how connections from outside end.
type endings struct{ served, refused, reset, empty, other atomic.Int64 }

// connectOnce makes one connection, which must not hang.
func (e *endings) connectOnce(t *testing.T, from *testnet.Namespace, at netip.AddrPort) {
	c, err := from.DialTCP(t.Context(), netip.AddrPort{}, at)
	var text []byte
	if err == nil {
		if err = c.SetDeadline(time.Now().Add(testnet.Patience)); err == nil {
			text, err = io.ReadAll(c)
		}
		c.Close()
	}
	switch {
	case string(text) == "served\n":
		e.served.Add(1)
	case errors.Is(err, syscall.ECONNREFUSED):
		e.refused.Add(1)
	case errors.Is(err, syscall.ECONNRESET):
		e.reset.Add(1)
	case err == nil:
		e.empty.Add(1)
		t.Errorf("a connection ended cleanly after %q", text)
	default:
		e.other.Add(1)
		t.Errorf("a connection ended with %q, %v", text, err)
	}
}

// TestPublishRestart kills the guest's server and starts it again while clients
// connect.
func TestPublishRestart(t *testing.T) {
	testnet.Programs(t, "python3")
	n := testnet.New(t)
	script := filepath.Join(testnet.Dir(t), "server.py")
	must(t, os.WriteFile(script, []byte(abruptServer), 0o644))
	// A line on its standard input kills the server and starts another.
	cmd := root.run(t.Context(), t, n, []string{"--net", "none", "--quiet", "-p", uplink4.String() + ":80"}, "sh", "-c",
		`while :; do python3 -S `+script+` & read x; r=$?; kill -9 $!; wait $!; [ $r = 0 ] || exit 0; done`)
	stdin, err := cmd.StdinPipe()
	must(t, err)
	p := begin(t, cmd)

	var e endings
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					e.connectOnce(t, n.Remote, uplink4)
				}
			}
		})
	}
	for range 5 {
		before := e.served.Load()
		testnet.Eventually(t, func() error {
			if now := e.served.Load(); now < before+30 {
				return fmt.Errorf("%d served since the restart", now-before)
			}
			return nil
		})
		fmt.Fprintln(stdin)
	}
	close(stop)
	clients.Wait()
	stdin.Close()
	if code := p.wait(); code != 0 {
		t.Errorf("tcpbox ended with %d: %s", code, p.stderr)
	}
	t.Logf("%d served, %d refused, %d reset, %d empty, %d other", e.served.Load(), e.refused.Load(), e.reset.Load(), e.empty.Load(), e.other.Load())
	if e.refused.Load() == 0 {
		t.Error("nobody was refused while there was no server")
	}
}

// guestNginx starts nginx in a sandbox.
func guestNginx(t *testing.T, n *testnet.Net, dir string, flags ...string) *running {
	t.Helper()
	testnet.Programs(t, "nginx")
	must(t, os.MkdirAll(filepath.Join(dir, "www"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "www/page"), bytes.Repeat([]byte("a page\n"), 1000), 0o644))
	conf := filepath.Join(dir, "nginx.conf")
	must(t, os.WriteFile(conf, fmt.Appendf(nil, `
user root root; daemon off; master_process off; pid %[1]s/nginx.pid; error_log stderr;
events { worker_connections 512; }
http {
	log_format who '$remote_addr'; access_log %[1]s/access who;
	client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2;
	fastcgi_temp_path %[1]s/t3; uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5;
	server { listen 80; listen [::]:80; root %[1]s/www; }
}`, dir), 0o644))
	return begin(t, root.run(t.Context(), t, n, append([]string{"--net", "none", "--quiet"}, flags...), "nginx", "-e", "stderr", "-c", conf))
}

// TestPublishNginx loads a web server in a sandbox from outside.
func TestPublishNginx(t *testing.T) {
	n := testnet.New(t)
	dir := testnet.Dir(t)
	log := filepath.Join(dir, "log")
	p := guestNginx(t, n, dir, "--log", log, "-p", uplink4.String()+":80", "-p", uplink6.String()+":80", "-p", "127.0.0.1:8081:80", "-p", "[::1]:8081:80")
	targets := []struct {
		from *testnet.Namespace
		at   netip.AddrPort
		want string // the client in the access log
	}{
		{n.Remote, uplink4, testnet.Remote4.String()},
		{n.Remote, uplink6, testnet.Remote6.String()},
		{n.Uplink, netip.MustParseAddrPort("127.0.0.1:8081"), "198.18.0.1"},
		{n.Uplink, netip.MustParseAddrPort("[::1]:8081"), "fd74:6370:626f:78::1"},
	}
	for _, tt := range targets { // until it is there
		testnet.Eventually(t, func() error {
			if n.Uplink.State(t, tt.at, netip.AddrPort{}) != tcpstate.Listen {
				return fmt.Errorf("%v does not listen", tt.at)
			}
			return nil
		})
	}
	const clients, each = 8, 50
	for _, keepAlive := range []bool{false, true} {
		for _, tt := range targets {
			var loading sync.WaitGroup
			for range clients {
				loading.Go(func() {
					tr := &http.Transport{DisableKeepAlives: !keepAlive, DialContext: dialIn(tt.from, tt.at)}
					defer tr.CloseIdleConnections()
					client := &http.Client{Transport: tr, Timeout: testnet.Patience}
					for range each {
						resp, err := client.Get("http://site/page")
						if err != nil {
							t.Error(err)
							return
						}
						body, err := io.ReadAll(resp.Body)
						resp.Body.Close()
						if err != nil || len(body) != 7000 {
							t.Errorf("%v: %d bytes, %v", tt.at, len(body), err)
							return
						}
					}
				})
			}
			loading.Wait()
		}
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	if code := p.wait(); code != 0 {
		t.Errorf("tcpbox ended with %d: %s", code, p.stderr)
	}
	text, err := os.ReadFile(filepath.Join(dir, "access"))
	must(t, err)
	count := map[string]int{}
	for line := range strings.Lines(string(text)) {
		count[strings.TrimSpace(line)]++
	}
	for _, tt := range targets {
		if count[tt.want] != 2*clients*each {
			t.Errorf("%v: %s is %d times in the access log, want %d", tt.at, tt.want, count[tt.want], 2*clients*each)
		}
		delete(count, tt.want)
	}
	if len(count) > 0 {
		t.Errorf("others in the access log: %v", count)
	}
	records, err := os.ReadFile(log)
	must(t, err)
	if bytes.Contains(records, []byte(`"dropped"`)) {
		t.Error("the log lacks records")
	}
}

// dialIn dials one address from a namespace, whatever is asked for.
func dialIn(from *testnet.Namespace, at netip.AddrPort) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return from.DialTCP(ctx, netip.AddrPort{}, at)
	}
}
