package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox"
)

// realBox is a sandbox that sleeps, served under the name "web", and a client.
func realBox(t *testing.T) (*tcpbox.Sandbox, *Client) {
	t.Helper()
	fail := t.Skip
	if os.Getenv("CI") == "true" {
		fail = t.Fatal
	}
	if unix.Access("/dev/net/tun", unix.R_OK|unix.W_OK) != nil {
		fail("no sandbox can be made here")
	}
	runtimeDir(t)
	box, err := tcpbox.Start(t.Context(), tcpbox.Config{Name: "web", Args: []string{"sleep", "1000"}, Dir: "/"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { box.Close() })
	serve(t, "web", box)
	c, err := Connect("web")
	if err != nil {
		t.Fatal(err)
	}
	return box, c
}

// output runs a script to its end, by way of the socket.
func output(t *testing.T, c *Client, script string, env ...string) (string, tcpbox.Status) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd, err := c.Exec(t.Context(), tcpbox.ExecConfig{Args: []string{"sh", "-c", script}, Env: env, Stdout: w, Stderr: w})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	status, err := cmd.Wait()
	if err != nil {
		t.Error(err)
	}
	return string(text), status
}

func TestExec(t *testing.T) {
	box, c := realBox(t)
	text, status := output(t, c, `printf '%s ' "$A"; pwd; exit 3`, "A=b\xff\x01<")
	if text != "b\xff\x01< /\n" || status.Code != 3 {
		t.Errorf("got %q and %v", text, status)
	}
	if _, status := output(t, c, "kill -TERM $$"); status.Signal != syscall.SIGTERM {
		t.Errorf("got %v, want TERM", status)
	}
	var remote *RemoteError
	for _, tt := range []struct {
		what string
		cfg  tcpbox.ExecConfig
		exit int
		text string
	}{
		{"no such command", tcpbox.ExecConfig{Args: []string{"no-such"}}, 127, "command not found"},
		{"not executable", tcpbox.ExecConfig{Args: []string{"/etc/passwd"}}, 126, "permission denied"},
		{"a long name", tcpbox.ExecConfig{Args: []string{strings.Repeat("é", 60<<10)}}, 126, "execute"},
		{"a relative directory", tcpbox.ExecConfig{Args: []string{"true"}, Dir: "x"}, 2, "not an absolute path"},
		{"more than any kernel takes", tcpbox.ExecConfig{Args: []string{"true", strings.Repeat("x", 7<<20)}}, 2, "more than any kernel"},
		{"more than is sent", tcpbox.ExecConfig{Args: []string{"true", strings.Repeat("x", 17<<20)}}, 2, "are more than"},
	} {
		if _, err := c.Exec(t.Context(), tt.cfg); !errors.As(err, &remote) || remote.Exit != tt.exit || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %.300v", tt.what, err)
		}
	}
	if _, err := c.Exec(t.Context(), tcpbox.ExecConfig{}); !errors.As(err, &remote) || remote.Status != http.StatusBadRequest {
		t.Errorf("no command: %v", err)
	}
	cmd, err := c.Exec(t.Context(), tcpbox.ExecConfig{Args: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	if cmd.PID() == 0 || unix.Kill(cmd.PID(), 0) != nil {
		t.Errorf("process %d does not live", cmd.PID())
	}
	if err := cmd.Signal(syscall.SIGUSR1); err != nil {
		t.Error(err)
	}
	if status, err := cmd.Wait(); err != nil || status.Signal != syscall.SIGUSR1 {
		t.Errorf("Wait() = %v, %v; want USR1", status, err)
	}
	if err := cmd.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("Signal() after the end = %v", err)
	}
	cmd, err = c.Exec(t.Context(), tcpbox.ExecConfig{Args: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	box.Close()
	if status, err := cmd.Wait(); !errors.Is(err, tcpbox.ErrEnded) || status.ExitCode() != 137 {
		t.Errorf("the sandbox closed: %v, %v", status, err)
	}
	if _, err := c.Exec(t.Context(), tcpbox.ExecConfig{Args: []string{"true"}}); !errors.As(err, &remote) || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("in a sandbox that has ended: %v", err)
	}
}

func TestExecTerminal(t *testing.T) {
	_, c := realBox(t)
	cmd, err := c.Exec(t.Context(), tcpbox.ExecConfig{
		Args: []string{"sh", "-c", "tty; stty size; read x; echo got $x; exit 7"}, Terminal: true, Rows: 20, Cols: 60,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer cmd.Terminal().Close()
	if _, err := cmd.Terminal().WriteString("word\n"); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(cmd.Terminal())
	if !errors.Is(err, syscall.EIO) || !strings.Contains(string(text), "20 60\r\n") || !strings.HasSuffix(string(text), "got word\r\n") {
		t.Errorf("got %q, %v", text, err)
	}
	if status, err := cmd.Wait(); err != nil || status.Code != 7 {
		t.Errorf("Wait() = %v, %v", status, err)
	}
}

// TestExecGivenUp: a client that is gone leaves nothing running, with a
// terminal and without.
func TestExecGivenUp(t *testing.T) {
	_, c := realBox(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd, err := c.Exec(t.Context(), tcpbox.ExecConfig{
		Args: []string{"sh", "-c", "trap 'echo hung up; exit' HUP; echo up; while :; do sleep 0.01; done"}, Stdout: w,
	})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(r)
	if !lines.Scan() || lines.Text() != "up" {
		t.Fatal("the command is not up")
	}
	cmd.Close()
	cmd.Close()
	if !lines.Scan() || lines.Text() != "hung up" || lines.Scan() {
		t.Errorf("the command wrote %q", lines.Text())
	}
	// One that does not heed it is killed.
	cmd, err = c.Exec(t.Context(), tcpbox.ExecConfig{
		Args: []string{"sh", "-c", "trap '' HUP; echo up; while :; do sleep 1000; done"}, Terminal: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.Terminal().Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	pid := cmd.PID()
	cmd.Terminal().Close()
	cmd.Close()
	waitUntil(t, "the command is killed", func() bool { return unix.Kill(pid, 0) != nil })
}

// waitUntil waits for a condition.
func waitUntil(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never came true: %s", what)
		}
	}
}

// TestManyExecs runs 20 at once and counts what is left.
func TestManyExecs(t *testing.T) {
	_, c := realBox(t)
	output(t, c, "true")
	count := func() (files, routines int) {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries), runtime.NumGoroutine()
	}
	files, routines := count()
	for range 3 {
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				text, status := output(t, c, fmt.Sprintf("echo %d; exit %d", i, i))
				if text != fmt.Sprintln(i) || status.Code != i {
					t.Errorf("command %d: %q and %v", i, text, status)
				}
			})
		}
		all.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		if cmd, err := c.Exec(ctx, tcpbox.ExecConfig{Args: []string{"sleep", "1000"}}); err == nil {
			cmd.Close()
		}
		cancel()
	}
	waitUntil(t, "as before", func() bool {
		f, r := count()
		return f <= files && r <= routines
	})
}

// TestExecBadRequests speaks the protocol wrongly.
func TestExecBadRequests(t *testing.T) {
	runtimeDir(t)
	serve(t, "web", &fakeBox{err: errors.New("must not be asked")})
	c, err := Connect("web")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		what, upgrade, body string
		want                int
	}{
		{"no upgrade", "", `{"args":["x"]}`, http.StatusUpgradeRequired},
		{"another", "websocket", `{"args":["x"]}`, http.StatusUpgradeRequired},
		{"no body", upgradeTo, "", http.StatusBadRequest},
		{"no command", upgradeTo, `{"args":[]}`, http.StatusBadRequest},
		{"an empty name", upgradeTo, `{"args":[""]}`, http.StatusBadRequest},
		{"an unknown field", upgradeTo, `{"args":["x"],"tty":true}`, http.StatusBadRequest},
		{"a zero byte", upgradeTo, `{"args":["\u0000"]}`, http.StatusBadRequest},
		{"no base64", upgradeTo, `{"args":[{"base64":"!"}]}`, http.StatusBadRequest},
		{"no UTF-8", upgradeTo, "{\"args\":[\"\xff\"]}", http.StatusBadRequest},
		{"no variable", upgradeTo, `{"args":["x"],"env":["A"]}`, http.StatusBadRequest},
		{"too large a terminal", upgradeTo, `{"args":["x"],"terminal":{"rows":70000}}`, http.StatusBadRequest},
		{"two", upgradeTo, `{"args":["x"]}{}`, http.StatusBadRequest},
		{"too large", upgradeTo, `{"args":["` + strings.Repeat("x", maxExecBody) + `"]}`, http.StatusRequestEntityTooLarge},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://sandbox/v1/exec", strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		if tt.upgrade != "" {
			req.Header.Set("Connection", "Upgrade")
			req.Header.Set("Upgrade", tt.upgrade)
		}
		resp, err := c.http.Do(req)
		if err != nil {
			if tt.want != http.StatusRequestEntityTooLarge { // it may be closed while the body is sent
				t.Errorf("%s: %v", tt.what, err)
			}
			continue
		}
		resp.Body.Close()
		// A body that a slow machine does not read within readTimeout is a bad one.
		slow := tt.want == http.StatusRequestEntityTooLarge && resp.StatusCode == http.StatusBadRequest
		if resp.StatusCode != tt.want && !slow {
			t.Errorf("%s: %d, want %d", tt.what, resp.StatusCode, tt.want)
		}
	}

	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	three := slices.Repeat([]int{int(null.Fd())}, 3)
	for _, tt := range []struct {
		what string
		line any
		fds  []int
		want string
	}{
		{"no descriptors", ExecMessage{Op: opStart}, nil, `with 0 descriptors`},
		{"four descriptors", ExecMessage{Op: opStart}, append(three[:3:3], three[0]), ""},
		{"another word", ExecMessage{Op: opSignal}, three, `"signal" with 3`},
		{"no message", 17, three, ""},
		{"an unknown field", map[string]string{"what": "x"}, three, ""},
		{"the box says no", ExecMessage{Op: opStart}, three, "must not be asked"},
	} {
		conn, err := c.upgrade(t.Context(), ExecRequest{Args: []Text{"x"}})
		if err != nil {
			t.Fatal(err)
		}
		st := &stream{conn: conn}
		if err := st.send(tt.line, tt.fds...); err != nil {
			t.Fatal(err)
		}
		var m ExecMessage
		if err := st.receive(&m); (err != nil) != (tt.want == "") || !strings.Contains(m.Error, tt.want) {
			t.Errorf("%s: %+v, %v; want %q", tt.what, m, err, tt.want)
		}
		conn.Close()
	}
}

// FuzzExecBody: what is taken is what is written again.
func FuzzExecBody(f *testing.F) {
	for _, seed := range []string{
		`{"args":["sh","-c","exit 3"],"env":["A=1"],"dir":"/usr"}`,
		`{"args":[{"base64":"/w=="}],"terminal":{"rows":24,"cols":80}}`,
		`{"args":["\u0001\ud800"]}`, `{}`, `[]`, `{"args":[null]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var req ExecRequest
		r := &http.Request{Body: io.NopCloser(bytes.NewReader(body))}
		if read(r, &req) != nil || req.check() != nil {
			return
		}
		data, err := json.Marshal(newExecRequest(req.config()))
		if err != nil {
			t.Fatal(err)
		}
		var again ExecRequest
		if err := read(&http.Request{Body: io.NopCloser(bytes.NewReader(data))}, &again); err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		if !slices.Equal(req.Args, again.Args) || !slices.Equal(req.Env, again.Env) || req.Dir != again.Dir || (req.Terminal == nil) != (again.Terminal == nil) {
			t.Errorf("%+v became %+v", req, again)
		}
	})
}

// FuzzExecLines feeds a stream what no client of ours would send.
func FuzzExecLines(f *testing.F) {
	f.Add([]byte(`{"op":"start"}`+"\n"+`{"op":"signal","signal":15}`+"\n"), true)
	f.Add([]byte("\n\n{}"), false)
	f.Fuzz(func(t *testing.T, data []byte, withFile bool) {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Skip(err)
		}
		var ends [2]*net.UnixConn
		for i, fd := range pair {
			file := os.NewFile(uintptr(fd), "pair")
			conn, err := net.FileConn(file)
			file.Close()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			ends[i] = conn.(*net.UnixConn)
		}
		var oob []byte
		if withFile {
			oob = unix.UnixRights(0)
		}
		if len(data) == 0 || len(data) > 64<<10 {
			return
		}
		if _, _, err := ends[0].WriteMsgUnix(data, oob, nil); err != nil {
			return
		}
		ends[0].Close()
		st := &stream{conn: ends[1]}
		for {
			var m ExecMessage
			if err := st.receive(&m); err != nil {
				break
			}
		}
		if fds := st.take(); withFile && len(fds) != 1 {
			t.Errorf("%d descriptors came, want 1", len(fds))
		} else {
			closeAll(fds)
		}
	})
}

// TestOtherUserIsRefused connects as somebody who was let as far as the socket.
func TestOtherUserIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("another user needs root")
		}
		t.Skip("another user needs root")
	}
	dir := runtimeDir(t)
	serve(t, "web", &fakeBox{})
	sock := filepath.Join(dir, "web", sockName)
	for p := sock; p != "/tmp" && p != "/"; p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	self := filepath.Join(filepath.Dir(dir), "self")
	if err := os.WriteFile(self, data, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, uid := range []uint32{0, 4242} {
		cmd := exec.Command(self, "-test.run=^TestMain$")
		cmd.Env = append(os.Environ(), connectTo+"="+sock)
		cmd.SysProcAttr = &unix.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		want := "answered\n"
		if uid != 0 {
			want = "refused\n"
		}
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != want {
			t.Errorf("as uid %d: %q, %v; want %q", uid, out, err, want)
		}
	}
}
