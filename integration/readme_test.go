package integration

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"tcpbox/integration/testnet"
)

// TestReadmeWithANetwork runs what the README marks "console network": commands
// that talk to a Redis server at 192.0.2.7. The other commands of the README
// are run by the tests of cmd/tcpbox.
func TestReadmeWithANetwork(t *testing.T) {
	n := testnet.New(t)
	testnet.Programs(t, "redis-cli")
	addr := netip.MustParseAddrPort("192.0.2.7:6379")
	n.Remote.AddAddr(t, addr.Addr())
	w := &world{Net: n, dir: testnet.Dir(t)}
	w.serve(t, nil, addr, "redis-server", "--bind", addr.Addr().String(), "--port", "6379", "--save", "", "--protected-mode", "no")
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	commands := networkCommands(string(text))
	if len(commands) == 0 {
		t.Fatal("the README has no block that is marked console network")
	}
	for _, c := range commands {
		cmd := n.Uplink.Command(t.Context(), "sh", "-c", c.line+" 2>&1 || true")
		cmd.Env = append(cmd.Environ(), fmt.Sprintf("PATH=%s:%s", filepath.Dir(testnet.Binary(t)), os.Getenv("PATH")))
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("%s: %v", c.line, err)
		}
		if got, want := steady(string(out)), steady(c.output); got != want {
			t.Errorf("%s\nprints, in whatever order:\n%s\nwant:\n%s", c.line, got, want)
		}
	}
}

type readmeCommand struct{ line, output string }

// networkCommands returns the commands of the blocks that are marked "console
// network", with what they print.
func networkCommands(text string) []readmeCommand {
	var commands []readmeCommand
	inside := false
	for line := range strings.Lines(text) {
		prompt, isCommand := strings.CutPrefix(line, "$ ")
		switch {
		case strings.HasPrefix(line, "```"):
			inside = strings.TrimSpace(line) == "```console network"
		case !inside:
		case isCommand:
			commands = append(commands, readmeCommand{line: strings.TrimSpace(prompt)})
		case len(commands) > 0:
			commands[len(commands)-1].output += line
		}
	}
	return commands
}

var rootsWarning = regexp.MustCompile(`(?m)^tcpbox: warning: the guest runs as uid 0: .*\n`)

// steady returns the lines of text but for root's warning, in an order of its
// own: guest and tcpbox write to one place.
func steady(text string) string {
	lines := slices.Collect(strings.Lines(rootsWarning.ReplaceAllString(text, "")))
	slices.Sort(lines)
	return strings.Join(lines, "")
}
