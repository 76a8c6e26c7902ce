package lab

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
)

// server accepts on loopback, treats each connection with serve and tells what
// it read last: nil for FIN.
func server(t *testing.T, serve func(net.Conn) error) (addr string, ends <-chan error) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 100)
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			done <- serve(c)
		}
	}()
	t.Cleanup(func() { l.Close(); <-served })
	return l.Addr().String(), done
}

// ask has ServeGuest do one step.
func ask(t *testing.T, step string) answer {
	t.Helper()
	var out strings.Builder
	if err := ServeGuest(strings.NewReader(step), &out); err != nil {
		t.Fatal(err)
	}
	var a answer
	if err := json.Unmarshal([]byte(out.String()), &a); err != nil {
		t.Fatalf("the answer %q: %v", out.String(), err)
	}
	return a
}

func readAll(c net.Conn) error {
	defer c.Close()
	_, err := io.Copy(io.Discard, c)
	return err
}

func TestGuestClosesAsItIsTold(t *testing.T) {
	for _, tt := range []struct {
		close Close
		serve func(net.Conn) error
		reset bool // what the server reads last
	}{
		{ClientShutdown, readAll, false},
		{ClientClose, readAll, false},
		{ClientReset, readAll, true},
		{ServerFirst, func(c net.Conn) error {
			if err := c.(*net.TCPConn).CloseWrite(); err != nil {
				return err
			}
			return readAll(c)
		}, false},
	} {
		addr, ends := server(t, tt.serve)
		a := ask(t, `{"name":"x","connect":{"to":"`+addr+`","times":3,"close":"`+string(tt.close)+`"}}`)
		if a.Error != "" || len(a.Figures) != 1 || a.Figures["ok"] != 3 {
			t.Errorf("%s: the answer is %+v, want 3 ok", tt.close, a)
		}
		for range 3 {
			if err := <-ends; (err != nil) != tt.reset {
				t.Errorf("%s: the server read %v last, want RST %v", tt.close, err, tt.reset)
			}
		}
	}
}

func TestGuestCountsByErrno(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	a := ask(t, `{"name":"x","connect":{"to":"`+addr+`","times":4,"close":"client-close"}}`)
	if a.Error != "" || a.Figures["ECONNREFUSED"] != 4 || a.Figures["first-failure"] != 1 || len(a.Figures) != 2 {
		t.Errorf("the answer is %+v, want 4 ECONNREFUSED from the first on", a)
	}
}

func TestGuestFetchesOverOneConnection(t *testing.T) {
	addr, ends := server(t, func(c net.Conn) error {
		defer c.Close()
		lines := bufio.NewReader(c)
		for {
			line, err := lines.ReadString('\n')
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if strings.TrimSpace(line) == "" {
				if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"); err != nil {
					return err
				}
			}
		}
	})
	a := ask(t, `{"name":"x","fetch":{"to":"`+addr+`","times":5}}`)
	if a.Error != "" || a.Figures["ok"] != 5 || a.Figures["connections"] != 1 {
		t.Errorf("the answer is %+v, want 5 ok over 1 connection", a)
	}
	if err := <-ends; err != nil {
		t.Errorf("the connection ended with %v, want FIN", err)
	}
}

func TestGuestAnswersWhatItCannotDo(t *testing.T) {
	for step, want := range map[string]string{
		`{"name":"x"}`: "exactly one thing",
		`{"name":"x","connect":{"to":"127.0.0.1","times":1,"close":"client-close"}}`:     "missing port",
		`{"name":"x","connect":{"to":"127.0.0.1:80","times":0,"close":"client-close"}}`:  "0 times",
		`{"name":"x","connect":{"to":"127.0.0.1:nix","times":1,"close":"client-close"}}`: "nix",
	} {
		if a := ask(t, step); !strings.Contains(a.Error, want) {
			t.Errorf("%s: the answer is %+v, want %q", step, a, want)
		}
	}
	if err := ServeGuest(strings.NewReader(`{"name":`), io.Discard); err == nil {
		t.Error("half a step is taken")
	}
}

// ServeGuest reads what only its own runner writes. It must answer whatever it
// is, all the same.
func FuzzServeGuest(f *testing.F) {
	f.Add(`{"name":"x"}`)
	f.Add(`{"name":"x","connect":{"to":"127.0.0.1","times":1,"close":"client-close"}}`)
	f.Add(`{"connect":{"times":-1}}{"fetch":null}`)
	f.Fuzz(func(t *testing.T, steps string) {
		dec := json.NewDecoder(strings.NewReader(steps))
		for { // nothing that would reach for the network
			var s Step
			if dec.Decode(&s) != nil {
				break
			}
			if s.check() == nil {
				t.Skip("it is a step, and would be done")
			}
		}
		var out strings.Builder
		_ = ServeGuest(strings.NewReader(steps), &out)
		for line := range strings.Lines(out.String()) {
			var a answer
			if err := json.Unmarshal([]byte(line), &a); err != nil || a.Error == "" {
				t.Errorf("the answer %q: %v", line, err)
			}
		}
	})
}
