package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

var manyRecords = flag.Int("records", 1_000_000, "how many records TestLogInConstantMemory reads")

// lifeOf is the i-th record of a made-up log of connections that come and go:
// each has five records, and the last ones of one follow the first of the next.
func lifeOf(i int) statelog.Record {
	path := []tcpstate.State{
		tcpstate.Closed, tcpstate.SynReceived, tcpstate.Established, tcpstate.FinWait1, tcpstate.TimeWait, tcpstate.Closed,
	}
	conn, step := i/5, i%5
	return statelog.Record{
		Time: time.Unix(1_800_000_000, int64(i)*1000), Sandbox: "web", Conn: tcpstate.Conn(conn), Leg: tcpstate.Stack,
		Local:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(conn)}), 443),
		Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, 0, 2}), uint16(conn)),
		From:   path[step], To: path[step+1],
		Cause: tcpstate.Cause{Kind: tcpstate.BySegment, Which: "ACK"}, Source: tcpstate.FromStack, Age: 1000,
	}
}

// Memory does not grow with the recording, and what is damaged in it is counted.
func TestLogInConstantMemory(t *testing.T) {
	many := *manyRecords
	if testing.Short() {
		many = min(many, 50_000)
	}
	for _, row := range []struct {
		args []string
		many int
	}{
		{[]string{"log", "-", "to", "time-wait", "dport", "=", ":443"}, many},
		{[]string{"stat", "-"}, many / 5}, // reads with the same reader
	} {
		few := readMany(t, row.args, 10_000)
		most := readMany(t, row.args, row.many)
		t.Logf("tcpbox %s: %d KiB after 10000 records, %d KiB after %d", row.args[0], few, most, row.many)
		if most > few+16<<10 {
			t.Errorf("tcpbox %s: %d KiB after 10000 records, %d KiB after %d", row.args[0], few, most, row.many)
		}
	}
}

var highWater = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// readMany has tcpbox read n records and some damage between them, and returns
// the most KiB that it has used.
func readMany(t *testing.T, args []string, n int) (kib int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "tcpbox", args...)
	// A collector that runs beside the program falls behind on a busy machine, and the
	// most that was used would say how busy it was.
	cmd.Env = append(os.Environ(), "GODEBUG=gcstoptheworld=1")
	var errs bytes.Buffer
	var out countLines
	cmd.Stderr, cmd.Stdout = &errs, &out
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewWriterSize(stdin, 64<<10)
	damaged := 0
	var line []byte
	for i := range n {
		line = statelog.AppendJSON(line[:0], lifeOf(i))
		if i%997 == 1 { // a piece of a line before the whole one
			fmt.Fprintf(in, "%s\n", line[:len(line)/2])
			damaged++
		}
		if _, err := in.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	if err := in.Flush(); err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	if m := highWater.FindSubmatch(status); m != nil {
		kib, _ = strconv.Atoi(string(m[1]))
	}
	if err := errors.Join(stdin.Close(), cmd.Wait()); err != nil {
		t.Fatalf("%v: %s", err, errs.String())
	}
	if want := 1 + n/5; args[0] == "log" && out.lines != want {
		t.Errorf("%d lines are printed of %d records, want %d", out.lines, n, want)
	}
	if want := "standard input: line 2: unexpected EOF; passed over"; damaged > 0 && !strings.Contains(errs.String(), want) {
		t.Errorf("it says\n%swant a line with %q", errs.String(), want)
	}
	if want := fmt.Sprintf("standard input: %d damaged lines in all", damaged); damaged > maxDamageTold && !strings.Contains(errs.String(), want) {
		t.Errorf("it says\n%swant a line with %q", errs.String(), want)
	}
	return kib
}

type countLines struct{ lines int }

func (c *countLines) Write(b []byte) (int, error) {
	c.lines += bytes.Count(b, []byte("\n"))
	return len(b), nil
}

// What is added to a file is shown when it is whole; a file that is emptied and
// written anew is read from its beginning, and one that is rotated is gone on with.
func TestLogFollows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "states.jsonl")
	write := func(flags int, text string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|flags, 0o666)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteString(text)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	record := func(i int) string { return string(statelog.AppendJSON(nil, lifeOf(i))) }
	write(os.O_TRUNC, record(0))

	cmd := exec.CommandContext(t.Context(), "tcpbox", "log", "--json", "-f", path, "conn", "0")
	errs, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	told, shown := bufio.NewReader(errs), bufio.NewReader(out)
	want := func(i int) {
		t.Helper()
		if line, err := shown.ReadString('\n'); line != record(i) {
			t.Fatalf("%q, %v, want %q", line, err, record(i))
		}
	}
	want(0)
	whole := record(1)
	write(os.O_APPEND, whole[:50])
	write(os.O_APPEND, whole[50:])
	want(1)
	write(os.O_APPEND, record(9)) // of another connection
	write(os.O_APPEND, record(2))
	want(2)
	write(os.O_TRUNC, "")
	if line, err := told.ReadString('\n'); !strings.Contains(line, "was truncated") {
		t.Errorf("%q, %v", line, err)
	}
	write(os.O_APPEND, record(3))
	want(3)

	// Rotated, once with something added at the last moment, and twice in one go.
	rename := func(from, to string) {
		t.Helper()
		if err := os.Rename(path+from, path+to); err != nil {
			t.Fatal(err)
		}
	}
	write(os.O_APPEND, record(4))
	rename("", ".1")
	write(os.O_EXCL, record(0))
	want(4)
	want(0)
	write(os.O_APPEND, record(1))
	rename(".1", ".2")
	rename("", ".1")
	write(os.O_EXCL, record(2))
	rename(".2", ".3")
	rename(".1", ".2")
	rename("", ".1")
	write(os.O_EXCL, record(3))
	want(1)
	want(2)
	want(3)
	// All that was kept is gone.
	rename("", ".1")
	if err := os.Remove(path + ".1"); err != nil {
		t.Fatal(err)
	}
	write(os.O_EXCL, record(0))
	want(0)

	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(told)
	if err != nil || len(rest) > 0 {
		t.Errorf("at the end: %q, %v", rest, err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGINT { //nolint:forcetypeassert // of this system
		t.Errorf("it ended with %v, want that of ^C", err)
	}
}

// A reader that has enough ends it without a word, also where SIGPIPE is
// ignored, as Python's children have it.
func TestLogEndsWithItsReader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "states.jsonl")
	var text []byte
	for i := range 5000 {
		text = statelog.AppendJSON(text, lifeOf(i))
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, script := range []string{
		`tcpbox log "$1" | head -n 2`,
		`trap "" PIPE; tcpbox log "$1" | head -n 2`,
	} {
		out, err := exec.CommandContext(t.Context(), "sh", "-c", script, "sh", path).CombinedOutput()
		if err != nil || bytes.Count(out, []byte("\n")) != 2 {
			t.Errorf("%s: %v, %s", script, err, out)
		}
	}
}
