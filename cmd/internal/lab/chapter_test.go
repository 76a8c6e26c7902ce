package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// chapters is where the chapters are, one for each lab. They are written by
//
//	go test ./cmd/internal/lab -run TestChapters -update
//
// which runs each lab that has changed for what it prints.
const chapters = "../../../docs/labs"

// The output of a lab stands between these lines. It has times and the like in
// it, so that it is not compared.
const (
	outputBegins = "```text\n"
	outputEnds   = "\n```\n"
)

// chapter is the page of a lab, with what it has printed.
func chapter(l *Lab, output string) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n\n", args...) }
	p("# %s", l.Name)
	p("%s%s.", strings.ToUpper(l.Title[:1]), l.Title[1:])
	p("**%s**", l.Question)
	for _, text := range l.Story {
		p("%s", text)
	}
	switch {
	case l.onHost():
		p("This lab runs on the kernel of the machine in front of you, in a sandbox for each row, which has a host of its own: a network namespace that stands for the machine's.")
	case l.onStack():
		p("This lab runs in virtual time, on two hosts of the stack that are joined in memory: what it shows is the standard, as the stack follows it, and not a kernel.")
	default:
		p("This lab runs on the kernel of the machine in front of you, in a sandbox for each row.")
	}
	b.WriteString(outputBegins + "$ tcpbox lab run " + l.Name + "\n" + strings.TrimSpace(output) + outputEnds + "\n")
	for _, g := range groups {
		head := "## " + strings.ToUpper(g.head[:1]) + g.head[1:]
		for i := range l.Variants {
			v := &l.Variants[i]
			if v.Group != g.group {
				continue
			}
			if head != "" {
				p("%s", head)
				head = ""
			}
			p("### %s", code(v.Title))
			if v.Belief != "" {
				p("Believed: *%s*", v.Belief)
			}
			p("%s", v.Why)
			b.WriteString(stepsOf(v))
		}
	}
	p("## What it teaches")
	for _, text := range l.Moral {
		p("%s", text)
	}
	p("## In production")
	for _, look := range l.Production {
		p("    %s", look.Command)
		p("%s.", strings.TrimSuffix(look.Shows, "."))
	}
	p("## Where it is written down")
	for _, s := range l.Sources {
		fmt.Fprintf(&b, "- %s: %s\n", s.Where, s.What)
	}
	return b.String()
}

// code puts what would be markup in code.
func code(title string) string {
	if strings.ContainsAny(title, "_*<>|") {
		return "`" + title + "`"
	}
	return title
}

// stepsOf are the settings and the steps of a row, as lab show has them.
func stepsOf(v *Variant) string {
	bare := *v
	bare.Why, bare.Belief = "", ""
	var b strings.Builder
	bare.show(&b, 100)
	_, steps, _ := strings.Cut(b.String(), "\n")
	var out strings.Builder
	for line := range strings.Lines(steps) {
		if strings.TrimSpace(line) != "" {
			out.WriteString(line)
		}
	}
	return out.String() + "\n"
}

var output = regexp.MustCompile("(?s)" + outputBegins + ".*?" + outputEnds)

// TestChapters holds the chapters to the labs: all but what a run prints, and of that
// the rows.
func TestChapters(t *testing.T) {
	var list strings.Builder
	list.WriteString("# The labs\n\nEach is a problem of TCP that `tcpbox lab run NAME` reproduces on your machine, offline, with a verdict. " +
		"[writing.md](writing.md) says how to write one of your own.\n\n")
	for _, l := range Labs() {
		fmt.Fprintf(&list, "- [%s](%s.md): %s\n", l.Name, l.Name, l.Title)
		page := filepath.Join(chapters, l.Name+".md")
		if *update && !sameStory(page, &l) {
			report, err := runner().Run(t.Context(), &l)
			if err != nil {
				t.Fatal(err)
			}
			if report.Verdict() != Pass {
				t.Errorf("%s is not as expected: its chapter is left alone", l.Name)
				continue
			}
			var b strings.Builder
			if err := report.WriteTable(&b, Style{}); err != nil {
				t.Fatal(err)
			}
			writePage(t, page, chapter(&l, b.String()))
			continue
		}
		text := readPage(t, page)
		if got, want := output.ReplaceAllString(text, ""), output.ReplaceAllString(chapter(&l, ""), ""); got != want {
			t.Errorf("%s tells another story than the lab; to write it anew: go test ./cmd/internal/lab -run TestChapters -update\n%s", page, firstDifference(got, want))
		}
		for _, v := range l.Variants {
			if row := regexp.MustCompile(`(?m)^  ` + regexp.QuoteMeta(v.Title) + ` .*  ok$`); !row.MatchString(output.FindString(text)) {
				t.Errorf("%s has no row %q that is as expected", page, v.Title)
			}
		}
	}
	index := filepath.Join(chapters, "README.md")
	if *update {
		writePage(t, index, list.String())
	} else if got := readPage(t, index); got != list.String() {
		t.Errorf("%s does not list the labs as they are\n%s", index, firstDifference(got, list.String()))
	}
}

// sameStory reports whether the page tells the lab's story: then it is not written
// anew.
func sameStory(page string, l *Lab) bool {
	text, err := os.ReadFile(page)
	return err == nil && output.ReplaceAllString(string(text), "") == output.ReplaceAllString(chapter(l, ""), "")
}

func writePage(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readPage(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatalf("%v; to write it: go test ./cmd/internal/lab -run TestChapters -update", err)
	}
	return string(text)
}

// firstDifference is the first line in which two texts differ.
func firstDifference(got, want string) string {
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(a), len(b)) {
		line := func(lines []string) string {
			if i < len(lines) {
				return lines[i]
			}
			return "(nothing)"
		}
		if line(a) != line(b) {
			return fmt.Sprintf("line %d is   %s\nwant instead %s", i+1, line(a), line(b))
		}
	}
	return ""
}
