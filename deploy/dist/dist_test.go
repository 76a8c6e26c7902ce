package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var at = time.Date(2026, 11, 24, 12, 0, 5, 0, time.UTC)

func TestPackageVersion(t *testing.T) {
	for version, want := range map[string]string{
		"v1.2.3":                  "1.2.3",
		"1.2.3":                   "1.2.3",
		"v1.2.3-rc.1":             "1.2.3~rc.1",
		"v1.2.3-4-gabcdef0":       "1.2.3+4.gabcdef0",
		"v1.2.3-rc1-4-gabcdef0":   "1.2.3~rc1+4.gabcdef0",
		"v1.2.3-dirty":            "1.2.3.dirty",
		"v1.2.3-4-gabcdef0-dirty": "1.2.3+4.gabcdef0.dirty",
		"abcdef0":                 "0.0.0~20261124120005.abcdef0",
		"abcdef0-dirty":           "0.0.0~20261124120005.abcdef0.dirty",
		"development":             "0.0.0~20261124120005.development",
		"156d78c-dirty":           "0.0.0~20261124120005.156d78c.dirty", // a commit, not a number
	} {
		if got := packageVersion(version, at); got != want {
			t.Errorf("packageVersion(%q) = %q, want %q", version, got, want)
		}
	}
}

// TestTarIsReproducible gives the same files in another order.
func TestTarIsReproducible(t *testing.T) {
	files := []file{{"b/x", 0o644, []byte("x")}, {"a", 0o755, []byte("a")}, {"b/tmp/", 0o1777, nil}}
	one, err1 := tarOf(files, at)
	slices.Reverse(files)
	two, err2 := tarOf(files, at)
	if err := errors.Join(err1, err2); err != nil || !bytes.Equal(one, two) {
		t.Fatalf("%v: the archives differ", err)
	}
	var got strings.Builder
	for _, h := range headers(t, one) {
		fmt.Fprintf(&got, "%s %o %s:%s %s\n", h.Name, h.Mode, h.Uname, h.Gname, h.ModTime.UTC().Format(time.DateTime))
	}
	want := `a 755 root:root 2026-11-24 12:00:05
b/ 755 root:root 2026-11-24 12:00:05
b/tmp/ 1777 root:root 2026-11-24 12:00:05
b/x 644 root:root 2026-11-24 12:00:05
`
	if got.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", got.String(), want)
	}
}

func headers(t *testing.T, data []byte) (all []*tar.Header) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, h)
	}
}

func contents(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	all := make(map[string][]byte)
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if all[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

// TestImage follows the digests of an image from its index to its files.
func TestImage(t *testing.T) {
	binaries := map[string][]byte{"amd64": []byte("for amd64"), "arm64": []byte("for arm64")}
	data, err := ociImage(binaries, "v1.2.3", at)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ociImage(binaries, "v1.2.3", at); err != nil || !bytes.Equal(data, again) {
		t.Errorf("made again, it differs (%v)", err)
	}
	files := contents(t, data)
	if got := string(files["oci-layout"]); got != `{"imageLayoutVersion":"1.0.0"}` {
		t.Errorf("oci-layout: %s", got)
	}
	blob := func(d descriptor, mediaType string) []byte {
		t.Helper()
		data := files["blobs/sha256/"+strings.TrimPrefix(d.Digest, "sha256:")]
		if d.MediaType != mediaType || d.Size != len(data) || d.Digest != fmt.Sprintf("sha256:%x", sha256.Sum256(data)) {
			t.Fatalf("%+v: %d bytes, want a %s", d, len(data), mediaType)
		}
		return data
	}
	var top, platforms index
	unmarshal(t, files["index.json"], &top)
	if got := top.Manifests[0].Annotations["io.containerd.image.name"]; len(top.Manifests) != 1 || got != "tcpbox:v1.2.3" {
		t.Fatalf("index.json: %s", files["index.json"])
	}
	unmarshal(t, blob(top.Manifests[0], typeIndex), &platforms)
	for i, arch := range archs {
		var m manifest
		var c imageConfig
		unmarshal(t, blob(platforms.Manifests[i], typeManifest), &m)
		unmarshal(t, blob(m.Config, typeConfig), &c)
		if p := platforms.Manifests[i].Platform; p.Architecture != arch || p.OS != "linux" || c.Architecture != arch || c.OS != "linux" {
			t.Errorf("platform %+v, configuration %+v, want %s", p, c, arch)
		}
		if !slices.Equal(c.Config.Entrypoint, []string{"/usr/bin/tcpbox"}) || !c.Created.Equal(at) || len(m.Layers) != 1 {
			t.Errorf("%+v, %+v", c, m)
		}
		layer := gunzip(t, blob(m.Layers[0], typeLayer))
		if want := []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}; !slices.Equal(c.RootFS.DiffIDs, want) {
			t.Errorf("diff_ids %q, want %q", c.RootFS.DiffIDs, want)
		}
		if got := contents(t, layer)["usr/bin/tcpbox"]; !bytes.Equal(got, binaries[arch]) {
			t.Errorf("%s: the layer's tcpbox is %q", arch, got)
		}
	}
}

func unmarshal(t *testing.T, data []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
}

func gunzip(t *testing.T, data []byte) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestReplace leaves alone what is not a release, and what a release has not.
func TestReplace(t *testing.T) {
	dir, with := filepath.Join(t.TempDir(), "deep", "dist"), t.TempDir()
	write := func(dir string, names ...string) {
		t.Helper()
		for _, n := range names {
			if err := os.WriteFile(filepath.Join(dir, n), []byte(dir), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(with, "SHA256SUMS", "tcpbox-v2-oci.tar")
	if err := replace(dir, with); err != nil {
		t.Fatal(err)
	}
	write(dir, "tcpbox-v1-linux-arm64.tar.gz", "tcpbox_1-1_arm64.deb", "tcpbox-1-1.aarch64.rpm", "tcpbox-v1-oci.tar", "mine", "tcpbox")
	if err := replace(dir, with); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	for i := range names {
		names[i] = filepath.Base(names[i])
	}
	if want := []string{"SHA256SUMS", "mine", "tcpbox", "tcpbox-v2-oci.tar"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("%q, want %q (%v)", names, want, err)
	}
}

// TestBadVersion refuses what would break names and flags of the linker.
func TestBadVersion(t *testing.T) {
	for _, v := range []string{"", "a b", "a/b", `a"b`, "a'b"} {
		b := build{version: v, out: t.TempDir() + "/out"}
		if err := b.run(); err == nil || !strings.Contains(err.Error(), "cannot be a version") {
			t.Errorf("%q: %v", v, err)
		}
	}
}
