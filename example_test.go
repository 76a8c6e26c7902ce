package tcpbox_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"syscall"

	"tcpbox"
	"tcpbox/policy"
	"tcpbox/stack/tcpstate"
)

// program is what the examples run in a sandbox: this test binary, in one of
// the modes of playGuest. Your own programs have a path.
func program(mode string) (args, env []string) {
	self, err := os.Executable()
	if err != nil {
		log.Fatal(err)
	}
	return []string{self}, append(os.Environ(), guestMode+"="+mode)
}

// A test harness: a client runs against a fake server that exists only in the
// client's sandbox, under the name that it asks for in production.
func Example_fakeServer() {
	args, env := program("get http://api.example.org/hello")
	box, err := tcpbox.Start(context.Background(), tcpbox.Config{
		Args: args, Env: env, Stdout: os.Stdout, Stderr: os.Stderr,
		BeforeStart: func(box *tcpbox.Sandbox) error {
			l, err := box.Listen("api.example.org:80")
			if err != nil {
				return err
			}
			go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprintf(w, "%s says hello to %s\n", r.Host, r.URL.Path)
			}))
			return nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	status, err := box.Wait()
	fmt.Println(status.ExitCode(), err)
	// Output:
	// api.example.org says hello to /hello
	// 0 <nil>
}

// An egress recorder without a proxy: whatever a program tries to reach, over
// any protocol, is refused and told.
func Example_egressRecorder() {
	args, env := program("connect 203.0.113.7:443")
	box, err := tcpbox.Start(context.Background(), tcpbox.Config{
		Args: args, Env: env,
		Policy: policy.Policy{Net: policy.NetNone},
		OnRefused: func(r tcpbox.Refusal) {
			fmt.Println("wants", r.Request.Proto, r.Request.Dst)
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	status, err := box.Wait()
	fmt.Println(syscall.Errno(status.ExitCode()), err)
	// Output:
	// wants tcp 203.0.113.7:443
	// connection refused <nil>
}

// Every step of a connection, as RFC 9293 names it.
func ExampleConfig_onTransition() {
	args, env := program("echo echo.test:7")
	box, err := tcpbox.Start(context.Background(), tcpbox.Config{
		Args: args, Env: env,
		BeforeStart: func(box *tcpbox.Sandbox) error {
			l, err := box.Listen("echo.test:7")
			if err != nil {
				return err
			}
			go func() {
				c, err := l.Accept()
				if err != nil {
					return
				}
				io.Copy(c, c)
				c.Close()
			}()
			return nil
		},
		OnTransition: func(t tcpbox.Transition) {
			if t.Leg == tcpstate.Stack && t.Local.Addr().Is4() && t.From != tcpstate.Listen && t.To != tcpstate.Listen {
				fmt.Println(t.From, "→", t.To)
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := box.Wait(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// CLOSED → SYN-RECEIVED
	// SYN-RECEIVED → ESTABLISHED
	// ESTABLISHED → CLOSE-WAIT
	// CLOSE-WAIT → LAST-ACK
	// LAST-ACK → CLOSED
}

// A server in the sandbox is asked from this process, through no port of the
// host's.
func ExampleSandbox_Dial() {
	args, env := program("serve :7")
	box, err := tcpbox.Start(context.Background(), tcpbox.Config{Args: args, Env: env, Stderr: os.Stderr})
	if err != nil {
		log.Fatal(err)
	}
	defer box.Close()
	for {
		c, err := box.Dial(context.Background(), "tcp", ":7")
		if errors.Is(err, syscall.ECONNREFUSED) {
			continue // it does not listen yet
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Fprint(c, "hello")
		c.(tcpbox.Conn).CloseWrite()
		text, err := io.ReadAll(c)
		fmt.Printf("%s %v\n", text, err)
		c.Close()
		return
	}
	// Output: hello <nil>
}
