package reach

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tcpbox/integration/testnet"
)

// mebibyte is what the guests below send.
const mebibyte = 1 << 20

// echoGuest sends bytes to a host that sends them back, and wants the same.
func echoGuest(addr string) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return fail(err)
	}
	defer conn.Close()
	sent := make([]byte, mebibyte)
	_, _ = rand.NewChaCha8([32]byte{}).Read(sent) // it never fails
	wrote := make(chan error)
	go func() {
		_, err := conn.Write(sent)
		wrote <- errors.Join(err, conn.(*net.TCPConn).CloseWrite())
	}()
	back, err := io.ReadAll(conn)
	if err = errors.Join(err, <-wrote); err != nil {
		return fail(err)
	}
	if !bytes.Equal(back, sent) {
		return fail(fmt.Errorf("%d bytes came back, of %d, or others", len(back), len(sent)))
	}
	fmt.Println("equal")
	return 0
}

// TestLifeEcho sends a MiB through the stack and back.
func TestLifeEcho(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		for range 3 {
			got := toEnd(t, c.run(t.Context(), t, n, []string{"--quiet", "--net", "none", "--peer", "back=echo:7"}, lifeGuestPath(t), "echo", "back:7"))
			if got.code != 0 || got.stdout != "equal\n" {
				t.Errorf("%v, want equal", got)
			}
		}
	})
}

// TestLifeLastBytes lets a guest end as soon as it has written a MiB. A server
// that takes it at once, and one that begins only when the guest is no more,
// get all of it and then the end.
func TestLifeLastBytes(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		for i, six := range []bool{false, true} {
			for j, late := range []bool{false, true} {
				l := n.Remote.Listen(t, "tcp", at(six, uint16(4000+2*i+j)))
				t.Run(fmt.Sprintf("late %t, IPv6 %t", late, six), func(t *testing.T) {
					// exec, so that the end of the writer is the end of the guest.
					script := fmt.Sprintf("exec head -c %d /dev/zero >/dev/tcp/%s/%d", mebibyte, at(six, 0).Addr(), addrOf(l.Addr()).Port())
					p := begin(t, c.run(t.Context(), t, n, []string{"--quiet"}, "bash", "-c", script))
					conn, err := l.Accept()
					must(t, err)
					defer conn.Close()
					if late {
						testnet.Eventually(t, func() error {
							_, guest, err := sandboxOf(t, p.cmd.Process.Pid)
							if err == nil && guest != 0 {
								err = fmt.Errorf("the guest %d lives", guest)
							}
							return err
						})
					}
					got, err := io.Copy(io.Discard, conn)
					if got != mebibyte || err != nil {
						t.Errorf("the server got %d bytes, %v, want %d", got, err, mebibyte)
					}
					if code := p.wait(); code != 0 {
						t.Errorf("exit status %d; %s", code, p.stderr)
					}
				})
			}
		}
	})
}

// TestLifeUndelivered has a server that never reads. What the guest has left
// waits for it, until somebody cuts that short: the guest's status passes, and a
// warning says that something is lost.
func TestLifeUndelivered(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		l := n.Remote.Listen(t, "tcp", at(false, 4200))
		for _, row := range []struct {
			what  string
			flags []string
			sig   unix.Signal
		}{
			{"INT", nil, unix.SIGINT},
			{"TERM", nil, unix.SIGTERM},
			{"--timeout", []string{"--timeout", "4s"}, 0},
		} {
			t.Run(row.what, func(t *testing.T) {
				script := fmt.Sprintf("timeout -s KILL 1 cat /dev/zero >/dev/tcp/%s/%d; exit 5", l.Addr().(*net.TCPAddr).IP, 4200)
				p := begin(t, c.run(t.Context(), t, n, row.flags, "bash", "-c", script))
				conn, err := l.Accept()
				must(t, err)
				defer conn.Close()
				if row.sig != 0 {
					// The first may still be for the guest: it dies at this moment.
					testnet.Eventually(t, func() error {
						_, guest, err := sandboxOf(t, p.cmd.Process.Pid)
						if err != nil || guest != 0 {
							return errors.Join(err, fmt.Errorf("the guest %d lives", guest))
						}
						select {
						case <-p.ended:
							return nil
						default:
							_ = unix.Kill(p.cmd.Process.Pid, row.sig) // it may be gone by now
							return errors.New("tcpbox has not ended")
						}
					})
				}
				if code := p.wait(); code != 5 {
					t.Errorf("exit status %d, want 5; %s", code, p.stderr)
				}
				if !strings.Contains(p.stderr.String(), "warning: connections cut that still had bytes to deliver") {
					t.Errorf("standard error is %q, want a warning", p.stderr)
				}
			})
		}
	})
}

// TestLifePipes has the guest read and write the caller's pipes.
func TestLifePipes(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		noise := make([]byte, 4*mebibyte)
		_, _ = rand.NewChaCha8([32]byte{1}).Read(noise)
		cmd := c.run(t.Context(), t, n, []string{"--quiet"}, "cat")
		cmd.Stdin = bytes.NewReader(noise)
		if got := toEnd(t, cmd); got.code != 0 || sha256.Sum256([]byte(got.stdout)) != sha256.Sum256(noise) {
			t.Errorf("cat: exit status %d, %d bytes of %d, or others; %s", got.code, len(got.stdout), len(noise), got.stderr)
		}
		for _, row := range []struct {
			what, script string
			want         string
		}{
			{"the reader goes away", `"$0" run -q -- yes | head -n 1; echo ${PIPESTATUS[0]}`, "y\n141\n"},
			{
				"the reader goes away, and the guest does not care",
				`"$0" run -q -- sh -c 'trap "" PIPE; sleep 0.2; echo x 2>/dev/null; exit 6' | true; echo ${PIPESTATUS[0]}`, "6\n",
			},
			{
				"the reader of the log goes away",
				`"$0" run --log - --peer web=http -- sh -c 'sleep 0.2; "$0" get http://web/ >/dev/null 2>&1; exit 6' "$0" 2>&1 >/dev/null | true; echo ${PIPESTATUS[0]}`, "6\n",
			},
			{
				"what the guest does not read is the next command's",
				`printf 'a\nb\n' | { "$0" run -q -- sh -c 'read x; echo 1 $x'; read y; echo 2 $y; }`, "1 a\n2 b\n",
			},
			{"no input", `"$0" run -q -- cat </dev/null; echo $?`, "0\n"},
			{
				"both outputs of one file in order",
				`"$0" run -q -- sh -c 'for i in 1 2 3; do echo $i; echo $i >&2; done' 2>&1`, "1\n1\n2\n2\n3\n3\n",
			},
			{"a file as output", `f=$(mktemp); "$0" run -q -- sh -c 'echo a; echo b' >$f; cat $f; rm $f`, "a\nb\n"},
		} {
			t.Run(row.what, func(t *testing.T) {
				cmd := n.Uplink.CommandAs(t.Context(), c.cred, "bash", "-c", row.script, testnet.Binary(t))
				if got := toEnd(t, cmd); got.stdout != row.want {
					t.Errorf("%v, want %q", got, row.want)
				}
			})
		}
	})
}

// TestLifeOutputBeforeEnd has what a guest prints before it ends arrive before
// tcpbox's own end, however much of it there is.
func TestLifeOutputBeforeEnd(t *testing.T) {
	everybody(t, func(t *testing.T, n *testnet.Net, c caller) {
		for range 5 {
			got := toEnd(t, c.run(t.Context(), t, n, []string{"--quiet"}, "sh", "-c", "head -c 300000 /dev/zero | tr '\\0' x; echo end; kill -9 $$"))
			if got.code != 137 || len(got.stdout) != 300004 || !strings.HasSuffix(got.stdout, "xend\n") {
				t.Errorf("exit status %d and %d bytes, want 137 and 300004; %s", got.code, len(got.stdout), got.stderr)
			}
		}
	})
}
