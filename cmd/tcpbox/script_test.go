package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"tcpbox"
)

var update = flag.Bool("update", false, "rewrite the expectations in testdata/script")

// The test binary is tcpbox itself when it is called by that name, and the
// first process of a sandbox when Start executes it again.
func TestMain(m *testing.M) {
	tcpbox.Init()
	if name := filepath.Base(os.Args[0]); name != "tcpbox" && name != "restricted" {
		heedSignals()
	}
	testscript.Main(m, map[string]func(){
		"tcpbox": func() {
			os.Exit(Main(os.Args, Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
		},
		"restricted": restrictedMain,
	})
}

// heedSignals undoes that HUP and INT are ignored, as nohup(1) and a shell's
// background jobs leave them: what a test starts would inherit it.
func heedSignals() {
	for _, sig := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT} {
		if signal.Ignored(sig) {
			signal.Notify(make(chan os.Signal, 1), sig) // the default returns with exec
		}
	}
}

// TestScript runs the command line as its users do. A script may say
//
//	status N tcpbox run …   run it, and want this exit status
//	[!sandbox] skip         where no sandbox can be made; CI=true promises it
//	[root] …                where the caller is root
//	plain FILE              print a file, or stdout or stderr, without what
//	                        differs from run to run
func TestScript(t *testing.T) {
	help, err := filepath.Abs("help")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HELP", help)
			env.Setenv("NAME", fmt.Sprint("script-", os.Getpid())) // of a sandbox
			env.Setenv("LC_ALL", "C")
			env.Setenv("BELL", "\a\x1b[31m\n\xff")
			env.Setenv("LONG", strings.Repeat("x", 100_000))
			env.Setenv("BELLS", strings.Repeat("\a", 100_000))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": wantStatus,
			"plain":  plain,
		},
		Condition: func(name string) (bool, error) {
			switch name {
			case "root":
				return os.Geteuid() == 0, nil
			case "sandbox":
				return os.Getenv("CI") == "true" || canSandbox(), nil
			}
			return false, fmt.Errorf("unknown condition %q", name)
		},
	})
}

// canSandbox says whether this machine can make a sandbox.
var canSandbox = sync.OnceValue(func() bool {
	return exec.Command("tcpbox", "run", "--net", "none", "--", "true").Run() == nil
})

var exitText = regexp.MustCompile(`^exit status (\d+)$`)

func wantStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N command [argument...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		m := exitText.FindStringSubmatch(err.Error())
		if m == nil {
			ts.Fatalf("%q: %v", args[1:], err)
		}
		got, err = strconv.Atoi(m[1])
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%q: exit status %d, want %d", args[1:], got, want)
	}
}

// differing is what differs from run to run, and what stands for it.
var differing = []struct {
	is  *regexp.Regexp
	put string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z`), "TIME"},
	{regexp.MustCompile(`"age":\d+\.\d{9}`), `"age":AGE`},
	{regexp.MustCompile(`"sandbox":"([a-z]+)-\d+"`), `"sandbox":"$1-PID"`},
	{regexp.MustCompile(`(198\.18\.0\.2|\[fd74:6370:626f:78::2\]):\d+`), "$1:PORT"},
	{regexp.MustCompile(`^tcpbox \S+ \(gvisor \S+, go\S+, linux/\w+\)`), "tcpbox VERSION (gvisor VERSION, GO, linux/ARCH)"},
	// Not what the scripts are about, and there only for root.
	{regexp.MustCompile(`(?m)^tcpbox: warning: the guest runs as uid 0: .*\n`), ""},
}

func plain(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: plain FILE")
	}
	text := strings.ReplaceAll(ts.ReadFile(args[0]), ts.Getenv("WORK"), "$WORK")
	for _, d := range differing {
		text = d.is.ReplaceAllString(text, d.put)
	}
	_, err := io.WriteString(ts.Stdout(), listenersLast(text))
	ts.Check(err)
}

// listenersLast moves the ends of listeners to the end of a log, sorted: they
// all end at once.
func listenersLast(text string) string {
	var lines, ends []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, `"from":"LISTEN","to":"CLOSED"`) {
			ends = append(ends, line)
		} else {
			lines = append(lines, line)
		}
	}
	slices.Sort(ends)
	return strings.Join(append(lines, ends...), "")
}
