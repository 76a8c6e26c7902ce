package control

import (
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tcpbox"
)

// TestASandboxThatBegins has its name, and listens a while later, as one whose
// command runs already.
func TestASandboxThatBegins(t *testing.T) {
	dir := t.TempDir()
	e, err := claim(dir, "web")
	if err != nil {
		t.Fatal(err)
	}
	answer := make(chan error)
	go func() {
		_, err := clientOf("web", e.socket()).Inspect(t.Context())
		answer <- err
	}()
	time.Sleep(50 * time.Millisecond) // it may have asked by then: both ways it is answered
	l, err := net.Listen("unix", e.socket())
	if err != nil {
		t.Fatal(err)
	}
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}") }))
	if err := <-answer; err != nil {
		t.Errorf("asked before it listens: %v", err)
	}
	l.Close()
	if err := e.remove(); err != nil {
		t.Fatal(err)
	}
}

// TestASandboxThatEnds is asked when it is gone, and when it hangs up.
func TestASandboxThatEnds(t *testing.T) {
	asks := []struct {
		name string
		ask  func(*Client) error
	}{
		{"inspect", func(c *Client) error { _, err := c.Inspect(t.Context()); return err }},
		{"stop", func(c *Client) error { return c.Stop(t.Context(), 0) }},
		{"publish", func(c *Client) error { _, err := c.Publish(t.Context(), tcpbox.Publish{Port: 80}); return err }},
		{"exec", func(c *Client) error {
			_, err := c.Exec(t.Context(), tcpbox.ExecConfig{Args: []string{"true"}})
			return err
		}},
	}
	check := func(when string, c *Client, want error) {
		t.Helper()
		for _, a := range asks {
			err := a.ask(c)
			if !errors.Is(err, want) || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), `sandbox "web"`) {
				t.Errorf("%s, %s: %v, want %v", when, a.name, err, want)
			}
		}
	}

	dir := t.TempDir()
	e, err := claim(dir, "web")
	if err != nil {
		t.Fatal(err)
	}
	c := clientOf("web", filepath.Join(dir, "web", sockName))
	c.patience = 20 * time.Millisecond
	check("it is about to begin", c, ErrUnready)
	l, err := net.Listen("unix", e.socket())
	if err != nil {
		t.Fatal(err)
	}
	hangsUp := make(chan struct{})
	go func() {
		defer close(hangsUp)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	check("it hangs up", c, ErrRefused)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	<-hangsUp
	check("it is about to end", c, ErrUnready)

	if err := e.lock.Close(); err != nil { // as a kill does
		t.Fatal(err)
	}
	check("it was killed", c, ErrEnded)

	if e, err = claim(dir, "web"); err != nil {
		t.Fatal(err)
	}
	if err := e.remove(); err != nil {
		t.Fatal(err)
	}
	check("it has ended", c, ErrEnded)
	if err := c.lost(io.EOF); !errors.Is(err, ErrEnded) {
		t.Errorf("it ended while it was asked: %v", err)
	}
}
