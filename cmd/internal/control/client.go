package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"tcpbox"
)

// requestTimeout bounds a request that has no reason to take long.
const requestTimeout = 10 * time.Second

// Client reaches one sandbox.
type Client struct {
	name   string
	socket string
	http   *http.Client

	// patience is how long to wait for the socket of a sandbox that lives and
	// does not listen: its command may run a moment before it can be asked.
	patience time.Duration

	answered atomic.Bool // once
}

// RemoteError is what a sandbox answered.
type RemoteError struct {
	Status  int // HTTP
	Message string
	Hint    string
	Exit    int // of Exec: the exit status that a shell gives, or 0
}

func (e *RemoteError) Error() string { return e.Message }

// List returns the names of the caller's live sandboxes, in alphabetical order.
func List() ([]string, error) {
	dir, err := RuntimeDir()
	if err != nil {
		return nil, err
	}
	return live(dir)
}

// Connect returns a Client for the sandbox called name. ErrNotFound: there is
// none.
func Connect(name string) (*Client, error) {
	dir, err := RuntimeDir()
	if err != nil {
		return nil, err
	}
	if name == "" || name == "." || name == ".." || strings.ContainsRune(name, '/') {
		return nil, fmt.Errorf("control: %q: %w", name, ErrNotFound)
	}
	e, err := probe(filepath.Join(dir, name))
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("control: %q: %w", name, ErrNotFound)
	case err != nil:
		return nil, err
	case e.lock != nil:
		return nil, errors.Join(fmt.Errorf("control: %q: %w", name, ErrNotFound), e.bury())
	}
	return clientOf(name, e.socket()), nil
}

// clientOf is a Client for what listens at socket.
func clientOf(name, socket string) *Client {
	c := &Client{name: name, socket: socket, patience: startGrace}
	c.http = &http.Client{Transport: &http.Transport{DialContext: c.dial, DisableKeepAlives: true}}
	return c
}

// dial connects to the socket. What it is given beside ctx is for net/http.
func (c *Client) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	for end := time.Now().Add(c.patience); ; time.Sleep(endPause) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", c.socket)
		if err == nil || !isDeaf(err) || ctx.Err() != nil || !time.Now().Before(end) {
			return conn, err
		}
		e, probeErr := probe(filepath.Dir(c.socket))
		if probeErr != nil {
			return nil, err
		}
		if e.lock != nil { // it is dead
			return nil, errors.Join(err, e.lock.Close())
		}
	}
}

// isDeaf says whether nobody listens at a socket.
func isDeaf(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// Inspect returns everything that is in force in the sandbox.
func (c *Client) Inspect(ctx context.Context) (tcpbox.Info, error) {
	var in Inspection
	err := c.do(ctx, requestTimeout, http.MethodGet, "inspect", nil, &in)
	return in.Info, err
}

// Stop ends the sandbox: TERM, and KILL after grace. It returns when the guest
// has ended.
func (c *Client) Stop(ctx context.Context, grace time.Duration) error {
	return c.do(ctx, requestTimeout+grace, http.MethodPost, "stop", StopRequest{grace.Milliseconds()}, &struct{ V int }{})
}

func (c *Client) do(ctx context.Context, timeout time.Duration, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return fmt.Errorf("control: %w", err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://sandbox/v1/"+path, &body)
	if err != nil {
		return fmt.Errorf("control: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.lost(err)
	}
	c.answered.Store(true)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return failure(resp)
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return c.lost(fmt.Errorf("its answer: %w", err))
	}
	return nil
}

// It is waited for the begin of a sandbox that has its name and not its socket,
// and for the end of a sandbox that has answered before and does no more:
// one that is killed closes its sockets before the lock by which its end is known.
const (
	startGrace = 5 * time.Second
	endGrace   = 5 * time.Second
	endPause   = 5 * time.Millisecond
)

// probeAfter is probe for a sandbox whose end may be what was seen, or not.
func (c *Client) probeAfter(mayEnd bool) (*entry, error) {
	for end := time.Now().Add(endGrace); ; time.Sleep(endPause) {
		e, err := probe(filepath.Dir(c.socket))
		if !mayEnd || !c.answered.Load() || err != nil || e.lock != nil || !time.Now().Before(end) {
			return e, err
		}
	}
}

// lost says why there was no answer. A sandbox that has ended meanwhile matches
// ErrEnded; one that has not begun to answer, or has stopped, ErrUnready; one that
// lives and hangs up ErrRefused.
func (c *Client) lost(err error) error {
	// What net/http says of an end that it noticed before it had asked has no type.
	idle := strings.Contains(err.Error(), "server closed idle connection")
	hungUp := idle || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
	refused := isDeaf(err)
	e, probeErr := c.probeAfter(hungUp || refused)
	switch {
	case errors.Is(probeErr, fs.ErrNotExist):
		return fmt.Errorf("control: sandbox %q: %w", c.name, ErrEnded)
	case probeErr == nil && e.lock != nil: // dead, and not removed
		return errors.Join(fmt.Errorf("control: sandbox %q: %w", c.name, ErrEnded), e.lock.Close())
	case probeErr == nil && refused:
		return fmt.Errorf("control: sandbox %q: %w", c.name, ErrUnready)
	case hungUp:
		return fmt.Errorf("control: sandbox %q: %w", c.name, ErrRefused)
	}
	return fmt.Errorf("control: reach sandbox %q: %w", c.name, err)
}

// failure is what an answer that is not a success says.
func failure(resp *http.Response) error {
	var f Failure
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&f); err != nil || f.Error == "" {
		f.Error = resp.Status
	}
	return &RemoteError{Status: resp.StatusCode, Message: f.Error, Hint: f.Hint}
}
