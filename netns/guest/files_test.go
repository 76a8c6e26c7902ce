package guest

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestEtcSurvivesRename: the host replaces its resolv.conf, as its tools do,
// and the guest's stays.
func TestEtcSurvivesRename(t *testing.T) {
	everybody(t, func(t *testing.T, who who) {
		if os.Geteuid() != 0 {
			t.Skip("needs root to play the host")
		}
		sp := spec{
			Args: []string{"sh", "-c", "while read x; do cat /etc/resolv.conf; done"},
			Etc:  map[string][]byte{"resolv.conf": []byte("ours\n")},
		}
		// An /etc that is the test's own.
		r := who.startBefore(t, sp, "mount -t tmpfs x /mnt; mkdir /mnt/etc; echo theirs >/mnt/etc/resolv.conf; cp /etc/passwd /mnt/etc; mount --bind /mnt/etc /etc")
		r.guestPids()
		fmt.Fprintln(r.stdin)
		r.expect("ours")
		etc := fmt.Sprintf("/proc/%d/root/etc/", r.cmd.Process.Pid)
		for range 2 {
			must(os.WriteFile(etc+"new", []byte("theirs, new\n"), 0o644))
			must(os.Rename(etc+"new", etc+"resolv.conf"))
			fmt.Fprintln(r.stdin)
			r.expect("ours")
		}
		r.stdin.Close()
		if code := r.wait(); code != 0 {
			t.Errorf("exit status %d", code)
		}
	})
}

// TestEtcWithoutOverlay: a mount below /etc forbids the overlay to a user, and
// the guest finds the same files all the same.
func TestEtcWithoutOverlay(t *testing.T) {
	everybody(t, func(t *testing.T, who who) {
		if os.Geteuid() != 0 {
			t.Skip("needs root to play the host")
		}
		cmd := who.command(t, spec{
			Args: []string{"sh", "-c", "cat /etc/resolv.conf /etc/bound /etc/dir/file /etc/link; ls /etc; touch /etc/x /etc/dir/x /etc/file || echo x >/etc/file || echo x >/etc/bound"},
			Etc:  map[string][]byte{"resolv.conf": []byte("ours\n")},
		})
		cmd.Env = append(cmd.Env, beforeVar+`=
			mount -t tmpfs x /mnt
			mkdir -p /mnt/etc/dir
			cd /mnt/etc
			echo theirs >resolv.conf; echo in dir >dir/file; echo lower >bound; echo upper >file
			ln -s dir/file link; mkfifo fifo
			chmod 666 * dir/*; chmod 777 . dir
			mount --bind file bound
			mount --rbind /mnt/etc /etc`)
		got := finish(t, cmd)
		if want := "ours\nupper\nin dir\nin dir\n"; !strings.HasPrefix(got.stdout, want) {
			t.Errorf("got %q, want it to begin with %q", got.stdout, want)
		}
		if n := strings.Count(got.stderr, "Read-only file system"); n != 5 {
			t.Errorf("%d writes were refused, want 5: %s", n, got.stderr)
		}
		if said := strings.Contains(got.stderr, "overlayfs refused"); said != (who == asUser) {
			t.Errorf("a remark on overlayfs: %v; %s", said, got.stderr)
		}
	})
}

// TestOutOfReach: what of the host would lead names past the sandbox, or
// writes past its mounts.
func TestOutOfReach(t *testing.T) {
	everybody(t, func(t *testing.T, who who) {
		if os.Geteuid() != 0 {
			t.Skip("needs root to play the host")
		}
		cmd := who.command(t, spec{Etc: map[string][]byte{"resolv.conf": nil}, Args: []string{"sh", "-c", `
			ls /run/nscd /run/systemd/resolve /var/run/nscd
			echo proc; echo x 2>/dev/null >/mnt/proc/sys/kernel/core_pattern || echo refused
			echo sys; echo 0 2>/dev/null >/mnt/sys/class/net/lo/tx_queue_len || echo refused
			echo tun; (: <>/mnt/dev/tun) 2>/dev/null || echo refused
			echo null; (: >/mnt/dev/null) 2>/dev/null || echo refused`}})
		cmd.Env = append(cmd.Env, beforeVar+`=
			mount -t tmpfs x /run; mkdir -p /run/nscd /run/systemd/resolve
			echo x >/run/nscd/socket; echo x >/run/systemd/resolve/stub-resolv.conf
			mount -t tmpfs x /mnt; mkdir /mnt/proc /mnt/sys /mnt/dev
			mount -t proc x /mnt/proc; mount -t sysfs x /mnt/sys
			mknod -m 666 /mnt/dev/tun c 10 200; mknod -m 666 /mnt/dev/null c 1 3`)
		got := finish(t, cmd)
		const want = "/run/nscd:\n\n/run/systemd/resolve:\n\n/var/run/nscd:\nproc\nrefused\nsys\nrefused\ntun\nrefused\nnull\nrefused\n"
		if got.stdout != want {
			t.Errorf("got %q, %q\nwant %q", got.stdout, got.stderr, want)
		}
	})
}

func TestDescriptors(t *testing.T) {
	everybody(t, func(t *testing.T, who who) {
		for _, row := range []struct {
			what string
			spec spec
			want string
		}{
			{"none but three", spec{Dups: []int{3, 4, 5, 9, 90}}, "0 1 2"},
			{"one is kept", spec{Dups: []int{3, 9}, Keep: []int{9}}, "0 1 2 9"},
			{"those that init needs itself", spec{Dups: []int{3, 4, 5, 6, 7, 8}, Keep: []int{8, 3, 4, 5}}, "0 1 2 3 4 5 8"},
			{"far away", spec{Dups: []int{300}, Keep: []int{300}}, "0 1 2 300"},
		} {
			t.Run(row.what, func(t *testing.T) {
				got := who.run(t, probe(row.spec, binary(t), "fds"))
				if strings.Join(strings.Fields(got.stdout), " ") != row.want {
					t.Errorf("got %+v, want %q", got, row.want)
				}
			})
		}
		t.Run("a kept one works", func(t *testing.T) {
			if got := who.sh(t, spec{Dups: []int{7}, Keep: []int{7}}, "echo word >&7"); got.stdout != "word\n" {
				t.Errorf("got %+v", got)
			}
		})
		t.Run("the limit is the caller's", func(t *testing.T) {
			cmd := who.command(t, probe(spec{}, binary(t), "limit"))
			wrapped := []string{"-c", `ulimit -Sn 321; exec "$0"`, cmd.Path}
			cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh"}, wrapped...)
			if got := finish(t, cmd); got.stdout != "321\n" {
				t.Errorf("got %+v", got)
			}
		})
	})
}

// TestWorkingDirectory: a directory among what the sandbox covers is the
// sandbox's, and one that is gone is said to be.
func TestWorkingDirectory(t *testing.T) {
	everybody(t, func(t *testing.T, who who) {
		for _, row := range []struct{ dir, script, want string }{
			{"/dev", "ls -d net pts 2>/dev/null", "pts\n"},
			{"/proc/sys/kernel", "echo x 2>/dev/null >core_pattern || echo refused", "refused\n"},
			{"/sys/class/net", "ls", "lo\ntcpbox0\n"},
			{"/etc", "cat resolv.conf", "ours\n"},
		} {
			cmd := who.command(t, spec{Args: []string{"sh", "-c", row.script}, Etc: map[string][]byte{"resolv.conf": []byte("ours\n")}})
			cmd.Dir = row.dir
			if got := finish(t, cmd); got.stdout != row.want {
				t.Errorf("in %s: %+v, want %q", row.dir, got, row.want)
			}
		}
		cmd := who.command(t, spec{Args: []string{"true"}})
		gone := openDir(t) + "/gone"
		must(os.Mkdir(gone, 0o755))
		cmd.Path, cmd.Args, cmd.Dir = "/bin/sh", []string{"sh", "-c", `rmdir ../gone; exec "$0"`, cmd.Path}, gone
		if got := finish(t, cmd); got.code != 125 || !strings.Contains(got.stderr, "find the working directory: no such file") || !strings.Contains(got.stderr, "hint: ") {
			t.Errorf("in a deleted directory: %+v", got)
		}
	})
}
