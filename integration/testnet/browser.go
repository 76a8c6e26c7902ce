package testnet

import (
	"fmt"
	"html"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Browser is a browser without a window. It runs in a network namespace of its own,
// where there is nothing that it could reach.
type Browser struct {
	t    testing.TB
	path string
}

// NewBrowser skips the test where there is none.
func NewBrowser(t testing.TB) *Browser {
	t.Helper()
	for _, name := range []string{"chromium-headless-shell", "chromium"} {
		if path, err := exec.LookPath(name); err == nil {
			return &Browser{t, path}
		}
	}
	Unavailable(t, "needs the program chromium-headless-shell or chromium")
	return nil
}

// Open has the browser open a file and returns what it prints and what it says, to
// the console and otherwise. Scheme is the preferred colour scheme, light or dark.
func (b *Browser) Open(file, scheme string, flags ...string) (stdout, stderr string) {
	b.t.Helper()
	dir := Dir(b.t)
	preferred := map[string]string{"dark": "0", "light": "1"}[scheme]
	args := append([]string{
		"--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--blink-settings=preferredColorScheme=" + preferred,
		"--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--disable-domain-reliability",
		"--disable-extensions", "--disable-sync", "--metrics-recording-only", "--no-first-run", "--no-pings",
		"--user-data-dir=" + filepath.Join(dir, "profile"),
	}, flags...)
	cmd := exec.CommandContext(b.t.Context(), b.path, append(args, "file://"+file)...) //nolint:gosec // found on PATH
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_CACHE_HOME="+dir)
	var out, said strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		b.t.Fatalf("%s: %v\n%s", b.path, err, said.String())
	}
	return out.String(), said.String()
}

// Result opens a page whose script puts what it has found into the element "result",
// and returns that.
func (b *Browser) Result(page, scheme string, flags ...string) (string, error) {
	b.t.Helper()
	file := filepath.Join(Dir(b.t), "page.html")
	if err := os.WriteFile(file, []byte(page), 0o600); err != nil {
		return "", err
	}
	out, said := b.Open(file, scheme, append(flags, "--dump-dom")...)
	_, text, _ := strings.Cut(out, `<pre id="result">`)
	text, _, found := strings.Cut(text, "</pre>")
	if !found {
		return "", fmt.Errorf("the page has no result:\n%s\n%.2000s", said, out)
	}
	return html.UnescapeString(text), nil
}
