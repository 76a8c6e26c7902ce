package manual

import (
	"fmt"
	"strings"
	"testing"
)

const example = `do a thing to a sandbox, and
say how it went

usage: tcpbox thing [--grace DURATION] [FLAGS] NAME [ARGUMENT...]
       tcpbox thing ls

A paragraph that
goes on.

what it does:
  -q, --quiet       say nothing
  --net none|ALL    one of
                    two: MODE is
                      none    nothing
                      ALL     all
                    and that is it
  --very-long-flag VALUE
                    below itself
  --last FILE       the last

  NAME   of a table
  B      without heading

examples:
  tcpbox thing web
  tcpbox thing 'a  b'
`

func TestParse(t *testing.T) {
	got := Parse(example)
	want := Text{
		Summary: []string{"do a thing to a sandbox, and say how it went"},
		Usage:   []string{"tcpbox thing [--grace DURATION] [FLAGS] NAME [ARGUMENT...]", "tcpbox thing ls"},
		Blocks: []Block{
			{Paragraph: "A paragraph that goes on."},
			{Heading: "what it does", Table: []Entry{
				{"-q, --quiet", []Chunk{{Text: "say nothing"}}},
				{"--net none|ALL", []Chunk{
					{Text: "one of two: MODE is"}, {Lines: []string{"  none    nothing", "  ALL     all"}}, {Text: "and that is it"},
				}},
				{"--very-long-flag VALUE", []Chunk{{Text: "below itself"}}},
				{"--last FILE", []Chunk{{Text: "the last"}}},
			}},
			{Table: []Entry{
				{"NAME", []Chunk{{Text: "of a table"}}},
				{"B", []Chunk{{Text: "without heading"}}},
			}},
			{Heading: "examples", Examples: []string{"tcpbox thing web", "tcpbox thing 'a  b'"}},
		},
	}
	if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
		t.Errorf("got:\n%s\nwant:\n%s", g, w)
	}
}

func TestFlags(t *testing.T) {
	var got strings.Builder
	for _, f := range Parse(example).Flags() {
		fmt.Fprintf(&got, "%q %q %q %q\n", f.Names, f.Value, f.Text, f.Heading)
	}
	want := `["-q" "--quiet"] "" "say nothing" "what it does"
["--net"] "none|ALL" "one of two: MODE is and that is it" "what it does"
["--very-long-flag"] "VALUE" "below itself" "what it does"
["--last"] "FILE" "the last" "what it does"
`
	if got.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", got.String(), want)
	}
}

func TestArguments(t *testing.T) {
	text := Parse(example + "\nusage: tcpbox other a|b [NAME] [--] COMMAND\n")
	for path, want := range map[string]string{
		"thing":    "[NAME ARGUMENT]",
		"thing ls": "[]",
		"other":    "[a|b NAME COMMAND]",
		"th":       "[]",
		"absent":   "[]",
	} {
		if got := fmt.Sprint(text.Arguments(path)); got != want {
			t.Errorf("Arguments(%q) = %s, want %s", path, got, want)
		}
	}
}

func TestChoices(t *testing.T) {
	for value, want := range map[string]string{
		"none|public|all": "[none public all]",
		"FILE|-|fd:N":     "[-]",
		"DURATION":        "[]",
		"":                "[]",
	} {
		if got := fmt.Sprint(Choices(value)); got != want {
			t.Errorf("Choices(%q) = %s, want %s", value, got, want)
		}
	}
}

// TestRoffIsInert keeps roff from reading text as anything else.
func TestRoffIsInert(t *testing.T) {
	text := Parse(".de evil\n.sy evil\n\nusage: tcpbox\n\n'br \\n[x] \\fB\n\nheading \"of\" it:\n  .term \\  .text\n\nexamples:\n  .so /etc/passwd\n  'x\n")
	var b strings.Builder
	if err := (Page{Main: text, Commands: []Command{{"x", text}}, Tagline: ".x"}).WriteRoff(&b); err != nil {
		t.Fatal(err)
	}
	checkRoff(t, b.String())
}

// macros are all that a page may hold.
var macros = map[string]bool{
	".TH": true, ".nr": true, ".ad": true, ".SH": true, ".SS": true, ".PP": true, ".TP": true,
	".EX": true, ".EE": true, ".RS": true, ".RE": true,
}

func checkRoff(t *testing.T, page string) {
	t.Helper()
	for line := range strings.Lines(page) {
		word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if (line[0] == '.' || line[0] == '\'') && !macros[word] {
			t.Errorf("roff reads %q", line)
		}
		for i := 0; i < len(line); i++ {
			if line[i] == '\\' {
				i++
				if !strings.ContainsRune("e-&f([", rune(line[i])) {
					t.Errorf("roff reads %q", line)
				}
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(example)
	f.Add("a:\n  b\n c\n      d\n")
	f.Add("usage:\n\n   x  y\n  z\n")
	f.Fuzz(func(t *testing.T, s string) {
		text := Parse(s)
		text.Flags()
		text.Arguments("thing")
		var b strings.Builder
		if err := (Page{Main: text, Commands: []Command{{"thing", text}}}).WriteRoff(&b); err != nil {
			t.Fatal(err)
		}
		checkRoff(t, b.String())
	})
}
