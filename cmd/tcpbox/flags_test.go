package main

import (
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/urfave/cli/v2"
)

// inform runs the words after "tcpbox run" up to where a sandbox would start,
// and returns what is told and the exit status.
func inform(t testing.TB, words []string) (told string, status int) {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	app := newApp(Streams{null, null, null})
	f := &runFlags{}
	run := &cli.Command{Name: "run", Flags: f.list(), Action: func(c *cli.Context) error {
		if err := f.parse(); err != nil {
			return err
		}
		cfg := f.config
		cfg.Args = c.Args().Slice()
		return cfg.Check()
	}}
	settle(run, "run")
	app.Commands = []*cli.Command{run}
	app.Writer = io.Discard
	var out strings.Builder
	status = report(&out, app.Run(append([]string{"tcpbox", "run"}, words...)))
	return out.String(), status
}

// checkTold wants nothing, or lines that each say what is wrong and what to do,
// and nothing that a terminal would obey.
func checkTold(t testing.TB, told string, status int) {
	t.Helper()
	if status == 0 && told == "" {
		return
	}
	if status != exitUsage || told == "" {
		t.Errorf("exit status %d, want %d: %q", status, exitUsage, told)
	}
	lines := strings.Split(strings.TrimSuffix(told, "\n"), "\n")
	for i, line := range lines {
		prefix := "tcpbox: error: "
		if i%2 == 1 {
			prefix = "tcpbox: hint: "
		}
		text, ok := strings.CutPrefix(line, prefix)
		if !ok || strings.TrimSpace(text) == "" {
			t.Errorf("line %d is %q, want %q and a text", i+1, line, prefix)
		}
		if strings.ContainsFunc(line, unicode.IsControl) {
			t.Errorf("line %d holds what is not text: %q", i+1, line)
		}
	}
	if len(lines)%2 != 0 {
		t.Errorf("an error without a hint: %q", told)
	}
}

func FuzzRunFlags(f *testing.F) {
	for _, words := range [][]string{
		{"true"},
		{"--", "true"},
		{"--net", "none", "--allow", "192.0.2.7:5432/tcp", "--deny", "@private", "--", "sh", "-c", "exit 3"},
		{"--dns", "192.0.2.53", "--add-host", "db:192.0.2.5", "--peer", "web=http:8080", "--", "true"},
		{"--tcp", "stack.time-wait.timeout=5s", "--tcp=syn-backlog=16", "--log", "fd:2", "--", "true"},
		{"--subnet4", "10.9.0.0/24", "--subnet6", "fd00:9::/64", "--mtu", "1500", "--no-ipv6", "--", "true"},
		{"-e", "A=b", "-w", "/", "-u", "4242:4242", "--timeout", "5s", "--keep-fd", "9", "-q", "--", "true"},
		{"--name", "box", "--hostname", "box.example", "--root", "--", "true"},
		{"--net", "--", "true"},
		{"--nett=none", "--", "true"},
		{"--no-ipv6=\x1b[31m", "--", "true"},
		{"---", "-", "--=", "--\n"},
		{"--help", "x"},
		{"--dns", "none", "--dns", "192.0.2.53", "true"},
		{"--peer", "a=http", "--peer", "a=echo", "true"},
		{"--generate-bash-completion"},
		{},
	} {
		f.Add(strings.Join(words, "\x00"))
	}
	f.Fuzz(func(t *testing.T, text string) {
		words := strings.Split(text, "\x00") // as the kernel ends arguments
		told, status := inform(t, words)
		checkTold(t, told, status)
	})
}

func FuzzLogTarget(f *testing.F) {
	for _, to := range []string{"", "-", "states.jsonl", "fd:", "fd:2", "fd:-1", "fd:+7", "fd:99999999999999999999", "fd:7\n"} {
		f.Add(to)
	}
	f.Fuzz(func(t *testing.T, to string) {
		if err := checkLogTarget(to); err != nil {
			var told strings.Builder
			status := report(&told, flagError("run", word{"log", to}, err))
			checkTold(t, told.String(), status)
		}
	})
}

func FuzzUser(f *testing.F) {
	for _, text := range []string{"0", "4242", "4242:100", ":", "1:", ":1", "-1", "2147483648", "root", "1:2:3"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := parseUser(text)
		if err != nil {
			var told strings.Builder
			status := report(&told, flagError("run", word{"user", text}, err))
			checkTold(t, told.String(), status)
			return
		}
		if u.UID < 0 || u.GID < 0 {
			t.Errorf("parseUser(%q) = %+v", text, u)
		}
	})
}

func FuzzEnv(f *testing.F) {
	for _, text := range []string{"A=b", "A=", "A", "=b", "", "AA=c", "A=b=c", "PATH=/\xff", "A\x00=b"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		before := []string{"A=1", "PATH=/bin", "AA=2", "nothing"}
		after, err := addEnv(slices.Clone(before), text)
		name, value, set := strings.Cut(text, "=")
		if err != nil || !set {
			if !slices.Equal(after, before) {
				t.Errorf("addEnv(%q) = %q, want no change", text, after)
			}
			return
		}
		var got []string
		for _, v := range after {
			if n, value, ok := strings.Cut(v, "="); ok && n == name {
				got = append(got, value)
			}
		}
		if !slices.Equal(got, []string{value}) {
			t.Errorf("addEnv(%q): %s is %q", text, name, got)
		}
		for _, v := range before {
			if n, _, _ := strings.Cut(v, "="); n != name && !slices.Contains(after, v) {
				t.Errorf("addEnv(%q) lost %q", text, v)
			}
		}
	})
}

func FuzzSubnet(f *testing.F) {
	for _, text := range []string{"198.18.0.0/24", "198.18.0.1/24", "fd00::/64", "::ffff:10.0.0.0/120", "fe80::%eth0/64", "0.0.0.0/0", "1/8", "", "/"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, flag := range []string{"subnet4", "subnet6"} {
			rf := &runFlags{words: words{[]word{{flag, text}}}}
			if err := rf.parse(); err != nil {
				var told strings.Builder
				status := report(&told, err)
				checkTold(t, told.String(), status)
				continue
			}
			p := rf.config.Subnet4
			if flag == "subnet6" {
				p = rf.config.Subnet6
			}
			if p.Masked() != p || p.Addr().Is4() != (flag == "subnet4") || p.Addr().Is4In6() {
				t.Errorf("--%s %q gives %v", flag, text, p)
			}
		}
	})
}

// TestHelpNamesEveryFlag compares the hand-written help with the flags that
// there are.
func TestHelpNamesEveryFlag(t *testing.T) {
	for name, flags := range map[string][]cli.Flag{"run": (&runFlags{}).list(), "attach": attachCommand(Streams{}).Flags} {
		var given, told []string
		for _, f := range flags {
			for _, name := range f.Names() {
				given = append(given, dashed(name))
			}
		}
		text, _, _ := strings.Cut(helpTexts[name], "\nexamples")
		for _, m := range regexp.MustCompile(`(?m)(?:^  |, )(--?[a-z][a-z0-9-]*)`).FindAllStringSubmatch(text, -1) {
			told = append(told, m[1])
		}
		slices.Sort(given)
		slices.Sort(told)
		if !slices.Equal(told, given) {
			t.Errorf("the help of %s names %q\nwant %q", name, told, given)
		}
	}
}

// TestHelpForm holds every help to the width of a terminal, and to an example
// at its end.
func TestHelpForm(t *testing.T) {
	for name, text := range helpTexts {
		for i, line := range strings.Split(text, "\n") {
			if len(line) > 80 || strings.TrimRight(line, " \t") != line {
				t.Errorf("help/%s.txt:%d: longer than 80 letters, or with blanks at its end: %q", name, i+1, line)
			}
		}
		_, examples, ok := strings.Cut(text, "\nexample")
		if !ok {
			t.Errorf("help/%s.txt has no example at its end", name)
			continue
		}
		for _, line := range strings.Split(strings.TrimSpace(examples), "\n")[1:] {
			if !strings.HasPrefix(line, "  ") || !strings.Contains(line, "tcpbox ") {
				t.Errorf("help/%s.txt: the example %q is none", name, line)
			}
		}
	}
	for _, c := range newApp(Streams{}).Commands {
		if helpTexts[c.Name] == "" && !c.Hidden {
			t.Errorf("tcpbox %s has no help", c.Name)
		}
	}
}

// TestHelpIsAskedFor asks for every help in every way.
func TestHelpIsAskedFor(t *testing.T) {
	ask := func(words ...string) (string, int) {
		out, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		status := Main(append([]string{"tcpbox"}, words...), Streams{In: os.Stdin, Out: out, Err: out})
		text, err := os.ReadFile(out.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(text), status
	}
	for name, want := range helpTexts {
		ways := [][]string{{"help", name}, {name, "--help"}, {name, "-h"}}
		if name == "tcpbox" {
			ways = [][]string{{}, {"help"}, {"--help"}, {"-h"}}
		}
		for _, words := range ways {
			if got, status := ask(words...); status != 0 || got != want {
				t.Errorf("tcpbox %q: exit status %d and %q, want help/%s.txt", words, status, got, name)
			}
		}
	}
}

// TestExamplesAreValid parses every example of tcpbox run that the helps give.
func TestExamplesAreValid(t *testing.T) {
	for name, text := range helpTexts {
		for line := range strings.Lines(text) {
			words := strings.Fields(line)
			if len(words) < 2 || words[0] != "tcpbox" || words[1] != "run" {
				continue
			}
			if told, status := inform(t, words[2:]); status != 0 || told != "" {
				t.Errorf("help/%s.txt: %q: exit status %d, %s", name, line, status, told)
			}
		}
	}
}

func TestNearest(t *testing.T) {
	words := []string{"run", "lab", "get", "version", "help", "e"}
	for _, row := range []struct{ word, want string }{
		{"runn", "run"},
		{"rnu", "run"},
		{"ru", "run"},
		{"vresion", "version"},
		{"verison", "version"},
		{"halp", "help"},
		{"frobnicate", ""},
		{"x", ""}, // every letter is another
		{"", ""},
	} {
		if got := nearest(row.word, words); got != row.want {
			t.Errorf("nearest(%q) = %q, want %q", row.word, got, row.want)
		}
	}
}
