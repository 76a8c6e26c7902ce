package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"tcpbox/cmd/internal/doctor"
)

// needRestricted skips a test where no restriction can be made.
func needRestricted(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes its time")
	}
	if os.Geteuid() != 0 || !canSandbox() {
		if os.Getenv("CI") == "true" {
			t.Fatal("no restriction can be made here, though CI=true promises it")
		}
		t.Skip("needs root and a machine that can make a sandbox")
	}
}

// restricted runs tcpbox under restrictions.
func restricted(t *testing.T, names []string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "restricted", append(append(names[:len(names):len(names)], "--"), args...)...)
	cmd.Dir = "/"
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	if status = cmd.ProcessState.ExitCode(); status == 99 {
		t.Fatalf("%q: %s", names, errs.String())
	}
	return status, out.String(), errs.String()
}

// TestDoctorTellsTheTruth makes each restriction on purpose, and compares what
// the doctor says with what tcpbox run does.
func TestDoctorTellsTheTruth(t *testing.T) {
	needRestricted(t)
	const ok = "ok"
	tests := []struct {
		restrictions string // beside "as-user"
		root, user   string // "ok", or the one check that says why not
		warning      string // the one check that warns, beside those of plain
		mend         string // what is in the advice of the named check: one of these
	}{
		{"", ok, ok, "", ""},

		{"max-user=0", "namespaces", "namespaces", "", "user.max_user_namespaces"},
		{"max-user=1", ok, "namespaces", "", "user.max_user_namespaces"},
		{"max-net=0", "namespaces", "namespaces", "", "user.max_net_namespaces"},
		{"refuse-userns", "namespaces", "namespaces", "", "seccomp=unconfined"},
		{"refuse-namespaces", "namespaces", "namespaces", "", "seccomp=unconfined"},
		{"refuse-mount", "namespaces", "namespaces", "", "seccomp=unconfined"},

		{"no-tun", "tun", "tun", "", "modprobe tun|--device /dev/net/tun"},
		{"closed-tun", ok, "tun", "", "chmod 0666 /dev/net/tun"},
		{"dead-tun", "tun", "tun", "", "modprobe tun|--device /dev/net/tun"},

		{"masked-proc", ok, "proc", "", "systempaths=unconfined"},
		{"masked-sys", ok, "sys", "", "systempaths=unconfined"},
		{"old-kernel", "kernel", "kernel", "", "5.12"},
		{"no-seccomp", "seccomp", "seccomp", "", "CONFIG_SECCOMP_FILTER"},

		{"files=64", ok, ok, "descriptors", "prlimit"},
		{"files=40", "descriptors", "descriptors", "", "prlimit"},
		{"files=12", "descriptors", "descriptors", "", "prlimit"},
		{"no-ping", ok, ok, "ping", "ping_group_range"},
		{"no-route6", ok, ok, "ipv6", ""},
		{"ipv6-off", ok, ok, "ipv6", "disable_ipv6=0"},
		{"no-ipv6", ok, ok, "ipv6", ""},
		{"no-landlock", ok, ok, "landlock", "lsm="},
		{"no-diag", ok, ok, "sock-diag", "modprobe"},
	}
	for _, tt := range tests {
		for _, who := range []string{"root", "as-user"} {
			want, names := tt.root, strings.Fields(tt.restrictions)
			if who == "as-user" {
				want, names = tt.user, append(names, who)
			}
			t.Run(strings.Join(append([]string{who}, names...), " "), func(t *testing.T) {
				t.Parallel()
				ran, _, runErr := restricted(t, names, "run", "--", "true")
				status, out, errs := restricted(t, names, "doctor", "--json")
				var r doctor.Report
				if err := json.Unmarshal([]byte(out), &r); err != nil {
					t.Fatalf("%v: %s%s", err, out, errs)
				}
				if r.Run.Works != (ran == 0) || (status == 0) != (ran == 0) {
					t.Errorf("doctor says %+v with exit status %d, but tcpbox run exits with %d: %s", r.Run, status, ran, runErr)
				}
				if (want == ok) != (ran == 0) {
					t.Errorf("tcpbox run exits with %d, which is not what this test is about: %s", ran, runErr)
				}
				cannot, warnings, mend := verdicts(r)
				if want == ok && len(cannot) > 0 || want != ok && !slices.Equal(cannot, []string{want}) {
					t.Errorf("what cannot be: %q, want %q:\n%s", cannot, want, compact(r))
				}
				if tt.warning != "" && want == ok && !slices.Contains(warnings, tt.warning) || tt.warning == "" && len(warnings) > 0 {
					t.Errorf("warnings: %q, want %q:\n%s", warnings, tt.warning, compact(r))
				}
				if want != ok && !matches(mend[want], tt.mend) || tt.warning != "" && !matches(mend[tt.warning], tt.mend) {
					t.Errorf("advice: %q, want %q", mend, tt.mend)
				}
			})
		}
	}
}

// verdicts sorts a report's checks. What only the kernel's version decides, or who
// calls, is left out of the warnings.
func verdicts(r doctor.Report) (cannot, warnings []string, mend map[string]string) {
	mend = make(map[string]string)
	for _, c := range r.Checks {
		mend[c.ID] = c.Mend
		switch {
		case c.State == doctor.Cannot:
			cannot = append(cannot, c.ID)
		case c.State == doctor.Warning && c.ID != "btf" && c.ID != "kernel-trace" && c.ID != "tw-reuse-delay":
			warnings = append(warnings, c.ID)
		}
	}
	return cannot, warnings, mend
}

// matches reports whether one of the alternatives is in the text.
func matches(text, alternatives string) bool {
	return slices.ContainsFunc(strings.Split(alternatives, "|"), func(s string) bool { return strings.Contains(text, s) })
}

// TestDoctorText compares what people see with testdata/doctor.
func TestDoctorText(t *testing.T) {
	needRestricted(t)
	for name, restrictions := range map[string]string{
		"well":         "files=20000 as-user",
		"warnings":     "files=256 no-ping ipv6-off as-user",
		"masked":       "files=20000 masked-proc closed-tun as-user",
		"nonamespaces": "files=20000 max-user=0 as-user",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, got, _ := restricted(t, strings.Fields(restrictions), "doctor")
			for _, d := range kernels {
				got = d.is.ReplaceAllString(got, d.put)
			}
			golden := filepath.Join("testdata", "doctor", name+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
			for line := range strings.Lines(got) {
				if len(line) > 81 && !strings.Contains(line, "mend:") {
					t.Errorf("longer than 80 columns: %q", line)
				}
			}
		})
	}
}

// kernels is what differs from kernel to kernel, or by who calls, and what stands for
// it.
var kernels = []struct {
	is  *regexp.Regexp
	put string
}{
	{regexp.MustCompile(`Linux \S+`), "Linux VERSION"},
	{regexp.MustCompile(`(?m)^\S+ +(Landlock|BTF|the kernel's trace|tcp_tw_reuse_delay) .*\n(?: .*\n)*`), "STATE    $1\n"},
}

// compact is a report in a few lines.
func compact(r doctor.Report) string {
	var b strings.Builder
	if err := r.WriteText(&b, doctor.Style{}); err != nil {
		return err.Error()
	}
	return b.String()
}
