package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

func TestTheLogIsRotated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "states.jsonl")
	for _, old := range []string{"", ".1", ".2"} {
		if err := os.WriteFile(path+old, []byte("of an earlier run\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, err := openLogFile(path, 100, 3)
	if err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	for i := range 40 {
		fmt.Fprintf(&all, "line %02d %s\n", i, strings.Repeat("x", i%30))
	}
	rest := all.Bytes()
	for _, n := range []int{7, 350, 1, 90} { // in parts that end anywhere
		if _, err := l.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if n, err := l.Write(rest); n != len(rest) || err != nil {
		t.Fatal(n, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var kept []byte
	for _, name := range []string{path + ".2", path + ".1", path} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if len(text) > 100 || len(text) == 0 || text[len(text)-1] != '\n' || !bytes.HasPrefix(text, []byte("line ")) {
			t.Errorf("%s has %d bytes: %q", name, len(text), text)
		}
		kept = append(kept, text...)
	}
	if !bytes.HasSuffix(all.Bytes(), kept) {
		t.Errorf("what is kept is not the end of what was written:\n%s", kept)
	}
	if _, err := os.Stat(path + ".3"); err == nil {
		t.Error("there is one file too many")
	}
}

// TestOlderFilesThatCannotBeRead: who reads a rotated recording is told that a part
// of it is there and cannot be read.
func TestOlderFilesThatCannotBeRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "states.jsonl")
	r := statelog.Record{Time: time.Unix(1000, 0), Sandbox: "web", Conn: 7, Leg: tcpstate.Stack, From: tcpstate.SynReceived, To: tcpstate.Established, Cause: tcpstate.Cause{Kind: tcpstate.BySegment, Which: "ACK"}, Source: tcpstate.FromStack}
	if err := errors.Join(os.WriteFile(path, statelog.AppendJSON(nil, r), 0o600), os.Symlink(path+".1", path+".1")); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var errs bytes.Buffer
	if older := openOlder(path, f, &errs); len(older) != 0 || !strings.Contains(errs.String(), path+".1, which was written before, cannot be read") {
		t.Errorf("opened %v and told %q", older, &errs)
	}
	errs.Reset()
	if err := os.Remove(path + ".1"); err != nil {
		t.Fatal(err)
	}
	if older := openOlder(path, f, &errs); len(older) != 0 || errs.Len() != 0 {
		t.Errorf("where there is none, opened %v and told %q", older, &errs)
	}
}

func TestALineThatIsTooLongHasAFileOfItsOwn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "states.jsonl")
	l, err := openLogFile(path, 10, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fmt.Fprintf(l, "short\n%s\nend\n", strings.Repeat("long", 10))
	text, _ := os.ReadFile(path + ".1")
	if want := strings.Repeat("long", 10) + "\n"; string(text) != want {
		t.Errorf("FILE.1 is %q, want %q", text, want)
	}
}

func TestWhatCannotBeRotatedGrows(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "states.jsonl")
	l, err := openLogFile(path, 10, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// Nothing can take the place of a directory that is not empty.
	if err := os.MkdirAll(path+".1/x", 0o700); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(l, "line one\nline two\n")
	if text, _ := os.ReadFile(path); string(text) != "line one\nline two\n" {
		t.Errorf("the file has %q", text)
	}
	if err := os.RemoveAll(path + ".1"); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(l, "line three\n")
	if text, _ := os.ReadFile(path); string(text) != "line three\n" {
		t.Errorf("afterwards the file has %q", text)
	}
	if _, err := openLogFile("/dev/null", 10, 2); err == nil {
		t.Error("a device can be rotated")
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"4096": 4096, "4k": 4096, "10m": 10 << 20, "10M": 10 << 20, "1g": 1 << 30} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
	for _, bad := range []string{"", "k", "10", "4095", "-1m", "1.5m", "1t", "10mb", "99999999999g", "9223372036854775807k"} {
		if got, err := parseSize(bad); err == nil {
			t.Errorf("parseSize(%q) = %d", bad, got)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	f.Add("10m")
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := parseSize(text); err == nil && n < leastLogSize {
			t.Errorf("parseSize(%q) = %d", text, n)
		}
	})
}
