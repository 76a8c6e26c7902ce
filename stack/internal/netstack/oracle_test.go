package netstack

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// campaignVar says how many connections go over the bad link of TestCampaign,
// instead of those of the suite; "make campaign" sets it, and has it tested at
// full size what the suite tests with less.
const campaignVar = "TCPBOX_CAMPAIGN"

// inFull reports whether "make campaign" runs.
func inFull() bool { return os.Getenv(campaignVar) != "" }

// TestOracle runs the campaign of campaign_test.go against the truth: a
// temporary copy of the gVisor module whose state setter calls back. Nothing of
// gVisor enters the repository, and what is tested is the code as it is.
func TestOracle(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: building gVisor once more takes up to a minute")
	}
	src, _ := gvisorModule(t)
	dir := t.TempDir()
	copyModule(t, src, filepath.Join(dir, "gvisor"))
	instrument(t, filepath.Join(dir, "gvisor/pkg/tcpip/transport/tcp"))
	root := moduleRoot(t)
	mod := readFile(t, filepath.Join(root, "go.mod"))
	mod = append(mod, []byte("\nreplace gvisor.dev/gvisor => "+filepath.Join(dir, "gvisor")+"\n")...)
	writeFile(t, filepath.Join(dir, "go.mod"), mod)
	writeFile(t, filepath.Join(dir, "go.sum"), readFile(t, filepath.Join(root, "go.sum")))

	cmd := exec.CommandContext(t.Context(), "go", "test", "-modfile="+filepath.Join(dir, "go.mod"), "-tags=oracle",
		"-vet=off", "-count=1", "-v", "-run=^TestCampaign$", "./stack/internal/netstack")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off", "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(out, []byte("--- PASS: TestCampaign")) {
		t.Error("the campaign did not run")
	}
}

func moduleRoot(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(strings.TrimSpace(string(out)))
}

// copyModule copies of the module at src what this package is built from.
func copyModule(t *testing.T, src, dst string) {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", "-test", "-f", "{{with .Module}}{{if eq .Path \"gvisor.dev/gvisor\"}}{{$.Dir}}{{end}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range strings.Fields(string(out)) {
		rel, err := filepath.Rel(src, dir)
		if err != nil || strings.HasPrefix(rel, "..") {
			t.Fatalf("%s is not below %s", dir, src)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Type().IsRegular() && !strings.HasSuffix(e.Name(), "_test.go") {
				writeFile(t, filepath.Join(dst, rel, e.Name()), readFile(t, filepath.Join(dir, e.Name())))
			}
		}
	}
	writeFile(t, filepath.Join(dst, "go.mod"), readFile(t, filepath.Join(src, "go.mod")))
}

// instrument makes the state setter of gVisor's TCP call StateOracle.
func instrument(t *testing.T, tcp string) {
	t.Helper()
	const swap = "oldstate := EndpointState(e.state.Swap(uint32(state)))\n"
	name := filepath.Join(tcp, "endpoint.go")
	code := readFile(t, name)
	if bytes.Count(code, []byte(swap)) != 1 {
		t.Fatal("the state setter is not the one the oracle knows")
	}
	writeFile(t, name, bytes.Replace(code, []byte(swap), []byte(swap+"\tStateOracle(e, state, e.hardError)\n"), 1))
	writeFile(t, filepath.Join(tcp, "oracle.go"), []byte(`package tcp

import "gvisor.dev/gvisor/pkg/tcpip"

// StateOracle is told of every state that an endpoint enters, and of the error
// it has then, with its lock held.
var StateOracle = func(*Endpoint, EndpointState, tcpip.Error) {}
`))
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeFile(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
}
