package lab

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// golden compares text with a file in testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; look at it, and rewrite it with: go test -update\n%s", name, got)
	}
}

// aReport is a report of the lab in which all is as expected, but for what
// change does to its rows, by name.
func aReport(change func(rows map[string]*Row)) *Report {
	l := TimeWaitExhaustion(40)
	r := &Report{Lab: &l, Kernel: "6.18.0", UID: 1000, Took: 3141 * time.Millisecond}
	for i := range l.Variants {
		v := &l.Variants[i]
		row := Row{Variant: v, Expected: v.expected(), Measured: v.expected(), Took: 1234 * time.Millisecond}
		if _, expected := v.After[stackTimeWait]; !expected {
			row.Measured[stackTimeWait] = 7
		}
		r.Rows = append(r.Rows, row)
	}
	rows := map[string]*Row{}
	for i := range r.Rows {
		rows[r.Rows[i].Variant.Name] = &r.Rows[i]
	}
	if change != nil {
		change(rows)
	}
	return r
}

// mixed has a row of each kind.
func mixed(rows map[string]*Row) {
	*rows["reuse-on-1ms"] = Row{
		Variant: rows["reuse-on-1ms"].Variant, Expected: rows["reuse-on-1ms"].Expected, Measured: Figures{},
		Skipped: "this kernel has no net.ipv4.tcp_tw_reuse_delay",
	}
	maps.Copy(rows["fin-timeout"].Measured, Figures{"later.ok": 40, "later.EADDRNOTAVAIL": 20, "later.first-failure": 41})
	rows["wider-range"].Measured["first.ECONNREFUSED"] = 1
	rows["wider-range"].Measured[guestTimeWait] = 79
	rows["keep-alive"].Measured = Figures{"first.ok": 60}
	rows["keep-alive"].Err = "step again: the guest ended"
}

func TestReportInPrint(t *testing.T) {
	for _, tt := range []struct {
		file   string
		report *Report
		style  Style
	}{
		{"table_pass.txt", aReport(nil), Style{}},
		{"table_pass_wide.txt", aReport(nil), Style{Width: 120}},
		{"table_mixed.txt", aReport(mixed), Style{Width: 60}},
		{"table_mixed_color.txt", aReport(mixed), Style{Width: 120, Color: true}},
	} {
		t.Run(tt.file, func(t *testing.T) {
			var b bytes.Buffer
			if err := tt.report.WriteTable(&b, tt.style); err != nil {
				t.Fatal(err)
			}
			golden(t, tt.file, b.Bytes())
			if tt.style.Color {
				return
			}
			for line := range bytes.Lines(b.Bytes()) {
				if n := len([]rune(string(line))) - 1; n > tt.style.width() {
					t.Errorf("%d columns are more than %d: %s", n, tt.style.width(), line)
				}
			}
		})
	}
}

func TestReportAsJSON(t *testing.T) {
	var b bytes.Buffer
	r := aReport(mixed)
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.json", b.Bytes())
	var back reportJSON
	if err := json.Unmarshal(b.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if back.V != JSONVersion || back.Lab != "time-wait-exhaustion" || back.Verdict != Fail || len(back.Rows) != len(r.Rows) {
		t.Errorf("the report as JSON begins %+v", back)
	}
}

func TestVerdicts(t *testing.T) {
	skip := func(rows map[string]*Row) {
		for _, row := range rows {
			row.Skipped = "not here"
		}
	}
	for _, tt := range []struct {
		name   string
		change func(map[string]*Row)
		want   Verdict
		status int
	}{
		{"all as expected", nil, Pass, 0},
		{"a row skipped", func(rows map[string]*Row) { rows["reuse-on-1ms"].Skipped = "not here" }, Pass, 0},
		{"all skipped", skip, Skip, 125},
		{"a figure too many", func(rows map[string]*Row) { rows["default"].Measured["first.ETIMEDOUT"] = 1 }, Fail, 1},
		{"a figure too few", func(rows map[string]*Row) { delete(rows["default"].Measured, "first.ok") }, Fail, 1},
		{"another count", func(rows map[string]*Row) { rows["default"].Measured[guestTimeWait]++ }, Fail, 1},
		{"a count that nothing was expected of", func(rows map[string]*Row) { rows["default"].Measured[stackTimeWait]++ }, Pass, 0},
		{"a row that broke off", func(rows map[string]*Row) { rows["default"].Err = "gone" }, Fail, 1},
		{"one failed and all others skipped", func(rows map[string]*Row) {
			skip(rows)
			rows["default"].Skipped, rows["default"].Err = "", "gone"
		}, Fail, 1},
	} {
		r := aReport(tt.change)
		if got := r.Verdict(); got != tt.want || r.ExitStatus() != tt.status {
			t.Errorf("%s: Verdict() = %s, ExitStatus() = %d, want %s and %d", tt.name, got, r.ExitStatus(), tt.want, tt.status)
		}
	}
}

func TestDifferencesAreNamed(t *testing.T) {
	r := aReport(mixed)
	i := slices.IndexFunc(r.Rows, func(row Row) bool { return row.Variant.Name == "wider-range" })
	got, want := r.Rows[i].Differences(), []string{"first.ECONNREFUSED", guestTimeWait}
	if !slices.Equal(got, want) {
		t.Errorf("Differences() = %q, want %q", got, want)
	}
}

func TestShow(t *testing.T) {
	l := TimeWaitExhaustion(40)
	var b bytes.Buffer
	if err := l.Show(&b, Style{}); err != nil {
		t.Fatal(err)
	}
	golden(t, "show.txt", b.Bytes())
	b.Reset()
	if err := WriteList(&b, []Lab{l, {Name: "x", Title: "another"}}); err != nil {
		t.Fatal(err)
	}
	golden(t, "list.txt", b.Bytes())
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space") }

func TestAFullDiskIsSaid(t *testing.T) {
	r := aReport(nil)
	for name, err := range map[string]error{
		"WriteTable": r.WriteTable(fullDisk{}, Style{}), "WriteJSON": r.WriteJSON(fullDisk{}),
		"Show": r.Lab.Show(fullDisk{}, Style{}), "WriteList": WriteList(fullDisk{}, Labs()),
	} {
		if err == nil {
			t.Errorf("%s to a full disk reports no error", name)
		}
	}
}
