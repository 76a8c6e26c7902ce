package tcpbox_test

import (
	"bytes"
	"flag"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the expectations")

const (
	module  = "tcpbox"
	gvisor  = "gvisor.dev/gvisor"
	gvRoom  = "stack/internal/netstack"
	anyRoom = "*" // in a room's imports: all rooms that stand before it
)

// room is a package of the module, which package it may import of the others,
// and why no more. A path that ends in "/*" stands for all packages below it.
type room struct {
	path    string
	imports []string
	why     string
}

// rooms says who may import whom, as docs/architecture.md draws it. The linter
// holds the same arrows: go test . -update writes them to .golangci.yaml.
var rooms = []room{
	{"stack/tcpstate", nil, "the words for TCP states are a leaf that everyone shares"},
	{"stack/relay", nil, "a relay joins two connections whatever they are"},
	{"stack/relay/relaytest", []string{"stack/relay"}, "connections in memory, for everyone's tests"},
	{"tun/packet", nil, "headers are bytes, whoever carries them"},
	{"netns/confine", nil, "confinement serves the guest and tcpbox alike"},
	{"stack/dns", nil, "the resolver serves on listeners it is given"},
	{"policy/spell", nil, "a slip of the pen is one in every text"},
	{"stack/peer", []string{"policy/spell"}, "peers serve on listeners they are given"},

	{"tun", []string{"tun/packet"}, "a device carries packets and knows nothing of who makes them"},
	{"tun/tuntest", []string{"tun/packet", "tun"}, "the fake device is for everyone's tests"},

	{"policy/knob", []string{"stack/tcpstate", "policy/spell"}, "the knobs are words; each leg carries them out"},
	{"policy", []string{"stack/tcpstate", "policy/knob", "policy/spell"}, "policy is pure: it decides and applies nothing"},

	{"policy/document", []string{"stack/tcpstate", "policy/knob", "policy/spell", "policy"}, "a document is text and values; it applies nothing"},

	{"netns", []string{"tun"}, "a namespace holds a device; what runs in it is package guest's"},
	{"netns/sockdiag", []string{"tun", "netns", "stack/tcpstate"}, "it reads the kernel's sockets, not the stack's"},
	{"netns/sockwatch", []string{"tun", "netns", "netns/sockdiag", "stack/tcpstate"}, "it watches the kernel's sockets, not the stack's"},
	{"netns/guest", []string{"netns", "netns/confine", "tun"}, "the guest's launch knows no stack and no policy"},

	{gvRoom, []string{"tun", "tun/packet", "stack/tcpstate", "policy/knob"}, "gVisor stays in one room, behind plain types"},
	{"stack/wire", []string{"tun", "tun/packet", "stack/tcpstate"}, "packet work wraps a device"},
	{"stack/fault", []string{"tun", "tun/packet", "stack/tcpstate", "policy"}, "packet work wraps a device"},
	{"stack/upstream", []string{"stack/relay", "stack/tcpstate", "policy/knob"}, "host sockets know nothing of the stack"},

	{"stack/statelog", []string{"stack/tcpstate", "tun/packet"}, "the log is read without a stack"},
	{"stack/legs", []string{"stack/tcpstate", "tun/packet", "stack/statelog"}, "rows are folded from records alone"},
	{"cmd/internal/view", []string{"stack/tcpstate", "tun/packet", "stack/statelog", "stack/legs"}, "a view draws what it is given"},

	{"stack", []string{gvRoom, "stack/relay", "policy", "policy/knob", "stack/tcpstate", "tun", "tun/packet"}, "the gateway is given its uplink and its device"},
	{"stack/sim", []string{gvRoom, "stack/fault", "policy", "policy/knob", "tun/tuntest", "tun", "tun/packet", "stack/tcpstate"}, "simulated hosts need no namespace"},

	{".", []string{anyRoom, "!" + gvRoom, "!stack/sim", "!cmd/internal/view"}, "package tcpbox joins the rooms, and only through their doors"},

	{"cmd/internal/control", commandImports(), "the control socket speaks for package tcpbox"},
	{"cmd/internal/cni", commandImports("cmd/internal/control", "tun"), "the plugin's verbs make devices, and drive package tcpbox"},
	{"cmd/internal/lab", commandImports("cmd/internal/view", "netns/sockdiag", "stack/sim"), "a lab is data, run through package tcpbox"},
	{"cmd/internal/doctor", commandImports(), "what is tried is package tcpbox, and the kernel"},
	{"cmd/internal/manual", nil, "a help text is text, whatever it is about"},
	{"cmd/*", commandImports("cmd/internal/control", "cmd/internal/cni", "cmd/internal/lab", "cmd/internal/doctor", "cmd/internal/manual", "cmd/internal/view"), "a command is flags, texts and package tcpbox"},

	{"examples/*", commandImports(), "an example uses what everyone can"},
	{"integration/tuning", commandImports(), "knobs change while a sandbox runs, which is asked of package tcpbox"},
	{"integration/*", []string{"stack/tcpstate", "stack/statelog", "tun/packet"}, "integration tests see tcpbox from outside"},
	{"integration", []string{"stack/tcpstate", "stack/statelog", "tun/packet", "integration/*"}, "integration tests see tcpbox from outside"},
}

// commandImports is package tcpbox, the rooms that are words and parsers, and
// more.
func commandImports(more ...string) []string {
	return append([]string{
		".", "stack/tcpstate", "stack/statelog", "stack/legs", "stack/relay", "stack/dns", "stack/peer",
		"tun/packet", "policy", "policy/knob", "policy/document", "policy/spell", "netns/confine",
	}, more...)
}

// helpers are made for tests: any test file may import them, other files only
// where the room's arrows say so.
var helpers = []string{"tun/tuntest", "stack/relay/relaytest", "stack/sim", "integration/testnet"}

// testOnly are further imports of a room's tests.
var testOnly = map[string][]string{
	gvRoom: {"stack/relay", "stack/fault", "policy"}, // its connections are what a relay joins, on a line with faults
}

func TestImportsFollowTheArrows(t *testing.T) {
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != "." && (d.Name()[0] == '.' || d.Name() == "testdata" || d.Name() == "bin") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if why := refusal(name, imp); why != "" {
				t.Errorf("%s imports %s: %s", name, imp, why)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestTheArrowsRefuse keeps the test above from passing because it looks away.
func TestTheArrowsRefuse(t *testing.T) {
	for _, tt := range []struct {
		file, imp string
		refused   bool
	}{
		{"policy/parse.go", gvisor + "/pkg/tcpip", true},
		{"stack/gateway_test.go", gvisor + "/pkg/tcpip/stack", true},
		{gvRoom + "/stack.go", gvisor + "/pkg/tcpip/stack", false},
		{"policy/parse.go", "tcpbox/tun", true},
		{"policy/parse.go", "tcpbox/policy/knob", false},
		{"tun/packet/tcp.go", "tcpbox/tun", true},
		{"tun/packet/tcp_test.go", "tcpbox/tun/packet", false},
		{"stack/gateway.go", "tcpbox/stack/upstream", true},
		{"stack/gateway.go", "tcpbox/tun/tuntest", true},
		{"stack/gateway_test.go", "tcpbox/tun/tuntest", false},
		{"start.go", "tcpbox/stack", false},
		{"start.go", "tcpbox/stack/internal/netstack", true},
		{"start.go", "tcpbox/cmd/internal/view", true},
		{"cmd/tcpbox/run.go", "tcpbox/stack", true},
		{"cmd/tcpbox/run.go", "tcpbox", false},
		{"cmd/internal/control/server.go", "tcpbox/cmd/internal/lab", true},
		{"somewhere/new/file.go", "tcpbox/tun", true},
		{"somewhere/new/file.go", "net/netip", false},
	} {
		why := refusal(tt.file, tt.imp)
		if (why != "") != tt.refused {
			t.Errorf("%s imports %s: refused %q, want refused %v", tt.file, tt.imp, why, tt.refused)
		}
	}
}

// refusal says why the file may not import imp; it is empty if it may.
func refusal(file, imp string) string {
	file = filepath.ToSlash(file)
	dir := path.Dir(file)
	if within(imp, gvisor) && dir != gvRoom {
		return "only " + gvRoom + " speaks gVisor"
	}
	if !within(imp, module) {
		return ""
	}
	target := strings.TrimPrefix(strings.TrimPrefix(imp, module), "/")
	if target == "" {
		target = "."
	}
	i := slices.IndexFunc(rooms, func(r room) bool { return matches(r.path, dir) })
	if i < 0 {
		return "the room " + dir + " is not in the table of arch_test.go"
	}
	allowed := arrows(i)
	if strings.HasSuffix(file, "_test.go") {
		allowed = slices.Concat(allowed, helpers, testOnly[rooms[i].path])
	}
	if target == dir || slices.ContainsFunc(allowed, func(p string) bool { return matches(p, target) }) {
		return ""
	}
	return rooms[i].why
}

// arrows resolves anyRoom and its exceptions.
func arrows(i int) []string {
	imports := rooms[i].imports
	if len(imports) == 0 || imports[0] != anyRoom {
		return imports
	}
	var all []string
	for _, r := range rooms[:i] {
		if !slices.Contains(imports, "!"+r.path) {
			all = append(all, r.path)
		}
	}
	return all
}

func matches(pattern, dir string) bool {
	if base, ok := strings.CutSuffix(pattern, "/*"); ok {
		return strings.HasPrefix(dir, base+"/")
	}
	return pattern == dir
}

func within(imp, base string) bool { return imp == base || strings.HasPrefix(imp, base+"/") }

// TestLinterHoldsTheSameArrows compares the rules in the linter's
// configuration with the table.
func TestLinterHoldsTheSameArrows(t *testing.T) {
	const name, begin, end = ".golangci.yaml", "# begin arrows", "# end arrows"
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok1 := strings.Cut(string(text), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no lines %q and %q", name, begin, end)
	}
	want := head + begin + linterRules() + end + tail
	if want == string(text) {
		return
	}
	if !*update {
		t.Fatalf("%s holds other arrows than the table; rewrite it with: go test . -update", name)
	}
	if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// linterRules writes the table as rules of depguard: one for gVisor, one
// for each helper, one for each room.
func linterRules() string {
	const indent = "        "
	var b bytes.Buffer
	fmt.Fprintf(&b, " (written by arch_test.go)\n")
	rule := func(name string, files []string, deny, allow []string, why string) {
		fmt.Fprintf(&b, "%s%s:\n%s  list-mode: lax\n%s  files:\n", indent, name, indent, indent)
		for _, f := range files {
			fmt.Fprintf(&b, "%s    - %q\n", indent, f)
		}
		fmt.Fprintf(&b, "%s  deny:\n", indent)
		for _, d := range deny {
			fmt.Fprintf(&b, "%s    - pkg: %q\n%s      desc: %q\n", indent, d, indent, why)
		}
		if len(allow) == 0 {
			return
		}
		fmt.Fprintf(&b, "%s  allow:\n", indent)
		for _, a := range allow {
			fmt.Fprintf(&b, "%s    - %q\n", indent, a)
		}
	}
	rule("gvisor", []string{"$all", "!" + roomFiles(gvRoom)}, []string{gvisor}, nil, "only "+gvRoom+" speaks gVisor")
	for _, h := range helpers {
		files := []string{"$all", "!$test"}
		for i, r := range rooms {
			if r.path == h || slices.Contains(arrows(i), h) {
				files = append(files, "!"+roomFiles(r.path))
			}
		}
		rule("only-tests-"+path.Base(h), files, []string{module + "/" + h}, nil, "made for tests")
	}
	for i, r := range rooms {
		files := []string{roomFiles(r.path)}
		for _, narrower := range rooms[:i] {
			if matches(r.path, narrower.path) {
				files = append(files, "!"+roomFiles(narrower.path))
			}
		}
		var allow []string
		for _, p := range slices.Concat([]string{r.path}, arrows(i), helpers, testOnly[r.path]) {
			if p = linterPackage(p); !slices.Contains(allow, p) {
				allow = append(allow, p)
			}
		}
		deny := []string{module + "/"}
		if !slices.Contains(allow, module+"$") {
			deny = append(deny, module+"$")
		}
		name := strings.NewReplacer("/*", "-all", "/", "-", ".", "root").Replace(r.path)
		rule(name, files, deny, allow, r.why)
	}
	b.WriteString(indent)
	return b.String()
}

func roomFiles(room string) string {
	const top = "${base-path}/"
	if base, ok := strings.CutSuffix(room, "/*"); ok {
		return top + base + "/**/*.go"
	}
	return top + path.Join(room, "*.go")
}

// linterPackage spells a room for depguard, where a path is a prefix unless it
// ends in "$".
func linterPackage(room string) string {
	if room == "." {
		return module + "$"
	}
	if base, ok := strings.CutSuffix(room, "/*"); ok {
		return module + "/" + base + "/"
	}
	return module + "/" + room + "$"
}
