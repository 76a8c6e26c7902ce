package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tcpbox/integration/testnet"
)

// labResult is what "tcpbox lab run --json" writes of a lab.
type labResult struct {
	Lab     string
	Where   string
	Verdict string
	Seconds float64
	Rows    []struct {
		Row, Verdict, Skipped, Error string
		Measured                     map[string]int
		Differences                  []string
	}
}

// row returns what a row has measured.
func (l *labResult) row(t *testing.T, name string) map[string]int {
	t.Helper()
	for _, r := range l.Rows {
		if r.Row == name {
			return r.Measured
		}
	}
	t.Fatalf("%s has no row %q", l.Lab, name)
	return nil
}

// runLab runs "tcpbox lab run" where there is no way out, and reads the results.
func (c caller) runLab(t *testing.T, n *testnet.Net, status int, args ...string) (all []*labResult) {
	t.Helper()
	args = append([]string{"lab", "run", "--json"}, args...)
	cmd := n.Uplink.CommandAs(context.Background(), c.cred, testnet.Binary(t), args...)
	cmd.Dir = "/"
	got := toEnd(t, cmd)
	in := json.NewDecoder(strings.NewReader(got.stdout))
	for {
		l := new(labResult)
		err := in.Decode(l)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%q: %v in %v", args, err, got)
		}
		all = append(all, l)
	}
	if got.code != status {
		for _, l := range all {
			for _, r := range l.Rows {
				if r.Verdict == "fail" {
					t.Logf("%s, %s: %s %v; measured %v", l.Lab, r.Row, r.Error, r.Differences, r.Measured)
				}
			}
		}
		t.Fatalf("%q: exit status %d, want %d; %s", args, got.code, status, got.stderr)
	}
	return all
}

// TestEveryLab runs all of them, for root and for an ordinary user, offline.
func TestEveryLab(t *testing.T) {
	n := testnet.New(t)
	for _, c := range callers {
		t.Run(c.name, func(t *testing.T) {
			all := c.runLab(t, n, 0, "--all")
			places := map[string]int{}
			for _, l := range all {
				places[l.Where]++
				if l.Verdict != "pass" {
					t.Errorf("%s: %s", l.Lab, l.Verdict)
				}
				for _, r := range l.Rows {
					if r.Verdict == "skip" {
						t.Logf("%s, %s: skipped: %s", l.Lab, r.Row, r.Skipped)
					}
				}
			}
			if places["guest"] == 0 || places["stack"] == 0 || places["host"] == 0 {
				t.Errorf("labs by place: %v", places)
			}
		})
	}
}

// goClient makes sixty connections, one after the other, and closes each first.
const goClient = `package main

import (
	"fmt"
	"net"
	"os"
)

func main() {
	for range 60 {
		c, err := net.Dial("tcp4", "server:80")
		if err != nil {
			fmt.Println(err)
			os.Exit(3)
		}
		c.Close()
	}
}
`

const pythonClient = `
import socket, sys
for i in range(60):
    try:
        socket.create_connection(("server", 80)).close()
    except OSError as e:
        sys.exit(3)
`

// TestLabWithAClientOfOnesOwn has clients in three languages meet the wall of
// time-wait-exhaustion, and be cured by more ports and by no belief.
func TestLabWithAClientOfOnesOwn(t *testing.T) {
	testnet.Programs(t, "python3", "curl", "sh", "seq")
	n := testnet.New(t)
	dir := testnet.Dir(t)
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "goclient"), file("client.go", goClient))
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for i, tt := range []struct{ name, command string }{
		{"python", "python3 " + file("client.py", pythonClient)},
		{"go", filepath.Join(dir, "goclient")},
		{"curl", `sh -c 'for i in $(seq 60); do curl -s -o /dev/null http://server/ || exit 3; done'`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := callers[i%len(callers)].runLab(t, n, 1, "time-wait-exhaustion", "--client", tt.command)[0]
			for row, status := range map[string]int{"default": 3, "fin-timeout": 3, "reuse-no-timestamps": 3, "server-time-wait": 3, "wider-range": 0, "max-tw-buckets": 0} {
				m := l.row(t, row)
				if m["yours.exit-status"] != status {
					t.Errorf("%s: exit status %d, want %d; measured %v", row, m["yours.exit-status"], status, m)
				}
				// The last ones may be on their way to TIME-WAIT when they are counted.
				if status != 0 && (m["TcpActiveOpens"] != 40 || m["guest.time-wait"] < 20) {
					t.Errorf("%s: %d connections and %d TIME-WAITs, want 40 and about as many", row, m["TcpActiveOpens"], m["guest.time-wait"])
				}
			}
		})
	}
}

// TestLabWithAServerOfOnesOwn has nginx close first, and leak nothing.
func TestLabWithAServerOfOnesOwn(t *testing.T) {
	testnet.Programs(t, "nginx")
	n := testnet.New(t)
	dir := testnet.Dir(t)
	conf := filepath.Join(dir, "nginx.conf")
	var text bytes.Buffer
	fmt.Fprintf(&text, `user root; daemon off; master_process off; pid /dev/null; error_log stderr crit;
events { worker_connections 512; }
http {
	access_log off; client_body_temp_path /tmp; proxy_temp_path /tmp; fastcgi_temp_path /tmp; uwsgi_temp_path /tmp; scgi_temp_path /tmp;
	server { listen 80; location / { return 200 "hello\n"; } }
}`)
	if err := os.WriteFile(conf, text.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	nginx := "nginx -e stderr -c " + conf
	l := root.runLab(t, n, 0, "time-wait-exhaustion", "--server", nginx)[0]
	if m := l.row(t, "default"); m["visits.ok"] != 60 || m["guest.time-wait"] < 30 { // a visit may come from the port of an earlier one
		t.Errorf("nginx has closed first: %v, want 60 visits and about as many TIME-WAITs", m)
	}
	l = root.runLab(t, n, 0, "close-wait-leak", "--server", nginx)[0]
	if m := l.row(t, "leak"); m["guest.close-wait"] != 0 || m["visits.ok"] == 0 {
		t.Errorf("nginx leaks: %v", m)
	}
}
