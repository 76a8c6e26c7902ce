package main

import (
	"bytes"
	"os/exec"
	"runtime/debug"
	"strings"
	"testing"
)

// TestManualPage has groff read the page, with every warning that it knows.
func TestManualPage(t *testing.T) {
	groff := shell(t, "groff")
	var page bytes.Buffer
	if err := manualPage(newApp(Streams{})).WriteRoff(&page); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), groff, "-man", "-Tutf8", "-ww", "-P-c")
	cmd.Stdin = &page
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil || errs.Len() > 0 {
		t.Fatalf("%v: %s", err, errs.String())
	}
	// Every word of every help is in it, but for what layout and headings change.
	text := strings.ToLower(strings.Join(strings.Fields(overstruck(out.String())), " "))
	for name, help := range helpTexts {
		if app := newApp(Streams{}); name != "tcpbox" && app.Command(name) == nil {
			t.Errorf("help/%s.txt is of no command", name)
		}
		for word := range strings.FieldsSeq(strings.ToLower(help)) {
			word = strings.TrimRight(strings.Trim(word, `"`), ":.,;")
			if !strings.Contains(text, word) {
				t.Errorf("%q of help/%s.txt is not in the manual", word, name)
			}
		}
	}
}

// overstruck takes out what makes letters bold or italic: a letter, a
// backspace, and the letter again.
func overstruck(s string) string {
	var out []rune
	for _, r := range s {
		if r == '\b' {
			out = out[:max(0, len(out)-1)]
			continue
		}
		out = append(out, r)
	}
	return string(out)
}

func TestManCommand(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "tcpbox", "man").Output()
	if err != nil || !strings.HasPrefix(string(out), `.TH TCPBOX 1 "" "tcpbox development" "User Commands"`+"\n") {
		t.Errorf("%v: %.200s", err, out)
	}
	if err := exec.CommandContext(t.Context(), "tcpbox", "man", "run").Run(); err == nil || err.Error() != "exit status 2" {
		t.Errorf("tcpbox man run: %v, want exit status 2", err)
	}
}

// TestCommitDate takes the page's date from what Go notes of the commit.
func TestCommitDate(t *testing.T) {
	for value, want := range map[string]string{"2026-02-28T23:30:00-02:00": "2026-03-01", "soon": ""} {
		if got := commitDate([]debug.BuildSetting{{Key: "vcs", Value: "git"}, {Key: "vcs.time", Value: value}}); got != want {
			t.Errorf("commitDate(%q) = %q, want %q", value, got, want)
		}
	}
	if got := commitDate(nil); got != "" {
		t.Errorf("without a commit: %q", got)
	}
}
