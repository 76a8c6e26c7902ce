package control

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox"
	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

// fakeBox is a sandbox that is none.
type fakeBox struct {
	mu    sync.Mutex
	grace []time.Duration
	err   error
	netns uint64 // that is served

	published []tcpbox.Publish
	settings  tcpbox.Settings
	done      []string // to connections

	faults    []tcpbox.FaultRule
	lastFault int
}

func (b *fakeBox) Segments(conn tcpstate.Conn) ([]statelog.Record, []statelog.Segment, error) {
	return fakeSegments(conn)
}

func (b *fakeBox) Inspect() tcpbox.Info { return tcpbox.Info{Name: "web", PID: 42, NetNS: b.netns} }

func (b *fakeBox) Exec(context.Context, tcpbox.ExecConfig) (*tcpbox.Command, error) {
	return nil, b.err
}

func (b *fakeBox) Stop(_ context.Context, grace time.Duration) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.grace = append(b.grace, grace)
	return b.err
}

// runtimeDir gives the test a runtime directory of its own.
func runtimeDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Setenv("XDG_RUNTIME_DIR", dir)
	override = filepath.Join(dir, "tcpbox")
	t.Cleanup(func() { override = "" })
	return override
}

func serve(t *testing.T, name string, box Box) *Server {
	t.Helper()
	s, err := Reserve(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.Serve(box); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestInspectAndStop(t *testing.T) {
	runtimeDir(t)
	box := &fakeBox{}
	s := serve(t, "web", box)
	names, err := List()
	if err != nil || strings.Join(names, " ") != "web" {
		t.Fatalf("List() = %v, %v", names, err)
	}
	c, err := Connect("web")
	if err != nil {
		t.Fatal(err)
	}
	if in, err := c.Inspect(t.Context()); err != nil || in.PID != 42 {
		t.Errorf("Inspect() = %+v, %v", in, err)
	}
	if err := c.Stop(t.Context(), 3*time.Second); err != nil || len(box.grace) != 1 || box.grace[0] != 3*time.Second {
		t.Errorf("Stop() = %v; the box was told %v", err, box.grace)
	}
	box.err = errors.New("it will not")
	var remote *RemoteError
	if err := c.Stop(t.Context(), 0); !errors.As(err, &remote) || remote.Message != "it will not" {
		t.Errorf("Stop() = %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Connect("web"); !errors.Is(err, ErrNotFound) {
		t.Errorf("after Close, Connect() = %v", err)
	}
	if names, err := List(); err != nil || len(names) != 0 {
		t.Errorf("after Close, List() = %v, %v", names, err)
	}
}

func TestANameIsTakenOnce(t *testing.T) {
	dir := runtimeDir(t)
	serve(t, "web", &fakeBox{})
	if _, err := Reserve("web", nil); !errors.Is(err, ErrExists) {
		t.Errorf("the second Reserve() = %v, want ErrExists", err)
	}
	// Many at once: one gets it.
	var won, lost int
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			s, err := Reserve("db", nil)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				won++
				t.Cleanup(func() { s.Close() })
			case errors.Is(err, ErrExists):
				lost++
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if won != 1 || lost != 19 {
		t.Errorf("%d won and %d lost", won, lost)
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("the runtime directory: %v, %v", st.Mode(), err)
	}
}

// TestTheDeadAreRemoved leaves what a killed process leaves: a lock that no one
// holds and a socket that nobody serves.
func TestTheDeadAreRemoved(t *testing.T) {
	dir := runtimeDir(t)
	if _, err := List(); err != nil {
		t.Fatal(err)
	}
	bury := func(name string) {
		d := filepath.Join(dir, name)
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d, lockName), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(d, sockName), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
	}
	bury("dead")
	if _, err := Connect("dead"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Connect() = %v", err)
	}
	bury("dead")
	if names, err := List(); err != nil || len(names) != 0 {
		t.Errorf("List() = %v, %v", names, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
	bury("dead")
	serve(t, "dead", &fakeBox{}) // the name is free
}

func TestBadRequests(t *testing.T) {
	runtimeDir(t)
	serve(t, "web", &fakeBox{})
	c, err := Connect("web")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		method, path, body string
		want               int
	}{
		{"GET", "inspect", "", http.StatusOK},
		{"POST", "inspect", "", http.StatusMethodNotAllowed},
		{"GET", "nothing", "", http.StatusNotFound},
		{"GET", "%1b[31m/" + strings.Repeat("x", 4000), "", http.StatusNotFound},
		{"POST", "stop", "{", http.StatusBadRequest},
		{"POST", "stop", `{"grace":1}`, http.StatusBadRequest},
		{"POST", "stop", `{"grace_ms":-1}`, http.StatusBadRequest},
		{"POST", "stop", `{"grace_ms":1} {}`, http.StatusBadRequest},
		{"POST", "stop", `{"grace_ms":1} ]`, http.StatusBadRequest},
		{"POST", "stop", `{"grace_ms":18446744073710}`, http.StatusBadRequest}, // 448 µs beyond 64 bits
		{"POST", "stop", `{"grace_ms":` + strings.Repeat("1", maxBody) + `}`, http.StatusBadRequest},
	} {
		req, err := http.NewRequestWithContext(t.Context(), row.method, "http://sandbox/v1/"+row.path, strings.NewReader(row.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.http.Do(req)
		if err != nil {
			t.Errorf("%s %s: %v", row.method, row.path, err)
			continue
		}
		var f Failure
		err = json.NewDecoder(resp.Body).Decode(&f)
		resp.Body.Close()
		if row.want != http.StatusOK && (err != nil || f.V != Version || f.Error == "" || f.Hint == "") {
			t.Errorf("%s %s %.40s: %+v, %v", row.method, row.path, row.body, f, err)
		}
		if resp.StatusCode != row.want {
			t.Errorf("%s %s %.40s: %d, want %d", row.method, row.path, row.body, resp.StatusCode, row.want)
		}
	}
}

func TestUnsafeRuntimeDirectories(t *testing.T) {
	dir := runtimeDir(t)
	for _, row := range []struct {
		what string
		make func() error
		want string
	}{
		{"open to others", func() error { return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o755)) }, "open to others"},
		{"a link", func() error { return os.Symlink(t.TempDir(), dir) }, "not a directory"},
		{"a file", func() error { return os.WriteFile(dir, nil, 0o600) }, "not a directory"},
	} {
		if err := row.make(); err != nil {
			t.Fatal(err)
		}
		if _, err := RuntimeDir(); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v", row.what, err)
		}
		os.RemoveAll(dir)
	}
}

func TestNamesThatAreNoNames(t *testing.T) {
	runtimeDir(t)
	for _, name := range []string{"", ".", "..", "../x", "a/b"} {
		if _, err := Connect(name); !errors.Is(err, ErrNotFound) {
			t.Errorf("Connect(%q) = %v", name, err)
		}
	}
}

// TestInsidersAreRefused connects from where a guest would be, or a process of an
// attached namespace.
func TestInsidersAreRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("a pid namespace needs root")
		}
		t.Skip("a pid namespace needs root")
	}
	dir := runtimeDir(t)
	var own unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &own); err != nil {
		t.Fatal(err)
	}
	serve(t, "other", &fakeBox{netns: own.Ino + 1})
	serve(t, "ours", &fakeBox{netns: own.Ino})
	for _, row := range []struct {
		what  string
		box   string
		flags uintptr
		want  string
	}{
		{"from our own namespaces", "other", 0, "answered\n"},
		{"from another network", "ours", unix.CLONE_NEWNET, "answered\n"},
		{"from the network that is served", "ours", 0, "refused\n"},
		{"from another pid namespace", "other", unix.CLONE_NEWPID, "refused\n"},
		{"from another user namespace", "other", unix.CLONE_NEWUSER, "refused\n"},
		{"out of the served network by a user namespace", "ours", unix.CLONE_NEWUSER | unix.CLONE_NEWNET, "refused\n"},
	} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestMain$")
		cmd.Env = append(os.Environ(), connectTo+"="+filepath.Join(dir, row.box, sockName))
		cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: row.flags}
		if row.flags&unix.CLONE_NEWUSER != 0 {
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
		}
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != row.want {
			t.Errorf("%s: %q, %v, want %q", row.what, out, err, row.want)
		}
	}
}

const connectTo = "TCPBOX_TEST_CONNECT"

func TestMain(m *testing.M) {
	tcpbox.Init()
	if path := os.Getenv(connectTo); path != "" {
		c, err := net.Dial("unix", path)
		if err != nil {
			panic(err)
		}
		_, _ = c.Write([]byte("GET /v1/inspect HTTP/1.1\r\nHost: x\r\n\r\n")) // it may be closed already
		if n, _ := c.Read(make([]byte, 1)); n == 0 {
			os.Stdout.WriteString("refused\n")
		} else {
			os.Stdout.WriteString("answered\n")
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}
