// Command dist builds what tcpbox is released as: for linux on amd64 and arm64
// an archive, a .deb and an .rpm, and for both a container image without a
// registry, with the checksums of all.
//
// The same source and the same Go give the same bytes, wherever and whenever:
// every time is the one that -time gives, every owner is root, every list is
// sorted. It is run from the root of the repository; see "make dist".
package main

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// archs are what is built for; their order is that of the image's index.
var archs = []string{"amd64", "arm64"}

// build says what is built.
type build struct {
	version string    // of tcpbox, as "tcpbox version" tells it
	time    time.Time // of everything
	nfpm    []string  // the command that makes packages; empty: none are made
	out     string    // the directory for the results
}

func main() {
	version := flag.String("version", "development", "the version, such as v1.2.3")
	seconds := flag.Int64("time", 0, "the time of everything, in seconds since 1970")
	nfpm := flag.String("nfpm", "", "the command that makes packages")
	out := flag.String("out", "dist", "the directory for the results")
	flag.Parse()
	b := build{version: *version, time: time.Unix(*seconds, 0).UTC(), nfpm: strings.Fields(*nfpm), out: *out}
	if err := b.run(); err != nil {
		fmt.Fprintf(os.Stderr, "dist: %v\n", err)
		os.Exit(1)
	}
}

// run builds everything. What it built before, or another version of it, goes
// from the directory once all is well.
func (b build) run() error {
	if strings.ContainsAny(b.version, " '\"/\\") || b.version == "" {
		return fmt.Errorf("%q cannot be a version", b.version)
	}
	stage, err := os.MkdirTemp("", "tcpbox-dist-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(stage)
	out := b.out
	b.out = filepath.Join(stage, "out")
	if err := os.Mkdir(b.out, 0o755); err != nil {
		return err
	}

	shared, err := b.sharedFiles(stage)
	if err != nil {
		return err
	}
	binaries := make(map[string][]byte)
	for _, arch := range archs {
		binary := filepath.Join(stage, arch, "tcpbox")
		if err := b.compile(arch, binary); err != nil {
			return err
		}
		if binaries[arch], err = os.ReadFile(binary); err != nil {
			return err
		}
		files := append(slices.Clone(shared), file{"tcpbox", 0o755, binaries[arch]})
		if err := b.archive(arch, files); err != nil {
			return err
		}
		if err := b.packages(arch, filepath.Join(stage, arch), shared); err != nil {
			return err
		}
	}
	image, err := ociImage(binaries, b.version, b.time)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(b.out, "tcpbox-"+b.version+"-oci.tar"), image, 0o644); err != nil {
		return err
	}
	if err := sums(b.out); err != nil {
		return err
	}
	return replace(out, b.out)
}

// replace puts the files of a directory into another, instead of those of its
// kind that are there.
func replace(dir, with string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, pattern := range []string{"tcpbox-*.tar.gz", "tcpbox_*.deb", "tcpbox-*.rpm", "tcpbox-*-oci.tar", "SHA256SUMS"} {
		old, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		for _, name := range old {
			if err := os.Remove(name); err != nil {
				return err
			}
		}
	}
	return os.CopyFS(dir, os.DirFS(with))
}

// compile builds the static binary.
func (b build) compile(arch, to string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -buildid= -X main.version="+b.version+" -X main.date="+b.time.UTC().Format(time.DateOnly), "-o", to, "./cmd/tcpbox")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOAMD64=v1", "GOARM64=v8.0", "GOFLAGS=")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("compile for %s: %w", arch, err)
	}
	return nil
}

// sharedFiles are the files that go with the binary, whatever it is for. Some are
// made by running it on this machine.
func (b build) sharedFiles(stage string) ([]file, error) {
	own := filepath.Join(stage, "own")
	if err := b.compile(runtime.GOARCH, own); err != nil {
		return nil, err
	}
	var files []file
	for _, name := range []string{"README.md", "CHANGELOG.md", "LICENSE"} {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		files = append(files, file{name, 0o644, data})
	}
	for name, args := range map[string][]string{
		"man/tcpbox.1":           {"man"},
		"completion/tcpbox.bash": {"completion", "bash"},
		"completion/tcpbox.fish": {"completion", "fish"},
		"completion/_tcpbox":     {"completion", "zsh"},
	} {
		cmd := exec.Command(own, args...)
		cmd.Stderr = os.Stderr
		data, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("tcpbox %s: %w", strings.Join(args, " "), err)
		}
		files = append(files, file{name, 0o644, data})
	}
	return files, os.Remove(own)
}

// archive writes the archive of one architecture.
func (b build) archive(arch string, files []file) error {
	name := "tcpbox-" + b.version + "-linux-" + arch
	for i := range files {
		files[i].name = name + "/" + files[i].name
	}
	data, err := tarOf(files, b.time)
	if err == nil {
		data, err = gzipOf(data)
	}
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.out, name+".tar.gz"), data, 0o644)
}

// packages lays the files out in stage, where the binary is already, and has
// nfpm make packages of them.
func (b build) packages(arch, stage string, files []file) error {
	if len(b.nfpm) == 0 {
		return nil
	}
	for _, f := range files {
		if strings.HasPrefix(f.name, "man/") {
			page, err := gzipOf(f.data)
			if err != nil {
				return err
			}
			f = file{f.name + ".gz", f.mode, page}
		}
		path := filepath.Join(stage, f.name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, f.data, f.mode)); err != nil {
			return err
		}
	}
	for _, kind := range []string{"deb", "rpm"} {
		target, err := filepath.Abs(filepath.Join(b.out, b.packageName(arch, kind)))
		if err != nil {
			return err
		}
		args := append(slices.Clone(b.nfpm[1:]), "package", "--config", "deploy/nfpm.yaml", "--packager", kind, "--target", target)
		cmd := exec.Command(b.nfpm[0], args...)
		cmd.Env = append(os.Environ(), "ARCH="+arch, "PACKAGE_VERSION="+packageVersion(b.version, b.time), "STAGE="+stage,
			fmt.Sprintf("SOURCE_DATE_EPOCH=%d", b.time.Unix()))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", kind, err, out)
		}
	}
	return nil
}

// packageName names a package as its kind has it.
func (b build) packageName(arch, kind string) string {
	v := packageVersion(b.version, b.time)
	if kind == "deb" {
		return "tcpbox_" + v + "-1_" + arch + ".deb"
	}
	return "tcpbox-" + v + "-1." + map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[arch] + ".rpm"
}

// sums writes the checksums of all files of a directory, as sha256sum does.
func sums(dir string) error {
	entries, err := os.ReadDir(dir) // sorted
	if err != nil {
		return err
	}
	var b bytes.Buffer
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%x  %s\n", sha256.Sum256(data), e.Name())
	}
	return os.WriteFile(filepath.Join(dir, "SHA256SUMS"), b.Bytes(), 0o644)
}

// gzipOf compresses without a name and a time.
func gzipOf(data []byte) ([]byte, error) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	err := w.Close()
	return b.Bytes(), err
}
