package reach

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tcpbox/integration/testnet"
)

// chatter opens and closes connections until it is ended: followers always have
// something to be sent.
const chatter = `
import socket
peer = (socket.gethostbyname("echo"), 7)
while True:
    with socket.create_connection(peer) as s:
        s.sendall(b"x")
        s.recv(1)
`

// chatting starts a sandbox whose guest chats.
func chatting(t *testing.T, n *testnet.Net, c caller, name string) *running {
	t.Helper()
	testnet.Programs(t, "python3")
	box := begin(t, c.run(t.Context(), t, n, []string{"--quiet", "--net", "none", "--no-ipv6", "--name", name, "--peer", "echo=echo:7"}, "python3", "-c", chatter))
	insiders(t, box.cmd.Process.Pid)
	testnet.Eventually(t, func() error { // its guest begins before it answers
		cmd := n.Uplink.CommandAs(t.Context(), c.cred, testnet.Binary(t), "inspect", name)
		cmd.Dir = "/"
		return cmd.Run()
	})
	return box
}

// follower starts a follower of the sandbox. When it has printed something it is in
// the middle of the stream.
func follower(t *testing.T, n *testnet.Net, c caller, args ...string) *running {
	t.Helper()
	cmd := n.Uplink.CommandAs(t.Context(), c.cred, testnet.Binary(t), args...)
	cmd.Dir = "/"
	return begin(t, cmd)
}

// followers are the commands that follow a sandbox.
func followers(name string) [][]string {
	return [][]string{{"log", "-f", name}, {"log", "-f", "--json", name}, {"stat", "-w", "0.1s", name}, {"ss", "-w", "0.1s", name}}
}

// descriptors is how many a process has.
func descriptors(t *testing.T, pid int) int {
	t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	must(t, err)
	return len(all)
}

// TestAFollowerIsKilled kills as many followers as a sandbox takes at once, each in
// the middle of the stream. Their places are free again, which they are when what
// served them has ended, and their descriptors closed.
func TestAFollowerIsKilled(t *testing.T) {
	n, c := testnet.New(t), root
	noBoxesAfter(t)
	name := fmt.Sprintf("chat-%d", os.Getpid())
	box := chatting(t, n, c, name)
	before := descriptors(t, box.cmd.Process.Pid)
	for range 50 { // the guest's connections come and go as well
		before = min(before, descriptors(t, box.cmd.Process.Pid))
	}
	const places = 16 // as tcpbox.MaxFollowers
	var all []*running
	for i := range places {
		all = append(all, follower(t, n, c, followers(name)[i%2]...))
	}
	for _, f := range all {
		f.prints("\n")
	}
	one := follower(t, n, c, "log", "-f", name)
	if code := one.wait(); code != 125 || !strings.Contains(one.stderr.String(), "as many followers as it takes") {
		t.Errorf("one follower too many: exit status %d, %q", code, one.stderr)
	}
	if d := descriptors(t, box.cmd.Process.Pid); d < before+places {
		t.Errorf("with %d followers the sandbox has %d descriptors, it had %d", places, d, before)
	}
	for _, f := range all {
		f.kill()
	}
	testnet.Eventually(t, func() error {
		if d := descriptors(t, box.cmd.Process.Pid); d > before {
			return fmt.Errorf("the sandbox has %d descriptors, it had %d", d, before)
		}
		return nil
	})
	for _, args := range followers(name) {
		f := follower(t, n, c, args...)
		f.prints("\n")
		f.kill()
	}
}

// TestASandboxDiesWhileItIsFollowed: a sandbox that was killed has not told all, and
// who follows its log says so, in one line. One that has ended as it should has
// nothing more to tell; what shows a present that is no more says just that.
func TestASandboxDiesWhileItIsFollowed(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		for _, row := range []struct {
			what   string
			signal unix.Signal
			killed bool
		}{
			{"it is asked to end", unix.SIGTERM, false},
			{"it is killed", unix.SIGKILL, true},
		} {
			t.Run(row.what, func(t *testing.T) {
				name := fmt.Sprintf("die-%s-%d-%d", c.name, row.signal, os.Getpid())
				box := chatting(t, n, c, name)
				var all []*running
				for _, args := range followers(name) {
					f := follower(t, n, c, args...)
					f.prints("\n")
					all = append(all, f)
				}
				sendSignal(t, box.cmd.Process.Pid, row.signal)
				for i, f := range all {
					args := followers(name)[i]
					want, said := 0, "^$"
					switch {
					case args[0] != "log":
						said = "^tcpbox: sandbox \"" + name + "\" has ended\n$"
					case row.killed:
						want, said = 125, "^tcpbox: error: [^\n]*sandbox \""+name+"\"[^\n]*it has ended[^\n]*\n$"
					}
					if code := f.wait(); code != want || !regexp.MustCompile(said).MatchString(f.stderr.String()) {
						t.Errorf("%q: exit status %d, %q, want %d and %q", args, code, f.stderr, want, said)
					}
				}
			})
		}
	})
}

// kill kills a follower and waits for its end.
func (p *running) kill() {
	p.t.Helper()
	sendSignal(p.t, p.cmd.Process.Pid, unix.SIGKILL)
	<-p.ended
}
