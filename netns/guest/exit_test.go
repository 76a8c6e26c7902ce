package guest

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestExitStatus(t *testing.T) {
	dir := openDir(t)
	must(os.WriteFile(dir+"/text", []byte("no program\n"), 0o644))
	must(os.WriteFile(dir+"/noformat", []byte("no program\n"), 0o755))
	must(os.WriteFile(dir+"/noshell", []byte("#!/does/not/exist\n"), 0o755))
	must(os.WriteFile(dir+"/script", []byte("#!/bin/sh\nexit 9\n"), 0o755))
	everybody(t, func(t *testing.T, who who) {
		for _, row := range []struct {
			what   string
			spec   spec
			code   int
			stderr string
		}{
			{"success", spec{Args: []string{"true"}}, 0, ""},
			{"its own status", spec{Args: []string{"sh", "-c", "exit 7"}}, 7, ""},
			{"the largest", spec{Args: []string{"sh", "-c", "exit 255"}}, 255, ""},
			{"a script", spec{Args: []string{dir + "/script"}}, 9, ""},
			{"a relative name", spec{Args: []string{"./script"}, Dir: dir}, 9, ""},
			{"killed", spec{Args: []string{"sh", "-c", "kill -9 $$"}}, 137, ""},
			{"terminated", spec{Args: []string{"sh", "-c", "kill -TERM $$"}}, 143, ""},
			{"aborted", spec{Args: []string{"sh", "-c", "ulimit -c 0; kill -ABRT $$"}}, 134, ""},
			{"no such program", spec{Args: []string{"no-such-program"}}, 127, `error: guest: "no-such-program": command not found`},
			{"no such path", spec{Args: []string{"/no/such/path"}}, 127, `error: guest: "/no/such/path": command not found`},
			{"a path below a file", spec{Args: []string{"/etc/passwd/x"}}, 127, "command not found"},
			{"no interpreter", spec{Args: []string{dir + "/noshell"}}, 127, "command not found"},
			{"not executable", spec{Args: []string{dir + "/text"}}, 126, "permission denied"},
			{"not executable in PATH", spec{Args: []string{"text"}, Env: []string{"PATH=/nowhere:" + dir}}, 126, "permission denied"},
			{"a directory", spec{Args: []string{dir}}, 126, "permission denied"},
			{"not a program", spec{Args: []string{dir + "/noformat"}}, 126, "exec format error"},

			{"no directory", spec{Args: []string{"true"}, Dir: "/no/such/dir"}, 125, `enter the working directory "/no/such/dir": no such file or directory`},
			{"an interface's name", spec{Args: []string{"true"}, Etc: map[string][]byte{"a/b": nil}}, 125, `"a/b" is not the name of a file in /etc`},
			{"a descriptor that is not there", spec{Args: []string{"true"}, Keep: []int{77}}, 125, "descriptor 77 was not inherited"},
		} {
			t.Run(row.what, func(t *testing.T) {
				cmd := who.command(t, row.spec)
				for i, v := range cmd.Env { // the spec's PATH shall win
					if strings.HasPrefix(v, "PATH=") && len(row.spec.Env) > 0 {
						cmd.Env[i] = "X" + v
					}
				}
				got := finish(t, cmd)
				if got.code != row.code || !strings.Contains(got.stderr, row.stderr) || (row.stderr == "") != (got.stderr == "") {
					t.Errorf("%v: status %d, %q; want %d, %q", row.spec.Args, got.code, got.stderr, row.code, row.stderr)
				}
			})
		}
	})
}

// TestUser: an ordinary caller cannot run a guest as somebody else.
func TestUser(t *testing.T) {
	everybody(t, func(t *testing.T, who who) {
		self := who.uid()
		for _, row := range []struct {
			what string
			user User
			ok   bool
		}{
			{"itself", User{self, self}, true},
			{"another", User{7, 8}, who == asRoot},
			{"another group", User{self, 8}, who == asRoot},
		} {
			t.Run(row.what, func(t *testing.T) {
				got := who.sh(t, spec{User: &row.user}, "echo $(id -u) $(id -g) $(id -G)")
				if !row.ok {
					if got.code != 125 || !strings.Contains(got.stderr, "hint: only root can run a guest as somebody else") || got.stdout != "" {
						t.Errorf("%+v, want a refusal with a hint", got)
					}
					return
				}
				want := strings.Join(strings.Fields(strings.NewReplacer("U", itoa(row.user.UID), "G", itoa(row.user.GID)).Replace("U G G")), " ")
				if strings.TrimSpace(got.stdout) != want {
					t.Errorf("%+v, want %q", got, want)
				}
			})
		}
	})
}

func itoa(n int) string { return strconv.Itoa(n) }

func TestStatus(t *testing.T) {
	for _, row := range []struct {
		status Status
		code   int
		text   string
	}{
		{Status{}, 0, "exit status 0"},
		{Status{Code: 3}, 3, "exit status 3"},
		{Status{Signal: syscall.SIGKILL}, 137, "killed by signal 9 (killed)"},
	} {
		if got := row.status.ExitCode(); got != row.code {
			t.Errorf("%v.ExitCode() = %d, want %d", row.status, got, row.code)
		}
		if got := row.status.String(); got != row.text {
			t.Errorf("String() = %q, want %q", got, row.text)
		}
	}
}

// TestFault: errors keep their kind, text and number on the way from init.
func TestFault(t *testing.T) {
	for _, err := range []error{
		&Error{Op: "mount", Err: syscall.EPERM, Hint: "do not"},
		&Error{Op: "serve", Err: errors.New("no number")},
		&ExecError{Name: "x", Err: syscall.ENOENT},
		errors.New("plain"),
	} {
		got := asFault(err).err()
		if got.Error() != err.Error() {
			t.Errorf("got %q, want %q", got, err)
		}
		var want, have syscall.Errno
		if errors.As(err, &want) && (!errors.As(got, &have) || have != want) {
			t.Errorf("%v: got errno %d, want %d", err, have, want)
		}
		if e := (*Error)(nil); errors.As(err, &e) {
			g := (*Error)(nil)
			if !errors.As(got, &g) || g.Hint != e.Hint {
				t.Errorf("%v: hint lost", err)
			}
		}
	}
	if asFault(nil).err() != nil {
		t.Error("nil did not stay nil")
	}
}
