package integration

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// dist builds everything that tcpbox is released as, into a directory. It
// skips the test where nfpm cannot be fetched.
func dist(t *testing.T, dir string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "make", "dist", "VERSION=v0.0.1-test", "SOURCE_DATE_EPOCH=1700000000", "DIST="+dir)
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		if os.Getenv("CI") != "true" && strings.Contains(string(out), "dial tcp") {
			t.Skipf("make dist: %v\n%s", err, out)
		}
		t.Fatalf("make dist: %v\n%s", err, out)
	}
}

// needPrograms skips the test where one of the programs is missing.
func needPrograms(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
}

// TestDist builds the release twice, and uses what comes of it as its users do.
func TestDist(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles for each architecture")
	}
	needPrograms(t, "make", "dpkg", "python3", "groff", "bash")
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	out := filepath.Join(t.TempDir(), "dist")
	dist(t, out)

	t.Run("again it is the same", func(t *testing.T) {
		again := filepath.Join(t.TempDir(), "again")
		dist(t, again)
		sameFiles(t, out, again)
	})
	t.Run("checksums", func(t *testing.T) {
		cmd := exec.CommandContext(t.Context(), "sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS")
		cmd.Dir = out
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, text)
		}
	})
	t.Run("deb", func(t *testing.T) { distDeb(t, out) })
	t.Run("archive", func(t *testing.T) { distArchive(t, out) })
	t.Run("image", func(t *testing.T) { distImage(t, out) })
}

// sameFiles compares two directories byte for byte.
func sameFiles(t *testing.T, a, b string) {
	t.Helper()
	one, err1 := os.ReadDir(a)
	two, err2 := os.ReadDir(b)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if len(one) != 8 || len(two) != 8 { // two archives, two debs, two rpms, an image, the checksums
		t.Fatalf("%d and %d files", len(one), len(two))
	}
	for _, e := range one {
		x, err1 := os.ReadFile(filepath.Join(a, e.Name()))
		y, err2 := os.ReadFile(filepath.Join(b, e.Name()))
		if err := errors.Join(err1, err2); err != nil || !bytes.Equal(x, y) {
			t.Errorf("%s differs (%v)", e.Name(), err)
		}
	}
}

// one returns the one file that a pattern means.
func one(t *testing.T, pattern string) string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) != 1 {
		t.Fatalf("%s: %q (%v)", pattern, names, err)
	}
	return names[0]
}

// distDeb installs the package into an empty tree, with the help of nothing that
// is in it.
func distDeb(t *testing.T, out string) {
	tree := openTree(t, "etc", "tmp", "proc", "sys", "dev", "var/lib/dpkg/info", "var/lib/dpkg/updates")
	if err := os.WriteFile(filepath.Join(tree, "var/lib/dpkg/status"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	install := exec.CommandContext(t.Context(), "dpkg", "--root="+tree, "--install", one(t, filepath.Join(out, "*_"+runtime.GOARCH+".deb")))
	if text, err := install.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	status, err := exec.CommandContext(t.Context(), "dpkg", "--root="+tree, "--status", "tcpbox").Output()
	if err != nil || !strings.Contains(string(status), "\nStatus: install ok installed\n") || !strings.Contains(string(status), "\nVersion: 0.0.1~test-1\n") {
		t.Errorf("%v: %s", err, status)
	}
	runFrom(t, tree)

	page := gunzipFile(t, filepath.Join(tree, "usr/share/man/man1/tcpbox.1.gz"))
	if day := `.TH TCPBOX 1 "2023-11-14" `; !bytes.HasPrefix(page, []byte(day)) { // of SOURCE_DATE_EPOCH
		t.Errorf("the page begins with %.60q, want %q", page, day)
	}
	groff := exec.CommandContext(t.Context(), "groff", "-man", "-Tutf8", "-ww")
	groff.Stdin = bytes.NewReader(page)
	var errs bytes.Buffer
	groff.Stderr = &errs
	text, err := groff.Output()
	if err != nil || errs.Len() > 0 || !strings.Contains(string(text), "v0.0.1-test") {
		t.Errorf("%v: %s: %.200s", err, errs.String(), text)
	}

	const complete = `source usr/share/bash-completion/completions/tcpbox
COMP_LINE="tcpbox run --net=pub" COMP_POINT=20 COMP_WORDS=(tcpbox run --net = pub) COMP_CWORD=4
_tcpbox "$PWD/usr/bin/tcpbox"
echo "${COMPREPLY[*]}"`
	bash := exec.CommandContext(t.Context(), "bash", "--norc", "-c", complete)
	bash.Dir = tree
	if text, err := bash.CombinedOutput(); err != nil || string(text) != "public\n" {
		t.Errorf("completion: %v: %s", err, text)
	}
}

// distArchive unpacks the archive and runs what is in it.
func distArchive(t *testing.T, out string) {
	tree := openTree(t, "etc", "tmp", "proc", "sys", "dev", "usr/bin")
	data := gunzipFile(t, one(t, filepath.Join(out, "*-linux-"+runtime.GOARCH+".tar.gz")))
	for name, file := range untar(t, data) {
		if strings.HasSuffix(name, "/tcpbox") {
			if err := os.WriteFile(filepath.Join(tree, "usr/bin/tcpbox"), file, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	runFrom(t, tree)
}

// distImage runs from the layer of the image, which is all that a container
// has.
func distImage(t *testing.T, out string) {
	data, err := os.ReadFile(one(t, filepath.Join(out, "*-oci.tar")))
	if err != nil {
		t.Fatal(err)
	}
	blobs := untar(t, data)
	type descriptor struct {
		Digest   string
		Platform struct{ Architecture string }
	}
	follow := func(name string, v any) {
		if err := json.Unmarshal(blobs[name], v); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	path := func(d descriptor) string { return "blobs/" + strings.Replace(d.Digest, ":", "/", 1) }
	var top, platforms struct{ Manifests []descriptor }
	follow("index.json", &top)
	follow(path(top.Manifests[0]), &platforms)
	for _, p := range platforms.Manifests {
		if p.Platform.Architecture != runtime.GOARCH {
			continue
		}
		var manifest struct{ Layers []descriptor }
		follow(path(p), &manifest)
		tree := openTree(t)
		unpack := exec.CommandContext(t.Context(), "tar", "-xzf", "-", "-C", tree)
		unpack.Stdin = bytes.NewReader(blobs[path(manifest.Layers[0])])
		if text, err := unpack.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		runFrom(t, tree)
		return
	}
	t.Errorf("nothing for %s in %+v", runtime.GOARCH, platforms)
}

// enter makes a tree the root of a mount namespace, and executes there what it is
// told to: TREE UID PROGRAM...
const enter = `
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def check(r):
    if r != 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
tree, uid = sys.argv[1], int(sys.argv[2])
check(libc.unshare(0x20000))                              # CLONE_NEWNS
check(libc.mount(b"none", b"/", None, 0x44000, None))     # MS_REC, MS_PRIVATE
check(libc.mount(tree.encode(), tree.encode(), None, 0x1000, None))  # MS_BIND
for d in "proc", "sys", "dev":
    check(libc.mount(b"/" + d.encode(), (tree + "/" + d).encode(), None, 0x5000, None))
os.chdir(tree)
check(libc.pivot_root(b".", b"."))
check(libc.umount2(b".", 2))                              # MNT_DETACH
os.chdir("/")
if uid:
    os.setgroups([]); os.setgid(uid); os.setuid(uid)
os.execve(sys.argv[3], sys.argv[3:], {"PATH": "/usr/bin"})
`

// runFrom runs the tree's tcpbox with the tree as the only root there is, as root
// and as a user: a sandbox, and in it tcpbox again as a client.
func runFrom(t *testing.T, tree string) {
	t.Helper()
	for _, uid := range []string{"0", "4242"} {
		inTree := func(ctx context.Context, args ...string) (string, error) {
			args = append([]string{"-c", enter, tree, uid, "/usr/bin/tcpbox"}, args...)
			var stdout, stderr bytes.Buffer
			cmd := exec.CommandContext(ctx, "python3", args...)
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			err := cmd.Run()
			if err != nil {
				err = errors.Join(err, errors.New(stderr.String()))
			}
			return stdout.String(), err
		}
		if out, err := inTree(t.Context(), "version"); err != nil || !strings.HasPrefix(out, "tcpbox v0.0.1-test (gvisor v0.0.0-2") {
			t.Errorf("uid %s: version: %v: %q", uid, err, out)
		}
		out, err := inTree(t.Context(), "run", "--net", "none", "--peer", "web=http", "--", "tcpbox", "get", "http://web/bytes/7")
		if err != nil || len(out) != 7 {
			t.Errorf("uid %s: run: %v: %q", uid, err, out)
		}
	}
}

// openTree is a directory with directories in it that every user can enter.
func openTree(t *testing.T, dirs ...string) string {
	t.Helper()
	tree, err := os.MkdirTemp("", "tcpbox-tree-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(tree) })
	if err := os.Chmod(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		if err := os.MkdirAll(filepath.Join(tree, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

func gunzipFile(t *testing.T, name string) []byte {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// untar returns the files of an archive.
func untar(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	files := make(map[string][]byte)
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}
